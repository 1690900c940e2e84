"""The layouts of the `robomimic` format: each is told, its text is found, and its converter means the numbers right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.fixtures import robomimic_writer as writer
from dataengine.fixtures.robosuite_writer import RobosuiteDemo, write_robosuite
from dataengine.formats import hdf5
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.geometry import rot6d_to_matrix
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

WRITERS: dict[str, Callable[[Path], Path]] = {
    "robomimic_hdf5": writer.write_robomimic,
    "libero_hdf5": writer.write_libero,
    "libero_replayed_hdf5": writer.write_libero_replayed,
    "mimicgen_hdf5": writer.write_mimicgen,
    "robocasa_hdf5": writer.write_robocasa,
}
CONVERTERS = {
    "robomimic_hdf5": "robomimic_can",
    "libero_hdf5": "libero",
    "libero_replayed_hdf5": "libero_no_noops",
    "mimicgen_hdf5": "mimicgen",
    "robocasa_hdf5": "robocasa",
}
FIRST_SEED = {
    "robomimic_hdf5": 0,
    "libero_hdf5": 20,
    "libero_replayed_hdf5": 30,
    "mimicgen_hdf5": 40,
    "robocasa_hdf5": 60,
}
ROWS = 6


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("robomimic").scan(SourceRoot(folder), None, options))


def read(folder: Path, **options: Any) -> RawEpisode:
    ref = next(entry for entry in scan(folder, **options) if isinstance(entry, EpisodeRef))
    return get_format("robomimic").read(SourceRoot(folder), ref)


def converted(folder: Path, name: str, change: Callable[[dict[str, Any]], None] | None = None) -> Episode:
    document = load_converter(name).model_dump()
    if change is not None:
        change(document)
    spec = Converter.parse(document, name)
    return convert(read(folder, **spec.format.options), Conversion.of(spec))


def reasons(folder: Path, **options: Any) -> list[str]:
    return [entry.reason for entry in scan(folder, **options) if isinstance(entry, ScanProblem)]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_is_told_with_what_says_so(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path)
    found = get_format("robomimic").detect(SourceRoot(tmp_path), None)
    assert found is not None
    assert found.layout == layout
    assert len(found.evidence) == 2


def test_real_files_tell_their_layouts(data: Path) -> None:
    folders = {"robot/robosuite_human_demos": "robosuite_hdf5", "simulation/isaaclab_mimic": "isaaclab_hdf5"}
    for folder, layout in folders.items():
        for path in SourceRoot(data / folder).glob("**/*.hdf5"):
            found = get_format("robomimic").detect(SourceRoot(data / folder), path)
            assert found is not None
            assert found.layout == layout


def test_demos_of_nobody_known_are_read_and_named_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.hdf5", "w") as file:
        file["data/demo_0/numbers"] = np.zeros((3, 2))
    found = get_format("robomimic").detect(SourceRoot(tmp_path), None)
    assert found is not None
    assert (found.layout, found.confidence) == (None, 0.6)
    assert reasons(tmp_path, layout="robosuite_hdf5") == ["other_layout"]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_neighbour_changes_no_digest(tmp_path: Path, layout: str) -> None:
    path = WRITERS[layout](tmp_path)
    before = read(tmp_path).raw_digest
    with h5py.File(path, "r+") as file:
        file.copy("data/demo_1", "data/demo_9")
        file["data"].attrs.update({"total": 99, "num_demos": 9, "timestamp": 1.5, "readable_timestamp": "now"})
    assert read(tmp_path).raw_digest == before


@pytest.mark.parametrize("layout", WRITERS)
def test_commands_move_the_hand_in_the_row_they_stand_in(tmp_path: Path, layout: str) -> None:
    """Position after a row = position at it + gain x command, by the slots alone; and commands are scaled to metres."""
    WRITERS[layout](tmp_path)
    episode = converted(tmp_path, CONVERTERS[layout])
    assert episode.state is not None
    assert episode.action is not None
    made = writer.motion(FIRST_SEED[layout], ROWS)
    moved = np.diff(episode.state.values[:, 7:10], axis=0)
    step = episode.action.values[:-1, episode.action.columns(160, 163)]
    np.testing.assert_allclose(moved, writer.GAIN * step, atol=1e-6)
    first = 1 if layout == "libero_hdf5" else 0
    np.testing.assert_allclose(step, 0.05 * made["actions"][first : first + ROWS - 1, :3], atol=1e-7)
    turned = Rotation.from_matrix(rot6d_to_matrix(episode.state.values[:, 10:16].astype(np.float64)))
    angles = (turned[1:] * turned[:-1].inv()).as_rotvec()
    np.testing.assert_allclose(
        angles, writer.GAIN * episode.action.values[:-1, episode.action.columns(163, 166)], atol=1e-5
    )


def test_a_planted_row_shift_is_noticed(tmp_path: Path) -> None:
    """Without `shift: 1` LIBERO's commands do not belong to the hand's movement."""
    writer.write_libero(tmp_path)

    def unshift(document: dict[str, Any]) -> None:
        for mapping in document["action"]:
            mapping["shift"] = 0

    episode = converted(tmp_path, "libero", unshift)
    assert episode.state is not None
    assert episode.action is not None
    moved = np.diff(episode.state.values[:, 7:10], axis=0)
    step = episode.action.values[:-1, episode.action.columns(160, 163)]
    assert np.abs(moved - writer.GAIN * step).max() > 0.002


def test_grippers_open_and_close(tmp_path: Path) -> None:
    for layout, write in WRITERS.items():
        folder = tmp_path / layout
        write(folder)
        episode = converted(folder, CONVERTERS[layout])
        assert episode.state is not None
        assert episode.action is not None
        command = episode.action.values[:, episode.action.columns(16, 17)][:, 0]
        opening = episode.state.values[:, episode.state.columns(16, 17)][:, 0]
        assert set(command.tolist()) == {0.0, 1.0}
        np.testing.assert_allclose(opening[1:], np.where(command[:-1] == 1.0, 1.0, 0.5), atol=1e-6)


def test_liberos_text_and_pictures(tmp_path: Path) -> None:
    writer.write_libero(tmp_path)
    raw = read(tmp_path, rows="bottom_up")
    assert raw.texts == {"instruction": (writer.LIBERO_TEXT,)}
    assert raw.attributes["problem_info"]["domain_name"] == "robosuite"
    media = raw.media["obs/agentview_rgb"]
    assert media.codec == "png"
    for row in range(ROWS):
        np.testing.assert_array_equal(images.decode(media.image(row)), writer.scene(row + 1))
    lossy = read(tmp_path, rows="bottom_up", pictures="jpeg")
    shown = images.decode(lossy.media["obs/agentview_rgb"].image(0)).astype(int)
    assert lossy.media["obs/agentview_rgb"].codec == "jpeg"
    assert np.abs(shown - writer.scene(1)).mean() < 8  # colours are stored at half the size
    assert lossy.media["obs/agentview_rgb"].digest == media.digest
    assert lossy.raw_digest == raw.raw_digest
    asis = images.decode(read(tmp_path).media["obs/agentview_rgb"].image(0))
    np.testing.assert_array_equal(asis[::-1], writer.scene(1))


def test_pictures_that_say_opencv_are_not_turned_over(tmp_path: Path) -> None:
    writer.write_libero(tmp_path, convention="opencv")
    assert reasons(tmp_path, rows="bottom_up") == ["other_convention"]
    np.testing.assert_array_equal(images.decode(read(tmp_path).media["obs/agentview_rgb"].image(0)), writer.scene(1))


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"language_instruction": "put the bowl on the plate"}, "put the bowl on the plate"),
        ({"language_instruction": list('"open the drawer"')}, "open the drawer"),
        ({"language_instruction": ""}, "bad_value"),
        ({"language_instruction": 7}, "bad_type"),
        ({}, "bad_type"),
        (["no", "object"], "bad_type"),
        (None, "turn on the stove"),
    ],
)
def test_liberos_instruction_in_every_form(tmp_path: Path, info: Any, expected: str) -> None:
    path = writer.write_libero(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["problem_info"]
        if info is not None:
            file["data"].attrs["problem_info"] = json.dumps(info)
    if " " in expected:
        assert read(tmp_path).texts == {"instruction": (expected,)}
        return
    with pytest.raises(EpisodeError) as error:
        read(tmp_path)
    assert error.value.reason == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pick_up_the_black_bowl_demo.hdf5", "pick up the black bowl"),
        ("LIVING_ROOM_SCENE10_put_both_in_demo.hdf5", "put both in"),
        ("something.hdf5", None),
    ],
)
def test_a_libero_file_without_attributes_is_named_after_its_task(tmp_path: Path, name: str, text: str | None) -> None:
    path = writer.write_libero(tmp_path)
    with h5py.File(path, "r+") as file:
        for attribute in list(file["data"].attrs):
            del file["data"].attrs[attribute]
    path.rename(path.with_name(name))
    assert read(tmp_path, layout="libero_replayed_hdf5").texts == ({} if text is None else {"instruction": (text,)})


def test_robocasas_text_is_of_the_demonstration(tmp_path: Path) -> None:
    path = writer.write_robocasa(tmp_path)
    episode = converted(tmp_path, "robocasa")
    assert [language.text for language in episode.language] == [writer.ROBOCASA_TEXT]
    assert episode.action is not None
    np.testing.assert_allclose(episode.action.values[:, episode.action.columns(240, 256)], [[0, 0, 0, 0, -1]] * ROWS)
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["ep_meta"] = json.dumps({"lang": ["a"], "layout_id": 1})
    with pytest.raises(BadInput) as error:
        read(tmp_path)
    assert error.value.reason == "bad_type"
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["ep_meta"] = "{}"
    assert read(tmp_path).texts == {}


def test_a_converter_takes_its_own_layout_alone(tmp_path: Path) -> None:
    for write in WRITERS.values():
        write(tmp_path)
    write_robosuite(tmp_path / "lift.hdf5", [RobosuiteDemo(np.zeros((3, 4)), np.zeros((3, 7)))])
    for layout, name in CONVERTERS.items():
        found = scan(tmp_path, **load_converter(name).format.options)
        own = {entry.upstream_id.split("#")[0] for entry in found if isinstance(entry, EpisodeRef)}
        assert own == {str(WRITERS[layout](tmp_path / "again").relative_to(tmp_path / "again"))}
        WRITERS[layout](tmp_path / "again").unlink()
        told = {entry.reason for entry in found if isinstance(entry, ScanProblem)}
        assert told <= {"other_layout", "other_environment"}
        assert told


@pytest.mark.parametrize("options", [{"rows": "down"}, {"pictures": "webp"}, {"layout": "libero"}, {"env": [3]}])
def test_wrong_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        scan(tmp_path, **options)


def test_stacks_of_any_chunking_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest and the pictures do not depend on how the file cuts a stack, nor on the size of a block."""
    pixels = np.random.default_rng(1).integers(0, 255, (9, 6, 8, 3), np.uint8)
    found = []
    for place, chunks in enumerate([None, (1, 6, 8, 3), (4, 3, 8, 1), (9, 6, 8, 3)]):
        with h5py.File(tmp_path / "one.hdf5", "w") as file:
            file["data/demo_0/actions"] = np.zeros((9, 7))
            file["data/demo_0/obs"] = file.create_group("o")
            file["data/demo_0/obs"].create_dataset("camera_image", data=pixels, chunks=chunks)
            del file["o"]
        monkeypatch.setattr(hdf5, "_BLOCK_BYTES", 1 if place % 2 else 300)
        raw = read(tmp_path)
        shown = [images.decode(raw.media["obs/camera_image"].image(row)) for row in range(9)]
        np.testing.assert_array_equal(shown, pixels)
        found.append((raw.raw_digest, raw.media["obs/camera_image"].digest))
    assert len(set(found)) == 1


