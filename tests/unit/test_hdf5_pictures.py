"""What the formats over HDF5 with pictures share: blocks of rows, kinds of picture data sets, digests, own pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataengine import images, ingest
from dataengine.convert import Conversion, convert
from dataengine.engine.base import Result, Task, TaskFunction
from dataengine.engine.local import LocalEngine
from dataengine.episode import RawDigest
from dataengine.errors import EpisodeError, FormatError
from dataengine.fixtures.robomimic_writer import write_robomimic
from dataengine.formats import hdf5, hdf5_pictures
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.storage import SourceRoot
from dataengine.storage.local import sha256_file

PIXELS = np.random.default_rng(3).integers(0, 255, (7, 6, 8, 3), np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "one.hdf5", "w") as opened:
        yield opened


def _read(dataset: Any, **raw: Any) -> tuple[list[np.ndarray], str]:
    digest = RawDigest()
    media = hdf5_pictures.read("camera", dataset, digest, "png", **raw)
    return [images.decode(media.image(row)) for row in range(media.frames)], digest.hexdigest()


def test_blocks_give_every_row_once(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_BLOCK_BYTES", 2 * PIXELS[0].size)
    laid = {"whole": (None, [2, 2, 2, 1]), "rows": ((1, 6, 8, 3), [2, 2, 2, 1]), "cut": ((3, 6, 4, 3), [3, 3, 1])}
    for name, (chunks, sizes) in laid.items():
        stored = file.create_dataset(name, data=PIXELS, chunks=chunks)
        assert [len(block) for block in hdf5.blocks(stored)] == sizes
        np.testing.assert_array_equal(np.concatenate(list(hdf5.blocks(stored))), PIXELS)
    assert list(hdf5.blocks(file.create_dataset("none", (0, 3), "f4"))) == []


def test_a_digest_of_blocks_is_that_of_the_whole() -> None:
    whole, parts = RawDigest(), RawDigest()
    whole.add_array("stack", PIXELS)
    assert sum(len(block) for block in parts.blocks("stack", PIXELS.shape, [PIXELS[:2], PIXELS[2:]])) == 7
    assert parts.hexdigest() == whole.hexdigest()
    other = RawDigest()
    list(other.blocks("stack", PIXELS.shape, [PIXELS[:2], PIXELS[2:][::-1]]))
    assert other.hexdigest() != whole.hexdigest()


def test_each_kind_is_told_and_read(file: Any) -> None:
    png = [images.encode(frame, "png") for frame in PIXELS]
    jpeg = [images.encode(frame, "jpeg", 95) for frame in PIXELS]
    longest = max(map(len, jpeg))
    rows = file.create_dataset("rows", (7,), h5py.vlen_dtype(np.uint8))
    for number, picture in enumerate(png):
        rows[number] = np.frombuffer(picture, np.uint8)
    padded = np.stack([np.frombuffer(picture.ljust(longest, b"\0"), np.uint8) for picture in jpeg])
    kinds = {
        "pixels": file.create_dataset("pixels", data=PIXELS),
        "padded": file.create_dataset("padded", data=padded),
        "strings": file.create_dataset("strings", data=np.array(jpeg, f"S{longest}")),
        "rows": rows,
    }
    for kind, dataset in kinds.items():
        assert hdf5_pictures.kind(dataset) == kind
        shown, _ = _read(dataset)
        expected = PIXELS if kind in ("pixels", "rows") else [images.decode(picture) for picture in jpeg]
        np.testing.assert_array_equal(shown, expected)
    assert _read(kinds["padded"])[1] == _read(kinds["strings"])[1]
    assert hdf5_pictures.kind(file.create_dataset("depth", data=PIXELS[..., 0].astype(np.uint16))) is None
    with pytest.raises(FormatError) as error:
        _read(file["depth"])
    assert error.value.reason == "unsupported_dtype"


@pytest.mark.parametrize(("order", "turned"), [("rgb", 1), ("bgr", -1)])
def test_raw_rows_of_a_known_size(file: Any, order: Any, turned: int) -> None:
    rows = file.create_dataset("rows", (7,), h5py.vlen_dtype(np.uint8))
    for number, frame in enumerate(PIXELS):
        rows[number] = frame.reshape(-1)
    raw = hdf5_pictures.RawRows(((4, 4), (6, 8)), order)
    np.testing.assert_array_equal(_read(rows, raw=raw)[0], PIXELS[..., ::turned])
    for given in (None, hdf5_pictures.RawRows(((4, 4),), "rgb")):
        with pytest.raises(EpisodeError) as error:
            _read(rows, raw=given)
        assert error.value.reason == "unsupported_image"


def test_pictures_made_here_are_known_as_such(tmp_path: Path) -> None:
    """Their first and last picture are decoded; a picture that came encoded is decoded whatever it says."""
    write_robomimic(tmp_path)
    conversion, form = Conversion.load("robomimic_can"), get_format("robomimic")
    refs = form.scan(SourceRoot(tmp_path), None, conversion.converter.format.options)
    ref = next(entry for entry in refs if isinstance(entry, EpisodeRef))
    raw = form.read(SourceRoot(tmp_path), ref)
    assert all(media.own for media in raw.media.values())
    assert convert(raw, conversion).steps == 6


def test_episodes_of_one_large_file_go_to_several_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its share of the file's bytes: one worker does not get them all, nor hold all of their pictures."""
    write_robomimic(tmp_path)
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 1)
    handed: list[int] = []

    class Watched(LocalEngine):
        def run(self, function: TaskFunction, tasks: Sequence[Task]) -> Iterator[tuple[int, Result | None]]:
            handed.extend(len(task["refs"]) for task in tasks)
            yield from super().run(function, tasks)

    report = ingest.ingest(tmp_path, Conversion.load("robomimic_can"), None, Watched(1), dry_run=True)
    assert (report.failures, handed) == ([], [1] * report.added)
    assert report.added > 1


def test_a_files_digest_is_remembered_once_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.bin"
    path.write_bytes(b"first")
    counted: list[Path] = []

    def counting(given: Path) -> str:
        counted.append(given)
        return sha256_file(given)

    monkeypatch.setattr("dataengine.storage.source.sha256_file", counting)
    digests = {SourceRoot(tmp_path).describe("one.bin").sha256 for _ in range(3)}
    assert len(counted) == 3  # written just now: another write might not show in its times
    old = time.time_ns() - 60_000_000_000
    os.utime(path, ns=(old, old))
    digests |= {SourceRoot(tmp_path).describe("one.bin").sha256 for _ in range(3)}
    assert (len(counted), len(digests)) == (4, 1)
    path.write_bytes(b"other")
    os.utime(path, ns=(old + 1, old + 1))
    assert SourceRoot(tmp_path).describe("one.bin").sha256 not in digests


def _environment(task: dict[str, Any]) -> dict[str, Any]:
    return {"value": os.environ.get(task["name"])}


def test_workers_see_the_environment_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the server that forks them was started before."""
    for value in ("first", "second", None):
        if value is None:
            monkeypatch.delenv("DATAENGINE_TEST_WORKER")
        else:
            monkeypatch.setenv("DATAENGINE_TEST_WORKER", value)
        engine = LocalEngine(2)
        try:
            found = [result for _, result in engine.run(_environment, [{"name": "DATAENGINE_TEST_WORKER"}])]
        finally:
            engine.close()
        assert found == [{"value": value}]
