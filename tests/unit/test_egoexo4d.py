"""`egoexo4d`: aligned cameras, keysteps and descriptions in time, sparse hands and boxes, bad input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.episode import Media, RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.egoexo4d_writer import TAKE, UID, write_egoexo4d
from dataengine.fixtures.segments_writer import write_video
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.egoexo4d_hands import JOINTS
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

FORMAT = get_format("egoexo4d")
HANDS = f"annotations/ego_pose/train/hand/annotation/{UID}.json"
VIDEOS = f"takes/{TAKE}/frame_aligned_videos"


@pytest.fixture
def root(tmp_path: Path) -> SourceRoot:
    write_egoexo4d(tmp_path)
    return SourceRoot(tmp_path)


def scanned(root: SourceRoot, options: Mapping[str, Any]) -> tuple[dict[str, EpisodeRef], list[str]]:
    found = list(FORMAT.scan(root, None, options))
    refs = {entry.upstream_id: entry for entry in found if isinstance(entry, EpisodeRef)}
    return refs, [entry.reason for entry in found if isinstance(entry, ScanProblem)]


def read(root: SourceRoot, options: Mapping[str, Any], name: str = TAKE) -> RawEpisode:
    return FORMAT.read(root, scanned(root, options)[0][name])


def hashes(media: Media) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for _, image in video.frames(media, range(media.frames))]


def test_a_take_with_all_that_is_said_of_it(root: SourceRoot) -> None:
    made = read(root, {})
    assert made.texts["task"] == ("Remove a Wheel",)
    assert [row for row, text in enumerate(made.texts["keystep"]) if text == "Loosen the nut"] == list(range(6, 30))
    assert [row for row, text in enumerate(made.texts["keystep_2"]) if text] == list(range(27, 48))
    assert made.texts["keystep_description"][10] == "Loosen the nut with the right hand"
    assert made.texts["description"][0] == "C holds a wrench."
    assert made.texts["description_2"][30] == "C turns the nut."
    assert "nothing" not in {text for texts in made.texts.values() for text in texts}, "a rejected annotation"
    assert len(made.attributes["descriptions"]) == 2
    assert made.attributes["unread"] == ["camera aria01", "camera cam01"]
    assert made.group == "setting 97"
    assert list(made.media) == ["ego_rgb"]


def test_hands_are_sparse_and_in_order(root: SourceRoot) -> None:
    arrays = read(root, {}).arrays
    assert arrays["hands/frame"].tolist() == [7, 40]
    assert arrays["hands/joints_world"].shape == (2, 42, 3)
    assert arrays["hands/joints_world"][0, JOINTS.index("right_wrist")].tolist() == [0.1, 0.2, 0.3]
    assert arrays["hands/joints_world"][1, JOINTS.index("left_pinky_4")].tolist() == [0.25, 0.5, 1.0]
    assert arrays["hands/known"].sum(axis=1).tolist() == [2, 1]
    assert np.isnan(arrays["hands/joints_world"][~arrays["hands/known"]]).all(), "nothing is filled with zeros"
    assert (JOINTS[0], JOINTS[21], len(set(JOINTS))) == ("left_wrist", "right_wrist", 42)
    assert arrays["boxes/xyxy"][0, 1].tolist() == [10.0, 20.0, 60.5, 80.0]
    assert arrays["boxes/known"].tolist() == [[False, True]], "an empty list is no hand"


def test_a_keystep_is_cut_out_of_every_camera_at_the_same_frames(root: SourceRoot) -> None:
    made = read(root, {"unit": "segment", "cameras": ["cam01"]}, f"{TAKE}/keystep_001")
    for name, path in (("ego_rgb", "aria01_214-1"), ("cam01", "cam01")):
        original = hashes(video.whole("v", root.read(f"{VIDEOS}/{path}.mp4")))
        assert hashes(made.media[name]) == original[27:48]  # 0.9 s to 1.6 s at 30 Hz
    assert made.attributes["keysteps"][0]["step_name"] == "Lift the wheel"
    assert set(made.texts["keystep"]) == {"Lift the wheel"}


def test_the_converter_speaks(root: SourceRoot) -> None:
    episode = convert(read(root, load_converter("egoexo4d").format.options), Conversion.load("egoexo4d"))
    spans = {said.text: (said.level, said.span) for said in episode.language}
    assert spans["Loosen the nut"] == ("subtask", (6, 30))
    assert spans["C turns the nut."] == ("step", (6, 60))
    assert (episode.steps, episode.hz) == (60, pytest.approx(30, abs=1e-3))


def test_downscaled_videos_and_none(root: SourceRoot, tmp_path: Path) -> None:
    assert scanned(root, {"size": "448"}) == ({}, ["missing_media", "missing_media"])
    write_video(tmp_path / f"{VIDEOS}/downscaled/448/aria01_214-1.mp4", 60, 30)
    assert read(root, {"size": "448"}).media["ego_rgb"].frames == 60
    absent = read(root, {"media": "none"})
    assert (len(absent.arrays["time_ns"]), absent.media, absent.attributes["media"]) == (60, {}, "absent")


Change = Callable[[Any], object]
DAMAGE: list[tuple[str, Change, str]] = [
    ("takes.json", lambda takes: takes.append(takes[0]), "duplicate_episode"),
    ("takes.json", lambda takes: takes[0].pop("take_uid"), "missing_key"),
    ("takes.json", lambda takes: takes[0].update(root_dir="../x"), "path_outside_root"),
    ("takes.json", lambda takes: takes[0]["frame_aligned_videos"].pop("aria01"), "missing_stream"),
    ("annotations/keystep_train.json", lambda body: body.update(annotations=[]), "bad_type"),
    ("annotations/keystep_train.json", lambda body: body["annotations"][UID].pop("segments"), "missing_key"),
    (
        "annotations/keystep_train.json",
        lambda body: body["annotations"][UID]["segments"][0].update(end_time=0),
        "bad_span",
    ),
    (
        "annotations/atomic_descriptions_train.json",
        lambda body: body["annotations"][UID][0]["descriptions"][0].update(timestamp="1"),
        "bad_type",
    ),
    (
        HANDS,
        lambda body: body.update({"60": body["7"]}),
        "frame_count_mismatch",
    ),
    (
        HANDS,
        lambda body: body.update({"07": body["7"]}),
        "bad_value",
    ),
    (
        HANDS,
        lambda body: body["7"][0]["annotation3D"].update(tail={"x": 0, "y": 0, "z": 0}),
        "unknown_name",
    ),
    (
        "annotations/ego_pose/ego_pose_gt_anno_train_public.json",
        lambda body: body[UID]["7"].update(right_hand_bbox=[50, 20, 10, 80]),
        "bad_value",
    ),
    (
        "annotations/ego_pose/ego_pose_gt_anno_train_public.json",
        lambda body: body[UID]["7"].update(right_hand_bbox=[1, 2, 3]),
        "bad_shape",
    ),
]


@pytest.mark.parametrize(
    ("path", "change", "reason"), DAMAGE, ids=[f"{reason}-{k}" for k, (_, _, reason) in enumerate(DAMAGE)]
)
def test_damage_is_a_reason(root: SourceRoot, path: str, change: Change, reason: str) -> None:
    body = json.loads((root.path / path).read_text())
    change(body)
    (root.path / path).write_text(json.dumps(body))
    refs, reasons = scanned(root, {})
    for ref in refs.values():
        try:
            FORMAT.read(root, ref)
        except BadInput as error:
            reasons.append(error.reason)
    assert reasons == [reason]


def test_videos_of_unequal_length_are_not_aligned(root: SourceRoot) -> None:
    write_video(root.path / f"{VIDEOS}/cam01.mp4", 59, 30)
    refs, _ = scanned(root, {"cameras": ["cam01"]})
    with pytest.raises(BadInput) as caught:
        FORMAT.read(root, refs[TAKE])
    assert caught.value.reason == "frame_count_mismatch"


def test_a_take_without_keysteps_is_told(root: SourceRoot) -> None:
    refs, reasons = scanned(root, {"unit": "segment"})
    assert (len(refs), reasons) == (2, ["empty_episode"])


def test_no_takes_and_wrong_options(tmp_path: Path) -> None:
    assert scanned(SourceRoot(tmp_path), {}) == ({}, ["missing_file"])
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, {"unit": "capture"}))


def test_a_camera_whose_video_is_not_there_takes_no_other_with_it(root: SourceRoot) -> None:
    (root.path / VIDEOS / "cam01.mp4").unlink()
    again = SourceRoot(root.path)
    made = read(again, {"cameras": ["cam01"], "media": "optional"})
    assert list(made.media) == ["ego_rgb"]
    assert made.attributes["absent"] == ["cam01"]
    assert scanned(again, {"cameras": ["cam01"]})[1] == ["missing_media"]
    assert scanned(again, {"cameras": ["cam07"]})[1] == ["missing_stream", "missing_stream"]


def test_a_link_out_of_the_folder_is_not_followed(root: SourceRoot, tmp_path_factory: pytest.TempPathFactory) -> None:
    film = root.path / VIDEOS / "cam01.mp4"
    film.symlink_to(film.rename(tmp_path_factory.mktemp("elsewhere") / "cam01.mp4"))
    assert scanned(SourceRoot(root.path), {"cameras": ["cam01"]})[1] == ["path_outside_root"]


def test_a_setting_that_is_named_by_text_keeps_its_takes_together(root: SourceRoot) -> None:
    path = root.path / "takes.json"
    path.write_text(json.dumps([{**take, "physical_setting_uid": "kitchen"} for take in json.loads(path.read_text())]))
    again = SourceRoot(root.path)
    assert {FORMAT.read(again, ref).group for ref in scanned(again, {})[0].values()} == {"setting kitchen"}
