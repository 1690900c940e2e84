"""Frames of LeRobot episodes: whole files (v2.1), ranges of shared files (v3.0) that begin off keyframes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, Media, RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.lerobot_writer import FixtureEpisode, frame_number, numbered_frames, write_lerobot
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

CAMERA = "observation.image"
LENGTHS = (37, 25, 41)
STARTS = (0, 37, 62)
FPS = 20
CLIP = f"videos/{CAMERA}/chunk-000/file-000.mp4"
LISTING = "meta/episodes/chunk-000/file-000.parquet"


def _write(root: Path, version: Any = "v3.0", gop: int = 30) -> None:
    episodes = []
    for start, rows in zip(STARTS, LENGTHS, strict=True):
        values = np.repeat(np.arange(start, start + rows, dtype=np.float32)[:, None], 2, axis=1)
        episodes.append(FixtureEpisode(values, values + 1, "count", numbered_frames(start, rows)))
    write_lerobot(root, episodes, FPS, version=version, video_key=CAMERA, gop=gop, robot_type="pusht")


@pytest.fixture
def v30(tmp_path: Path) -> Path:
    _write(tmp_path)
    return tmp_path


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    _write(tmp_path, "v2.1")
    return tmp_path


def _read(root: Path, episode: int) -> RawEpisode:
    lerobot, source = get_format("lerobot"), SourceRoot(root)
    refs = [entry for entry in lerobot.scan(source, None, {}) if isinstance(entry, EpisodeRef)]
    return lerobot.read(source, refs[episode])


def _converted(root: Path, episode: int) -> Episode:
    return convert(_read(root, episode), Conversion.of(load_converter("pusht_lerobot")))


def _reason(root: Path, episode: int) -> str:
    with pytest.raises(BadInput) as caught:
        _converted(root, episode)
    return caught.value.reason


def _numbers(media: Media) -> list[int]:
    return [frame_number(pixels) for _, pixels in video.frames(media, range(media.frames))]


def _edit(root: Path, column: str, values: list[float]) -> None:
    name = f"videos/{CAMERA}/{column}"
    table = pq.read_table(root / LISTING)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, [values]), root / LISTING)


def test_the_fixture_really_cuts_off_keyframes(v30: Path) -> None:
    with (v30 / CLIP).open("rb") as file:
        found = video.index(file)
    keyframes = np.searchsorted(found.pts, found.keyframes).tolist()
    assert found.frames == sum(LENGTHS)
    assert keyframes[:3] == [0, 30, 60]
    assert not set(STARTS[1:]) & set(keyframes)


@pytest.mark.parametrize("gop", [30, 250, 1])
def test_every_episode_shows_its_own_frames(tmp_path: Path, gop: int) -> None:
    _write(tmp_path, gop=gop)
    for episode, (start, rows) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        converted = _converted(tmp_path, episode)
        media = converted.media[CAMERA]
        assert _numbers(media) == list(range(start, start + rows))
        assert converted.state is not None
        assert converted.state.values[:, 0].tolist() == _numbers(media)
        lead = {30: (0, 7, 2), 250: (0, 37, 62), 1: (0, 0, 0)}[gop][episode]
        assert media.first_frame == lead
        assert media.foreign_frames >= lead


def test_single_frames_of_a_cut(v30: Path) -> None:
    media = _read(v30, 1).media[CAMERA]
    for frame in (0, 1, 12, 23, 24):
        assert [frame_number(pixels) for _, pixels in video.frames(media, [frame])] == [37 + frame]
    for outside in ([-1], [25]):
        with pytest.raises(BadInput):
            list(video.frames(media, outside))


def test_a_file_of_its_own_is_kept_byte_for_byte(v21: Path) -> None:
    for episode, (start, rows) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        media = _converted(v21, episode).media[CAMERA]
        assert media.payload == (v21 / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4").read_bytes()
        assert _numbers(media) == list(range(start, start + rows))


def test_a_shared_file_is_demuxed_once(v30: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = video.index
    monkeypatch.setattr(video, "index", lambda file: calls.append(1) or original(file))
    for episode in range(3):
        _read(v30, episode)
    assert len(calls) == 1


@pytest.mark.parametrize("late", [0, 1 / FPS, 0.4 / FPS])
def test_to_timestamp_may_be_the_last_frame_or_its_end(v30: Path, late: float) -> None:
    """LeRobot writes N / fps; another writer (N - 1) / fps. The length never comes from it."""
    ends = [(start + rows) / FPS - late for start, rows in zip(STARTS, LENGTHS, strict=True)]
    _edit(v30, "to_timestamp", ends)
    assert _numbers(_read(v30, 1).media[CAMERA]) == list(range(37, 62))


@pytest.mark.parametrize("frames", [-2, 1, 5])
def test_to_timestamp_that_spans_another_length_is_told(v30: Path, frames: int) -> None:
    _edit(v30, "to_timestamp", [(start + rows + frames) / FPS for start, rows in zip(STARTS, LENGTHS, strict=True)])
    assert [_reason(v30, episode) for episode in range(3)] == ["frame_count_mismatch"] * 3


def test_float_noise_in_from_timestamp_moves_no_frame(v30: Path) -> None:
    for noise in (-0.01, 0.01):
        _edit(v30, "from_timestamp", [start / FPS + noise for start in STARTS])
        assert _numbers(_read(v30, 1).media[CAMERA]) == list(range(37, 62))


def test_a_start_outside_the_video_is_told(v30: Path) -> None:
    _edit(v30, "from_timestamp", [0.0, 37 / FPS, 620 / FPS])
    _edit(v30, "to_timestamp", [37 / FPS, 62 / FPS, 661 / FPS])
    assert _reason(v30, 2) == "frame_count_mismatch"


def test_a_neighbours_frames_are_never_taken(v30: Path) -> None:
    """The third episode starts two frames early by its own account: then the second one's range is not its own."""
    _edit(v30, "from_timestamp", [0.0, 37 / FPS, 60 / FPS])
    _edit(v30, "to_timestamp", [37 / FPS, 62 / FPS, 101 / FPS])
    assert _reason(v30, 1) == "frame_count_mismatch"
    assert _numbers(_read(v30, 0).media[CAMERA]) == list(range(37))


