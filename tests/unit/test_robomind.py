"""The `robomind` format and its converters: values, colours, raw pixels, texts, and bad input, on layout fixtures."""

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
from dataengine.fixtures import robomind_writer as writer
from dataengine.fixtures.aloha_writer import scene
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROWS = 6


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("robomind").scan(SourceRoot(folder), None, options))


def read(folder: Path, number: int = 0, **options: Any) -> RawEpisode:
    ref = [entry for entry in scan(folder, **options) if isinstance(entry, EpisodeRef)][number]
    return get_format("robomind").read(SourceRoot(folder), ref)


def converted(folder: Path, name: str) -> Episode:
    return convert(read(folder, **load_converter(name).format.options), Conversion.load(name))


def change(folder: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(min(folder.rglob("trajectory.hdf5")), "r+") as file:
        edit(file)


def reason(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        read(folder)
    return error.value.reason


@pytest.fixture
def franka(tmp_path: Path) -> Path:
    writer.write_robomind(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "write", "joints"),
    [
        ("robomind_franka", writer.write_robomind, 7),
        ("robomind_franka_1rgb", writer.write_franka_1rgb, 7),
        ("robomind_ur", writer.write_ur, 6),
    ],
)
def test_values_and_their_next_row(tmp_path: Path, name: str, write: Callable[[Path], Path], joints: int) -> None:
    write(tmp_path)
    episode, made = converted(tmp_path, name), writer.motion(0, ROWS)
    assert episode.state is not None
    assert episode.action is not None
    arm = slice(0, joints)
    np.testing.assert_allclose(episode.state.values[:, episode.state.columns(0, 7)], made[:, arm], atol=1e-6)
    np.testing.assert_allclose(episode.action.values[:-1, episode.action.columns(0, 7)], made[1:, arm], atol=1e-6)
    np.testing.assert_allclose(episode.state.values[:, episode.state.columns(240, 256)], made[:, 7:], atol=1e-6)
    assert not episode.action.mask[-1].any()
    assert set(episode.labels.values()) == {"next_state"}
    assert [language.text for language in episode.language] == [writer.TEXT]
    assert len(episode.views) == (3 if name == "robomind_franka" else 1)


def test_colours_are_right_by_a_plain_decoder(franka: Path) -> None:
    episode = converted(franka, "robomind_franka")
    shown = {view.name: images.decode(episode.media[view.media].image(2)).astype(int) for view in episode.views}
    for name, place in (("ext_2", 0), ("ext_3", 1), ("ext_1", 2)):
        assert np.abs(shown[name] - scene(2 + place))[:, 1:11].mean() < 8
        assert np.abs(shown[name][..., ::-1] - scene(2 + place))[:, 1:11].mean() > 60


@pytest.mark.parametrize("size", [(480, 640), (720, 1280)])
def test_raw_pixels_in_the_same_field_come_out_in_the_same_order(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / writer.ROBOT / writer.TASK / "success_episodes/train/x/data/trajectory.hdf5"
    writer.write_trajectory(path, 0, 2, raw=size)
    media = read(tmp_path, pictures="jpeg").media["camera_left"]
    assert (media.codec, media.height, media.width) == ("jpeg", *size)
    assert np.abs(images.decode(media.image(1))[0, 0].astype(int) - [121, 0, 0]).max() < 6


def test_texts_of_the_tables(franka: Path) -> None:
    raw = read(franka)
    steps = ["move towards the bread"] * 2 + [""] + ["grab the bread"] * 2 + [""]
    assert raw.texts == {
        "instruction": (writer.TEXT,),
        "task_summary": (writer.SUMMARY,),
        "step": tuple(steps),
    }
    assert read(franka, 1).texts == {"instruction": (writer.TEXT,)}
    assert raw.attributes["robot"] == writer.ROBOT
    assert raw.attributes["task"] == writer.TASK
    assert raw.attributes["split"] == "train"
    assert raw.attributes["unread"] == [f"observations/depth_images/{camera}" for camera in writer.CAMERAS]
    assert len(raw.files) == 3


def test_a_task_with_two_texts_has_none(franka: Path) -> None:
    table = franka / "RoboMIND_v1_2_instr.csv"
    table.write_text(table.read_text() + f"9,{writer.TASK},something else\n")
    assert "instruction" not in read(franka).texts
    with pytest.raises(EpisodeError) as error:
        converted(franka, "robomind_franka")
    assert error.value.reason == "missing_stream"


def _annotations(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = next(folder.rglob("h5_*.json"))
    listed = json.loads(path.read_text())
    edit(listed[0])
    path.write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda entry: entry["response"]["steps"][1].update(end_frame="camera_top_0006.jpg"), "bad_value"),
        (lambda entry: entry["response"]["steps"][1].update(start_frame="camera_top_0001.jpg"), "bad_value"),
        (lambda entry: entry["response"]["steps"][0].update(start_frame="first"), "bad_value"),
        (lambda entry: entry["response"]["steps"][0].update(step_description=3), "bad_value"),
        (lambda entry: entry.update(response=[]), "bad_type"),
        (lambda entry: entry["response"].update(steps=7), "bad_type"),
    ],
)
def test_bad_annotations(franka: Path, edit: Callable[[dict[str, Any]], object], expected: str) -> None:
    _annotations(franka, edit)
    assert reason(franka) == expected
    assert read(franka, 1).texts == {"instruction": (writer.TEXT,)}


