"""Truth of the converters of robosuite's Panda: values against h5py, meaning against the arm's own kinematics.

The kinematics come from the MuJoCo model beside (or inside) each file and are worked out here, so that signs, axes
and scales of the commands are judged by where the hand went, not by a second reading of the same columns.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode, SlotArray
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """One file: its folder, path below it, first column of qvel, the sign of rotation commands, the model's site."""

    folder: str
    file: str
    velocity: int
    turn: float
    site: str


SOURCES = {
    "robosuite_panda_lift": Source(
        "robot/robosuite_human_demos/lift", "panda/demo.hdf5", 17, -1.0, "gripper0_grip_site"
    ),
    "robosuite_panda_stack": Source(
        "robot/robosuite_human_demos/stack", "panda/demo.hdf5", 24, -1.0, "gripper0_grip_site"
    ),
    "robosuite_lift_152": Source("simulation/robosuite_1.5.2_lift", "demo.hdf5", 17, 1.0, "gripper0_right_grip_site"),
}
OLD = ("robosuite_panda_lift", "robosuite_panda_stack")


@dataclass(frozen=True)
class Case:
    """One demonstration as the engine reads and converts it, and as h5py reads it."""

    source: Source
    raw: RawEpisode
    episode: Episode
    states: Array
    actions: Array
    config: Mapping[str, Any]
    model: str


@pytest.fixture(scope="module")
def cases(data: Path) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for name, source in SOURCES.items():
        conversion, robomimic = Conversion.of(load_converter(name)), get_format("robomimic")
        root = SourceRoot(data / source.folder)
        with h5py.File(data / source.folder / source.file) as file:
            info = json.loads(file["data"].attrs["env_info"])["controller_configs"]
            for ref in robomimic.scan(root, None, {}):
                assert isinstance(ref, EpisodeRef)
                demo = file["data"][ref.upstream_id.split("#")[1]]
                model = str(demo.attrs["model_file"])
                if not model.startswith("<"):
                    model = (data / source.folder / source.file).parent.joinpath("models", model).read_text()
                raw = robomimic.read(root, ref)
                config = info.get("body_parts", {}).get("right", info)
                case = Case(
                    source, raw, convert(raw, conversion), demo["states"][()], demo["actions"][()], config, model
                )
                found.setdefault(name, []).append(case)
    return found


def _numbers(text: str | None, default: str) -> Array:
    return np.array((text or default).split(), float)


def _quaternion(wxyz: Array) -> Array:
    w, x, y, z = wxyz / np.linalg.norm(wxyz)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _turn(axis: Array, angle: float) -> Array:
    return _quaternion(np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)]))


def _chain(model: str, site: str) -> list[ET.Element]:
    """Bodies and hinges from the world to the site, in the order in which they move it."""
    world = ET.fromstring(model).find("worldbody")
    assert world is not None
    parents = {child: parent for parent in world.iter() for child in parent}
    place = next(element for element in world.iter("site") if element.get("name") == site)
    path = [place]
    while path[-1] is not world:
        path.append(parents[path[-1]])
    chain: list[ET.Element] = []
    for body in reversed(path[1:-1]):
        chain += [body, *body.findall("joint")]
    return [*chain, place]


def _hand(case: Case, joints: Array) -> tuple[Array, Array]:
    """Position [T, 3] and rotation [T, 3, 3] of the grip site in the world, by the model, for `joints` [T, 7]."""
    chain = _chain(case.model, case.source.site)
    positions, rotations = np.zeros((len(joints), 3)), np.zeros((len(joints), 3, 3))
    for row, angles in enumerate(joints):
        place, turned, waiting = np.zeros(3), np.eye(3), list(angles)
        for part in chain:
            if part.tag == "joint":
                assert part.get("type", "hinge") == "hinge"
                turned = turned @ _turn(_numbers(part.get("axis"), "0 0 1"), waiting.pop(0))
            else:
                place = place + turned @ _numbers(part.get("pos"), "0 0 0")
                turned = turned @ _quaternion(_numbers(part.get("quat"), "1 0 0 0"))
        assert not waiting
        positions[row], rotations[row] = place, turned
    return positions, rotations


def _columns(slots: SlotArray | None, start: int, stop: int) -> Array:
    assert slots is not None
    picked = slots.columns(start, stop)
    assert len(picked) == stop - start
    assert slots.mask[:, picked].all()
    return slots.values[:, picked].astype(np.float64)


