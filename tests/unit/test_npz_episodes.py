"""Episodes in .npz: bit for bit what robosuite's own HDF5 holds, and bad archives refused with a reason."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dataengine import images
from dataengine.convert import Conversion, convert
from dataengine.episode import Episode, RawEpisode
from dataengine.errors import BadInput
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.storage import SourceRoot, root_and_files

FORMAT = get_format("npz_episodes")
LIFT = "simulation/robosuite_1.5.2_lift"


class Payload:
    """An object whose unpickling would call something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def episodes(path: Path) -> list[RawEpisode]:
    root, only = root_and_files(path)
    found = list(FORMAT.scan(root, only, {}))
    assert not [entry for entry in found if isinstance(entry, ScanProblem)]
    return [FORMAT.read(root, entry) for entry in found if isinstance(entry, EpisodeRef)]


def converted(converter: str, path: Path) -> Episode:
    made = Conversion.load(converter)
    root, only = root_and_files(path)
    reader = get_format(made.converter.format.name)
    ref = next(iter(reader.scan(root, only, made.converter.format.options)))
    assert isinstance(ref, EpisodeRef)
    return convert(reader.read(root, ref), made)


def test_the_raw_recording_is_demo_1_bit_for_bit(data: Path) -> None:
    (episode,) = episodes(data / LIFT / "datacollection_npz")
    with h5py.File(data / LIFT / "demo.hdf5") as file:
        demo = file["data/demo_1"]
        assert episode.arrays["states"].shape == (101, 32)
        np.testing.assert_array_equal(episode.arrays["states"][:100], demo["states"][()])
        np.testing.assert_array_equal(episode.arrays["action_infos/actions"], demo["actions"][()])
    assert episode.attributes["env"] == "Lift"
    assert episode.attributes["successful"] is True
    assert episode.attributes["ep_meta"] == {}


def test_both_converters_of_the_recording_make_the_same_numbers(data: Path) -> None:
    hdf5 = converted("robosuite_lift_152", data / LIFT / "demo.hdf5")
    npz = converted("robosuite_lift_npz", data / LIFT / "datacollection_npz")
    for side in ("state", "action"):
        one, two = getattr(hdf5, side), getattr(npz, side)
        np.testing.assert_array_equal(one.channels, two.channels)
        np.testing.assert_array_equal(one.values, two.values)
        np.testing.assert_array_equal(one.mask, two.mask)
    np.testing.assert_array_equal(hdf5.times_ns, npz.times_ns)


def test_an_archive_holds_what_numpy_sees(data: Path) -> None:
    path = data / "simulation/gym_aloha/transfer_cube_50steps.npz"
    (episode,) = episodes(path)
    with np.load(path) as stored:
        for name in ("action", "agent_pos"):
            np.testing.assert_array_equal(episode.arrays[name], stored[name])
            assert episode.arrays[name].dtype == stored[name].dtype
        top = episode.media["top"]
        assert (top.frames, top.height, top.width) == (10, 120, 160)
        np.testing.assert_array_equal(images.decode(top.image(7)), stored["top"][7])


def test_the_action_of_a_step_is_the_one_behind_its_observation(data: Path) -> None:
    """The file's row t was observed after action t; unshifted, the wrist would be where it is told to go already."""
    made = converted("gym_aloha_transfer_cube", data / "simulation/gym_aloha")
    assert made.action is not None
    stored = made.native["action"]
    np.testing.assert_array_equal(made.action.mask.all(axis=1), np.arange(50) < 49)
    right = made.action.columns(0, 6)
    np.testing.assert_array_equal(made.action.values[:49, right], stored[1:, 7:13])
    moved = np.diff(made.native["agent_pos"][:, 5])
    assert moved[0] > 0.017
    assert stored[0, 5] == 0.0
    assert stored[1, 5] == pytest.approx(0.02, abs=1e-4)


