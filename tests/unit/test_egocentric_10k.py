"""`egocentric_10k`: clips out of tars, the fisheye against OpenCV's formula, what the JSON says, bad input."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import video
from dataengine.camera import project
from dataengine.convert import Conversion, convert
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput
from dataengine.fixtures.egocentric_10k_writer import FRAMES, INTRINSICS, add, sidecar, write_egocentric_10k
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot

FORMAT = get_format("egocentric_10k")
FOLDER = "factory_001/workers/worker_001"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> SourceRoot:
    folder = tmp_path_factory.mktemp("egocentric_10k")
    write_egocentric_10k(folder)
    return SourceRoot(folder)


def scanned(root: SourceRoot, only: str | None = None, **options: str) -> tuple[dict[str, EpisodeRef], list[str]]:
    found = list(FORMAT.scan(root, only, options))
    refs = {entry.upstream_id: entry for entry in found if isinstance(entry, EpisodeRef)}
    return refs, [entry.reason for entry in found if isinstance(entry, ScanProblem)]


def first(root: SourceRoot) -> RawEpisode:
    return FORMAT.read(root, next(iter(scanned(root)[0].values())))


def test_clips_come_out_as_they_went_in(root: SourceRoot) -> None:
    refs, problems = scanned(root)
    assert (list(refs), problems) == ([f"factory001_worker001_{k:05d}" for k in range(3)], [])
    for name, ref in refs.items():
        made = FORMAT.read(root, ref)
        part = "01" if name.endswith("2") else "00"
        with tarfile.open(root.path / FOLDER / f"factory001_worker001_part{part}.tar") as archive:
            member = archive.extractfile(f"{name}.mp4")
            assert member is not None
            assert made.media["video"].digest == hashlib.sha256(member.read()).hexdigest()
        assert made.media["video"].codec == "mp4/hevc"
        assert len(made.arrays["time_ns"]) == FRAMES
        assert made.attributes["disagrees"] == []
        assert made.group == "factory_001/worker_001"


def test_the_camera_is_opencv_s_fisheye(root: SourceRoot) -> None:
    episode = convert(first(root), Conversion.load("egocentric_10k"))
    camera = episode.views[0].camera
    assert camera is not None
    x, y = 0.4, -0.3
    theta = np.arctan(np.hypot(x, y))
    lens = {key: float(str(value)) for key, value in INTRINSICS.items() if key != "model"}
    bent = theta * (1 + sum(lens[f"k{k}"] * theta ** (2 * k) for k in range(1, 5))) / np.hypot(x, y)
    wanted = (lens["fx"] * bent * x + lens["cx"]) / 456, (lens["fy"] * bent * y + lens["cy"]) / 256
    found, ahead = project(camera, np.array([[x, y, 1.0]]))
    assert ahead.all()
    assert found[0] == pytest.approx(wanted, abs=1e-9)
    assert abs(found[0, 0] - (lens["fx"] * x + lens["cx"]) / 456) > 1e-3, "a pinhole would put it elsewhere"


def test_what_the_json_says_wrongly_is_told(tmp_path: Path) -> None:
    clip = video.encode([np.full((32, 48, 3), k, np.uint8) for k in range(4)], 10)
    told = sidecar(1, 1, 0, clip)
    (tmp_path / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    with tarfile.open(tmp_path / "factory001_worker001_part00.tar", "w") as archive:
        add(archive, "a.mp4", clip)
        add(archive, "a.json", json.dumps({**told, "width": 1920, "size_bytes": 7}).encode())
    made = first(SourceRoot(tmp_path))
    assert made.attributes["disagrees"] == ["width", "height", "fps", "duration_sec", "size_bytes", "codec"]


def test_without_a_calibration(root: SourceRoot, tmp_path: Path) -> None:
    shard = root.path / FOLDER / "factory001_worker001_part01.tar"
    (tmp_path / shard.name).write_bytes(shard.read_bytes())
    alone = SourceRoot(tmp_path)
    assert scanned(alone) == ({}, ["missing_file"])
    refs, _ = scanned(alone, shard.name, intrinsics="optional")
    assert set(FORMAT.read(alone, refs["factory001_worker001_00002"]).arrays) == {"time_ns"}


CLIP = video.encode([np.full((32, 48, 3), k, np.uint8) for k in range(3)], 30)
SIDECAR = json.dumps(sidecar(1, 1, 0, CLIP)).encode()
Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ({"a.mp4": CLIP, "a.json": SIDECAR}, []),
        ({"a.mp4": CLIP}, ["missing_file"]),
        ({"a.json": SIDECAR}, ["missing_media"]),
        ({"a.mp4": CLIP, "a.json": SIDECAR, "a.txt": b"x"}, ["unknown_name"]),
        ({"a.mp4": CLIP, "a.json": b"{"}, ["json_invalid"]),
        ({"a.mp4": CLIP, "a.json": b"[]"}, ["bad_type"]),
        ({"a.mp4": CLIP, "a.json": b"{}"}, ["missing_key"]),
        ({"a.mp4": b"", "a.json": SIDECAR}, ["empty_file"]),
        ({"a.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n", "a.json": SIDECAR}, ["unsupported_video"]),
        ({"a.mp4": CLIP[:-400], "a.json": SIDECAR}, ["video_unreadable"]),
        ({"x/a.mp4": CLIP, "x/a.json": SIDECAR, "y/a.mp4": CLIP, "y/a.json": SIDECAR}, ["duplicate_episode"]),
        ({"../a.mp4": CLIP, "../a.json": SIDECAR}, ["path_outside_root"]),
    ],
)
def test_bad_tars_are_reasons(tmp_path: Path, members: dict[str, bytes], reasons: list[str]) -> None:
    (tmp_path / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    with tarfile.open(tmp_path / "factory001_worker001_part00.tar", "w") as archive:
        for name, data in members.items():
            add(archive, name, data)
    root = SourceRoot(tmp_path)
    refs, found = scanned(root)
    for ref in refs.values():
        try:
            FORMAT.read(root, ref)
        except BadInput as error:
            found.append(error.reason)
    assert found == reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.update(model="pinhole"), "bad_value"),
        (lambda told: told.pop("k4"), "missing_key"),
        (lambda told: told.update(fx=0), "bad_value"),
        (lambda told: told.update(image_width="456"), "bad_type"),
    ],
)
def test_bad_calibrations_are_reasons(root: SourceRoot, tmp_path: Path, change: Change, reason: str) -> None:
    shard = root.path / FOLDER / "factory001_worker001_part01.tar"
    (tmp_path / shard.name).write_bytes(shard.read_bytes())
    told = dict(INTRINSICS)
    change(told)
    (tmp_path / "intrinsics.json").write_text(json.dumps(told))
    with pytest.raises(BadInput) as caught:
        first(SourceRoot(tmp_path))
    assert caught.value.reason == reason