def _check_values(case: Case) -> None:
    """Every slot against the file's own columns, units and controller scale worked out here."""
    episode, states, first = case.episode, case.states, case.source.velocity
    np.testing.assert_allclose(_columns(episode.state, 0, 7), states[:, 1:8], atol=1e-6)
    np.testing.assert_allclose(_columns(episode.state, 166, 173), states[:, first : first + 7], atol=1e-6)
    np.testing.assert_allclose(_columns(episode.state, 16, 17)[:, 0], (states[:, 8] - states[:, 9]) / 0.08, atol=1e-6)
    assert (case.config["input_min"], case.config["input_max"]) == (-1, 1)
    assert case.config["output_max"] == [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]
    assert case.config["output_min"] == [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5]
    command = np.clip(case.actions, -1, 1)
    np.testing.assert_allclose(_columns(episode.action, 160, 163), command[:, :3] * 0.05, atol=1e-7)
    np.testing.assert_allclose(_columns(episode.action, 163, 166), command[:, 3:6] * 0.5 * case.source.turn, atol=1e-6)
    np.testing.assert_array_equal(_columns(episode.action, 16, 17)[:, 0], np.where(case.actions[:, 6] > 0, 0.0, 1.0))


def _agreement(found: Array, command: Array) -> Array:
    """Correlation [3] of each axis, NaN where nothing is commanded."""
    return np.array(
        [np.corrcoef(found[:, i], command[:, i])[0, 1] if command[:, i].std() > 1e-3 else np.nan for i in range(3)]
    )