def write_parts(folder: Path, parts: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        given = {"env": "Lift", "successful": False, **part}
        np.savez(folder / f"state_170000000{number}_5.npz", **given)
    return folder


def steps(start: int, rows: int, infos: int | None = None, width: int = 4) -> dict[str, Any]:
    states = np.zeros((rows, width))
    states[:, 0] = np.arange(start, start + rows) * 0.05
    count = rows if infos is None else infos
    made = np.empty(count, object)
    for row in range(count):
        made[row] = {"actions": np.full(2, start + row, np.float64)}
    return {"states": states, "action_infos": made}


def reason(folder: Path) -> str:
    root = SourceRoot(folder)
    (entry,) = list(FORMAT.scan(root, None, {}))
    if isinstance(entry, ScanProblem):
        return entry.reason
    with pytest.raises(BadInput) as caught:
        FORMAT.read(root, entry)
    return caught.value.reason


EMPTY = {"states": np.zeros(0), "action_infos": np.zeros(0)}


def test_parts_are_joined_in_the_order_of_their_clock(tmp_path: Path) -> None:
    write_parts(tmp_path / "ep", [steps(0, 4, 3), {**steps(4, 3), "successful": True}, EMPTY])
    (episode,) = episodes(tmp_path)
    assert episode.upstream_id == "ep"
    np.testing.assert_allclose(episode.arrays["states"][:, 0], np.arange(7) * 0.05)
    np.testing.assert_array_equal(episode.arrays["action_infos/actions"][:, 0], [0, 1, 2, 4, 5, 6])
    assert episode.attributes["successful"] is True


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([EMPTY], "empty_episode"),
        ([steps(0, 4, 4)], "length_mismatch"),
        ([steps(0, 4, 2)], "length_mismatch"),
        ([steps(5, 4, 3), steps(0, 2)], "rows_out_of_order"),
        ([steps(0, 4, 3), steps(4, 2, width=5)], "bad_shape"),
        ([{**steps(0, 4, 3), "env": "Stack"}, steps(4, 2)], "bad_value"),
        ([{**steps(0, 4, 3), "env": np.array(1.0)}], "bad_type"),
        ([{**steps(0, 4, 3), "successful": "yes"}], "bad_type"),
        ([{"states": steps(0, 4)["states"], "action_infos": np.zeros((3, 2))}], "bad_type"),
        ([{**steps(0, 4, 3), "states": np.zeros(4)}], "bad_shape"),
        ([{"states": np.zeros((2, 3))}], "missing_key"),
        ([{**steps(0, 2, 1), "action_infos": np.array([{"actions": "up"}], object)}], "bad_type"),
        ([{**steps(0, 2, 1), "action_infos": np.array([{}], object)}], "bad_type"),
        ([{**steps(0, 2, 1), "action_infos": np.array([Payload()], object)}], "unsafe_pickle"),
        ([{**steps(0, 2, 1), "states": np.array([Payload()], object)}], "object_dtype"),
    ],
)
def test_a_bad_recording_is_refused_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: list[dict[str, Any]], expected: str
) -> None:
    write_parts(tmp_path / "ep", parts)
    assert reason(tmp_path) == expected
    assert capsys.readouterr().out == ""


def test_a_bad_file_beside_the_parts_spoils_its_episode_alone(tmp_path: Path) -> None:
    write_parts(tmp_path / "a", [steps(0, 4, 3)])
    write_parts(tmp_path / "b", [steps(0, 4, 3)])
    (tmp_path / "a" / "ep_meta.json").write_text("[1]")
    root = SourceRoot(tmp_path)
    first, second = [entry for entry in FORMAT.scan(root, None, {}) if isinstance(entry, EpisodeRef)]
    with pytest.raises(BadInput) as caught:
        FORMAT.read(root, first)
    assert caught.value.reason == "bad_type"
    assert FORMAT.read(root, second).upstream_id == "b"


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_what_an_archive_has_beside_its_rows_is_kept_or_named(tmp_path: Path) -> None:
    objects = np.array([Payload()], object)
    data = archive(
        actions=np.zeros((3, 2)),
        qpos=np.ones((4, 2)),
        reward=2.5,
        task="lift",
        seed=7,
        infos=objects,
        names=np.array(["a"]),
    )
    (tmp_path / "one.npz").write_bytes(data)
    (tmp_path / "other.npz").write_bytes(archive(weights=np.zeros((3, 2))))
    (episode,) = episodes(tmp_path)
    assert episode.attributes == {"reward": 2.5, "task": "lift", "seed": 7, "unread": ["infos", "names"]}
    assert set(episode.arrays) == {"actions", "qpos"}


def test_an_archive_named_by_itself_must_hold_actions(tmp_path: Path) -> None:
    (tmp_path / "other.npz").write_bytes(archive(weights=np.zeros((3, 2))))
    root, only = root_and_files(tmp_path / "other.npz")
    (entry,) = list(FORMAT.scan(root, only, {}))
    assert isinstance(entry, ScanProblem)
    assert entry.reason == "missing_key"
    assert FORMAT.detect(root, only) is None


def test_an_archive_that_lost_its_actions_is_told_beside_others(tmp_path: Path) -> None:
    rows = np.zeros((4, 2))
    (tmp_path / "a.npz").write_bytes(archive(action=rows, qpos=rows))
    (tmp_path / "b.npz").write_bytes(archive(qpos=rows))
    (tmp_path / "c.npz").write_bytes(archive(action=rows, qpos=rows[:2]))
    (tmp_path / "statistics.npz").write_bytes(archive(mean=np.zeros(2)))
    found = list(FORMAT.scan(SourceRoot(tmp_path), None, {}))
    assert [entry.upstream_id for entry in found if isinstance(entry, EpisodeRef)] == ["a.npz"]
    told = [(entry.upstream_id, entry.reason) for entry in found if isinstance(entry, ScanProblem)]
    assert told == [("b.npz", "missing_key"), ("c.npz", "missing_key")]


def test_the_folder_with_the_hdf5_stays_robomimics(data: Path, tmp_path: Path) -> None:
    root = SourceRoot(data / LIFT)
    ours, theirs = FORMAT.detect(root, None), get_format("robomimic").detect(root, None)
    assert ours is not None
    assert theirs is not None
    assert ours.confidence < theirs.confidence
    shutil.copytree(data / LIFT / "datacollection_npz", tmp_path / "npz")
    assert get_format("robomimic").detect(SourceRoot(tmp_path), None) is None