class TestIsaacLab:
    """The real files: 10 demonstrations, and 10 more with datagen_info."""

    @pytest.fixture
    def folder(self, data: Path) -> Path:
        return data / "simulation/isaaclab_mimic"

    @pytest.fixture
    def episodes(self, folder: Path) -> list[tuple[RawEpisode, Episode]]:
        conversion = Conversion.load("isaaclab_stack_cube")
        form = get_format("robomimic")
        refs = [
            entry
            for entry in form.scan(SourceRoot(folder), None, conversion.converter.format.options)
            if isinstance(entry, EpisodeRef)
        ]
        assert len(refs) == 20
        raws = [form.read(SourceRoot(folder), ref) for ref in refs]
        return [(raw, convert(raw, conversion)) for raw in raws]

    def test_states_are_those_before_the_action(self, episodes: list[tuple[RawEpisode, Episode]]) -> None:
        poses = 0
        for raw, episode in episodes:
            assert episode.state is not None
            values, mask = episode.state.values, episode.state.mask
            offset = values[1:, :7] - raw.arrays["obs/joint_pos"][1:, :7]
            assert np.ptp(offset, axis=0).max() < 1e-6
            assert not mask[0, :7].any()
            assert mask[1:].all()
            pose = raw.arrays.get("obs/datagen_info/eef_pose/franka")
            if pose is not None:
                poses += 1
                np.testing.assert_allclose(values[:, 7:10], pose[:, :3, 3], atol=1e-7)
                np.testing.assert_allclose(
                    rot6d_to_matrix(values[:, 10:16].astype(np.float64)), pose[:, :3, :3], atol=1e-6
                )
        assert poses == 10

    def test_commands_go_with_the_motion_of_their_row(self, episodes: list[tuple[RawEpisode, Episode]]) -> None:
        for raw, episode in episodes:
            assert episode.state is not None
            assert episode.action is not None
            step = episode.action.values[:-1, episode.action.columns(160, 163)]
            moved = np.diff(episode.state.values[:, 7:10], axis=0)
            for axis in range(3):
                assert np.corrcoef(step[:, axis], moved[:, axis])[0, 1] > 0.9
                others = [np.corrcoef(step[:, axis], moved[:, other])[0, 1] for other in range(3) if other != axis]
                assert max(others) < 0.8
            gain = float((step * moved).sum() / (step * step).sum())
            assert 0.17 < gain < 0.24
            previous = raw.arrays["obs/actions"]
            np.testing.assert_array_equal(previous[1:], raw.arrays["actions"][:-1])
            assert not previous[0].any()

    def test_the_gripper_opens_on_plus_one(self, episodes: list[tuple[RawEpisode, Episode]]) -> None:
        for _, episode in episodes:
            assert episode.state is not None
            assert episode.action is not None
            command = episode.action.values[:, episode.action.columns(16, 17)][:, 0]
            opening = episode.state.values[:, episode.state.columns(16, 17)][:, 0]
            assert opening[30:][command[30:] == 1.0].mean() > 0.95
            assert opening[command == 0.0].mean() < 0.6

    def test_a_total_that_lies_changes_nothing(self, folder: Path) -> None:
        with h5py.File(folder / "dataset.hdf5") as file:
            rows = sum(int(demo.attrs["num_samples"]) for demo in file["data"].values())
            assert (int(file["data"].attrs["total"]), rows) == (3901, 2163)
        raw = read(folder)
        assert raw.attributes["demo"]["success"] is True
        assert "total" not in raw.attributes


