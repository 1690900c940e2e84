"""Rows, clocks and pairs: streams on clocks of their own, T + 1 observations, overlap, episodes without numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.embodiment import load_card
from dataengine.episode import Episode, RawEpisode, images_media
from dataengine.errors import EpisodeError, SpecError
from dataengine.specs.converter import Align, Converter, StateMapping
from dataengine.transforms.align import aligned

SOURCE = {
    "name": "made_up", "url": "https://example.org", "revision": "1", "license": "MIT", "license_evidence": "made here",
    "terms_url": "https://example.org", "creator": "nobody", "consent": "none needed",
    "deidentification": "none needed", "synthetic": True,
}  # fmt: skip
JOINTS = {
    "slot": "arm_joint.right",
    "array": "q",
    "unit": "rad",
    "frame": "joint",
    "evidence": "x",
    "status": "from_code",
}
ACTION = {**JOINTS, "array": "a", "label": "commanded"}
NS = 1_000_000_000


def made(time: Mapping[str, Any], **parts: Any) -> Conversion:
    document = {
        "name": "made_up", "version": 1, "family": "robot", "source": SOURCE, "format": {"name": "robomimic"},
        "embodiment": "panda_droid", "control_mode": "joint_position", "time": {**time, "evidence": "x"}, **parts,
    }  # fmt: skip
    card = load_card("panda_droid").model_copy(update={"joints": {}})  # one number stands for the arm here
    return Conversion.of(Converter.parse(document, "here"), card)


def raw(arrays: Mapping[str, Any], **parts: Any) -> RawEpisode:
    return RawEpisode("e", (), "0" * 64, arrays={k: np.asarray(v) for k, v in arrays.items()}, **parts)


def camera(frames: int, times: Any = ()) -> dict[str, Any]:
    picture = images.encode(np.zeros((4, 4, 3), np.uint8), "png")
    return {"cam": replace(images_media("cam", "png", [picture] * frames, 4, 4), times_ns=np.asarray(times, np.int64))}


def column(episode: Episode, side: str = "state") -> list[float]:
    slots = getattr(episode, side)
    return [float(v) if m else float("nan") for v, m in zip(slots.values[:, 0], slots.mask[:, 0], strict=True)]


PAIRED = {"base": "declared_rate", "hz": 10, "pair": "drop_last_observation"}
VIEW = {"view": "front", "media": "cam", "clock": "rows", "evidence": "x"}


def test_the_last_observation_is_no_step_and_next_states_reach_it():
    reached = {**JOINTS, "slot": "arm_joint.right", "shift": 1, "label": "next_state"}
    conversion = made(
        PAIRED, state=[JOINTS], action=[reached], views=[VIEW], native_action={"array": "a", "params": {}}
    )
    told = convert(raw({"q": np.arange(5.0)[:, None], "a": np.zeros((4, 1))}, media=camera(5)), conversion)
    assert told.steps == 4
    assert column(told) == [0, 1, 2, 3]
    assert column(told, "action") == [1, 2, 3, 4]
    assert told.notes == {"last_observation": 1}
    assert told.media["cam"].times_ns.tolist() == [0, 100_000_000, 200_000_000, 300_000_000, 400_000_000]


@pytest.mark.parametrize(("observed", "acted"), [(4, 4), (6, 4), (4, 5)])
def test_other_counts_are_no_pairs(observed: int, acted: int):
    conversion = made(PAIRED, state=[JOINTS], action=[ACTION])
    episode = raw({"q": np.zeros((observed, 1)), "a": np.zeros((acted, 1))})
    with pytest.raises(EpisodeError, match="observations") as caught:
        convert(episode, conversion)
    assert caught.value.reason == "length_mismatch"


def test_without_a_pair_the_counts_must_agree():
    conversion = made({"base": "declared_rate", "hz": 10}, state=[JOINTS], action=[ACTION])
    with pytest.raises(EpisodeError) as caught:
        convert(raw({"q": np.zeros((5, 1)), "a": np.zeros((4, 1))}), conversion)
    assert caught.value.reason == "length_mismatch"


CLOCK = {"base": "timestamps", "array": "t", "unit": "ns"}
ROWS = np.arange(6, dtype=np.int64) * 100_000_000 + 1_700_000_000 * NS


def on(rule: str, within: float = 0.06) -> dict[str, Any]:
    return {**JOINTS, "align": {"times": "tq", "unit": "ns", "rule": rule, "within_s": within}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("previous", [np.nan, 0, 1, 2, 3, np.nan]),
        ("nearest", [0, 1, 2, 3, np.nan, np.nan]),
        ("linear", [np.nan, 0.5, 1.5, 2.5, np.nan, np.nan]),
    ],
)
def test_a_stream_on_its_own_clock(rule: str, expected: list[float]):
    """The stream's rows lie 50 ms after the first four of the episode."""
    conversion = made(CLOCK, state=[on(rule, 0.05)], action=[ACTION])
    times = ROWS[:4] + 50_000_000
    told = convert(raw({"t": ROWS, "a": np.zeros((6, 1)), "q": np.arange(4.0)[:, None], "tq": times}), conversion)
    if rule == "nearest":  # a tie goes to the earlier one, as `timeline.nearest` says
        expected = [0, 0, 1, 2, 3, np.nan]
    np.testing.assert_allclose(column(told), expected)
    assert told.times_ns.tolist() == (ROWS - ROWS[0]).tolist()


