"""Twelve kinds of defects planted into real sources: each is found where it applies, and clean sources are quiet."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dataengine import api
from dataengine.convert import Conversion
from dataengine.documents import find_spec
from dataengine.episode import Episode, SlotArray
from dataengine.evidence import Gallery, episode_evidence
from dataengine.evidence.defects import DEFECTS
from dataengine.evidence.trial import Trial, run_trial

ALL = {defect.name for defect in DEFECTS}
PICTURES = {"images_late_1", "images_late_2", "channel_swap"}
ARM = ALL - PICTURES
APPLIES = {
    "bridge_octo": ALL,
    "unitree_g1_inspire": ALL - {"quaternion_order", "gripper_polarity", "wrong_frame", "rot6d_rows"},
    "pusht_lerobot": PICTURES | {"state_is_action", "wrong_frame", "wrong_scale", "nan_island", "duplicated_rows"},
    "hot3d_aria": ALL - PICTURES - {"gripper_polarity", "euler_wrap"},
    "vitra_ego4d": ALL - {"gripper_polarity", "euler_wrap"},
    "vlnce_r2r": {"degrees", "state_is_action", "wrong_frame", "wrong_scale", "nan_island", "duplicated_rows"},
    "robosuite_panda_lift": ARM,
    "robosuite_panda_stack": ARM,
    # Its rotation commands are all 0: rows and columns are the same there.
    "robosuite_lift_152": ARM - {"rot6d_rows"},
    "robosuite_baxter": {"degrees", "euler_wrap", "wrong_scale", "nan_island", "duplicated_rows"},
}
"""What each source can have, written down by hand: a planter that falls silent is a failure."""
UNKNOWN = {("vitra_ego4d", "wrong_frame", "y_up")}
"""The world of VITRA's example has no gravity: turned as a whole, hands and camera alike, it is as good as before."""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "planted_defects.py"
    spec = importlib.util.spec_from_file_location("planted_defects", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(bench: ModuleType, data: Path) -> dict[str, list[Episode]]:
    """The converted episodes of every source."""
    return {name: list(bench.converted(data / folder, Conversion.load(name))) for name, folder in bench.SOURCES.items()}


@pytest.fixture(scope="module")
def trials(sources: dict[str, list[Episode]]) -> dict[str, Trial]:
    return {name: run_trial(episodes, Conversion.load(name).converter) for name, episodes in sources.items()}


def test_every_source_with_steps_is_tried(bench: ModuleType) -> None:
    assert bench.SOURCES.keys() == APPLIES.keys()


@pytest.mark.parametrize("name", APPLIES)
def test_planted_defects_are_detected(trials: dict[str, Trial], name: str) -> None:
    trial = trials[name]
    applied = {outcome.defect for outcome in trial.outcomes if outcome.result != "not applicable"}
    assert applied == APPLIES[name]
    wrong = [
        outcome
        for outcome in trial.outcomes
        if outcome.result == "missed"
        or (outcome.result == "unknown" and (name, outcome.defect, outcome.variant) not in UNKNOWN)
    ]
    assert not wrong


def test_hands_moved_beside_their_camera_are_found_in_the_picture(trials: dict[str, Trial]) -> None:
    (found,) = [outcome for outcome in trials["vitra_ego4d"].outcomes if outcome.variant == "hands"]
    assert found.result == "detected"
    assert found.why.startswith("projection head")


@pytest.mark.parametrize("name", APPLIES)
def test_clean_sources_are_quiet(trials: dict[str, Trial], name: str) -> None:
    assert len(trials[name].warnings) <= 1


@pytest.mark.parametrize("name", ["bridge_octo", "unitree_g1_inspire", "pusht_lerobot"])
def test_lateness_is_measured_to_the_row(trials: dict[str, Trial], name: str) -> None:
    """One row more of delay is one row more of lag: the estimate follows what was planted, not the record."""
    clean = [verdict.figures["lag_rows"] for verdict in trials[name].clean if verdict.check == "picture_lag"]
    late = {
        steps: next(found.why for found in trials[name].outcomes if found.defect == f"images_late_{steps}")
        for steps in (1, 2)
    }
    for steps, why in late.items():
        told = float(why.partition("by ")[2].partition(" rows")[0])
        assert told - clean[0] == pytest.approx(steps, abs=0.4)


def half(episode: Episode, start: int, stop: int) -> Episode:
    def cut(slots: SlotArray | None) -> SlotArray | None:
        return None if slots is None else SlotArray(slots.channels, slots.values[start:stop], slots.mask[start:stop])

    action = dict(episode.native_action)
    if "ids" in action:
        action["ids"] = action["ids"][start:stop]
    return replace(
        episode,
        times_ns=episode.times_ns[start:stop],
        state=cut(episode.state),
        action=cut(episode.action),
        native_action=action,
    )


@pytest.mark.parametrize("name", APPLIES)
def test_parts_of_clean_sources_are_quiet(sources: dict[str, list[Episode]], name: str) -> None:
    """Smaller samples say less, not more: half of the episodes, and halves of single ones."""
    episodes, converter, gallery = sources[name], Conversion.load(name).converter, Gallery()
    chance = np.random.default_rng(0)
    parts = [[half(e, 0, e.steps // 2)] for e in episodes[:3]] + [
        [half(e, e.steps // 2, e.steps)] for e in episodes[:3]
    ]
    if len(episodes) > 3:
        picked = chance.permutation(len(episodes))
        parts += [[episodes[number] for number in group] for group in np.array_split(picked, 2)]
    warned = [
        verdict
        for part in parts
        for verdict in episode_evidence(part, converter, gallery)
        if verdict.status == "warning"
    ]
    assert len(warned) <= 1


def test_inspect_shows_raw_evidence_and_the_next_command(data: Path) -> None:
    found = api.inspect(data / "robot/rlds_octo_bridge")
    assert found.fitting == ["bridge_octo"]
    assert found.judged == 20
    warnings = [verdict for verdict in found.verdicts if verdict["status"] == "warning"]
    assert [(verdict["check"], verdict["where"]) for verdict in warnings] == [
        ("blank_pictures", "steps/observation/image_3")  # all of its pictures are black
    ]
    baxter = api.inspect(data / "robot/robosuite_human_demos/BaxterPegInHole")
    copies = next(verdict for verdict in baxter.verdicts if verdict["check"] == "repeated_rows")
    assert copies["status"] == "warning"
    assert copies["figures"]["copies"] == 75 + 50


def test_inspect_holds_a_converter_against_the_data(data: Path) -> None:
    found = api.inspect(data / "robot/robosuite_human_demos", converter="robosuite_panda_stack")
    assert found.format == "robomimic"
    assert found.converter == "robosuite_panda_stack"
    assert found.judged == 1
    gain = next(verdict for verdict in found.verdicts if verdict["check"] == "command_gain")
    assert gain["status"] == "ok"
    assert gain["figures"]["gain"] == pytest.approx(0.25, abs=0.02)
    assert {problem["reason"] for problem in found.problems} == {"other_environment"}


def test_inspect_with_a_converter_that_does_not_fit_tells_so(data: Path) -> None:
    found = api.inspect(data / "robot/lerobot_v30_pusht", converter="unitree_g1_inspire")
    assert found.judged == 0
    assert found.verdicts == []
    assert {problem["reason"] for problem in found.problems} == {"unexpected_attribute"}


WRONG = {
    "bridge: gripper": (
        "bridge_octo",
        "robot/rlds_octo_bridge",
        "{open: 1.0, closed: 0.0}",
        "{open: 0.0, closed: 1.0}",
        "gripper_polarity",
    ),
    "bridge: order of channels": (
        "bridge_octo",
        "robot/rlds_octo_bridge",
        "channel_order: rgb",
        "channel_order: bgr",
        "channel_order",
    ),
    "bridge: columns of the state": (
        "bridge_octo",
        "robot/rlds_octo_bridge",
        "steps/observation/state\n    columns: [0, 3]",
        "steps/observation/state\n    columns: [1, 4]",
        "command_axes",
    ),
    "hot3d: quaternions": ("hot3d_aria", "egocentric/hot3d", "quaternion_wxyz", "quaternion_xyzw", "camera_upright"),
    "hot3d: next state": ("hot3d_aria", "egocentric/hot3d", "shift: 1", "shift: 0", "action_is_state"),
    "lift: sign of the turn": (
        "robosuite_panda_lift",
        "robot/robosuite_human_demos",
        "scale: -1.0",
        "scale: 1.0",
        "command_axes",
    ),
    "lift: columns of the speeds": (
        "robosuite_panda_lift",
        "robot/robosuite_human_demos",
        "[17, 24]",
        "[18, 25]",
        "velocity_gain",
    ),
    "lift: no controller": (
        "robosuite_panda_lift",
        "robot/robosuite_human_demos",
        "    controller: {config: env_info/controller_configs, columns: [0, 3]}\n",
        "",
        "command_gain",
    ),
    "vlnce: turns": (
        "vlnce_r2r",
        "navigation/vlnce_r2r/R2R_VLNCE_v1-3_preprocessed/val_seen",
        "left: 2, right: 3",
        "left: 3, right: 2",
        "heading",
    ),
}
"""Mistakes in a converter: what is written instead of what, and the check that finds it."""


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_converter_is_told(data: Path, tmp_path: Path, case: str) -> None:
    name, folder, right, wrong, check = WRONG[case]
    text = find_spec("converters", name).read_text()
    assert right in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(right, wrong))
    found = api.inspect(data / folder, converter=str(path), limit=30)
    told = {verdict["check"] for verdict in found.verdicts if verdict["status"] == "warning"}
    reasons = {problem["reason"] for problem in found.problems}
    # The walker that turns the other way is refused before, by the format's own comparison with the recorded way.
    assert check in told or (check == "heading" and "heading_mismatch" in reasons)