@pytest.mark.parametrize(
    ("name", "rows", "code"),
    [
        ("obs/ee_pos", ROWS - 1, "length_mismatch"),
        ("obs/ee_states", ROWS + 1, "length_mismatch"),
        ("states", ROWS - 1, "length_mismatch"),
        ("robot_states", ROWS + 1, "length_mismatch"),
        ("rewards", ROWS - 2, "length_mismatch"),
        ("obs/eye_in_hand_rgb", ROWS + 1, "frame_count_mismatch"),
    ],
)
def test_a_stream_of_another_length_is_refused_though_no_converter_reads_it(
    tmp_path: Path, name: str, rows: int, code: str
) -> None:
    with h5py.File(writer.write_libero(tmp_path), "r+") as file:
        values = np.resize(file[f"data/demo_0/{name}"][()], (rows, *file[f"data/demo_0/{name}"].shape[1:]))
        del file[f"data/demo_0/{name}"]
        file[f"data/demo_0/{name}"] = values
    with pytest.raises(EpisodeError, match=name) as error:
        read(tmp_path)
    assert error.value.reason == code


def test_one_more_moment_of_every_observation_is_no_defect(tmp_path: Path) -> None:
    with h5py.File(writer.write_libero(tmp_path), "r+") as file:
        group = file["data/demo_0"]
        for name in ["states", *(f"obs/{name}" for name in group["obs"])]:
            values = group[name][()]
            del group[name]
            group[name] = np.concatenate([values, values[-1:]])
    assert len(read(tmp_path).arrays["obs/ee_pos"]) == ROWS + 1


