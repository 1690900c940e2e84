"""The `aloha` format and its converters: values, colours, padding, and bad input, on layout fixtures."""

from __future__ import annotations

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
from dataengine.fixtures import aloha_writer as writer
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.converter import Converter, load_converter
from dataengine.storage import SourceRoot

ROWS = 6


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("aloha").scan(SourceRoot(folder), None, options))


def read(folder: Path, number: int = 0, **options: Any) -> RawEpisode:
    ref = [entry for entry in scan(folder, **options) if isinstance(entry, EpisodeRef)][number]
    return get_format("aloha").read(SourceRoot(folder), ref)


def converted(folder: Path, name: str, change: Callable[[dict[str, Any]], None] | None = None) -> Episode:
    document = load_converter(name).model_dump()
    if change is not None:
        change(document)
    spec = Converter.parse(document, name)
    return convert(read(folder, **spec.format.options), Conversion.of(spec))


def change(folder: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(next(folder.rglob("episode_0.hdf5")), "r+") as file:
        edit(file)


def reason(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        read(folder)
    return error.value.reason


@pytest.fixture
def sim(tmp_path: Path) -> Path:
    writer.write_aloha(tmp_path)
    return tmp_path


@pytest.fixture
def mobile(tmp_path: Path) -> Path:
    writer.write_mobile_aloha(tmp_path)
    return tmp_path


def test_layouts_are_told(sim: Path) -> None:
    found = get_format("aloha").detect(SourceRoot(sim), None)
    assert found is not None
    assert found.layout == "aloha_hdf5"
    writer.write_mobile_aloha(sim / "mobile")
    other = get_format("aloha").detect(SourceRoot(sim / "mobile"), None)
    assert other is not None
    assert other.layout == "mobile_aloha_hdf5"
    told = [entry.reason for entry in scan(sim, layout="aloha_hdf5") if isinstance(entry, ScanProblem)]
    assert told == ["other_layout"] * 2


def test_real_files_of_others_are_not_claimed(data: Path) -> None:
    for folder in ("simulation/isaaclab_mimic", "simulation/minari", "egocentric/openego_hocap", "robot"):
        assert get_format("aloha").detect(SourceRoot(data / folder), None) is None


def test_values_of_the_simulation(sim: Path) -> None:
    made, episode = writer.motion(0, ROWS), converted(sim, "aloha_sim")
    assert episode.hz == 50.0
    assert episode.state is not None
    assert episode.action is not None
    for side, first, joints, gripper in (("left", 0, (64, 70), 80), ("right", 7, (0, 6), 16)):
        for slots, native in ((episode.state, made["qpos"]), (episode.action, made["action"])):
            found = slots.values[:, slots.columns(*joints)]
            np.testing.assert_allclose(found, native[:, first : first + 6], atol=1e-6, err_msg=side)
            opening = slots.values[:, slots.columns(gripper, gripper + 1)][:, 0]
            np.testing.assert_allclose(opening, native[:, first + 6], atol=1e-6)
    speeds = episode.state.values[:, episode.state.columns(198, 205)]
    np.testing.assert_allclose(speeds, made["qvel"][:, :6], atol=1e-5)


def test_left_and_right_planted_the_wrong_way_round_are_noticed(sim: Path) -> None:
    def swap(document: dict[str, Any]) -> None:
        for mapping in [*document["state"], *document["action"]]:
            side = {"left": "right", "right": "left"}[mapping["slot"].split(".")[1]]
            mapping["slot"] = mapping["slot"].split(".")[0] + "." + side

    episode = converted(sim, "aloha_sim", swap)
    assert episode.action is not None
    right = episode.action.values[:, episode.action.columns(16, 17)][:, 0]
    assert np.all(np.diff(right) > 0)
    assert np.all(np.diff(writer.motion(0, ROWS)["action"][:, 13]) < 0)


def test_raw_pixels_are_lossless_as_png(sim: Path) -> None:
    raw = read(sim)
    shown = [images.decode(raw.media["top"].image(row)) for row in range(ROWS)]
    np.testing.assert_array_equal(shown, [writer.scene(row) for row in range(ROWS)])
    assert raw.attributes == {"sim": True}
    assert read(sim, pictures="jpeg").media["top"].codec == "jpeg"


def test_colours_of_mobile_aloha(mobile: Path) -> None:
    """Red shows as blue by a plain decoder; as the converter says it, the picture is right."""
    episode = converted(mobile, "mobile_aloha")
    for place, view in enumerate(episode.views):
        plain = images.decode(episode.media[view.media].image(2))
        shown = images.as_shown(plain, view.channel_order, view.rotate).astype(int)
        expected = writer.scene(2 + 3 * place).astype(int)
        assert np.abs(shown[:, 1:7] - expected[:, 1:7]).mean() < 10
        assert np.abs(plain.astype(int)[:, 1:7] - expected[:, 1:7]).mean() > 60


def test_rows_lose_their_padding_alone(mobile: Path) -> None:
    raw = read(mobile)
    for place, name in enumerate(writer.CAMERAS):
        assert raw.media[name].image(1) == writer.opencv_jpeg(writer.scene(1 + 3 * place), 50)
    lengths = raw.arrays["compress_len"]
    np.testing.assert_array_equal(lengths[0], np.diff(raw.media["cam_high"].offsets))
    assert raw.attributes == {"sim": False, "compress": True}


def test_the_base_is_measured(mobile: Path) -> None:
    episode = converted(mobile, "mobile_aloha")
    assert episode.action is not None
    base = writer.motion(10, ROWS)["base"]
    np.testing.assert_allclose(episode.action.values[:, episode.action.columns(135, 138)], base, atol=1e-6)
    assert (episode.labels["base_linear"], episode.labels["arm_joint.left"]) == ("reached", "commanded")


def test_a_table_of_lengths_in_another_order_still_holds(mobile: Path) -> None:
    def turn(file: h5py.File) -> None:
        file["compress_len"][...] = file["compress_len"][()][::-1]

    change(mobile, turn)
    assert read(mobile).media["cam_high"].frames == ROWS


def test_a_cut_file_keeps_its_whole_table(mobile: Path) -> None:
    """act-plus-plus, truncate_data.py: every stream is cut, compress_len is not."""

    def longer(file: h5py.File) -> None:
        table = np.concatenate([file["compress_len"][()], np.zeros((3, 4), np.float32)], axis=1)
        del file["compress_len"]
        file["compress_len"] = table

    change(mobile, longer)
    assert len(read(mobile).arrays["action"]) == ROWS


def _other_length(file: h5py.File) -> None:
    file["compress_len"][1, 2] += 1


def _rubbish_behind(file: h5py.File) -> None:
    file["observations/images/cam_high"][2, -1] = 7


def _no_jpeg(file: h5py.File) -> None:
    file["observations/images/cam_high"][2] = 0


def _short_stream(file: h5py.File) -> None:
    action = file["action"][()]
    del file["action"]
    file["action"] = action[:-1]


def _no_rows(file: h5py.File) -> None:
    del file["action"]
    file["action"] = np.zeros((0, 14), np.float32)


def _flat_table(file: h5py.File) -> None:
    del file["compress_len"]
    file["compress_len"] = np.zeros(3, np.float32)


def _external(file: h5py.File) -> None:
    del file["observations/images/cam_high"]
    file["observations/images/cam_high"] = h5py.ExternalLink("episode_1.hdf5", "/observations/images/cam_high")


BROKEN: dict[Callable[[h5py.File], object], str] = {
    _other_length: "length_mismatch",
    _rubbish_behind: "corrupt_image",
    _no_jpeg: "corrupt_image",
    _short_stream: "length_mismatch",
    _no_rows: "empty_episode",
    _flat_table: "bad_shape",
    _external: "external_link",
}


@pytest.mark.parametrize("edit", BROKEN, ids=lambda edit: edit.__name__)
def test_bad_input(mobile: Path, edit: Callable[[h5py.File], object]) -> None:
    change(mobile, edit)
    assert reason(mobile) == BROKEN[edit]
    assert read(mobile, 1).upstream_id.endswith("episode_1.hdf5")


def test_what_is_no_picture_is_named(mobile: Path) -> None:
    def more(file: h5py.File) -> None:
        file["observations/images/cam_high_depth"] = np.zeros((ROWS, 16, 24), np.uint16)
        file["language_raw"] = np.array([b"wipe the wine"], h5py.string_dtype())
        file["observations/mask"] = np.zeros((ROWS, 2), "V3")

    change(mobile, more)
    assert read(mobile).attributes["unread"] == ["observations/images/cam_high_depth", "observations/mask"]
    assert read(mobile).texts == {"language_raw": ("wipe the wine",)}


def test_texts_that_others_add(mobile: Path) -> None:
    """TinyVLA and DexVLA keep an instruction and a reasoning for each row in files of this layout."""

    def more(file: h5py.File) -> None:
        file["language_raw"] = np.array([b"fold the shirt\0\0"], "S20")
        file["substep_reasonings"] = [f"step {row}" for row in range(ROWS)]
        file["paraphrases"] = ["fold it", "fold the shirt up"]
        file["prompt"] = "fold"

    plain = read(mobile).raw_digest
    change(mobile, more)
    raw = read(mobile)
    assert raw.texts == {
        "language_raw": ("fold the shirt",),
        "substep_reasonings": tuple(f"step {row}" for row in range(ROWS)),
        "prompt": ("fold",),
    }
    assert raw.attributes["unread"] == ["paraphrases"]
    assert raw.raw_digest != plain


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("language_raw", np.array([b"\xff\xfe"]), "invalid_utf8"),
        ("observations/task", np.array([b"a", b"b"]), "length_mismatch"),
    ],
)
def test_texts_that_are_none(mobile: Path, name: str, value: Any, expected: str) -> None:
    change(mobile, lambda file: file.__setitem__(name, value))
    assert reason(mobile) == expected


