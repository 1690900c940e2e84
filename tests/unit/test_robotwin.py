"""The `robotwin` format and its converters: values, colours, cameras, texts, and bad input, on layout fixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures import robotwin_writer as writer
from dataengine.fixtures.aloha_writer import scene
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.geometry import rot6d_to_matrix, to_rotation
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROWS = 6
KINDS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "robotwin_aloha_agilex": (writer.write_robotwin, ROWS),
    "domino": (writer.write_domino, ROWS),
    "robotwin_xpolicylab": (writer.write_xpolicylab, ROWS - 1),
}
SLOTS = {"left": (64, 71, 80), "right": (0, 7, 16)}
"""First channel of the arm's joints, of the hand's position, of the gripper."""


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("robotwin").scan(SourceRoot(folder), None, options))


def read(folder: Path, number: int = 0) -> RawEpisode:
    ref = [entry for entry in scan(folder) if isinstance(entry, EpisodeRef)][number]
    return get_format("robotwin").read(SourceRoot(folder), ref)


def converted(folder: Path, name: str) -> Episode:
    ref = next(entry for entry in scan(folder, **load_converter(name).format.options) if isinstance(entry, EpisodeRef))
    return convert(get_format("robotwin").read(SourceRoot(folder), ref), Conversion.load(name))


def change(folder: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(next(folder.rglob("episode0.hdf5")), "r+") as file:
        edit(file)


def reason(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        read(folder)
    return error.value.reason


@pytest.fixture
def classic(tmp_path: Path) -> Path:
    writer.write_robotwin(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_values_and_their_next_row(tmp_path: Path, name: str) -> None:
    """State of a row is that row's, action the next row's, of each arm in its own slots."""
    write, rows = KINDS[name]
    write(tmp_path)
    episode, made = converted(tmp_path, name), writer.motion(0, ROWS)
    assert episode.steps == rows
    assert episode.state is not None
    assert episode.action is not None
    for side, (joint, position, gripper) in SLOTS.items():
        state, action = episode.state, episode.action
        arm = made[f"{side}_arm"]
        np.testing.assert_allclose(state.values[:, state.columns(joint, joint + 7)], arm[:rows], atol=1e-6)
        np.testing.assert_allclose(action.values[: ROWS - 1, action.columns(joint, joint + 7)], arm[1:], atol=1e-6)
        opening = state.values[:, state.columns(gripper, gripper + 1)][:, 0]
        np.testing.assert_allclose(opening, made[f"{side}_gripper"][:rows], atol=1e-6)
        pose = made[f"{side}_endpose"][:rows]
        np.testing.assert_allclose(state.values[:, state.columns(position, position + 3)], pose[:, :3], atol=1e-6)
        turned = state.values[:, state.columns(position + 3, position + 9)].astype(np.float64)
        expected = to_rotation(pose[:, 3:], "quaternion_wxyz").as_matrix()
        np.testing.assert_allclose(rot6d_to_matrix(turned), expected, atol=1e-6)
        assert episode.labels[f"arm_joint.{side}"] == "next_state"
    assert episode.action.mask[: ROWS - 1].all()
    assert not episode.action.mask[ROWS - 1 :].any()
    assert abs(episode.hz - 250 / 15) < 1e-9


@pytest.mark.parametrize("name", KINDS)
def test_colours_and_cameras(tmp_path: Path, name: str) -> None:
    KINDS[name][0](tmp_path)
    episode = converted(tmp_path, name)
    for shift, view in enumerate(episode.views):
        plain = images.decode(episode.media[view.media].image(2))
        expected = scene(2 + shift).astype(int)[:, 1:11]
        shown = images.as_shown(plain, view.channel_order, view.rotate).astype(int)[:, 1:11]
        assert np.abs(shown - expected).mean() < 8
        assert np.abs(plain.astype(int)[:, 1:11] - expected).mean() > 60
        assert view.camera is not None
        assert view.camera.focal == (30.0, 30.0)
    head = episode.views[0].camera
    assert head is not None
    assert head.T_parent_camera is not None
    pose = np.asarray(head.T_parent_camera)
    np.testing.assert_allclose(pose[:3, 3], (0.0, -0.45, 1.3), atol=1e-6)
    # OpenGL's camera looks along -z, OpenCV's along +z: the same direction in the world
    np.testing.assert_allclose(pose[:3, 2], -writer.camera_pose()[:3, 2], atol=1e-6)


def test_every_instruction_is_a_text(classic: Path) -> None:
    texts = read(classic).texts
    assert texts == {f"seen_{k}": (text,) for k, text in enumerate(writer.SEEN)} | {"unseen_0": writer.UNSEEN}
    assert [language.text for language in converted(classic, "domino").language] == list(writer.SEEN)


def test_the_padding_is_gone_and_nothing_else(classic: Path) -> None:
    raw = read(classic)
    stored = raw.media["left_camera"].image(3)
    assert stored.endswith(b"\xff\xd9")
    assert raw.attributes == {"unread": ["pointcloud"]}
    assert "joint_action/vector" in raw.arrays


def test_layouts_are_told_and_kept_apart(classic: Path) -> None:
    writer.write_xpolicylab(classic / "new")
    assert get_format("robotwin").detect(SourceRoot(classic / "new"), None).layout == "robotwin_xpolicylab_hdf5"  # type: ignore[union-attr]
    told = [entry for entry in scan(classic, layout="robotwin_hdf5") if isinstance(entry, ScanProblem)]
    assert [entry.reason for entry in told] == ["other_layout"] * 2
    assert all(entry.upstream_id.startswith("new/") for entry in told)


def test_others_files_are_not_claimed(data: Path) -> None:
    for folder in ("simulation", "robot", "egocentric/openego_hocap"):
        assert get_format("robotwin").detect(SourceRoot(data / folder), None) is None


def test_without_instructions_an_episode_has_none(classic: Path) -> None:
    for path in classic.rglob("*.json"):
        path.unlink()
    assert read(classic).texts == {}
    with pytest.raises(EpisodeError) as error:
        converted(classic, "domino")
    assert error.value.reason == "missing_stream"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "json_invalid"),
        ('{"seen": "one"}', "bad_type"),
        ('{"seen": [1]}', "bad_type"),
        ("[]", "missing_key"),
        ('{"other": []}', "missing_key"),
        (json.dumps({"seen": ["x"] * 1001}), "claimed_size"),
    ],
)
def test_bad_instructions(classic: Path, content: str, expected: str) -> None:
    next(classic.rglob("instructions/episode0.json")).write_text(content)
    assert reason(classic) == expected
    assert read(classic, 1).texts["seen_0"] == (writer.SEEN[0],)


def _short_camera(file: h5py.File) -> None:
    rows = file["observation/head_camera/rgb"][:-1]
    del file["observation/head_camera/rgb"]
    file["observation/head_camera/rgb"] = rows


def _cut_jpeg(file: h5py.File) -> None:
    rows = file["observation/head_camera/rgb"][()]
    rows[2] = rows[2][:100]
    file["observation/head_camera/rgb"][...] = rows


def _no_rows(file: h5py.File) -> None:
    for name in ("observation", "joint_action", "endpose"):
        del file[name]
        file.create_group(name)


def _objects(file: h5py.File) -> None:
    file["joint_action"].create_dataset("notes", data=["a"] * ROWS, dtype=h5py.string_dtype())


BROKEN: dict[Callable[[h5py.File], object], str] = {
    _short_camera: "length_mismatch",
    _cut_jpeg: "corrupt_image",
    _no_rows: "empty_episode",
}


@pytest.mark.parametrize("edit", BROKEN, ids=lambda edit: edit.__name__)
def test_bad_input(classic: Path, edit: Callable[[h5py.File], object]) -> None:
    change(classic, edit)
    assert reason(classic) == BROKEN[edit]
    assert len(read(classic, 1).media) == 3


def test_depth_masks_and_strings_are_named(classic: Path) -> None:
    def more(file: h5py.File) -> None:
        file["observation/head_camera/depth"] = np.zeros((ROWS, 16, 24))
        file["observation/head_camera/actor_segmentation"] = np.zeros((ROWS, 16, 24, 3), np.uint8)
        _objects(file)

    change(classic, more)
    assert read(classic).attributes["unread"] == [
        "joint_action/notes",
        "observation/head_camera/actor_segmentation",
        "observation/head_camera/depth",
        "pointcloud",
    ]


def test_an_episode_that_lost_a_group_is_told(classic: Path) -> None:
    with h5py.File(next(classic.rglob("episode0.hdf5")), "r+") as file:
        del file["joint_action"]
    found = list(get_format("robotwin").scan(SourceRoot(classic), None, {}))
    assert [entry.reason for entry in found if isinstance(entry, ScanProblem)] == ["missing_key"]
    assert len(found) == 2


def test_files_alone_and_wrong_options(classic: Path) -> None:
    with h5py.File(classic / "odd.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 7))
    found = list(get_format("robotwin").scan(SourceRoot(classic), "odd.hdf5", {}))
    assert [entry.reason for entry in found if isinstance(entry, ScanProblem)] == ["missing_key"]
    assert len(scan(classic)) == 2
    for options in ({"layout": "robotwin"}, {"pictures": "png"}):
        with pytest.raises(SpecError):
            scan(classic, **options)


def test_a_text_changes_the_digest_a_neighbour_does_not(classic: Path) -> None:
    before = read(classic).raw_digest
    writer.write_robotwin(classic, episodes=3)
    assert read(classic).raw_digest == before
    next(classic.rglob("instructions/episode0.json")).write_text('{"seen": ["other"], "unseen": []}')
    assert read(classic).raw_digest != before


def test_an_episode_of_which_only_the_instructions_are_left_is_told(classic: Path) -> None:
    lost = next(classic.rglob("episode0.hdf5"))
    lost.unlink()
    problem, other = scan(classic)
    assert isinstance(problem, ScanProblem)
    assert (problem.upstream_id, problem.reason) == (str(lost.relative_to(classic)), "missing_file")
    assert isinstance(other, EpisodeRef)


def test_cameras_have_a_pose_for_every_row(classic: Path) -> None:
    def edit(file: h5py.File) -> None:
        poses = file["observation/head_camera/extrinsic_cv"][()]
        del file["observation/head_camera/extrinsic_cv"]
        file["observation/head_camera/extrinsic_cv"] = poses[:-1]

    change(classic, edit)
    assert reason(classic) == "length_mismatch"