def test_texts_beside_the_numbers_are_named_as_unread(tmp_path: Path) -> None:
    with h5py.File(writer.write_libero(tmp_path), "r+") as file:
        file["data/demo_0/obs/note"] = "by hand"
        file["data/demo_0/tags"] = np.array([b"a", b"bc"])
    assert read(tmp_path).attributes["unread"] == ["obs/note", "tags"]


def test_a_broken_attribute_is_told_by_its_name(tmp_path: Path) -> None:
    with h5py.File(writer.write_libero(tmp_path), "r+") as file:
        file["data"].attrs["problem_info"] = '{"language_instruction": '
    (problem,) = [entry for entry in scan(tmp_path, layout="libero_hdf5") if isinstance(entry, ScanProblem)]
    assert problem.reason == "json_invalid"
    assert "attribute problem_info" in problem.what


def test_fewer_joints_than_the_card_names_are_refused(tmp_path: Path) -> None:
    with h5py.File(writer.write_libero(tmp_path), "r+") as file:
        joints = file["data/demo_0/obs/joint_states"][()]
        del file["data/demo_0/obs/joint_states"]
        file["data/demo_0/obs/joint_states"] = joints[:, :6]
    with pytest.raises(EpisodeError, match="panda_libero has 7 joints") as error:
        converted(tmp_path, "libero")
    assert error.value.reason == "wrong_dimension"
