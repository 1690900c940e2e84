"""VLN-CE R2R, converted, against the files read by gzip and json alone and scipy's rotations.

The truth is checked in Habitat's own coordinates: positions and headings of the episode are taken back there with
`start_rotation` as scipy reads it, without the project's transform.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dataengine.convert import Conversion, convert
from dataengine.errors import EpisodeError
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

SPLITS = {"val_seen": 778, "val_unseen": 1839}
TOLERANCE_M = 2e-5  # float32 at some ten metres
FEW = 40


class Truth:
    """Episodes and ground truth by upstream id, as json gives them."""

    def __init__(self, folder: Path) -> None:
        self.by_id = {}
        for split in SPLITS:
            stem = folder / "R2R_VLNCE_v1-3_preprocessed" / split / split
            told = json.loads(gzip.decompress(Path(f"{stem}.json.gz").read_bytes()))["episodes"]
            truth = json.loads(gzip.decompress(Path(f"{stem}_gt.json.gz").read_bytes()))
            for entry in told:
                self.by_id[f"{split}/{entry['episode_id']}"] = entry, truth[str(entry["episode_id"])]


@pytest.fixture(scope="module")
def folder(data):
    return data / "navigation/vlnce_r2r"


@pytest.fixture(scope="module")
def truth(folder):
    return Truth(folder)


@pytest.fixture(scope="module")
def raws(folder):
    root, vlnce = SourceRoot(folder), get_format("vlnce")
    refs = [ref for ref in vlnce.scan(root, None, {}) if isinstance(ref, EpisodeRef)]
    return [vlnce.read(root, ref) for ref in refs]


@pytest.fixture(scope="module")
def conversion():
    return Conversion.of(load_converter("vlnce_r2r"))


@pytest.fixture(scope="module")
def episodes(raws, conversion):
    return [convert(raw, conversion) for raw in raws]


def slot(array, start, stop):
    """Columns of the unified channels start:stop; all of them must be there and unmasked."""
    columns = array.columns(start, stop)
    assert len(columns) == stop - start, "a channel is missing"
    assert array.mask[:, columns].all(), "a value is masked"
    return array.values[:, columns].astype(np.float64)


def in_habitat(told, position, yaw):
    """Episode frame back to Habitat's world: positions [T, 3] and the body's looking directions [T, 3]."""
    body = Rotation.from_quat(told["start_rotation"])  # xyzw
    ahead, left, up = (body.apply(axis) for axis in ([0, 0, -1], [-1, 0, 0], [0, 1, 0]))
    world = told["start_position"] + position @ np.stack([ahead, left, up])
    turned = Rotation.from_rotvec(np.outer(yaw, [0.0, 1.0, 0.0])) * body
    return world, turned.apply([0, 0, -1])


def check_truth(episodes, truth):
    """Every claim about the converted episodes; returns the heading errors (degrees) of all forward steps."""
    errors = []
    for episode in episodes:
        told, found = truth.by_id[episode.upstream_id]
        ids = np.array(found["actions"])
        forward = ids == 1
        locations = np.array(found["locations"])
        place = np.concatenate([[0], np.cumsum(forward)])
        assert episode.steps == len(ids)
        before, looking = in_habitat(told, slot(episode.state, 138, 141), slot(episode.state, 141, 142)[:, 0])
        after, looking_after = in_habitat(told, slot(episode.action, 138, 141), slot(episode.action, 141, 142)[:, 0])
        assert np.abs(before - locations[place[:-1]]).max() < TOLERANCE_M
        assert np.abs(after - locations[place[1:]]).max() < TOLERANCE_M
        np.testing.assert_allclose(looking[1:], looking_after[:-1], atol=1e-6)
        turn = np.degrees(np.arctan2(np.cross(looking, looking_after)[:, 1], (looking * looking_after).sum(1)))
        expected_turn = np.select([ids == 2, ids == 3], [15.0, -15.0], 0.0)
        np.testing.assert_allclose(turn, expected_turn, atol=1e-3)
        assert slot(episode.action, 142, 143)[:, 0].tolist() == (ids == 0).tolist()
        assert slot(episode.action, 155, 156)[:, 0].tolist() == (ids == 0).tolist()
        assert np.linalg.norm(after[-1] - told["goals"][0]["position"]) < 0.5
        moved = np.diff(locations, axis=0)[:, [0, 2]]
        flat = looking[forward][:, [0, 2]]
        across = moved[:, 0] * flat[:, 1] - moved[:, 1] * flat[:, 0]
        errors.append(np.degrees(np.abs(np.arctan2(across, (moved * flat).sum(1)))))
    degrees = np.concatenate(errors)
    assert np.mean(degrees < 0.01) > 0.95
    assert degrees.max() < 31
    return degrees


def test_all_episodes_are_true(episodes, truth):
    assert len(episodes) == sum(SPLITS.values()) == len(truth.by_id)
    assert {episode.upstream_id for episode in episodes} == truth.by_id.keys()
    degrees = check_truth(episodes, truth)
    assert len(degrees) == 96_441
    assert np.mean(degrees < 0.01) > 0.97
    assert np.percentile(degrees, 99) <= 8.1
    assert np.mean(degrees < 0.01) == pytest.approx(0.9794, abs=1e-4)
    assert np.percentile(degrees, 99) == pytest.approx(7.99, abs=0.01)


def test_language_groups_actions_and_time(episodes, truth):
    for episode in episodes:
        told, found = truth.by_id[episode.upstream_id]
        (language,) = episode.language
        assert language.text == told["instruction"]["instruction_text"]
        assert language.span == (0, len(found["actions"]))
        assert episode.native_action["ids"].tolist() == found["actions"]
        assert episode.group.endswith(told["scene_id"])
        assert episode.hz == 2.0
        assert episode.times_ns[-1] == (episode.steps - 1) * 500_000_000
        assert episode.media == {}
        assert episode.views == ()
    assert len({episode.group for episode in episodes}) == 53 + 11
    assert len({episode.uid for episode in episodes}) == len(episodes)
    assert episodes[0].native_action["params"] == {
        "stop": 0,
        "forward": 1,
        "left": 2,
        "right": 3,
        "forward_m": 0.25,
        "turn_deg": 15.0,
    }
    assert set(episodes[0].labels.items()) == {
        ("nav_position", "reached"),
        ("nav_yaw", "reached"),
        ("nav_stop", "annotated"),
        ("terminate", "annotated"),
    }


def test_rows_worked_out_by_hand(episodes):
    """val_seen/1 starts at heading 2 * atan2(0.9659, -0.2588) = 210 degrees and turns right six times.

    Then it looks along -y of the episode frame. Its first forward step goes by (-0.216507, -0.194956, +0.125) in
    Habitat's world, which is 0.25 m at a heading of 120 degrees, down a stair. Two more right turns, and the second
    goes 0.25 m along world -x: -0.25 sin 30 ahead and -0.25 cos 30 to the left of the start.
    """
    episode = next(found for found in episodes if found.upstream_id == "val_seen/1")
    assert episode.native_action["ids"][:10].tolist() == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1]
    expected = {
        0: [0.0, 0.0, 0.0, 0.0],
        1: [0.0, 0.0, 0.0, -np.pi / 12],
        6: [0.0, 0.0, 0.0, -np.pi / 2],
        7: [0.0, -0.25, -0.194956, -np.pi / 2],
        9: [0.0, -0.25, -0.194956, -np.pi * 2 / 3],
        10: [-0.125, -0.466506, -0.375194, -np.pi * 2 / 3],
    }
    for row, values in expected.items():
        np.testing.assert_allclose(episode.state.values[row], values, atol=2e-6)
    assert episode.action.values[-1, -2:].tolist() == [1.0, 1.0]
    assert episode.action.channels.tolist() == [138, 139, 140, 141, 142, 155]


def mutated(conversion, side, slot_name, **change):
    """The converter with one mapping changed."""
    spec = conversion.converter
    mappings = tuple(
        mapping.model_copy(update=change) if mapping.slot == slot_name else mapping for mapping in getattr(spec, side)
    )
    return replace(conversion, converter=spec.model_copy(update={side: mappings}))


MUTATIONS = {
    "axis swap": ("state", "nav_position", {"columns": (1, 0, 2)}),
    "axis swap of the target": ("action", "nav_position", {"columns": (0, 2, 1)}),
    "sign flip": ("state", "nav_position", {"scale": -1.0}),
    "yaw sign": ("state", "nav_yaw", {"scale": -1.0}),
    "target yaw sign": ("action", "nav_yaw", {"scale": -1.0}),
    "one step late": ("state", "nav_position", {"shift": -1}),
    "one step early": ("action", "nav_yaw", {"shift": 1}),
    "target is the state": ("action", "nav_position", {"array": "derived/position"}),
    "centimetres": ("state", "nav_position", {"unit": "cm"}),
    "no stop": ("action", "nav_stop", {"scale": 0.0}),
    "zero mask": ("state", "nav_yaw", {"mask": "derived/stop"}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_is_found(raws, truth, conversion, name):
    side, slot_name, change = MUTATIONS[name]
    wrong = mutated(conversion, side, slot_name, **change)
    with pytest.raises(AssertionError):
        check_truth([convert(raw, wrong) for raw in raws[:FEW]], truth)
    check_truth([convert(raw, conversion) for raw in raws[:FEW]], truth)


def test_zeroed_masks_and_values_are_found(episodes, truth):
    few = episodes[:FEW]
    masked = [replace(found, state=replace(found.state, mask=np.zeros_like(found.state.mask))) for found in few]
    zeroed = [replace(found, state=replace(found.state, values=np.zeros_like(found.state.values))) for found in few]
    for wrong in (masked, zeroed):
        with pytest.raises(AssertionError):
            check_truth(wrong, truth)


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ({"stop": 0, "forward": 1, "left": 3, "right": 2}, "heading_mismatch"),
        ({"stop": 3, "forward": 1, "left": 2, "right": 0}, "missing_stop"),
        ({"stop": 0, "forward": 2, "left": 1, "right": 3}, "length_mismatch"),
    ],
)
def test_swapped_action_ids_do_not_convert(raws, conversion, actions, reason):
    spec = conversion.converter
    derive = (spec.derive[0].model_copy(update={"actions": actions}),)
    wrong = replace(conversion, converter=spec.model_copy(update={"derive": derive}))
    for raw in raws[:FEW]:
        with pytest.raises(EpisodeError) as caught:
            convert(raw, wrong)
        assert caught.value.reason == reason


def test_a_start_rotation_of_another_version_is_found(raws, conversion):
    """v1-2 and v1-3 differ in start_rotation: a quarter turn more, and the ground truth no longer fits."""
    quarter = Rotation.from_rotvec([0, np.pi / 2, 0])
    for raw in raws[:FEW]:
        turned = (Rotation.from_quat(raw.arrays["start_rotation"]) * quarter).as_quat()
        wrong = replace(raw, arrays={**raw.arrays, "start_rotation": turned})
        with pytest.raises(EpisodeError) as caught:
            convert(wrong, conversion)
        assert caught.value.reason == "heading_mismatch"
