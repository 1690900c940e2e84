"""HOT3D folders that are not as they should be: reasons, never tracebacks; and what a hidden hand becomes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures.hot3d_writer import (
    FRAME_NS,
    quest_timestamps,
    timestamps,
    wrist,
    write_quest,
    write_recording,
)
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.hot3d import HEADSET, MANO, METADATA, OBJECTS, UMETRACK
from dataengine.formats.hot3d_cameras import CAMERAS
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

MASK = "masks/mask_hand_pose_available.csv"


def scan(path, options=None):
    return list(get_format("hot3d").scan(SourceRoot(path), None, options or {}))


def read(path):
    (ref,) = scan(path)
    assert isinstance(ref, EpisodeRef)
    return get_format("hot3d").read(SourceRoot(path), ref)


def reasons(path, options=None):
    return [(entry.upstream_id, entry.reason) for entry in scan(path, options) if isinstance(entry, ScanProblem)]


def edit_line(path, number, change):
    """Rewrite line `number` (from 0) of a file."""
    lines = path.read_text().splitlines()
    lines[number] = change(lines[number])
    path.write_text("\n".join(lines) + "\n")


def edit_pose(change, hand="1"):
    def edited(line):
        row = json.loads(line)
        change(row["hand_poses"][hand], row)
        return json.dumps(row)

    return edited


def test_reads_what_was_written(tmp_path):
    write_recording(tmp_path, frames=3)
    raw = read(tmp_path)
    assert raw.upstream_id == "P0001_made_up"
    assert raw.group == "P0001"
    assert raw.arrays["timestamp_ns"].tolist() == timestamps(3)
    assert raw.arrays["umetrack/0/t_xyz"][4].tolist() == wrist("0", 2)
    assert raw.arrays["umetrack/1/present"].all()
    assert raw.arrays["headset/present"].all()
    assert raw.arrays["objects/223371871635142/q_wxyz"].shape == (6, 4)
    assert raw.arrays["masks/hand_pose_available/214-1/timestamp_ns"].tolist() == timestamps(3)[::2]
    assert raw.arrays["masks/hand_pose_available/1201-2/value"].tolist() == [True] * 3
    assert raw.attributes["unmatched_rows"] == {"umetrack": 0, "headset": 0, "objects": 0}
    assert len(raw.files) == 6


def test_steps_are_frames_and_targets_the_next_frame(tmp_path):
    """Six frames of twelve rows: the target of a step is one centimetre on, not the repeat 0.09 ms later."""
    write_recording(tmp_path, frames=6)
    episode = convert(read(tmp_path), Conversion.of(load_converter("hot3d_aria")))
    assert episode.steps == 6
    assert episode.times_ns.tolist() == [frame * FRAME_NS for frame in range(6)]
    columns = episode.action.columns(71, 74)
    np.testing.assert_allclose(
        episode.action.values[:5, columns], [wrist("0", frame) for frame in range(1, 6)], atol=1e-6
    )
    assert episode.action.mask[:5].all()
    assert not episode.action.mask[5].any()


def test_a_hidden_hand_is_masked_and_never_zero(tmp_path):
    write_recording(tmp_path, frames=4, hidden={("1", 2), ("0", 0)})
    raw = read(tmp_path)
    assert raw.arrays["umetrack/1/present"].tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert raw.arrays["mano/0/present"].tolist() == [False] * 2 + [True] * 6
    for name in ("t_xyz", "q_wxyz", "joint_angles"):
        assert np.isnan(raw.arrays[f"umetrack/1/{name}"][4:6]).all()
    assert np.isnan(raw.arrays["mano/0/pose"][:2]).all()
    episode = convert(raw, Conversion.of(load_converter("hot3d_aria")))
    right, left = episode.state.columns(7, 16), episode.state.columns(71, 80)
    assert episode.state.mask[:, right].all(axis=1).tolist() == [True, True, False, True]
    assert episode.state.mask[:, left].any(axis=1).tolist() == [False, True, True, True]
    # The target of a frame is absent where the next frame lacks the hand.
    assert episode.action.mask[:, episode.action.columns(7, 16)].all(axis=1).tolist() == [True, False, True, False]


def test_files_that_may_be_missing(tmp_path):
    place = write_recording(tmp_path)
    for name in (UMETRACK, HEADSET, OBJECTS, MASK):
        (place / name).unlink()
    raw = read(tmp_path)
    assert {name.split("/")[0] for name in raw.arrays} == {"timestamp_ns", "mano"}
    with pytest.raises(EpisodeError) as caught:
        convert(raw, Conversion.of(load_converter("hot3d_aria")))
    assert caught.value.reason == "missing_stream"


def test_rows_that_match_no_hand_row_are_counted(tmp_path):
    place = write_recording(tmp_path, frames=2)
    edit_line(place / HEADSET, 1, lambda line: line.replace(str(timestamps(2)[0]), "123"))
    raw = read(tmp_path)
    assert raw.attributes["unmatched_rows"]["headset"] == 1
    assert raw.arrays["headset/present"].tolist() == [False, True, True, True]
    assert np.isnan(raw.arrays["headset/t_xyz"][0]).all()


def test_recordings_without_ground_truth(tmp_path):
    write_recording(tmp_path, "P0004_test", ground_truth=False)
    assert reasons(tmp_path) == [("P0004_test", "missing_ground_truth")]
    place = write_recording(tmp_path / "other")
    (place / MANO).unlink()
    assert reasons(tmp_path / "other") == [("P0001_made_up", "missing_file")]


def test_other_headsets_and_repeated_recordings(tmp_path):
    write_recording(tmp_path / "a", "P0002_quest", headset="Quest3")
    write_recording(tmp_path / "b", "P0003_aria")
    write_recording(tmp_path / "c", "P0003_aria")
    assert reasons(tmp_path, {"headsets": ["Aria"]}) == [
        ("a/P0002_quest", "other_headset"),
        ("c/P0003_aria", "duplicate_episode"),
    ]
    with pytest.raises(SpecError, match="did you mean 'headsets'"):
        scan(tmp_path, {"headset": "Aria"})


def test_a_metadata_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / METADATA).write_text('{"name": "not a recording"}')
    assert scan(tmp_path) == []
    assert get_format("hot3d").detect(SourceRoot(tmp_path), None) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_file"),
        ('{"recording_name": ', "json_invalid"),
        ('{"recording_name": "a", "recording_name": "b"}', "json_duplicate_key"),
        ('{"recording_name": "a"}', "missing_key"),
        ('{"recording_name": 5, "headset": "Aria", "participant_id": "P"}', "bad_type"),
        ('{"recording_name": "a", "headset": "Aria", "participant_id": null}', "bad_type"),
        ('{"recording_name": "a", "headset": "A", "participant_id": "P", "gt_available_status": []}', "bad_type"),
        ('{"recording_name": NaN}', "json_nan"),
        ("[" * 100_000, "json_too_deep"),
    ],
)
def test_damaged_metadata_has_reasons(tmp_path, text, reason):
    place = write_recording(tmp_path)
    (place / METADATA).write_text(text)
    assert [found for _, found in reasons(tmp_path)] == [reason]


@pytest.mark.parametrize("name", [MANO, UMETRACK, HEADSET, OBJECTS, MASK])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: b"", {"empty_file"}),
        (lambda data: data[:-20], {"json_invalid", "truncated"}),
        (lambda data: data + b"\xff\xfe\n", {"invalid_utf8", "json_invalid", "bad_row"}),
        (lambda data: data + b"[1, 2]\n", {"bad_type", "bad_row"}),
        (lambda data: data + data.splitlines()[-1] + b"\n", {"duplicate_timestamp"}),
        (lambda data: b"[" * 100_000 + b"\n", {"json_too_deep", "missing_key"}),
        (lambda data: data + b"\n", {"json_invalid", "bad_row"}),
    ],
    ids=["empty", "cut", "not utf-8", "another row", "repeated row", "deep", "blank line"],
)
def test_damaged_files_have_reasons(tmp_path, name, damage, expected):
    place = write_recording(tmp_path)
    (place / name).write_bytes(damage((place / name).read_bytes()))
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason in expected


def test_a_cut_line_is_named(tmp_path):
    place = write_recording(tmp_path, frames=2)
    (place / MANO).write_bytes((place / MANO).read_bytes()[:-30])
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason == "json_invalid"
    assert "line 4" in str(caught.value)


WRONG = [None, 7, "text", {}, [], [None] * 3, [1, 2], [1, 2, "3"], [True, 1, 2], [1e999, 0, 0], [[1, 2, 3]]]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize(
    "key", ["pose", "betas", "wrist_xform", "t_xyz", "q_wxyz", "hand", "hand_poses", "timestamp_ns"]
)
def test_wrong_types_in_a_hand_line(tmp_path, key, value):
    place = write_recording(tmp_path)

    def change(pose, row):
        if key in ("t_xyz", "q_wxyz"):
            pose["wrist_xform"][key] = value
        elif key == "hand":
            row["hand_poses"]["1"] = value
        elif key in row:
            row[key] = value
        else:
            pose[key] = value

    edit_line(place / MANO, 3, lambda line: edit_pose(change)(line).replace("Infinity", "1e999"))
    if (key, value) in [("hand_poses", {}), ("timestamp_ns", 7)]:
        read(tmp_path)  # a line without hands, or at another time, is a legal line
        return
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason in {"bad_type", "bad_shape", "bad_value", "missing_key"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pose, row: row.pop("timestamp_ns"), "missing_key"),
        (lambda pose, row: row.pop("hand_poses"), "missing_key"),
        (lambda pose, row: pose.pop("wrist_xform"), "missing_key"),
        (lambda pose, row: pose.pop("pose"), "missing_key"),
        (lambda pose, row: row["hand_poses"].update({"2": pose}), "bad_value"),
        (lambda pose, row: row.update({"timestamp_ns": 1 << 80}), "bad_value"),
        (lambda pose, row: row.update({"timestamp_ns": 1.5}), "bad_type"),
    ],
)
def test_hand_lines_that_lack_or_add_something(tmp_path, change, reason):
    place = write_recording(tmp_path)
    edit_line(place / MANO, 2, edit_pose(change))
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        (HEADSET, "0.0,0.0,1.0", "0.0,x,1.0", "bad_value"),
        (HEADSET, "0.0,0.0,1.0", "0.0,nan,1.0", "bad_value"),
        (HEADSET, "0.0,0.0,1.0", "0.0,,1.0", "bad_value"),
        (HEADSET, "0.0,0.0,1.0", "0.0,1.0", "bad_row"),
        (HEADSET, "t_wo_x[m]", "t_wo_x[mm]", "missing_key"),
        (HEADSET, ",567", ",-567", "bad_timestamp"),
        (HEADSET, ",567", ",9999999999567", "bad_timestamp"),
        (HEADSET, "5411364721403,", "12,", "bad_value"),
        (OBJECTS, "223371871635142,", '"223371871635142,', "bad_row"),
        (MASK, ",True", ",maybe", "bad_value"),
        (MASK, "stream_id", "stream", "missing_key"),
    ],
)
def test_tables_with_wrong_cells(tmp_path, name, old, new, reason):
    """Only the first place is changed; a second headset in one file is ambiguous, not merged."""
    place = write_recording(tmp_path)
    path = place / name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


def test_quaternions_of_no_rotation_are_dropped_in_the_conversion(tmp_path):
    place = write_recording(tmp_path)
    edit_line(place / UMETRACK, 4, edit_pose(lambda pose, row: pose["wrist_xform"].update({"q_wxyz": [0, 0, 0, 0]})))
    with pytest.raises(EpisodeError) as caught:
        convert(read(tmp_path), Conversion.of(load_converter("hot3d_aria")))
    assert caught.value.reason == "bad_quaternion"


def test_the_digest_sees_every_file_and_no_neighbour(tmp_path):
    place = write_recording(tmp_path / "one")
    before = read(tmp_path / "one").raw_digest
    write_recording(tmp_path / "two")
    write_recording(tmp_path / "two", "P0009_neighbour")
    (ref, _) = scan(tmp_path / "two")
    assert get_format("hot3d").read(SourceRoot(tmp_path / "two"), ref).raw_digest == before
    digests = {before}
    for name in (MANO, UMETRACK, HEADSET, OBJECTS, MASK, METADATA):
        kept = (place / name).read_bytes()
        (place / name).write_bytes(kept.replace(b"0", b"1", 1) if name != METADATA else kept.replace(b"made", b"real"))
        try:
            digests.add(read(tmp_path / "one").raw_digest)
        except BadInput:
            digests.add(name)
        (place / name).write_bytes(kept)
    assert len(digests) == 7


def test_a_quest_has_one_row_a_frame_and_its_cameras(tmp_path):
    write_quest(tmp_path, frames=4)
    raw = read(tmp_path)
    assert raw.arrays["timestamp_ns"].tolist() == quest_timestamps(4)
    assert sorted(raw.attributes["cameras"]) == ["1201-1", "1201-2"]
    left = raw.attributes["cameras"]["1201-1"]
    assert (left["label"], left["model"], left["size"]) == ("camera-slam-left", "fisheye624", [1024, 1280])
    assert left["matrix"] == [[504.0, 0.0, 638.0], [0.0, 504.0, 509.0], [0.0, 0.0, 1.0]]
    assert left["coefficients"] == [0.04, -0.04, 0.02, -0.01, 0.004, -0.001, *[0.0] * 6]
    # the quaternion (-.5, .5, -.5, .5), w first, turns x to -y, y to -z and z to x
    turned = [[0, 0, 1, 0.02], [-1, 0, 0, -0.13], [0, -1, 0, -0.03], [0, 0, 0, 1]]
    np.testing.assert_allclose(left["T_device_camera"], turned, atol=1e-12)
    assert get_format("hot3d").detect(SourceRoot(tmp_path), None).layout == "hot3d_quest3"
    episode = convert(raw, Conversion.of(load_converter("hot3d_quest3")))
    assert (episode.steps, episode.hz) == (4, 30.0)
    assert episode.frames["state/eef_pos.left"] == "hot3d_quest_world"
    columns = episode.action.columns(71, 74)
    np.testing.assert_allclose(episode.action.values[:3, columns], [wrist("0", k) for k in range(1, 4)], atol=1e-6)


def test_each_headset_has_its_converter(tmp_path):
    write_quest(tmp_path)
    assert reasons(tmp_path, {"headsets": ["Aria"]}) == [("P0002_made_up", "other_headset")]


def test_what_is_not_read_is_named(data):
    unread = read(data / "egocentric/hot3d").attributes["unread"]
    assert "box2d_hands.csv" in unread
    assert "mps/slam/closed_loop_trajectory.csv" in unread
    assert not [name for name in unread if name.startswith("masks/") or name.endswith("trajectory.jsonl")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told[0].pop("stream_id"), "missing_key"),
        (lambda told: told[1].update(stream_id="1201-1"), "duplicate_name"),
        (lambda told: told[0].update(projectionModelType="PINHOLE"), "bad_value"),
        (lambda told: told[0]["projectionParams"].pop(), "bad_shape"),
        (lambda told: told[0].update(imageHeight=0), "bad_value"),
        (lambda told: told[0].update(imageWidth="1280"), "bad_type"),
        (lambda told: told[0]["T_Device_Camera"].update(quaternion_wxyz=[0, 0, 0, 0]), "bad_quaternion"),
        (lambda told: told[0]["T_Device_Camera"].pop("translation_xyz"), "missing_key"),
    ],
)
def test_damaged_camera_models(tmp_path, change, reason):
    path = write_quest(tmp_path) / CAMERAS
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", [UMETRACK, HEADSET])
def test_a_file_on_another_clock_is_no_absent_hand(tmp_path, name):
    place = write_recording(tmp_path, frames=3) / name
    text = place.read_text()
    for stamp in timestamps(3):
        text = text.replace(str(stamp), str(stamp + 1_000_000))
    place.write_text(text)
    with pytest.raises(EpisodeError, match="none of its 6 timestamps") as caught:
        read(tmp_path)
    assert caught.value.reason == "time_mismatch"


def test_a_recording_that_lost_its_metadata_is_told(tmp_path):
    (write_recording(tmp_path, "P0001_a", frames=2) / METADATA).unlink()
    assert reasons(tmp_path) == [("P0001_a", "missing_file")]


def test_metadata_that_name_no_recording_are_told_beside_its_hands(tmp_path):
    place = write_recording(tmp_path, "P0001_a", frames=2) / METADATA
    for text in ("7", '{"recording": "P0001_a"}'):
        place.write_text(text)
        assert reasons(tmp_path) == [(f"P0001_a/{METADATA}", "missing_key")]


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    place = write_recording(tmp_path, frames=2) / HEADSET
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes())
    assert read(tmp_path).arrays["headset/present"].all()
