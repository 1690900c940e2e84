"""Habitat's episodes: starts, goals, demonstrations, objects, and files that are not as they should be."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures import habitat_writer as writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot


def scan(path, only=None, **options):
    found = get_format("habitat_episodes").scan(SourceRoot(path), only, {"quaternion": "xyzw", **options})
    return list(found)


def read(path, ref):
    return get_format("habitat_episodes").read(SourceRoot(path), ref)


def reasons(found):
    return [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]


def one(tmp_path, episode, **document):
    """A file with one episode; its only ref, read."""
    writer.write_file(tmp_path / "content/a.json.gz", {"episodes": [episode], **document})
    found = scan(tmp_path)
    assert reasons(found) == []
    return read(tmp_path, found[0])


def test_a_demonstration_as_poses(tmp_path):
    """Left 30, forward, look down, forward, right 30, forward, from a heading of 60 degrees: x ahead, y left."""
    place = writer.write_objectnav(tmp_path)
    refs = scan(place)
    assert [ref.upstream_id for ref in refs] == [
        f"train/content/{room}/WORKER:TASK{number}" for room in ("roomA", "roomB") for number in (0, 1)
    ]
    raw = read(place, refs[1])
    assert raw.arrays["actions"].tolist() == [2, 1, 5, 1, 3, 1, 0]
    assert raw.arrays["locations"].shape == (4, 3)
    np.testing.assert_array_equal(raw.arrays["goal_positions"], [[0, 0.5, 0], [0, 0.5, 1]])
    assert raw.attributes["unread"] == [
        "goals: view_points, all but positions and object ids",
        "reference_replay: sensor_data",
    ]
    episode = convert(raw, Conversion.load("habitat_objectnav_hd"))
    step = 0.25 * np.array([np.cos(np.pi / 6), 0.5])
    places = [[0, 0], [0, 0], step, step, 2 * step, 2 * step, 2 * step + [0.25, 0]]
    np.testing.assert_allclose(episode.state.values[:, :2], places, atol=1e-6)
    np.testing.assert_allclose(np.degrees(episode.state.values[:, 3]), [0, 30, 30, 30, 30, 0, 0], atol=1e-4)
    assert episode.action.values[:, -1].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert [spoken.text for spoken in episode.language] == ["bed"]


def test_states_recorded_after_the_step_are_not_taken_for_those_before(tmp_path):
    """Planted: the states shifted by one step, as if recorded before it. The walk then leaves the headings."""
    walk = ("TURN_LEFT", "MOVE_FORWARD") * 6
    told = writer.episode(0, "mp3d/a/a.glb", "chair", actions=walk)
    steps = told["reference_replay"]
    states = [step["agent_state"] for step in steps]
    for step, state in zip(steps[2:], states[1:], strict=False):
        step["agent_state"] = state
    with pytest.raises(EpisodeError, match="degrees off the heading"):
        convert(one(tmp_path, told), Conversion.load("habitat_objectnav_hd"))


def test_a_demonstration_without_states_has_headings_only(tmp_path):
    place = writer.write_objectnav_hm3d(tmp_path)
    raw = read(place, scan(place)[0])
    assert {"actions", "goal_positions"} < set(raw.arrays)
    assert not {"locations", "agent_position"} & set(raw.arrays)
    episode = convert(raw, Conversion.load("pirlnav_objectnav_hd"))
    np.testing.assert_allclose(np.degrees(episode.state.values[:, 0]), [0, 30, 30, 30, 30, 0, 0], atol=1e-4)
    with pytest.raises(EpisodeError):
        convert(raw, Conversion.load("habitat_objectnav_hd"))


def test_real_rearrangement(data):
    place = data / "navigation/habitat_rearrange"
    document = json.loads(gzip.decompress((place / "demo.json.gz").read_bytes()))
    refs = scan(place)
    assert [ref.upstream_id for ref in refs] == ["demo/0", "demo/1"]
    detection = get_format("habitat_episodes").detect(SourceRoot(place), None)
    assert (detection.layout, detection.options) == ("habitat_rearrange", {"quaternion": "xyzw"})
    for ref, told in zip(refs, document["episodes"], strict=True):
        raw = read(place, ref)
        np.testing.assert_array_equal(raw.arrays["rigid_objs"], [row[1] for row in told["rigid_objs"]])
        assert raw.attributes["targets"] == sorted(told["targets"])
        wanted = [told["targets"][name] for name in raw.attributes["targets"]]
        np.testing.assert_array_equal(raw.arrays["targets"], wanted)
        assert 0.3 < raw.arrays["rigid_objs"][:, 1, 3].min() < raw.arrays["rigid_objs"][:, 1, 3].max() < 0.9
        assert raw.attributes["unread"] == ["additional_obj_config_paths"]
        episode = convert(raw, Conversion.load("habitat_rearrange_demo"))
        assert (episode.steps, episode.action) == (1, None)
        assert episode.group == f"habitat_rearrange_demo/{told['scene_id']}"


def test_the_order_is_mandatory_and_checked(tmp_path):
    with pytest.raises(SpecError, match="xyzw or wxyz"):
        list(get_format("habitat_episodes").scan(SourceRoot(tmp_path), None, {}))
    x, y, z, w = writer.quaternion(60.0)
    gibson = {"episode_id": 0, "scene_id": "Collierville.glb", "start_position": [0, 0, 0], "object_category": "chair"}
    writer.write_file(
        tmp_path / "content/Collierville_episodes.json.gz", {"episodes": [gibson | {"start_rotation": [w, x, y, z]}]}
    )
    detection = get_format("habitat_episodes").detect(SourceRoot(tmp_path), None)
    assert detection.options == {"quaternion": "wxyz"}
    (ref,) = scan(tmp_path)
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path, ref)
    assert caught.value.reason == "quaternion_order"
    (ref,) = scan(tmp_path, quaternion="wxyz")
    assert read(tmp_path, ref).arrays["start_rotation"].tolist() == [w, x, y, z]


def test_kinds_and_pointnav(tmp_path):
    told = writer.episode(3, "gibson/A.glb", "x", actions=None)
    del told["object_category"]
    told["goals"] = [{"position": [1, 2, 3], "radius": None}]
    raw = one(tmp_path, told)
    assert raw.attributes["kind"] == "pointnav"
    assert raw.arrays["goal_positions"].tolist() == [[1, 2, 3]]
    assert scan(tmp_path, kinds=["objectnav"]) == []


def test_vlnce_and_other_files_are_passed_over(data, tmp_path):
    for place in ("navigation/vlnce_r2r", "navigation/r2r_discrete", "robot"):
        root = SourceRoot(data / place)
        assert get_format("habitat_episodes").detect(root, None) is None
    assert scan(data / "navigation/vlnce_r2r") == []
    writer.write_file(tmp_path / "embeddings.json.gz", [[0.0]])
    assert scan(tmp_path) == []


def test_a_neighbour_changes_neither_name_nor_digest(tmp_path):
    place = writer.write_objectnav(tmp_path / "a")
    few = {ref.upstream_id: read(place, ref).raw_digest for ref in scan(place)}
    assert len(set(few.values())) == 4
    path = place / "train/content/roomA.json.gz"
    document = json.loads(gzip.decompress(path.read_bytes()))
    document["episodes"].insert(0, writer.episode(9, "mp3d/roomA/roomA.glb", "bed"))
    document["goals_by_category"]["roomA.glb_sofa"] = []
    writer.write_file(path, document)
    more = {ref.upstream_id: read(place, ref).raw_digest for ref in scan(place)}
    assert few.items() < more.items()
    document["goals_by_category"]["roomA.glb_bed"][0]["position"] = [9, 9, 9]
    writer.write_file(path, document)
    moved = {ref.upstream_id: read(place, ref).raw_digest for ref in scan(place)}
    assert Counter(moved[key] == more[key] for key in more) == {True: 3, False: 2}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_file"),
        (b"{}", "unreadable_file"),
        (gzip.compress(b'{"episodes": [{"start_position": 1}]}', mtime=0)[:-9], "truncated"),
        (gzip.compress(b'{"goals_by_category": [', mtime=0), "json_invalid"),
        (gzip.compress(b'{"goals_by_category": 1}', mtime=0), "missing_key"),
        (gzip.compress(b'{"episodes": [{"start_position": NaN}]}', mtime=0), "json_nan"),
        (gzip.compress(b'{"goals_by_category": ' + b" " * (64 << 20), mtime=0), "gzip_bomb"),
    ],
)
def test_damaged_files_have_reasons(tmp_path, data, reason):
    (tmp_path / "a.json.gz").write_bytes(data)
    assert reasons(scan(tmp_path)) == [("a.json.gz", reason)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start_position": [1, 2]}, "bad_shape"),
        ({"start_position": None}, "bad_type"),
        ({"start_rotation": [0, 0, 0, 0]}, "bad_rotation"),
        ({"start_rotation": [0.5, 0.5, 0.5, 0.5]}, "bad_rotation"),
        ({"start_rotation": [1.0, 0.0, 0.0, 0.0]}, "quaternion_order"),
        ({"scene_id": 7}, "bad_type"),
        ({"object_category": None}, "bad_type"),
        ({"goals": [{}]}, "missing_key"),
        ({"goals": [{"position": ["a", 1, 2]}]}, "bad_type"),
        ({"reference_replay": "STOP"}, "bad_type"),
        ({"reference_replay": []}, "bad_value"),
        ({"reference_replay": [{"action": "MOVE_FORWARD"}]}, "bad_value"),
        ({"reference_replay": [{"action": "JUMP"}]}, "unknown_action"),
        ({"reference_replay": [{}]}, "missing_key"),
        ({"reference_replay": [{"action": "STOP"}, {"action": "STOP", "agent_state": {}}]}, "missing_key"),
        ({"rigid_objs": [["a", [[0] * 4] * 4]], "targets": {}}, "bad_rotation"),
        ({"rigid_objs": [["a"]], "targets": {}}, "bad_shape"),
        ({"rigid_objs": []}, "missing_key"),
    ],
)
def test_fields_that_are_none(tmp_path, change, reason):
    with pytest.raises(EpisodeError) as caught:
        one(tmp_path, writer.episode(0, "mp3d/a/a.glb", "chair") | change)
    assert caught.value.reason == reason


def test_rows_that_are_no_episodes(tmp_path):
    good = writer.episode(0, "mp3d/a/a.glb", "chair")
    rows = [good, good | {"episode_id": "2"}, good | {"episode_id": "2"}, {"episode_id": None}, {"episode_id": "5"}]
    writer.write_file(tmp_path / "a.json.gz", {"episodes": rows})
    found = scan(tmp_path)
    assert reasons(found) == [
        ("a/row 3", "bad_type"),
        ("a/2 (1 of 2)", "duplicate_episode"),
        ("a/2 (2 of 2)", "duplicate_episode"),
        ("a/5", "unknown_layout"),
    ]
    assert [ref.upstream_id for ref in found if isinstance(ref, EpisodeRef)] == ["a/WORKER:TASK0"]


def test_an_episode_that_went_away_after_the_scan(tmp_path):
    place = writer.write_objectnav(tmp_path)
    ref = scan(place)[0]
    writer.write_file(place / "train/content/roomA.json.gz", {"episodes": []})
    with pytest.raises(BadInput) as caught:
        read(place, ref)
    assert caught.value.reason == "missing_key"