def test_files_in_the_order_of_their_numbers(sim: Path) -> None:
    folder = sim / "sim_transfer_cube_scripted"
    (folder / "episode_1.hdf5").rename(folder / "episode_10.hdf5")
    (folder / "episode_0.hdf5").rename(folder / "episode_9.hdf5")
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 7))
    assert [entry.upstream_id.rpartition("_")[2] for entry in scan(sim)] == ["9.hdf5", "10.hdf5"]
    found = list(get_format("aloha").scan(SourceRoot(folder), "other.hdf5", {}))
    assert [entry.reason for entry in found if isinstance(entry, ScanProblem)] == ["missing_key"]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (("action",), "holds no action"),
        (("observations/qpos",), "holds no observations/qpos"),
        (("observations", "action"), "holds no observations/qpos and no action"),
    ],
)
def test_an_episode_that_lost_a_stream_is_told(sim: Path, lost: tuple[str, ...], told: str) -> None:
    with h5py.File(next(sim.rglob("episode_0.hdf5")), "r+") as file:
        for name in lost:
            del file[name]
    with h5py.File(sim / "statistics.hdf5", "w") as file:
        file["mean"] = np.zeros(3)
    problems = [entry for entry in scan(sim) if isinstance(entry, ScanProblem)]
    assert [(entry.reason, entry.upstream_id.rpartition("/")[2]) for entry in problems] == [
        ("missing_key", "episode_0.hdf5")
    ]
    assert problems[0].what.endswith(told)


