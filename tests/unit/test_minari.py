"""Minari: values against minari's and h5py's own reading, storages that agree, and bad sets refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError
from dataengine.fixtures.minari_writer import rows, write_minari
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot

MINARI = get_format("minari")
STORAGES = ("hdf5", "arrow", "parquet")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One nested set in every storage, with JPEG and without."""
    place = tmp_path_factory.mktemp("minari")
    for storage in STORAGES:
        write_minari(place / storage, storage)
        write_minari(place / f"{storage}_raw", storage, jpeg=False)
    return place


def episodes(folder: Path) -> list[RawEpisode]:
    root = SourceRoot(folder)
    found = list(MINARI.scan(root, None, {}))
    assert not [entry for entry in found if isinstance(entry, ScanProblem)]
    return [MINARI.read(root, entry) for entry in found if isinstance(entry, EpisodeRef)]


def problems(folder: Path) -> set[str]:
    """Reasons of a scan and of reading every episode that it found."""
    root, found = SourceRoot(folder), set()
    for entry in MINARI.scan(root, None, {}):
        if isinstance(entry, ScanProblem):
            found.add(entry.reason)
            continue
        try:
            MINARI.read(root, entry)
        except BadInput as error:
            found.add(error.reason)
    return found


def flat(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {name: part for key, inner in items for name, part in flat(inner, f"{path}/{key}").items()}


@pytest.mark.parametrize("storage", STORAGES)
def test_every_value_that_minari_was_given_comes_back(sets: Path, storage: str) -> None:
    for seed, episode in enumerate(episodes(sets / storage)):
        given = {}
        for name, value in rows(seed, (5, 3)[seed]).items():
            given |= flat(value, name)
        pixels = given.pop("observations/pixels")
        assert episode.texts == {"observations/mission": tuple(given.pop("observations/mission"))}
        assert set(episode.arrays) == set(given)
        for name, value in given.items():
            np.testing.assert_array_equal(episode.arrays[name], np.asarray(value), err_msg=name)
        shown = episode.media["observations/pixels"]
        assert (shown.codec, shown.frames) == ("jpeg", len(pixels))
        for number, picture in enumerate(pixels):
            assert np.abs(images.decode(shown.image(number)).astype(int) - picture).mean() < 8


@pytest.mark.parametrize("kind", ["", "_raw"])
def test_the_storages_of_one_set_agree_to_the_digest(sets: Path, kind: str) -> None:
    read = {storage: episodes(sets / f"{storage}{kind}") for storage in STORAGES}
    for storage in STORAGES[1:]:
        assert [one.raw_digest for one in read[storage]] == [one.raw_digest for one in read["hdf5"]]


def test_raw_pixels_stay_as_they_are(sets: Path) -> None:
    for seed, episode in enumerate(episodes(sets / "arrow_raw")):
        shown = episode.media["observations/pixels"]
        assert shown.codec == "png"
        for number, picture in enumerate(rows(seed, (5, 3)[seed])["observations"]["pixels"]):
            np.testing.assert_array_equal(images.decode(shown.image(number)), picture)


def test_real_files_hold_what_h5py_and_pyarrow_see(data: Path) -> None:
    folder = data / "simulation/minari"
    read = {episode.upstream_id: episode for episode in episodes(folder)}
    assert len(read) == 8
    with h5py.File(folder / "mujoco/reacher-scripted-v0/data/main_data.hdf5") as file:
        for name in ("observations", "actions", "rewards"):
            stored = file[f"episode_2/{name}"][()]
            np.testing.assert_array_equal(read["mujoco/reacher-scripted-v0#2"].arrays[name], stored)
    table = pa.ipc.open_file(folder / "mujoco/reacher-arrow-v0/data/1/part-0.arrow").read_all()
    episode = read["mujoco/reacher-arrow-v0#1"]
    assert table.num_rows == 51
    np.testing.assert_array_equal(episode.arrays["actions"], np.array(table["actions"].to_pylist(), np.float32)[:50])
    np.testing.assert_array_equal(episode.arrays["observations"], np.array(table["observations"].to_pylist()))


def test_the_torque_of_row_t_moves_the_joint_from_row_t_on(data: Path) -> None:
    """The converter's pairing: the last observation is no step, and an action shifted by one row would be seen."""
    root = SourceRoot(data / "simulation/minari/mujoco")
    ref = next(entry for entry in MINARI.scan(root, None, {}) if isinstance(entry, EpisodeRef))
    made = convert(MINARI.read(root, ref), Conversion.load("minari_reacher"))
    assert made.steps == 50
    assert made.notes == {"last_observation": 1}
    assert made.action is not None
    assert made.state is not None
    torque = made.action.values[:-1, 0]
    speed = made.native["observations"][:50, 6]
    change = np.diff(speed) + 0.0198 * speed[:-1]
    assert np.corrcoef(torque, change)[0, 1] > 0.9999
    assert np.corrcoef(torque[1:], change[:-1])[0, 1] < 0.6
    assert np.polyfit(torque, change, 1)[0] == pytest.approx(0.0198, abs=1e-4)


def edited(sets: Path, storage: str, tmp_path: Path) -> Path:
    place = tmp_path / storage
    shutil.copytree(sets / storage, place)
    return place


def metadata(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = place / "toy/nested-v0/data/metadata.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found.update(total_episodes=3), "count_mismatch"),
        (lambda found: found.update(data_format="zarr"), "unknown_storage"),
        (lambda found: found.update(observation_space="{"), "json_invalid"),
        (lambda found: found.update(action_space='{"type": "Graph"}'), "unknown_space"),
        (lambda found: found.update(action_space='{"type": "Box", "shape": [-2]}'), "bad_shape"),
        (lambda found: found.update(action_space='{"type": "Box", "shape": [2]}'), "unsupported"),
        (lambda found: found.update(action_space=7), "bad_type"),
    ],
)
def test_metadata_that_do_not_fit_are_told(
    sets: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    for storage in ("hdf5", "arrow"):
        place = edited(sets, storage, tmp_path)
        metadata(place, change)
        wanted = {"unsupported": {"hdf5": "missing_stream", "arrow": "bad_dtype"}}.get(reason, {}).get(storage, reason)
        assert problems(place) == {wanted}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda group: group.attrs.__setitem__("total_steps", 4), "length_mismatch"),
        (lambda group: group.attrs.__setitem__("total_steps", 0), "empty_episode"),
        (lambda group: group.attrs.__setitem__("id", 9), "wrong_episode"),
        (lambda group: group.__delitem__("rewards"), "missing_stream"),
        (lambda group: group["observations"].__delitem__("pixels"), "missing_stream"),
        (lambda group: group["observations/arm"].__setitem__("extra", h5py.SoftLink("/")), "soft_link"),
        (lambda group: group["observations/arm"].__setitem__("extra", h5py.ExternalLink("a", "/")), "external_link"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_alone(
    sets: Path, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    place = edited(sets, "hdf5", tmp_path)
    with h5py.File(place / "toy/nested-v0/data/main_data.hdf5", "a") as file:
        change(file["episode_0"])
    assert problems(place) == {reason}
    root = SourceRoot(place)
    assert [MINARI.read(root, ref).upstream_id for ref in list(MINARI.scan(root, None, {}))[1:]] == ["toy/nested-v0#1"]


def test_a_lost_episode_is_told_and_the_others_stay(sets: Path, tmp_path: Path) -> None:
    place = edited(sets, "arrow", tmp_path)
    before = {episode.upstream_id: episode.raw_digest for episode in episodes(sets / "arrow")}
    shutil.rmtree(place / "toy/nested-v0/data/0")
    found = list(MINARI.scan(SourceRoot(place), None, {}))
    assert [type(entry).__name__ for entry in found] == ["EpisodeRef", "ScanProblem"]
    left = MINARI.read(SourceRoot(place), found[0])
    assert left.raw_digest == before[left.upstream_id]


def test_a_set_with_a_cut_file_is_still_minari_and_hides_no_other(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "hdf5", tmp_path / "a_cut")
    cut = next((tmp_path / "a_cut").glob("**/main_data.hdf5"))
    cut.write_bytes(cut.read_bytes()[:2000])
    alone = MINARI.detect(SourceRoot(tmp_path), None)
    assert alone is not None
    assert alone.confidence == 0.6
    assert "unreadable_file" in alone.evidence[0]
    assert problems(tmp_path) == {"unreadable_file"}
    cut.unlink()
    assert problems(tmp_path) == {"missing_file"}
    shutil.copytree(sets / "hdf5_raw", tmp_path / "b_whole")
    beside = MINARI.detect(SourceRoot(tmp_path), None)
    assert beside is not None
    assert beside.confidence == 0.95


def test_a_row_behind_the_last_step_that_holds_something_is_data(sets: Path, tmp_path: Path) -> None:
    place = edited(sets, "arrow", tmp_path)
    path = place / "toy/nested-v0/data/0/part-0.arrow"
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as opened:
        table = opened.read_all()
    full = pa.array([1.0] * table.num_rows)
    table = table.set_column(table.column_names.index("rewards"), "rewards", full)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    assert problems(place) == {"bad_padding"}


def test_a_set_described_twice_is_read_once(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "hdf5", tmp_path / "one")
    shutil.copytree(sets / "arrow", tmp_path / "two")
    assert problems(tmp_path) == {"duplicate_name"}


def test_pictures_of_another_size_than_the_space_are_refused(sets: Path, tmp_path: Path) -> None:
    place = edited(sets, "hdf5", tmp_path)
    wide = images.encode(np.zeros((40, 50, 3), np.uint8), "jpeg")
    with h5py.File(place / "toy/nested-v0/data/main_data.hdf5", "a") as file:
        pixels = file["episode_0/observations"]
        count = len(pixels["pixels"])
        del pixels["pixels"]
        made = pixels.create_dataset("pixels", (count,), h5py.vlen_dtype(np.uint8))
        for number in range(count):
            made[number] = np.frombuffer(wide, np.uint8)
    root = SourceRoot(place)
    with pytest.raises(EpisodeError) as caught:
        MINARI.read(root, next(iter(MINARI.scan(root, None, {}))))
    assert caught.value.reason == "bad_shape"


def test_jpegs_of_one_length_are_a_table_of_bytes(sets: Path, tmp_path: Path) -> None:
    place = edited(sets, "hdf5", tmp_path)
    picture = images.encode(np.full((36, 40, 3), 90, np.uint8), "jpeg")
    with h5py.File(place / "toy/nested-v0/data/main_data.hdf5", "a") as file:
        observed = file["episode_0/observations"]
        count = len(observed["pixels"])
        del observed["pixels"]
        observed["pixels"] = np.tile(np.frombuffer(picture, np.uint8), (count, 1))
    shown = episodes(place)[0].media["observations/pixels"]
    assert [shown.image(number) for number in range(shown.frames)] == [picture] * 6


def test_other_json_beside_data_is_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"name": "something else"}')
    (tmp_path / "main_data.hdf5").write_bytes(b"")
    assert MINARI.detect(SourceRoot(tmp_path), None) is None
    assert list(MINARI.scan(SourceRoot(tmp_path), None, {})) == []


def test_metadata_that_lost_a_space_are_told(tmp_path: Path) -> None:
    write_minari(tmp_path / "one", "hdf5")
    path = next((tmp_path / "one").rglob("metadata.json"))
    metadata = json.loads(path.read_text())
    metadata["action_space_"] = metadata.pop("action_space")
    path.write_text(json.dumps(metadata))
    assert problems(tmp_path) == {"missing_key"}
    path.write_text(json.dumps({"title": "of something else"}))
    assert problems(tmp_path) == set()
