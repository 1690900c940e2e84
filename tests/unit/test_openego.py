"""OpenEgo: the order of joints on real data, actions as spans, missing hands, files that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures.openego_writer import hand, write_demo
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot

REAL = "egocentric/openego_hocap"
LABELS = ["the Tazo green tea carton", "the white remote control", "a white shoe", "the other white shoe"]


def scan(folder, **options):
    return list(get_format("openego").scan(SourceRoot(folder), None, options))


def read(folder, **options):
    (ref,) = scan(folder, **options)
    assert isinstance(ref, EpisodeRef)
    return get_format("openego").read(SourceRoot(folder), ref)


def problems(folder, **options):
    return [(entry.upstream_id, entry.reason) for entry in scan(folder, **options) if isinstance(entry, ScanProblem)]


def test_the_real_demonstration(data: Path):
    raw = read(data / REAL, video="none")
    assert raw.arrays["left_hand"].shape == (676, 21, 3)
    assert raw.arrays["left_hand_valid"].all()
    assert not raw.arrays["right_hand_valid"].any()
    assert raw.group == "subject_1"
    assert raw.attributes["fps"] == 30
    assert raw.attributes["original"]["mano_sides"] == ["left"]
    episode = convert(raw, Conversion.load("openego_hocap"))
    assert (episode.steps, episode.hz) == (676, 30.0)
    spans = [(entry.level, entry.span) for entry in episode.language]
    assert spans == [
        ("task", (0, 676)),
        *(("subtask", span) for span in ((30, 108), (207, 294), (354, 435), (555, 630))),
    ]
    assert all(label in entry.text for label, entry in zip(LABELS, episode.language[1:], strict=True))
    right, left = episode.state.columns(7, 10), episode.state.columns(71, 74)
    assert episode.state.mask[:, left].all()
    assert not episode.state.mask[:, right].any()
    np.testing.assert_allclose(episode.state.values[:, left], raw.arrays["left_hand"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(episode.action.values[:-1, left], raw.arrays["left_hand"][1:, 0], rtol=1e-6)


def test_the_stored_joint_names_are_wrong(data: Path):
    """Bones keep their length: joints are a wrist and four joints a finger, not the fifteen names and a palm."""
    raw = read(data / REAL, video="none")
    joints = raw.arrays["left_hand"].astype(np.float64)
    assert raw.attributes["joint_names"][4] == "index_mcp"
    assert raw.attributes["joint_names"][20] == "palm_center"

    def spread(one, two):
        return np.ptp(np.linalg.norm(joints[:, one] - joints[:, two], axis=1))

    assert max(spread(0, base) for base in (1, 5, 9, 13, 17)) < 1e-6
    assert min(spread(0, tip) for tip in (4, 8, 12, 16, 20)) > 0.01
    # index_mcp to index_pip by the stored names: no bone
    assert spread(4, 5) > 0.001


def test_actions_become_spans(tmp_path):
    write_demo(tmp_path, actions=((0.1, 0.2, "lift"), (0.15, 0.3, "look"), (0.35, 9.0, "put"), (0.2, 0.2, "nothing")))
    raw = read(tmp_path)
    episode = convert(raw, Conversion.load("openego_hocap_video"))
    told = [(entry.text, entry.source, entry.span) for entry in episode.language if entry.level == "subtask"]
    assert told == [("lift", "action", (3, 6)), ("put", "action", (10, 12)), ("look", "action_2", (4, 9))]
    assert episode.views[0].camera.focal == (1000.0, 1000.0)
    assert raw.media["video"].payload == (tmp_path / "video.mp4").read_bytes()


def test_a_number_beyond_64_bits_has_a_reason(tmp_path):
    write_demo(tmp_path, actions=((0.1, 0.2, "lift"), (0.15, 2**70, "look")))
    with pytest.raises(EpisodeError, match="64-bit") as caught:
        read(tmp_path)
    assert caught.value.reason == "bad_value"


def test_a_missing_hand_is_masked_and_never_zero(tmp_path):
    write_demo(tmp_path, frames=4, hidden={("right", 1), ("right", 3)}, actions=())
    raw = read(tmp_path)
    assert raw.arrays["right_hand_valid"].tolist() == [True, False, True, False]
    episode = convert(raw, Conversion.load("openego_hocap_video"))
    right = episode.state.columns(7, 10)
    assert episode.state.mask[:, right].all(axis=1).tolist() == [True, False, True, False]
    assert episode.action.mask[:, right].any(axis=1).tolist() == [False, True, False, False]
    np.testing.assert_allclose(episode.state.values[2, right], hand("right", 2)[0], rtol=1e-6)


def test_a_hand_that_is_called_visible_and_is_zero_is_missing(tmp_path):
    write_demo(tmp_path, frames=3, actions=())
    with h5py.File(tmp_path / "joints.hdf5", "r+") as file:
        file["left_hand"][1] = 0
    assert read(tmp_path).arrays["left_hand_valid"].tolist() == [True, False, True]


def test_visibility_may_be_given_by_joint(tmp_path):
    write_demo(tmp_path, frames=3, actions=())
    seen = np.ones((3, 21), np.int32)
    seen[2, 7] = 0
    replace(tmp_path, "left_hand_visibility", seen)
    assert read(tmp_path).arrays["left_hand_valid"].tolist() == [True, True, False]


def replace(folder, name, values, file="joints.hdf5"):
    with h5py.File(folder / file, "r+") as opened:
        del opened[name]
        if values is not None:
            opened[name] = values


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("left_hand", None, "missing_key"),
        ("left_hand", np.zeros((12, 20, 3)), "bad_shape"),
        ("left_hand", np.zeros((0, 21, 3)), "empty_episode"),
        ("left_hand", np.full((12, 21, 3), np.nan), "bad_value"),
        ("right_hand", np.zeros((11, 21, 3)), "length_mismatch"),
        ("right_hand_visibility", np.full(12, 2), "bad_value"),
        ("right_hand_visibility", np.zeros((12, 2)), "bad_shape"),
        ("right_hand_visibility", np.zeros(11), "length_mismatch"),
        ("intrinsics", np.eye(4), "bad_shape"),
    ],
)
def test_wrong_joints(tmp_path, name, values, reason):
    write_demo(tmp_path)
    replace(tmp_path, name, values)
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("num_frames", 13, "length_mismatch"),
        ("fps", None, "missing_key"),
        ("fps", 0, "bad_rate"),
        ("fps", "x", "bad_type"),
    ],
)
def test_wrong_facts(tmp_path, name, values, reason):
    write_demo(tmp_path)
    replace(tmp_path, name, values, "metadata.hdf5")
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told.pop("task"), "missing_key"),
        (lambda told: told.update(actions={}), "bad_type"),
        (lambda told: told["actions"][0].pop("label"), "missing_key"),
        (lambda told: told["actions"][0].update(start_timestamp="1"), "bad_type"),
        (lambda told: told["actions"][0].update(end_timestamp=0.0), "bad_value"),
        (lambda told: told["actions"][0].update(start_timestamp=-1.0), "bad_value"),
    ],
)
def test_wrong_annotations(tmp_path, change, reason):
    write_demo(tmp_path)
    path = tmp_path / "annotation.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path)
    assert caught.value.reason == reason


def test_files_that_are_missing(tmp_path):
    write_demo(tmp_path / "HO-Cap/demo_0002", filmed=False)
    write_demo(tmp_path / "HO-Cap/demo_0010")
    (tmp_path / "HO-Cap/demo_0010/metadata.hdf5").unlink()
    assert problems(tmp_path) == [("HO-Cap/demo_0002", "missing_media"), ("HO-Cap/demo_0010", "missing_file")]
    assert problems(tmp_path, video="none") == [("HO-Cap/demo_0010", "missing_file")]
    with pytest.raises(SpecError):
        scan(tmp_path, video="maybe")


def test_a_video_of_another_length(tmp_path):
    write_demo(tmp_path / "a", frames=6)
    write_demo(tmp_path / "b", frames=5)
    (tmp_path / "b/video.mp4").write_bytes((tmp_path / "a/video.mp4").read_bytes())
    with pytest.raises(EpisodeError) as caught:
        read(tmp_path / "b")
    assert caught.value.reason == "frame_count_mismatch"


def test_a_demonstration_that_lost_its_joints_is_told(tmp_path):
    write_demo(tmp_path / "HO-Cap/demo_0000")
    write_demo(tmp_path / "HO-Cap/demo_0001")
    (tmp_path / "HO-Cap/demo_0001/joints.hdf5").unlink()
    assert problems(tmp_path) == [("HO-Cap/demo_0001", "missing_file")]