def _check_physics(case: Case) -> None:
    """The hand goes where the commands say, about a quarter of the way; the fingers close on a command to close."""
    position, rotation = _hand(case, _columns(case.episode.state, 0, 7))
    step, turn = _columns(case.episode.action, 160, 163)[:-1], _columns(case.episode.action, 163, 166)[:-1]
    moved = np.diff(position, axis=0)
    agreement = _agreement(moved, step)
    assert np.nanmax(agreement) > 0.95
    assert np.nanmin(agreement[[0, 2]]) > 0.95
    strong = np.abs(step) > 0.005
    assert (np.sign(moved[strong]) == np.sign(step[strong])).mean() > 0.9
    gain = (moved * step).sum() / (step**2).sum()
    assert 0.2 < gain < 0.3
    if np.abs(turn).max() > 0:
        between = rotation[1:] @ rotation[:-1].transpose(0, 2, 1)
        turned = np.stack([between[:, i, j] - between[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1) / 2
        assert (_agreement(turned, turn) > 0.87).all()
    opening, command = _columns(case.episode.state, 16, 17)[:, 0], _columns(case.episode.action, 16, 17)[:, 0]
    for row in np.flatnonzero(np.diff(command)) + 1:
        later = min(row + 8, len(opening) - 1)
        assert np.sign(opening[later] - opening[row]) == np.sign(command[row] - command[row - 1])


@pytest.mark.parametrize("name", SOURCES)
def test_rows_and_time(cases: dict[str, list[Case]], name: str) -> None:
    steps = {"robosuite_panda_lift": [412], "robosuite_panda_stack": [532], "robosuite_lift_152": [100] * 3}[name]
    assert [case.episode.steps for case in cases[name]] == steps
    for case in cases[name]:
        assert case.episode.hz == 20.0
        np.testing.assert_array_equal(case.episode.times_ns, np.arange(case.episode.steps) * 50_000_000)
        np.testing.assert_allclose(np.diff(case.states[:, 0]), 0.05, atol=1e-9)
        assert case.raw.files[0].path == case.source.file
        assert [text.level for text in case.episode.language] == ["task"]
        assert set(case.episode.labels.values()) == {"commanded"}


@pytest.mark.parametrize("name", SOURCES)
def test_values(cases: dict[str, list[Case]], name: str) -> None:
    for case in cases[name]:
        _check_values(case)


@pytest.mark.parametrize("name", SOURCES)
def test_the_hand_follows_the_commands(cases: dict[str, list[Case]], name: str) -> None:
    for case in cases[name]:
        _check_physics(case)


@pytest.mark.parametrize("name", SOURCES)
def test_velocities_are_the_joints_own(cases: dict[str, list[Case]], name: str) -> None:
    for case in cases[name]:
        joints, velocity = _columns(case.episode.state, 0, 7), _columns(case.episode.state, 166, 173)
        difference = np.diff(joints, axis=0) * case.episode.hz
        mean = (velocity[1:] + velocity[:-1]) / 2
        assert np.sqrt(np.square(mean - difference).mean()) < 0.06 * np.sqrt(np.square(difference).mean())


def test_the_first_hand_pose_by_hand(cases: dict[str, list[Case]]) -> None:
    """The grip site hangs over the table, fingers down, 0.56 m in front of the base at (-0.56, 0, 0.91)."""
    case = cases["robosuite_panda_lift"][0]
    position, rotation = _hand(case, _columns(case.episode.state, 0, 7)[:1])
    np.testing.assert_allclose(position[0], [-0.1054, 0.0072, 1.0135], atol=1e-4)
    assert rotation[0][2, 2] < -0.98


def test_commands_do_not_accumulate(cases: dict[str, list[Case]]) -> None:
    """Goals restart from the measured pose: summed commands are no displacement."""
    case = cases["robosuite_panda_lift"][0]
    position, _ = _hand(case, _columns(case.episode.state, 0, 7)[[0, -1]])
    summed = _columns(case.episode.action, 160, 163)[:-1].sum(axis=0)
    np.testing.assert_allclose(summed, [0.4367, -0.0911, -0.3859], atol=1e-4)
    np.testing.assert_allclose(position[1] - position[0], [0.1060, -0.0258, -0.1082], atol=1e-4)


def test_one_finger_would_mislead(cases: dict[str, list[Case]]) -> None:
    """While the cube is carried it slides between the fingers: each moves, their distance does not."""
    states = cases["robosuite_panda_stack"][0].states[247:515]
    assert np.ptp(states[:, 8]) > 0.012
    assert np.ptp(states[:, 8] - states[:, 9]) < 0.001


def _changed(name: str, side: str, slot: str, **change: Any) -> Conversion:
    document = load_converter(name).model_dump()
    mapping = next(mapping for mapping in document[side] if mapping["slot"] == slot)
    assert any(mapping[field] != value for field, value in change.items())
    mapping.update(change)
    return Conversion.of(Converter.model_validate(document))


PLANTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "axes": ("action", "eef_step_pos.right", {"columns": (1, 0, 2)}),
    "sign": ("action", "eef_step_pos.right", {"scale": -1.0}),
    "unturned": ("action", "eef_step_rot.right", {"scale": None}),
    "polarity": ("action", "gripper.right", {"gripper": {"open": 1.0, "closed": -1.0}}),
    "joints": ("state", "arm_joint.right", {"columns": (2, 9)}),
    "step": ("action", "eef_step_pos.right", {"shift": 1}),
    "state step": ("state", "arm_joint.right", {"shift": 1}),
    "velocity": ("state", "arm_joint_vel.right", {"columns": (16, 23)}),
    "one finger": ("state", "gripper.right", {"columns": (8, 9), "gripper": {"open": 0.04, "closed": 0.0}}),
}


@pytest.mark.parametrize("mistake", PLANTED)
@pytest.mark.parametrize("name", OLD)
def test_a_wrong_converter_is_noticed(cases: dict[str, list[Case]], name: str, mistake: str) -> None:
    case = cases[name][0]
    side, slot, change = PLANTED[mistake]
    planted = replace(case, episode=convert(case.raw, _changed(name, side, slot, **change)))
    with pytest.raises(AssertionError):
        _check_values(planted)


@pytest.mark.parametrize("mistake", ["axes", "sign", "unturned", "polarity", "joints"])
@pytest.mark.parametrize("name", OLD)
def test_physics_alone_notices(cases: dict[str, list[Case]], name: str, mistake: str) -> None:
    case = cases[name][0]
    side, slot, change = PLANTED[mistake]
    planted = replace(case, episode=convert(case.raw, _changed(name, side, slot, **change)))
    with pytest.raises(AssertionError):
        _check_physics(planted)


@pytest.mark.parametrize("side", ["state", "action"])
def test_a_mask_of_nothing_is_noticed(cases: dict[str, list[Case]], side: str) -> None:
    case = cases["robosuite_lift_152"][1]
    slots = getattr(case.episode, side)
    blind = replace(case.episode, **{side: replace(slots, mask=np.zeros_like(slots.mask))})
    with pytest.raises(AssertionError):
        _check_values(replace(case, episode=blind))
