"""Truth of the converter `robosuite_baxter`: states only, against h5py, its clock and the laws of motion."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode, SlotArray
from dataengine.errors import EpisodeError
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

Array = NDArray[np.float64]
SLOTS = {"arm_joint.right": (0, 2), "arm_joint.left": (64, 9), "vel.right": (166, 17), "vel.left": (198, 24)}
REPEATS = {"demo_1": (1382, 75), "demo_2": (1138, 50)}


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "robot/robosuite_human_demos/BaxterPegInHole"


@pytest.fixture(scope="module")
def raws(folder: Path) -> dict[str, RawEpisode]:
    root, robomimic = SourceRoot(folder), get_format("robomimic")
    refs = [ref for ref in robomimic.scan(root, None, {}) if isinstance(ref, EpisodeRef)]
    return {ref.upstream_id.split("#")[1]: robomimic.read(root, ref) for ref in refs}


@pytest.fixture(scope="module")
def states(folder: Path) -> dict[str, Array]:
    with h5py.File(folder / "demo.hdf5") as file:
        return {name: demo["states"][()] for name, demo in file["data"].items()}


@pytest.fixture(scope="module")
def episodes(raws: dict[str, RawEpisode]) -> dict[str, Episode]:
    conversion = Conversion.of(load_converter("robosuite_baxter"))
    return {name: convert(raw, conversion) for name, raw in raws.items()}


def _columns(slots: SlotArray | None, start: int) -> Array:
    assert slots is not None
    picked = slots.columns(start, start + 7)
    assert len(picked) == 7
    assert slots.mask[:, picked].all()
    return slots.values[:, picked].astype(np.float64)


def _once(states: Array) -> Array:
    """The first row of every time."""
    return states[np.unique(states[:, 0], return_index=True)[1]]


def _check_values(episode: Episode, states: Array) -> None:
    once = _once(states)
    for channel, column in SLOTS.values():
        np.testing.assert_allclose(_columns(episode.state, channel), once[:, column : column + 7], atol=1e-6)
    np.testing.assert_allclose(episode.times_ns / 1e9, once[:, 0] - once[0, 0], atol=1e-8)


def _check_motion(episode: Episode) -> None:
    """Velocities are the positions' rate of change, joint by joint, on the episode's own clock."""
    seconds = np.diff(episode.times_ns)[:, None] / 1e9
    for side in ("right", "left"):
        position = _columns(episode.state, SLOTS[f"arm_joint.{side}"][0])
        velocity = _columns(episode.state, SLOTS[f"vel.{side}"][0])
        difference = np.diff(position, axis=0) / seconds
        mean = (velocity[1:] + velocity[:-1]) / 2
        assert np.abs(mean - difference).mean() < 0.02 * np.abs(difference).mean() + 0.003
        for joint in range(7):
            assert np.corrcoef(mean[:, joint], difference[:, joint])[0, 1] > 0.99


@pytest.mark.parametrize("name", REPEATS)
def test_values(episodes: dict[str, Episode], states: dict[str, Array], name: str) -> None:
    _check_values(episodes[name], states[name])


@pytest.mark.parametrize("name", REPEATS)
def test_repeated_rows_are_merged_and_counted(
    episodes: dict[str, Episode], states: dict[str, Array], name: str
) -> None:
    rows, repeats = REPEATS[name]
    episode, found = episodes[name], states[name]
    assert found.shape == (rows, 31)
    again = np.flatnonzero(np.diff(found[:, 0]) == 0)
    assert len(again) == repeats
    np.testing.assert_array_equal(found[again], found[again + 1])  # they repeat every number
    assert episode.steps == rows - repeats
    assert episode.notes == {"merged_rows": repeats}
    assert episode.hz == 100.0
    steps, counts = np.unique(np.diff(episode.times_ns), return_counts=True)
    assert steps.tolist() == [10_000_000, 12_000_000]
    assert counts[1] == 500


@pytest.mark.parametrize("name", REPEATS)
def test_velocity_is_the_rate_of_change(episodes: dict[str, Episode], name: str) -> None:
    _check_motion(episodes[name])


@pytest.mark.parametrize("name", ["model_1.xml", "model_2.xml"])
def test_the_joint_order_is_the_models(folder: Path, name: str) -> None:
    joints = re.findall(r'<joint [^>]*name="([^"]+)"', (folder / "models" / name).read_text())
    arm = ["s0", "s1", "e0", "e1", "w0", "w1", "w2"]
    assert joints == ["head_pan", *(f"right_{joint}" for joint in arm), *(f"left_{joint}" for joint in arm)]


def test_no_action_no_gripper(episodes: dict[str, Episode]) -> None:
    for episode in episodes.values():
        assert episode.action is None
        assert episode.state is not None
        assert not set(episode.state.channels) & {16, 80}
        assert (episode.family, episode.embodiment) == ("simulation", "baxter")


def test_without_merging_the_repeats_are_refused(raws: dict[str, RawEpisode]) -> None:
    document = load_converter("robosuite_baxter").model_dump()
    document["time"]["merge_within_s"] = None
    with pytest.raises(EpisodeError) as error:
        convert(raws["demo_1"], Conversion.of(Converter.model_validate(document)))
    assert error.value.reason == "time_not_increasing"


@pytest.mark.parametrize(("column", "reason"), [(None, "bad_shape"), (31, "wrong_dimension")])
def test_a_clock_that_is_no_column(raws: dict[str, RawEpisode], column: int | None, reason: str) -> None:
    document = load_converter("robosuite_baxter").model_dump()
    document["time"]["column"] = column
    with pytest.raises(EpisodeError) as error:
        convert(raws["demo_1"], Conversion.of(Converter.model_validate(document)))
    assert error.value.reason == reason


PLANTED: dict[str, tuple[str, dict[str, Any]]] = {
    "arms": ("arm_joint.right", {"columns": (9, 16)}),
    "head first": ("arm_joint.left", {"columns": (8, 15)}),
    "axes": ("arm_joint.right", {"columns": (3, 2, 4, 5, 6, 7, 8)}),
    "sign": ("arm_joint_vel.left", {"scale": -1.0}),
    "step": ("arm_joint.left", {"shift": 1}),
    "degrees": ("arm_joint_vel.right", {"unit": "deg/s"}),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_wrong_converter_is_noticed(raws: dict[str, RawEpisode], states: dict[str, Array], mistake: str) -> None:
    slot, change = PLANTED[mistake]
    document = load_converter("robosuite_baxter").model_dump()
    next(mapping for mapping in document["state"] if mapping["slot"] == slot).update(change)
    planted = convert(raws["demo_1"], Conversion.of(Converter.model_validate(document)))
    with pytest.raises(AssertionError):
        _check_values(planted, states["demo_1"])
    if mistake != "step":
        with pytest.raises(AssertionError):
            _check_motion(planted)


def test_a_mask_of_nothing_is_noticed(episodes: dict[str, Episode], states: dict[str, Array]) -> None:
    episode = episodes["demo_1"]
    assert episode.state is not None
    blind = replace(episode, state=replace(episode.state, mask=np.zeros_like(episode.state.mask)))
    with pytest.raises(AssertionError):
        _check_values(blind, states["demo_1"])