def test_fewer_frames_than_rows(v30: Path) -> None:
    (v30 / CLIP).write_bytes(video.encode(numbered_frames(0, sum(LENGTHS) - 3), FPS))
    assert _numbers(_read(v30, 1).media[CAMERA]) == list(range(37, 62))
    assert _reason(v30, 2) == "frame_count_mismatch"


def test_another_count_of_frames_than_rows_in_a_file_of_its_own(v21: Path) -> None:
    for episode, frames in ((0, 36), (1, 26)):
        path = v21 / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"
        path.write_bytes(video.encode(numbered_frames(0, frames), FPS))
        assert _reason(v21, episode) == "frame_count_mismatch"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_video(tmp_path: Path, version: str, keep: float) -> None:
    _write(tmp_path, version)
    path = tmp_path / (CLIP if version == "v3.0" else f"videos/chunk-000/{CAMERA}/episode_000002.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    # the index of these files stands at their end, so a cut file has none
    assert _reason(tmp_path, 2) in ("empty_file", "unsupported_video", "empty_video", "video_unreadable")


def test_a_playlist_called_mp4_opens_nothing(v21: Path) -> None:
    secret = v21 / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    path = v21 / f"videos/chunk-000/{CAMERA}/episode_000000.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {secret}\n")
    assert _reason(v21, 0) == "unsupported_video"


def test_an_episode_without_its_camera(v30: Path) -> None:
    """A null in the listing: this episode has no such video; the others have theirs."""
    table = pq.read_table(v30 / LISTING)
    name = f"videos/{CAMERA}/chunk_index"
    column = [0, None, 0]
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, [column]), v30 / LISTING)
    assert _read(v30, 1).attributes["absent_media"] == [CAMERA]
    assert _reason(v30, 1) == "missing_stream"
    assert _numbers(_read(v30, 2).media[CAMERA]) == list(range(62, 103))


def test_gr00t_v20_pairs_frames_by_row_order(data: Path) -> None:
    """v2.0: no frame_index, timestamps start at 1 / fps; its info.json declares a camera that has no files."""
    root = SourceRoot(data / "robot/gr00t_v20_picknplace")
    lerobot = get_format("lerobot")
    refs = [entry for entry in lerobot.scan(root, None, {"subset": True}) if isinstance(entry, EpisodeRef)]
    assert [ref.upstream_id for ref in refs] == ["episode_000000", "episode_000001", "episode_000004"]
    for ref, rows in zip(refs, (416, 470, 328), strict=True):
        raw = lerobot.read(root, ref)
        assert raw.arrays["observation.state"].shape == (rows, 44)
        assert raw.media["observation.images.ego_view"].frames == rows
        assert raw.attributes["absent_media"] == ["observation.images.egoview"]
        assert raw.arrays["timestamp"][0] == pytest.approx(0.05)


def test_the_fixture_has_the_layout_of_lerobots_writer(v30: Path, data: Path) -> None:
    real = data / "robot/lerobot_v30_pusht"
    ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (v30, real))
    assert set(ours) == set(theirs)
    assert {name: (f["dtype"], set(f)) for name, f in ours["features"].items()} == {
        name: (f["dtype"], set(f)) for name, f in theirs["features"].items()
    }
    assert (ours["data_path"], ours["video_path"]) == (theirs["data_path"], theirs["video_path"])
    for name in ("data/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        schemas = [pq.read_schema(root / name).remove_metadata() for root in (v30, real)]
        assert schemas[0] == schemas[1]
    listed = [pq.read_schema(root / LISTING).remove_metadata() for root in (v30, real)]
    kept = [field for field in listed[1] if not field.name.startswith("stats/")]
    assert [(field.name, field.type) for field in listed[0]] == [(field.name, field.type) for field in kept]


def test_the_fixture_has_the_layout_of_v21(v21: Path, data: Path) -> None:
    real = data / "robot/lerobot_v21_g1"
    ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (v21, real))
    assert set(ours) == set(theirs)
    assert (ours["data_path"], ours["video_path"]) == (theirs["data_path"], theirs["video_path"])
    for name in ("episodes", "tasks"):
        rows = [json.loads((root / f"meta/{name}.jsonl").read_text().splitlines()[0]) for root in (v21, real)]
        assert set(rows[0]) == set(rows[1])
    path = "data/chunk-000/episode_{:06d}.parquet"
    schemas = [pq.read_schema(v21 / path.format(0)), pq.read_schema(real / path.format(29))]
    assert schemas[0].names == schemas[1].names


def test_a_fixture_is_filmed_whole_or_not_at_all(tmp_path: Path) -> None:
    values = np.zeros((4, 2), np.float32)
    with pytest.raises(SpecError, match="frame for every row"):
        write_lerobot(tmp_path, [FixtureEpisode(values, values, "a", numbered_frames(0, 3))], FPS)
    write_lerobot(tmp_path, [FixtureEpisode(values, values, "a")], FPS)
    raw = _read(tmp_path, 0)
    assert raw.media == {}
    assert raw.attributes["absent_media"] == []
