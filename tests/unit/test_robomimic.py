"""Bad input and corners of the `robomimic` format and of the door to HDF5, on layout fixtures."""

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
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.fixtures.robosuite_writer import RobosuiteDemo, lift_states, write_robosuite
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

ROWS = 12


def demo(seed: int, rows: int = ROWS) -> RobosuiteDemo:
    chance = np.random.default_rng(seed)
    joints = np.cumsum(chance.normal(0, 0.01, (rows, 7)), axis=0)
    actions = np.concatenate(
        [chance.uniform(-1, 1, (rows, 6)), np.where(np.arange(rows) < 6, -1.0, 1.0)[:, None]], axis=1
    )
    return RobosuiteDemo(lift_states(joints, np.linspace(0.04, 0.02, rows)), actions)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_robosuite(tmp_path / "lift/demo.hdf5", [demo(k) for k in range(3)])
    return tmp_path


def change(folder: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(folder / "lift/demo.hdf5", "r+") as file:
        edit(file)


def scan(folder: Path, **options: Any) -> list[EpisodeRef | ScanProblem]:
    return list(get_format("robomimic").scan(SourceRoot(folder), None, options))


def ids(folder: Path, **options: Any) -> list[str]:
    return [entry.upstream_id for entry in scan(folder, **options) if isinstance(entry, EpisodeRef)]


def problems(folder: Path, **options: Any) -> list[tuple[str, str, str]]:
    return [(e.unit, e.upstream_id, e.reason) for e in scan(folder, **options) if isinstance(e, ScanProblem)]


def read(folder: Path, number: int = 0) -> RawEpisode:
    ref = [entry for entry in scan(folder) if isinstance(entry, EpisodeRef)][number]
    return get_format("robomimic").read(SourceRoot(folder), ref)


def reason(folder: Path, number: int = 0) -> str:
    with pytest.raises(BadInput) as error:
        read(folder, number)
    return error.value.reason


def converted(folder: Path, number: int = 0) -> Episode:
    return convert(read(folder, number), Conversion.of(load_converter("robosuite_lift_152")))


def test_a_demo(folder: Path) -> None:
    raw = read(folder, 1)
    assert raw.upstream_id == "lift/demo.hdf5#demo_2"
    np.testing.assert_array_equal(raw.arrays["states"], demo(1).states)
    np.testing.assert_array_equal(raw.arrays["actions"], demo(1).actions)  # type: ignore[arg-type]
    assert set(raw.attributes) == {"env", "env_info", "repository_version", "demo"}
    assert raw.attributes["env_info"]["controller_configs"]["body_parts"]["right"]["output_max"][3] == 0.5
    assert list(raw.attributes["demo"]) == ["model_file_sha256"]


def test_the_fixture_converts_as_the_layout_says(folder: Path) -> None:
    episode, written = converted(folder), demo(0)
    assert episode.hz == 20.0
    assert episode.state is not None
    assert episode.action is not None
    np.testing.assert_allclose(episode.state.values[:, :7], written.states[:, 1:8], atol=1e-6)
    np.testing.assert_allclose(episode.state.values[:, 7], np.linspace(1.0, 0.5, ROWS), atol=1e-6)
    np.testing.assert_allclose(
        episode.state.values[:, 8:], np.gradient(written.states[:, 1:8], 0.05, axis=0), atol=1e-5
    )
    np.testing.assert_allclose(episode.action.values[:, 1:4], written.actions[:, :3] * 0.05, atol=1e-7)  # type: ignore[index]
    np.testing.assert_allclose(episode.action.values[:, 4:], written.actions[:, 3:6] * 0.5, atol=1e-6)  # type: ignore[index]


def test_demos_are_sorted_by_number(folder: Path) -> None:
    change(folder, lambda file: [file.copy("data/demo_1", f"data/demo_{k}") for k in (10, 9, 100)])
    assert [name.split("#")[1] for name in ids(folder)] == [f"demo_{k}" for k in (1, 2, 3, 9, 10, 100)]


def test_a_neighbour_or_a_date_changes_no_digest(folder: Path) -> None:
    before = [read(folder, k).raw_digest for k in range(3)]
    assert len(set(before)) == 3

    def edit(file: h5py.File) -> None:
        file.copy("data/demo_1", "data/demo_7")
        file["data"].attrs.update({"date": "2-2-2002", "time": "1:1:1", "total": 99})

    change(folder, edit)
    assert [read(folder, k).raw_digest for k in range(3)] == before


@pytest.mark.parametrize("name", ["env_info", "repository_version"])
def test_what_gives_numbers_their_meaning_is_in_the_digest(folder: Path, name: str) -> None:
    before = read(folder).raw_digest
    change(folder, lambda file: file["data"].attrs.__setitem__(name, '{"other": 1}'))
    assert read(folder).raw_digest != before


def test_a_truncated_file_is_quarantined(folder: Path) -> None:
    path = folder / "lift/demo.hdf5"
    write_robosuite(folder / "well.hdf5", [demo(5)])
    path.write_bytes(path.read_bytes()[:-500])
    assert problems(folder) == [("file", "lift/demo.hdf5", "unreadable_file")]
    assert ids(folder) == ["well.hdf5#demo_1"]


@pytest.mark.parametrize(("content", "code"), [(b"", "empty_file"), (b"not HDF5 at all", "unreadable_file")])
def test_a_file_that_is_no_hdf5(folder: Path, content: bytes, code: str) -> None:
    (folder / "other.h5").write_bytes(content)
    assert problems(folder) == [("file", "other.h5", code)]
    assert len(ids(folder)) == 3


def test_another_structure_is_passed_over_in_a_folder_and_told_for_a_file(folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["observations/qpos"] = np.zeros((3, 14))
    assert (len(ids(folder)), problems(folder)) == (3, [])
    found = list(get_format("robomimic").scan(SourceRoot(folder), "other.hdf5", {}))
    assert [entry.reason for entry in found if isinstance(entry, ScanProblem)] == ["missing_key"]
    assert get_format("robomimic").detect(SourceRoot(folder), "other.hdf5") is None


def test_a_link_out_of_the_folder_is_no_source(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.hdf5"
    write_robosuite(outside, [demo(1)])
    (folder / "link.hdf5").symlink_to(outside)
    assert [name for name in ids(folder) if "link" in name] == []


def _external_link(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.ExternalLink("secret.hdf5", "/data")


def _soft_link(file: h5py.File) -> None:
    file["data/demo_1/alias"] = h5py.SoftLink("/data/demo_2/actions")


def _dangling_link(file: h5py.File) -> None:
    file["data/demo_1/alias"] = h5py.SoftLink("/nowhere")


def _soft_loop(file: h5py.File) -> None:
    file["data/demo_1/a"] = h5py.SoftLink("/data/demo_1/b")
    file["data/demo_1/b"] = h5py.SoftLink("/data/demo_1/a")


def _hard_loop(file: h5py.File) -> None:
    file["data/demo_1/back"] = file["data"]


def _deep(file: h5py.File) -> None:
    file.create_group("data/demo_1/" + "/".join("x" * 40)).create_dataset("v", data=np.zeros(3))


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(ROWS, 7), dtype="f8")
    layout[:] = h5py.VirtualSource("secret.hdf5", "actions", shape=(ROWS, 7))
    del file["data/demo_1/actions"]
    file.create_virtual_dataset("data/demo_1/actions", layout)


def _external_storage(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (ROWS, 7), "f8", external=[("/etc/hostname", 0, ROWS * 56)])


def _claims(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("huge", (1 << 40,), "f8", chunks=(1 << 16,))


def _inflates(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("bomb", data=np.zeros(1 << 24), chunks=(1 << 22,), compression="gzip")


def _objects(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("notes", (2,), h5py.vlen_dtype(np.float32))


def _compound(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("pairs", data=np.zeros(3, [("a", "f4"), ("b", "i4")]))


def _complex(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("waves", data=np.zeros(ROWS, np.complex64))


def _shapeless(file: h5py.File) -> None:
    file["data/demo_1"].create_dataset("nothing", dtype="f4", shape=None)


def _filter(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((4,))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file["data/demo_1"].id, b"packed", h5py.h5t.IEEE_F64LE, space, properties)


HOSTILE = {
    _external_link: "external_link",
    _soft_link: "soft_link",
    _dangling_link: "soft_link",
    _soft_loop: "soft_link",
    _hard_loop: "link_loop",
    _deep: "link_loop",
    _virtual: "virtual_dataset",
    _external_storage: "external_storage",
    _claims: "claimed_size",
    _inflates: "claimed_size",
    _objects: "object_dtype",
    _compound: "unsupported_dtype",
    _complex: "unsupported_dtype",
    _shapeless: "no_values",
    _filter: "unknown_filter",
}


@pytest.mark.parametrize("edit", HOSTILE, ids=lambda edit: edit.__name__)
def test_what_is_not_what_it_seems_is_refused(folder: Path, edit: Callable[[h5py.File], object]) -> None:
    write_robosuite(folder / "lift/secret.hdf5", [demo(7)])
    change(folder, edit)
    with pytest.raises(FormatError) as error:
        read(folder)
    assert error.value.reason == HOSTILE[edit]
    assert error.value.where == "lift/demo.hdf5"
    assert read(folder, 1).upstream_id == "lift/demo.hdf5#demo_2"  # its neighbours are read


@pytest.mark.parametrize("link", [h5py.ExternalLink("well.hdf5", "/data"), h5py.SoftLink("/elsewhere")])
def test_a_linked_data_group_quarantines_the_file(folder: Path, link: object) -> None:
    write_robosuite(folder / "lift/well.hdf5", [demo(7)])

    def edit(file: h5py.File) -> None:
        file.move("data", "elsewhere")
        file["data"] = link

    change(folder, edit)
    code = "external_link" if isinstance(link, h5py.ExternalLink) else "soft_link"
    assert problems(folder) == [("file", "lift/demo.hdf5", code)]
    assert ids(folder) == ["lift/well.hdf5#demo_1"]


def test_a_linked_demo_is_refused_alone(folder: Path) -> None:
    write_robosuite(folder / "lift/well.hdf5", [demo(7)])
    change(folder, lambda file: file["data"].__setitem__("demo_0", h5py.ExternalLink("well.hdf5", "/data/demo_1")))
    assert get_format("robomimic").detect(SourceRoot(folder / "lift"), "demo.hdf5") is None
    assert reason(folder, 0) == "external_link"
    assert read(folder, 1).upstream_id == "lift/demo.hdf5#demo_1"


def test_a_demo_without_rows(folder: Path) -> None:
    write_robosuite(folder / "lift/demo.hdf5", [demo(0, rows=0), demo(1)])
    assert reason(folder, 0) == "empty_episode"
    change(folder, lambda file: file.create_group("data/demo_5"))
    assert reason(folder, 2) == "empty_episode"
    assert read(folder, 1).arrays["actions"].shape == (ROWS, 7)


def test_actions_shorter_than_states(folder: Path) -> None:
    short = RobosuiteDemo(demo(0).states, demo(0).actions[:-1])  # type: ignore[index]
    write_robosuite(folder / "lift/demo.hdf5", [short])
    with pytest.raises(EpisodeError) as error:
        converted(folder)
    assert error.value.reason == "length_mismatch"
    assert f"actions {ROWS - 1}, states {ROWS}" in error.value.what


def test_no_actions(folder: Path) -> None:
    write_robosuite(folder / "lift/demo.hdf5", [RobosuiteDemo(demo(0).states, None)])
    with pytest.raises(EpisodeError) as error:
        converted(folder)
    assert error.value.reason == "missing_stream"


def test_no_controller_config(folder: Path) -> None:
    write_robosuite(folder / "lift/demo.hdf5", [demo(0)], env_info={"env_name": "Lift"})
    with pytest.raises(EpisodeError) as error:
        converted(folder)
    assert error.value.reason == "missing_attribute"


def test_env_info_that_is_no_json(folder: Path) -> None:
    change(folder, lambda file: file["data"].attrs.__setitem__("env_info", "{'single': quotes}"))
    assert reason(folder) == "json_invalid"


def test_nan_goes_through(folder: Path) -> None:
    spoiled = demo(0)
    assert spoiled.actions is not None
    spoiled.actions[3, 1] = spoiled.states[5, 2] = np.nan
    write_robosuite(folder / "lift/demo.hdf5", [spoiled])
    episode = converted(folder)
    assert episode.action is not None
    assert episode.state is not None
    assert np.argwhere(np.isnan(episode.action.values)).tolist() == [[3, 2]]
    assert np.isnan(episode.state.values[5, 1])
    assert episode.action.mask.all()


def test_a_clock_that_stands_still(folder: Path) -> None:
    still = demo(0)
    still.states[:, 0] = 1.0
    write_robosuite(folder / "lift/demo.hdf5", [still])
    with pytest.raises(EpisodeError) as error:
        converted(folder)
    assert error.value.reason == "time_not_increasing"


def test_one_finger_of_two(folder: Path) -> None:
    document = load_converter("robosuite_lift_152").model_dump()
    gripper = next(mapping for mapping in document["state"] if mapping["slot"] == "gripper.right")
    gripper["columns"] = (8, 9)
    conversion = Conversion.of(type(load_converter("robosuite_lift_152")).model_validate(document))
    with pytest.raises(EpisodeError) as error:
        convert(read(folder), conversion)
    assert error.value.reason == "wrong_dimension"


@pytest.mark.parametrize("gripper", [{"open": [0.04], "closed": 0.04}, {"open": [1.0, 2.0], "closed": [0.0]}])
def test_a_gripper_that_does_not_move(gripper: dict[str, Any]) -> None:
    document = load_converter("robosuite_lift_152").model_dump()
    document["state"][2]["gripper"] = gripper
    with pytest.raises(SpecError):
        type(load_converter("robosuite_lift_152")).parse(document, "here")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """robomimic's layout: observations with pictures, a mask."""
    with h5py.File(tmp_path / "image.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
        for number in range(3):
            group = file.create_group(f"data/demo_{number}")
            group.attrs["num_samples"] = ROWS
            group["actions"] = np.zeros((ROWS, 7))
            pixels = np.arange(ROWS * 6 * 5 * 3).reshape(ROWS, 6, 5, 3).astype(np.uint8) + number
            for name in ("obs", "next_obs"):
                group[f"{name}/agentview_image"] = pixels
                group[f"{name}/xyz"] = np.full((ROWS, 3), number, np.float32)
            group["obs/depth"] = np.zeros((ROWS, 6, 5, 1), np.uint8)
        file["mask/train"] = np.array([b"demo_2", b"demo_0"])
        file["mask/odd"] = ["demo_1", "demo_9"]
    return tmp_path


def test_pictures_become_png_without_loss(pictures: Path) -> None:
    raw = read(pictures, 1)
    assert set(raw.arrays) == {"actions", "obs/xyz", "obs/depth", "next_obs/xyz"}
    assert raw.attributes["unread"] == ["next_obs/agentview_image"]
    assert raw.attributes["env_args"] == {"env_name": "Lift", "type": 1}
    media = raw.media["obs/agentview_image"]
    assert (media.codec, media.frames, media.height, media.width) == ("png", ROWS, 6, 5)
    with h5py.File(pictures / "image.hdf5") as file:
        stored = file["data/demo_1/obs/agentview_image"][()]
    np.testing.assert_array_equal([images.decode(media.image(row)) for row in range(ROWS)], stored)


def test_a_filter_key(pictures: Path) -> None:
    assert ids(pictures, filter_key="train") == ["image.hdf5#demo_0", "image.hdf5#demo_2"]
    assert ids(pictures, filter_key="odd") == ["image.hdf5#demo_1"]
    assert problems(pictures, filter_key="odd") == [("episode", "image.hdf5#demo_9", "missing_key")]
    assert problems(pictures, filter_key="none") == [("file", "image.hdf5", "missing_key")]


def test_another_environment_is_not_read_by_this_converters_columns(folder: Path, pictures: Path) -> None:
    write_robosuite(folder / "stack.hdf5", [demo(4)], env="Stack")
    lift = [f"lift/demo.hdf5#demo_{k}" for k in (1, 2, 3)]
    told = [entry for entry in problems(folder, env="Lift") if entry[1] == "stack.hdf5"]
    assert told == [("file", "stack.hdf5", "other_environment")]
    assert ids(folder, env="Lift") == [*(f"image.hdf5#demo_{k}" for k in range(3)), *lift]
    assert ids(folder, env="Stack") == ["stack.hdf5#demo_1"]


@pytest.mark.parametrize("options", [{"filter": "train"}, {"filter_key": ["train"]}, {"env": 3}])
def test_wrong_options(pictures: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        scan(pictures, **options)


def test_a_count_that_lies(pictures: Path) -> None:
    with h5py.File(pictures / "image.hdf5", "r+") as file:
        file["data/demo_0"].attrs["num_samples"] = ROWS + 1
    assert reason(pictures, 0) == "length_mismatch"


def test_a_name_that_is_no_demo(folder: Path) -> None:
    change(folder, lambda file: file.copy("data/demo_1", "data/extra"))
    assert problems(folder) == [("episode", "lift/demo.hdf5#extra", "unknown_name")]
    assert len(ids(folder)) == 3


def test_attributes_of_every_kind(folder: Path) -> None:
    def edit(file: h5py.File) -> None:
        attributes = file["data/demo_1"].attrs
        attributes["success"] = np.bool_(True)
        attributes["weights"] = np.array([0.5, 1.5])
        attributes["names"] = ["a", "b"]
        attributes["bytes"] = np.bytes_(b"text")
        attributes["ep_meta"] = '{"lang": "lift it"}'
        attributes["nan"] = np.nan
        attributes["empty"] = h5py.Empty("f4")
        attributes["where"] = file["data"].ref

    change(folder, edit)
    found = read(folder).attributes
    assert {name: found["demo"][name] for name in ("success", "weights", "names", "bytes", "ep_meta")} == {
        "success": True,
        "weights": [0.5, 1.5],
        "names": ["a", "b"],
        "bytes": "text",
        "ep_meta": {"lang": "lift it"},
    }
    assert found["unread"] == ["@demo/empty", "@demo/nan", "@demo/where"]
    json.dumps(found, allow_nan=False)


def test_big_endian_numbers_are_read_as_they_are(folder: Path) -> None:
    before = read(folder).raw_digest

    def edit(file: h5py.File) -> None:
        actions = file["data/demo_1/actions"][()]
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = actions.astype(">f8")

    expected = converted(folder)
    change(folder, edit)
    assert converted(folder).content_digest == expected.content_digest
    assert read(folder).raw_digest == before


def test_text_that_is_none(folder: Path) -> None:
    def edit(file: h5py.File) -> None:
        kind, space = h5py.h5t.C_S1.copy(), h5py.h5s.create(h5py.h5s.SCALAR)
        kind.set_size(2)
        kind.set_cset(h5py.h5t.CSET_UTF8)
        attribute = h5py.h5a.create(file["data"].id, b"odd", kind, space)
        attribute.write(np.array(b"\xff\xfe", "S2"), mtype=kind)

    change(folder, edit)
    assert reason(folder) in ("invalid_utf8", "unreadable_file")


@pytest.mark.parametrize(
    "text", [r'{"a": "\ud800"}', '{"a": ' + "9" * 40 + "}"], ids=["half a character", "a huge number"]
)
def test_json_that_cannot_be_said_again(folder: Path, text: str) -> None:
    change(folder, lambda file: file["data"].attrs.__setitem__("env_info", text))
    assert reason(folder) == "bad_value"


def test_a_heap_of_strings_that_would_never_end(folder: Path) -> None:
    """A size of zero in the heap of the attributes' texts: HDF5 itself walks in place for ever."""
    path = folder / "lift/demo.hdf5"
    data = bytearray(path.read_bytes())
    position = data.index(b"GCOL") + 16
    while data[position : position + 2] != b"\0\0":  # the free space behind the last text
        position += 16 + (int.from_bytes(data[position + 8 : position + 16], "little") + 7) // 8 * 8
    data[position + 8 : position + 16] = bytes(8)
    path.write_bytes(data)
    assert reason(folder) == "unreadable_file"


@pytest.mark.parametrize(("told", "found"), [(3, []), (5, [("episode", "lift/demo.hdf5#num_demos", "count_mismatch")])])
def test_demos_that_the_file_counts_and_does_not_hold(
    folder: Path, told: int, found: list[tuple[str, str, str]]
) -> None:
    change(folder, lambda file: file["data"].attrs.__setitem__("num_demos", told))
    assert problems(folder) == found
    assert len(ids(folder)) == 3
