"""Truth of the converter `unitree_g1_inspire`: against the parquet and mp4 files, read without the engine's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from dataengine.episode import Episode, RawEpisode
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

EXACT = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
LENGTHS = {"episode_000029": 221, "episode_000030": 277}
# Unified channel of each of the 26 columns: left arm 64:71, right arm 0:7, the hands' openings in native 240:252.
CHANNELS = [*range(64, 71), *range(7), *range(240, 252)]


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "robot/lerobot_v21_g1"


@pytest.fixture(scope="module")
def raws(folder: Path) -> Mapping[str, RawEpisode]:
    root, lerobot = SourceRoot(folder), get_format("lerobot")
    refs = list(lerobot.scan(root, None, load_converter("unitree_g1_inspire").format.options))
    return {ref.upstream_id: lerobot.read(root, ref) for ref in refs if isinstance(ref, EpisodeRef)}


@pytest.fixture(scope="module")
def episodes(raws: Mapping[str, RawEpisode]) -> Mapping[str, Episode]:
    conversion = Conversion.of(load_converter("unitree_g1_inspire"))
    return {name: convert(raw, conversion) for name, raw in raws.items()}


def _columns(folder: Path, name: str, column: str) -> NDArray[np.float32]:
    table = pq.read_table(folder / f"data/chunk-000/{name}.parquet")
    return np.array(table[column].to_pylist(), np.float32)


def _check(episode: Episode, folder: Path) -> None:
    """Every value of the file in its channel, row by row, and nothing else."""
    for side, column in (("state", "observation.state"), ("action", "action")):
        slots = getattr(episode, side)
        stored = _columns(folder, episode.upstream_id, column)
        assert slots.channels.tolist() == sorted(CHANNELS)
        assert slots.mask.all()
        placed = slots.values[:, [slots.channels.tolist().index(channel) for channel in CHANNELS]]
        np.testing.assert_array_equal(placed, stored)


def test_episodes_of_the_folder(episodes: Mapping[str, Episode]) -> None:
    assert {name: episode.steps for name, episode in episodes.items()} == LENGTHS


@pytest.mark.parametrize("name", LENGTHS)
def test_values(episodes: Mapping[str, Episode], folder: Path, name: str) -> None:
    _check(episodes[name], folder)


@pytest.mark.parametrize("name", LENGTHS)
def test_clock_language_and_units(episodes: Mapping[str, Episode], name: str) -> None:
    episode = episodes[name]
    assert episode.hz == 30.0
    np.testing.assert_array_equal(episode.times_ns, np.rint(np.arange(LENGTHS[name]) * 1e9 / 30))
    text = episode.language[0]
    assert (text.text, text.span) == ("Pick up the yellow bottle on the table.", (0, LENGTHS[name]))
    assert set(episode.native_units.values()) == {"norm01"}
    assert set(episode.labels.values()) == {"commanded"}


@pytest.mark.parametrize("name", LENGTHS)
def test_video_is_the_file_and_its_frames_are_rows(episodes: Mapping[str, Episode], folder: Path, name: str) -> None:
    episode = episodes[name]
    media = episode.media["observation.images.cam_high"]
    path = folder / f"videos/chunk-000/observation.images.cam_high/{name}.mp4"
    assert media.payload == path.read_bytes()
    assert (media.frames, media.first_frame, media.foreign_frames) == (LENGTHS[name], 0, 0)
    assert (media.codec, media.height, media.width) == ("mp4/av1", 480, 640)
    np.testing.assert_array_equal(media.times_ns, episode.times_ns)
    wanted = [0, 57, 113]
    shown = dict(video.frames(media, wanted))
    for number, frame in enumerate(_decoded(path, 114)):
        if number in wanted:
            same = frame.reformat(format="rgb24", interpolation=EXACT).to_ndarray()
            np.testing.assert_array_equal(shown[number], same)


def _decoded(path: Path, count: int) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame for frame, _ in zip(container.decode(video=0), range(count), strict=False)]


def test_conventions_hold_in_the_data(folder: Path) -> None:
    """What the converter's evidence claims: the left arm rests, the right one leads by 4 rows, hands are 0..1."""
    for name in LENGTHS:
        state, action = (_columns(folder, name, column) for column in ("observation.state", "action"))
        assert np.ptp(state[:, :7], axis=0).max() < 0.03
        assert np.ptp(state[:, 7:14], axis=0).min() > 0.2
        assert np.abs(state[:, :7] - action[:, :7]).max() < 0.036
        errors = [np.square(state[lag:, 7:14] - action[: len(action) - lag, 7:14]).mean() for lag in range(12)]
        assert int(np.argmin(errors)) == 4
        hands = np.concatenate([state[:, 14:], action[:, 14:]])
        assert hands.min() >= 0
        assert hands.max() <= 1
        np.testing.assert_allclose(state[:, 14:] * 1000, np.rint(state[:, 14:] * 1000), atol=1e-4)
    opening = _columns(folder, "episode_000029", "observation.state")[:, 21]
    assert opening[60] > opening[40] + 0.2
    assert opening[120] < opening[100] - 0.2


def _edited(side: str, **change: Any) -> Converter:
    """The converter with every arm mapping of one side changed."""
    spec = load_converter("unitree_g1_inspire")
    entries = tuple(
        entry.model_copy(update=change) if entry.slot.startswith("arm") else entry for entry in getattr(spec, side)
    )
    return spec.model_copy(update={side: entries})


def _swapped() -> Converter:
    spec = load_converter("unitree_g1_inspire")
    other = {"arm_joint.left": (7, 14), "arm_joint.right": (0, 7)}
    action = tuple(entry.model_copy(update={"columns": other.get(entry.slot, entry.columns)}) for entry in spec.action)
    return spec.model_copy(update={"action": action})


def _masked(episode: Episode) -> Episode:
    assert episode.action is not None
    return replace(episode, action=replace(episode.action, mask=np.zeros_like(episode.action.mask)))


@pytest.mark.parametrize(
    "mutant",
    [_swapped, lambda: _edited("state", scale=-1.0), lambda: _edited("action", shift=1)],
    ids=["arms swapped", "sign flipped", "one step late"],
)
def test_a_wrong_converter_is_noticed(
    raws: Mapping[str, RawEpisode], folder: Path, mutant: Callable[[], Converter]
) -> None:
    spec = mutant().model_copy(update={"views": ()})  # pictures are not what is tested, and take long
    raw = replace(raws["episode_000029"], media={})
    with pytest.raises(AssertionError):
        _check(convert(raw, Conversion.of(spec)), folder)


def test_a_zero_mask_is_noticed(episodes: Mapping[str, Episode], folder: Path) -> None:
    with pytest.raises(AssertionError):
        _check(_masked(episodes["episode_000029"]), folder)
