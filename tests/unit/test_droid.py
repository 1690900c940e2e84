"""DROID raw: values against upstream's rules, rows that were skipped, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures import droid_writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.schema import unified
from dataengine.storage import SourceRoot

FIRST = f"AUTOLab/success/2023-07-07/{droid_writer.FOLDERS[0]}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    place = tmp_path_factory.mktemp("written")
    droid_writer.write_episode(place / FIRST, 0)
    return place


@pytest.fixture
def folder(tmp_path, written):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def scan(folder, **options):
    return list(get_format("droid").scan(SourceRoot(folder), None, options))


def read(folder, **options):
    (ref,) = scan(folder, **options)
    assert isinstance(ref, EpisodeRef), ref
    return get_format("droid").read(SourceRoot(folder), ref)


def reason(folder, **options):
    with pytest.raises(BadInput) as caught:
        read(folder, **options)
    return caught.value.reason


def change(folder, edit):
    with h5py.File(folder / FIRST / "trajectory.h5", "r+") as file:
        edit(file)


def slot(array, name):
    found = unified().slot(name)
    places = array.columns(found.start, found.start + found.width)
    return array.values[:, places], array.mask[:, places]


def test_reads_what_upstream_writes(folder):
    raw = read(folder)
    assert raw.upstream_id == droid_writer.UUIDS[0]
    assert raw.arrays["observation/robot_state/joint_positions"].shape == (9, 7)
    assert raw.arrays["observation/timestamp/skip_action"].tolist() == [row in (0, 5) for row in range(9)]
    assert raw.attributes["cameras"] == {"ext1": "20521388", "ext2": "24259877", "wrist": "13062452"}
    assert raw.attributes["unread"] == ["recordings/MP4/20521388-stereo.mp4", "recordings/SVO/20521388.svo"]
    assert raw.attributes["metadata"]["trajectory_length"] == 9
    assert {name: media.frames for name, media in raw.media.items()} == {"ext1": 9, "ext2": 9, "wrist": 9}
    assert raw.texts == {"current_task": ("Put the marker in the cup",)}


def test_annotations_and_failures_are_options(tmp_path):
    droid_writer.write_droid(tmp_path)
    (tmp_path / "AUTOLab/success").rename(tmp_path / "AUTOLab/failure")
    assert scan(tmp_path, success=True) == []
    first, second = scan(tmp_path, annotations="annotations.json")
    raw = get_format("droid").read(SourceRoot(tmp_path), first)
    assert raw.texts["language_instruction2"] == ("Pen in mug",)
    assert "language_instruction3" not in raw.texts
    assert "annotations.json" in [file.path for file in raw.files]
    assert list(get_format("droid").read(SourceRoot(tmp_path), second).texts) == ["current_task"]
    with pytest.raises(SpecError):
        scan(tmp_path, success="yes")


def test_the_converter_takes_states_and_targets_and_masks_skipped_rows(folder):
    episode = convert(read(folder), Conversion.load("droid_raw"))
    joints, known = slot(episode.action, "arm_joint.right")
    wanted = 0.01 * np.outer(np.arange(9), np.arange(1, 8)) + 0.2 * np.arange(1, 8) / 20
    assert known.all(axis=1).tolist() == [row not in (0, 5) for row in range(9)]
    np.testing.assert_allclose(joints[known[:, 0]], wanted[known[:, 0]], atol=1e-6)
    gripper, _ = slot(episode.state, "gripper.right")
    np.testing.assert_allclose(gripper[:, 0], [1.0] * 4 + [0.25] * 5)
    turned, _ = slot(episode.state, "eef_rot6d.right")
    expected = Rotation.from_euler("xyz", [3.1, 0.05 * 3, -0.2]).as_matrix()
    np.testing.assert_allclose(turned[3], expected[:, :2].T.ravel(), atol=1e-6)
    swapped = Rotation.from_euler("XYZ", [3.1, 0.05 * 3, -0.2]).as_matrix()
    assert np.abs(turned[3] - swapped[:, :2].T.ravel()).max() > 0.01
    np.testing.assert_allclose(np.diff(episode.times_ns) / 1e9, 1 / 15, atol=1e-3)
    assert [view.name for view in episode.views] == ["wrist_right", "ext_1", "ext_2"]


@pytest.mark.parametrize("frames", [8, 10])
def test_a_video_of_another_length_is_refused(folder, frames):
    pictures = [np.zeros((36, 64, 3), np.uint8)] * frames
    (folder / FIRST / "recordings/MP4/24259877.mp4").write_bytes(video.encode(pictures, 60, codec="mpeg4"))
    assert reason(folder) == "frame_count_mismatch"


def test_trajectories_that_are_not_whole_are_refused(folder):
    def shorten(file):
        file["action/joint_position"].resize(8, axis=0)

    change(folder, shorten)
    assert reason(folder) == "length_mismatch"
    change(folder, lambda file: file.pop("action"))
    assert reason(folder) == "missing_stream"
    change(folder, lambda file: file.clear())
    assert get_format("droid").detect(SourceRoot(folder), None) is None


def test_cameras_that_do_not_fit_are_refused(folder):
    change(folder, lambda file: file["observation/camera_type/24259877"].write_direct(np.zeros(9, np.int64)))
    assert reason(folder) == "bad_value"
    change(folder, lambda file: file["observation/camera_type"].pop("24259877"))
    assert reason(folder) == "unknown_name"


def test_two_folders_of_one_episode_and_two_records_in_one_folder(folder):
    again = folder / "copy"
    shutil.copytree(folder / FIRST, again)
    assert {(p.upstream_id, p.reason) for p in scan(folder) if isinstance(p, ScanProblem)} == {
        (FIRST, "duplicate_episode"),
        ("copy", "duplicate_episode"),
    }
    (again / f"metadata_{droid_writer.UUIDS[0]}.json").rename(again / "metadata_x.json")
    (again / "metadata_y.json").write_text("{}")
    assert [(p.upstream_id, p.reason) for p in scan(folder) if isinstance(p, ScanProblem)] == [
        ("copy", "ambiguous_file")
    ]


def test_metadata_and_annotations_that_are_none_are_refused(folder):
    path = next((folder / FIRST).glob("metadata_*.json"))
    path.write_text("[1]")
    assert reason(folder) == "bad_type"
    path.write_text(json.dumps({"current_task": 5}))
    assert reason(folder) == "bad_type"
    path.write_text("{")
    assert reason(folder) == "json_invalid"
    path.unlink()
    assert read(folder).upstream_id == FIRST
    (folder / "a.json").write_text(json.dumps({FIRST: ["x"]}))
    assert reason(folder, annotations="a.json") == "bad_type"
    assert reason(folder, annotations="none.json") == "missing_file"


def test_a_link_into_another_file_is_not_followed(folder):
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(9)
    change(folder, lambda file: file.__setitem__("action/other", h5py.ExternalLink(str(secret), "x")))
    assert reason(folder) == "external_link"


def test_a_neighbour_changes_nothing(folder):
    before = read(folder).raw_digest
    droid_writer.write_episode(folder / "AUTOLab/success/2023-07-07" / droid_writer.FOLDERS[1], 1)
    root = SourceRoot(Path(folder))
    refs = {ref.upstream_id: ref for ref in get_format("droid").scan(root, None, {})}
    assert get_format("droid").read(root, refs[droid_writer.UUIDS[0]]).raw_digest == before


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"trajectory_length": 8}, "length_mismatch"),
        ({"uuid": droid_writer.UUIDS[1]}, "bad_value"),
        ({"ext1_cam_serial": "24259877", "ext2_cam_serial": "20521388"}, "bad_value"),
    ],
)
def test_metadata_that_contradict_the_trajectory_are_refused(folder, told, code):
    (path,) = (folder / FIRST).glob("metadata_*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    assert reason(folder) == code


def test_an_episode_without_its_trajectory_is_told(folder):
    (folder / FIRST / "trajectory.h5").unlink()
    (problem,) = scan(folder)
    assert isinstance(problem, ScanProblem)
    assert (problem.upstream_id, problem.reason) == (FIRST, "missing_file")


def test_a_broken_video_is_told_by_its_name(folder):
    path = folder / FIRST / "recordings/MP4/20521388.mp4"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(BadInput, match=r"20521388\.mp4") as caught:
        read(folder)
    assert caught.value.reason == "video_unreadable"


def test_texts_in_the_trajectory_are_named_as_unread(folder):
    change(folder, lambda file: file.__setitem__("observation/lang_fixed/language_raw", ["put it"] * 9))
    assert "observation/lang_fixed/language_raw" in read(folder).attributes["unread"]
