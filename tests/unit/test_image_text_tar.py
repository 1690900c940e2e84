"""Tars of pictures and texts: the real ones are read whole, webdataset's own writer is read, bad ones are told."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.img2dataset_writer import write_img2dataset
from dataengine.fixtures.vl_writer import square
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot

PNG = images.encode(square("blue", left=False), "png")


def scan(path: Path, only: str | None = None, **options: object) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("image_text_tar").scan(SourceRoot(path), only, options))


def read(path: Path, ref: object):
    assert isinstance(ref, EpisodeRef), ref
    return get_format("image_text_tar").read(SourceRoot(path), ref)


def said(episode) -> list[tuple[str, list[str]]]:
    return [(m.role, [part.get("text", part["type"]) for part in m.content]) for m in episode.messages]


def packed(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.parent


def reason_of(folder: Path, members: list[tuple[str, bytes]], **options: object) -> str:
    """The reason of the last sample of a tar that holds `members`."""
    entry = scan(packed(folder / "t.tar", members), **options)[-1]
    if isinstance(entry, ScanProblem):
        return entry.reason
    try:
        read(folder, entry)
    except BadInput as error:
        return error.reason
    return "none"


def test_the_real_tars_are_read_but_for_the_tensors(data):
    root = data / "vision_language/webdataset"
    conversion = Conversion.load("webdataset")
    counts: Counter[tuple[str, str]] = Counter()
    for entry in scan(root, **conversion.converter.format.options):
        name = entry.upstream_id.partition("#")[0]
        if isinstance(entry, ScanProblem):
            counts[name, entry.reason] += 1
        elif name != "testgz.tar" or counts[name, "read"] < 20:
            assert convert(read(root, entry), conversion).messages
            counts[name, "read"] += 1
    assert counts == {
        ("compressed.tar", "read"): 3,
        ("mpdata.tar", "read"): 100,
        ("sample.tgz", "read"): 90,
        ("tendata.tar", "no_text"): 100,
        ("testgz.tar", "read"): 20,
    }


def test_members_are_what_tarfile_and_msgpack_say(data):
    root = data / "vision_language/webdataset"
    with tarfile.open(root / "sample.tgz") as archive:
        truth = {info.name: archive.extractfile(info).read() for info in archive.getmembers()}
    for ref in scan(root, "sample.tgz"):
        episode = read(root, ref)
        key = episode.attributes["key"]
        assert episode.media["image0"].payload == truth[f"{key}.png"]
        assert said(episode) == [("user", ["image"]), ("assistant", [truth[f"{key}.cls"].decode()])]
    with tarfile.open(root / "mpdata.tar") as archive:
        last = msgpack.unpackb(archive.extractfile("000099.mp").read())
    assert read(root, scan(root, "mpdata.tar", record=["mp"])[99]).attributes["record"] == last == {"x": 99, "y": 9801}


def test_what_webdataset_writes_is_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number in range(3):
            record = {"caption": f"number {number}", "n": number}
            writer.write(
                {"__key__": f"d/{number:04d}", "seg.png": PNG, "png": PNG, "cls": number, "json": record, "txt": "t"}
            )
    found = [read(tmp_path, ref) for ref in scan(tmp_path)]
    assert [episode.upstream_id for episode in found] == [f"w.tar#d/{number:04d}" for number in range(3)]
    assert said(found[0]) == [("user", ["image"]), ("assistant", ["t"])]
    assert found[2].attributes["json"] == {"caption": "number 2", "n": 2}
    assert found[2].attributes["unread"] == ["cls", "seg.png"]
    named = read(tmp_path, scan(tmp_path, caption_key="caption")[1])
    assert said(named)[1] == ("assistant", ["number 1"])
    labelled = scan(tmp_path, text=[], labels=["zero", "one", "two"], question="Which?")
    assert said(read(tmp_path, labelled[2])) == [("user", ["image", "Which?"]), ("assistant", ["two"])]


def test_img2dataset(tmp_path):
    write_img2dataset(tmp_path)
    found = scan(tmp_path)
    assert [ref.upstream_id for ref in found][:3] == [
        f"00000.tar#{key}" for key in ("000000002", "000000000", "000000001")
    ]
    episode = convert(read(tmp_path, found[0]), Conversion.load("img2dataset"))
    assert said(episode) == [("user", ["image"]), ("assistant", ["A blue square."])]
    pixels = images.decode(episode.media["image0"].image(0)).astype(int)
    assert np.abs(pixels[32, 16] - (40, 80, 220)).max() < 30
    detection = get_format("image_text_tar").detect(SourceRoot(tmp_path), None)
    assert detection is not None
    assert detection.layout == "img2dataset_tar"


def test_sidecars_that_tell_of_other_samples(tmp_path):
    write_img2dataset(tmp_path, shards=1)
    stats = json.loads((tmp_path / "00000_stats.json").read_text())
    (tmp_path / "00000_stats.json").write_text(json.dumps({**stats, "successes": 2}))
    assert [entry.reason for entry in scan(tmp_path)] == ["count_mismatch"]
    (tmp_path / "00000_stats.json").write_text(json.dumps(stats))
    whole = (tmp_path / "00000.parquet").read_bytes()
    keys = pa.array([{"key": number} for number in range(4)])
    pq.write_table(pa.table({"key": keys, "status": ["success"] * 4}), tmp_path / "00000.parquet")
    assert [entry.reason for entry in scan(tmp_path)] == ["count_mismatch"]
    (tmp_path / "00000.parquet").write_bytes(whole[:-9])
    assert [entry.reason for entry in scan(tmp_path)] == ["unreadable_file"]
    (tmp_path / "00000.parquet").unlink()
    assert len(scan(tmp_path)) == 3


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.png", PNG)], "no_text"),
        ([("a.png", PNG), ("a.cls", b"x")], "bad_value"),
        ([("a.png", PNG), ("a.txt", b"")], "empty_message"),
        ([("a.png", PNG), ("a.txt", b"\xff")], "invalid_utf8"),
        ([("a.png", PNG), ("a.txt", b"a\0")], "bad_text"),
        ([("a.png", b"none"), ("a.txt", b"t")], "unsupported_image"),
        ([("a.png", PNG), ("a.json", b'{"a": 1, "a": 2}'), ("a.txt", b"t")], "json_duplicate_key"),
        ([("a.txt", b"t"), ("b.txt", b"t"), ("a.cls", b"1")], "duplicate_episode"),
        ([("a.txt", b"t"), ("a.TXT", b"t")], "duplicate_name"),
        ([("noext", b"t")], "unknown_name"),
        ([("a/.hidden", b"t")], "unknown_name"),
        ([("a.txt.gz", b"t")], "unreadable_file"),
        ([("a.txt.gz", gzip.compress(bytes(32 << 20)))], "gzip_bomb"),
        ([("a.mp", b"\xc1")], "bad_value"),
        ([("a.mp", b"\x01\x02")], "bad_value"),
        ([("a.mp", b"\xc4\x01x")], "bad_value"),
        ([("a.mp", b"\xd4\x01x")], "bad_value"),
        ([("a.mp", b"\xcb\x7f\xf8\0\0\0\0\0\0")], "bad_value"),
        ([("a.mp", b"\xdd\xff\xff\xff\xff")], "bad_value"),
        ([("a.mp", b"\x91" * 5000)], "bad_value"),
        ([("a.mp", b"")], "bad_value"),
    ],
)
def test_bad_samples_are_told(tmp_path, members, reason):
    assert reason_of(tmp_path, members, record=["mp"]) == reason


def test_a_sample_of_img2dataset_that_lost_its_picture_is_told(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (
            ("0.jpg", images.encode(square("red", left=True))),
            ("0.json", b"{}"),
            ("0.txt", b"a"),
            ("1.json", b"{}"),
            ("1.txt", b"b"),
        ):
            told = tarfile.TarInfo(name)
            told.size = len(data)
            tar.addfile(told, io.BytesIO(data))
    found = list(get_format("image_text_tar").scan(SourceRoot(tmp_path), None, {}))
    assert [getattr(entry, "reason", "read") for entry in found] == ["read", "missing_media"]


def test_a_cut_tar_is_a_file_problem_and_a_neighbour_changes_no_digest(tmp_path):
    packed(tmp_path / "t.tar", [("a.txt", b"one"), ("b.txt", b"two")])
    before = read(tmp_path, scan(tmp_path)[0]).raw_digest
    packed(tmp_path / "t.tar", [("a.txt", b"one"), ("b.txt", b"too"), ("c.txt", b"three")])
    assert read(tmp_path, scan(tmp_path)[0]).raw_digest == before
    (tmp_path / "t.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:1536])
    assert [entry.reason for entry in scan(tmp_path)] == ["truncated"]
    with pytest.raises(SpecError):
        scan(tmp_path, image="jpg")