def _short(file: h5py.File) -> None:
    values = file["puppet/joint_position"][:-1]
    del file["puppet/joint_position"]
    file["puppet/joint_position"] = values


def _no_picture(file: h5py.File) -> None:
    file["observations/rgb_images/camera_top"][1] = np.frombuffer(b"nothing at all", np.uint8)


def _empty(file: h5py.File) -> None:
    for name in ("puppet", "master", "observations"):
        del file[name]
    file.create_group("puppet")
    file.create_group("observations/rgb_images")


def _soft_link(file: h5py.File) -> None:
    file["puppet/alias"] = h5py.SoftLink("/master/joint_position")


def _claims(file: h5py.File) -> None:
    rows = h5py.vlen_dtype(np.uint8)
    file["observations/rgb_images"].create_dataset("camera_huge", (1 << 40,), rows, chunks=(1 << 10,))


BROKEN: dict[Callable[[h5py.File], object], str] = {
    _short: "length_mismatch",
    _no_picture: "unsupported_image",
    _empty: "empty_episode",
    _soft_link: "soft_link",
    _claims: "claimed_size",
}


@pytest.mark.parametrize("edit", BROKEN, ids=lambda edit: edit.__name__)
def test_bad_input(franka: Path, edit: Callable[[h5py.File], object]) -> None:
    change(franka, edit)
    assert reason(franka) == BROKEN[edit]
    assert len(read(franka, 1).media) == 3


def test_simulated_and_foreign_files_are_told(franka: Path) -> None:
    change(franka, lambda file: file.move("puppet", "franka"))
    other = franka / writer.ROBOT / "other/success_episodes/val/y/data/trajectory.hdf5"
    other.parent.mkdir(parents=True)
    with h5py.File(other, "w") as file:
        file["data"] = np.zeros(3)
    told = [entry.reason for entry in scan(franka) if isinstance(entry, ScanProblem)]
    assert sorted(told) == ["missing_key", "unpaired_streams"]
    assert scan(franka, robot="h5_ur_1rgb") == []
    found = get_format("robomind").detect(SourceRoot(franka), None)
    assert found is not None
    assert found.layout == "robomind_hdf5"
    with pytest.raises(SpecError):
        scan(franka, camera="top")


def test_others_files_are_not_claimed(data: Path) -> None:
    for folder in ("simulation", "robot", "egocentric/openego_hocap"):
        assert get_format("robomind").detect(SourceRoot(data / folder), None) is None


def test_another_tasks_text_changes_no_digest(franka: Path) -> None:
    before = read(franka).raw_digest
    table = franka / "RoboMIND_v1_2_instr.csv"
    table.write_text(table.read_text() + "9,another_task,another text\n")
    assert read(franka).raw_digest == before
    table.write_text(table.read_text().replace(writer.TEXT, "put it in"))
    assert read(franka).raw_digest != before


def _language(file: h5py.File) -> None:
    file["language_raw"] = np.array([b"put the bread away"], h5py.string_dtype())
    file["language_distilbert"] = np.zeros((1, 1, 768), np.float32)


def test_language_in_the_file_itself_is_read_and_no_stream_of_rows(franka: Path) -> None:
    """Releases keep `language_raw` [1] and its embedding `language_distilbert` [1, 1, 768] in the trajectory."""
    change(franka, _language)
    raw = read(franka)
    assert raw.texts["language_raw"] == ("put the bread away",)
    assert raw.texts["instruction"] == (writer.TEXT,)  # the table's
    assert raw.arrays["language_distilbert"].shape == (1, 1, 768)
    next(franka.rglob("*.csv")).unlink()
    assert read(franka).texts["instruction"] == ("put the bread away",)


def test_language_that_is_no_single_text_is_refused(franka: Path) -> None:
    change(franka, lambda file: file.__setitem__("language_raw", np.array([b"one", b"two"])))
    assert reason(franka) == "bad_shape"


def test_language_that_is_no_utf8_is_refused(franka: Path) -> None:
    change(franka, lambda file: file.__setitem__("language_raw", np.array([b"caf\xe9"])))
    assert reason(franka) == "invalid_utf8"
