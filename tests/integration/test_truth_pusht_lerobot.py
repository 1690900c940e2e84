"""Truth of the converter `pusht_lerobot`: three episodes of ONE mp4, against PyAV and pyarrow on the whole files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, Media, RawEpisode
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

RANGES = {"episode_000000": (0, 80), "episode_000001": (80, 130), "episode_000002": (130, 160)}
TEXTS = {"episode_000000": "circle around", "episode_000001": "circle around", "episode_000002": "short circle"}
EXACT = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
ROYAL_BLUE = np.array([65, 105, 225])


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "robot/lerobot_v30_pusht"


@pytest.fixture(scope="module")
def whole(folder: Path) -> NDArray[np.uint8]:
    """All 160 frames [160, 96, 96, 3], decoded by PyAV from the whole file."""
    with av.open(str(folder / "videos/observation.image/chunk-000/file-000.mp4")) as container:
        frames = [frame.reformat(format="rgb24", interpolation=EXACT) for frame in container.decode(video=0)]
    return np.array([frame.to_ndarray() for frame in frames])


@pytest.fixture(scope="module")
def raws(folder: Path) -> Mapping[str, RawEpisode]:
    root, lerobot = SourceRoot(folder), get_format("lerobot")
    refs = list(lerobot.scan(root, None, {}))
    return {ref.upstream_id: lerobot.read(root, ref) for ref in refs if isinstance(ref, EpisodeRef)}


@pytest.fixture(scope="module")
def episodes(raws: Mapping[str, RawEpisode]) -> Mapping[str, Episode]:
    conversion = Conversion.of(load_converter("pusht_lerobot"))
    return {name: convert(raw, conversion) for name, raw in raws.items()}


def _stored(folder: Path, column: str, name: str) -> NDArray[np.float32]:
    start, stop = RANGES[name]
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    return np.array(table[column].to_pylist(), np.float32)[start:stop]


def _check_values(episode: Episode, folder: Path) -> None:
    for side, column in (("state", "observation.state"), ("action", "action")):
        slots = getattr(episode, side)
        assert slots.channels.tolist() == [240, 241]
        assert slots.mask.all()
        np.testing.assert_array_equal(slots.values, _stored(folder, column, episode.upstream_id))


def _check_frames(media: Media, name: str, whole: NDArray[np.uint8]) -> None:
    """Frame t of the episode is frame start + t of the whole file, pixel for pixel."""
    start, stop = RANGES[name]
    shown = dict(video.frames(media, range(media.frames)))
    assert sorted(shown) == list(range(stop - start))
    for frame, pixels in shown.items():
        np.testing.assert_array_equal(pixels, whole[start + frame])


def _seen_agent(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centre [T, 2] of the blue disc in px of the 512 square; NaN where fewer than 8 of its pixels show."""
    centres = np.full((len(frames), 2), np.nan)
    for row, pixels in enumerate(frames):
        y, x = np.nonzero(np.abs(pixels.astype(int) - ROYAL_BLUE).sum(axis=-1) < 90)
        if len(x) >= 8:
            centres[row] = (x.mean() + 0.5) * 512 / 96, (y.mean() + 0.5) * 512 / 96
    return centres


def _check_state_is_in_the_picture(episode: Episode) -> None:
    """The disc lies where the state of the same row says, closer than where the rows before and after say."""
    media = episode.media["observation.image"]
    assert episode.state is not None
    seen = _seen_agent(np.array([pixels for _, pixels in video.frames(media, range(media.frames))]))
    state = episode.state.values

    def rms(lag: int) -> float:
        rows = np.arange(1, len(state) - 1)
        return float(np.sqrt(np.nanmean(np.square(seen[rows + lag] - state[rows]).sum(axis=1))))

    assert np.nanmax(np.linalg.norm(seen - state, axis=1)) < 7.5
    assert rms(0) < 3.5
    assert min(rms(-1), rms(1)) > 8


def test_three_episodes_of_one_file(episodes: Mapping[str, Episode]) -> None:
    assert {name: episode.steps for name, episode in episodes.items()} == {
        name: stop - start for name, (start, stop) in RANGES.items()
    }
    for name, episode in episodes.items():
        assert episode.hz == 10.0
        assert [(text.text, text.span) for text in episode.language] == [(TEXTS[name], (0, episode.steps))]
        assert episode.native_units["action/240"] == "px512"
        np.testing.assert_array_equal(episode.times_ns, np.arange(episode.steps) * 100_000_000)


@pytest.mark.parametrize("name", RANGES)
def test_values(episodes: Mapping[str, Episode], folder: Path, name: str) -> None:
    _check_values(episodes[name], folder)


@pytest.mark.parametrize("name", RANGES)
def test_frames(episodes: Mapping[str, Episode], whole: NDArray[np.uint8], name: str) -> None:
    assert len(whole) == 160
    _check_frames(episodes[name].media["observation.image"], name, whole)


@pytest.mark.parametrize("name", RANGES)
def test_state_is_in_the_picture(episodes: Mapping[str, Episode], name: str) -> None:
    _check_state_is_in_the_picture(episodes[name])


def test_the_state_follows_the_target(folder: Path) -> None:
    for name in RANGES:
        state, action = (_stored(folder, column, name) for column in ("observation.state", "action"))
        errors = [np.square(state[lag:] - action[: len(action) - lag]).sum(axis=1).mean() for lag in range(8)]
        assert int(np.argmin(errors)) in (2, 3)


@pytest.mark.parametrize("change", [{"columns": (1, 0)}, {"scale": -1.0}, {"shift": 1}], ids=["axes", "sign", "step"])
@pytest.mark.parametrize("side", ["state", "action"])
def test_a_wrong_converter_is_noticed(
    raws: Mapping[str, RawEpisode], folder: Path, side: str, change: Mapping[str, Any]
) -> None:
    spec = load_converter("pusht_lerobot")
    wrong = spec.model_copy(update={side: tuple(e.model_copy(update=change) for e in getattr(spec, side))})
    episode = convert(raws["episode_000002"], Conversion.of(wrong))
    with pytest.raises(AssertionError):
        _check_values(episode, folder)
    if side == "state":
        with pytest.raises(AssertionError):
            _check_state_is_in_the_picture(episode)


def test_a_zero_mask_is_noticed(episodes: Mapping[str, Episode], folder: Path) -> None:
    episode = episodes["episode_000000"]
    assert episode.state is not None
    with pytest.raises(AssertionError):
        _check_values(replace(episode, state=replace(episode.state, mask=episode.state.mask & False)), folder)


def test_a_cut_one_frame_late_is_noticed(
    episodes: Mapping[str, Episode], folder: Path, whole: NDArray[np.uint8]
) -> None:
    with (folder / "videos/observation.image/chunk-000/file-000.mp4").open("rb") as file:
        late = video.cut("observation.image", file, video.index(file), 81, 50)
    with pytest.raises(AssertionError):
        _check_frames(late, "episode_000001", whole)
    with pytest.raises(AssertionError):
        _check_state_is_in_the_picture(replace(episodes["episode_000001"], media={"observation.image": late}))