@pytest.mark.parametrize("options", [{"layout": "aloha"}, {"pictures": "webp"}, {"camera": 1}])
def test_wrong_options(sim: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        scan(sim, **options)


def test_a_neighbour_changes_no_digest(sim: Path) -> None:
    before = read(sim).raw_digest
    writer.write_aloha(sim, episodes=3)
    assert read(sim).raw_digest == before
    change(sim, lambda file: file.attrs.__setitem__("sim", False))
    assert read(sim).raw_digest != before


def test_a_missing_camera_drops_the_episode(mobile: Path) -> None:
    change(mobile, lambda file: file["observations/images"].__delitem__("cam_high"))
    with pytest.raises(EpisodeError) as error:
        converted(mobile, "mobile_aloha")
    assert error.value.reason == "missing_stream"


def test_depth_in_a_group_of_its_own_is_not_read_as_numbers(sim: Path) -> None:
    """AgileX's recorder writes depth [T, H, W] uint16 below `observations/images_depth`."""

    def more(file: h5py.File) -> None:
        file["observations/images_depth/top"] = np.zeros((ROWS, 16, 24), np.uint16)

    change(sim, more)
    raw = read(sim)
    assert raw.attributes["unread"] == ["observations/images_depth/top"]
    assert "observations/images_depth/top" not in raw.arrays


def test_raw_pixels_beside_base_action_are_not_taken_as_bgr(sim: Path) -> None:
    """AgileX's recorder writes `base_action` and raw RGB pixels: the converter of encoded BGR rows must not take it."""
    change(sim, lambda file: file.__setitem__("base_action", np.zeros((ROWS, 2))))
    first, _ = scan(sim, layout="mobile_aloha_hdf5")
    assert isinstance(first, ScanProblem)
    assert first.reason == "other_layout"
    assert all(isinstance(entry, EpisodeRef) for entry in scan(sim, layout="aloha_hdf5"))


def test_data_sets_that_are_no_streams_may_have_any_length(sim: Path) -> None:
    change(sim, lambda file: file.__setitem__("camera_matrix", np.eye(3)))
    assert read(sim).arrays["camera_matrix"].shape == (3, 3)
    change(sim, lambda file: file.__setitem__("observations/touch", np.zeros((ROWS - 1, 2))))
    assert reason(sim) == "length_mismatch"