def test_rows_outside_the_overlap_are_left_out_and_counted():
    conversion = made({**CLOCK, "overlap": "trim"}, state=[on("linear")], action=[ACTION])
    arrays = {"t": ROWS, "a": np.arange(6.0)[:, None], "q": np.arange(4.0)[:, None], "tq": ROWS[1:5]}
    told = convert(raw(arrays), conversion)
    assert column(told) == [0, 1, 2, 3]
    assert column(told, "action") == [1, 2, 3, 4]
    assert told.notes == {"rows_outside_overlap": 2}
    with pytest.raises(EpisodeError) as caught:
        convert(raw({**arrays, "tq": ROWS[:4] + NS * 60}), conversion)
    assert caught.value.reason == "no_overlap"


def test_pictures_on_their_own_clock_have_a_tolerance():
    view = {**VIEW, "clock": "times", "within_s": 0.03}
    conversion = made(CLOCK, state=[JOINTS], views=[view])
    arrays = {"t": ROWS, "q": np.zeros((6, 1))}
    told = convert(raw(arrays, media=camera(6, ROWS + 20_000_000)), conversion)
    assert told.media["cam"].times_ns[0] == 20_000_000
    with pytest.raises(EpisodeError, match="row 5") as caught:
        convert(raw(arrays, media=camera(5, ROWS[:5])), conversion)
    assert caught.value.reason == "no_frame_near"
    trimmed = made({**CLOCK, "overlap": "trim"}, state=[JOINTS], views=[view])
    assert convert(raw(arrays, media=camera(5, ROWS[:5])), trimmed).steps == 5
    with pytest.raises(SpecError, match="within_s"):
        made(CLOCK, state=[JOINTS], views=[{**VIEW, "clock": "times"}])


def test_an_episode_without_numbers_has_its_frames_as_rows():
    conversion = made(
        {"base": "declared_rate", "hz": 30},
        views=[VIEW],
        language=[{"stream": "said", "level": "step", "evidence": "x"}],
    )
    told = convert(raw({}, media=camera(3), texts={"said": ("a", "b", "b")}), conversion)
    assert told.steps == 3
    assert told.state is None
    assert told.action is None
    assert [(entry.text, entry.span) for entry in told.language] == [("a", (0, 1)), ("b", (1, 3))]
    with pytest.raises(EpisodeError) as caught:
        convert(raw({}, texts={"said": ("a",)}), made({"base": "declared_rate", "hz": 30}, views=[VIEW]))
    assert caught.value.reason == "empty_episode"


def test_a_rotation_is_not_put_on_a_line():
    turned = {**on("linear"), "slot": "eef_rot6d.right", "rotation": {"form": "quaternion_xyzw"}, "unit": "none"}
    with pytest.raises(SpecError, match="rotation is aligned"):
        made(CLOCK, state=[turned])


def test_digests_of_converters_without_these_fields_stay():
    plain = made({"base": "declared_rate", "hz": 10}, state=[JOINTS], views=[VIEW]).converter.canonical()
    assert "pair" not in plain["time"]
    assert "align" not in plain["state"][0]
    assert "within_s" not in plain["views"][0]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True), st.lists(st.integers(0, 1000), min_size=1))
def test_every_aligned_value_is_one_of_the_stream_s_and_near(stream: list[int], rows: list[int]):
    times, at = np.array(sorted(stream), np.int64), np.array(sorted(rows), np.int64)
    arrays = {"q": times.astype(np.float64)[:, None], "tq": times}
    for rule in ("previous", "nearest", "linear"):
        spec = Align(times="tq", unit="ns", rule=rule, within_s=40e-9)
        found = aligned(StateMapping.model_validate({**JOINTS, "align": spec.canonical()}), spec, arrays, at)
        for row, value, known in zip(at, found.values[:, 0], found.known, strict=True):
            before, near = times[times <= row], np.abs(times - row).min()
            if rule == "previous":
                assert known == bool(len(before) and row - before[-1] <= 40)
                assert not known or value == before[-1]
            elif rule == "nearest":
                assert known == (near <= 40)
                assert abs(value - row) == near
            elif known:
                assert abs(value - row) < 1e-6  # the stream holds its own times, so the line gives the row's
