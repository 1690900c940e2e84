"""HDF5 logs of any tree: which groups are episodes, what a data set is read as, and reasons for what is not read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from dataengine import api, images
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.hdf5_log_writer import TASKS, write_arm, write_arm_groups
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.lake import Lake
from dataengine.storage import SourceRoot

FORMAT = get_format("hdf5_episodes")
REPO = Path(__file__).resolve().parents[2]


def names(path: Path, **options: object) -> list[str]:
    return [entry.upstream_id for entry in FORMAT.scan(SourceRoot(path), None, options)]


def read(path: Path, number: int = 0, **options: object):
    entry = list(FORMAT.scan(SourceRoot(path), None, options))[number]
    assert isinstance(entry, EpisodeRef), entry
    return FORMAT.read(SourceRoot(path), entry)


def test_a_file_an_episode(tmp_path):
    write_arm(tmp_path)
    assert names(tmp_path) == ["run_000.h5", "run_001.h5"]
    episode = read(tmp_path, 1)
    with h5py.File(tmp_path / "run_001.h5") as file:
        for name in ("time", "robot/joint_positions", "robot/gripper_opening", "command/joint_positions"):
            assert episode.arrays[name].dtype == file[name].dtype
            assert np.array_equal(episode.arrays[name], file[name][()])
        frames = file["camera/wrist"][()]
    shown = episode.media["camera/wrist"]
    assert all(np.array_equal(images.decode(shown.image(row)), frame) for row, frame in enumerate(frames))
    assert (episode.texts, episode.attributes) == ({"@task": (TASKS[1],)}, {"@operator_id": 1})


def test_numbered_groups_are_episodes(tmp_path):
    write_arm_groups(tmp_path, episodes=11)
    found = names(tmp_path)
    assert found == [f"session.hdf5#episode_{number}" for number in range(11)], "in the order of the numbers"
    assert names(tmp_path, episodes="episode_1*") == ["session.hdf5#episode_1", "session.hdf5#episode_10"]
    assert names(tmp_path, episodes="file") == ["session.hdf5"]
    episode = read(tmp_path, 1)
    assert episode.texts == {"/@robot": ("ur5e",), "instruction": (TASKS[1],)}
    assert episode.attributes == {"@success": False}
    assert (episode.media["wrist_jpeg"].codec, episode.media["wrist_jpeg"].frames) == ("jpeg", 10)
    assert sorted(episode.arrays) == ["force", "q", "q_target", "t"]


def test_groups_below_a_group(tmp_path):
    """As robomimic's `data/demo_*`; data of the file beside them would be lost, so then the file is the episode."""
    write_arm_groups(tmp_path, episodes=2)
    with h5py.File(tmp_path / "session.hdf5") as old, h5py.File(tmp_path / "nested.hdf5", "w") as new:
        for name in old:
            old.copy(name, new.require_group("runs"))
    (tmp_path / "session.hdf5").unlink()
    assert names(tmp_path) == ["nested.hdf5#runs/episode_0", "nested.hdf5#runs/episode_1"]
    assert names(tmp_path, episodes="*/episode_0") == ["nested.hdf5#runs/episode_0"]
    with h5py.File(tmp_path / "nested.hdf5", "a") as file:
        file["clock"] = np.arange(10.0)
    assert names(tmp_path) == ["nested.hdf5"]


def test_the_example_converter(tmp_path):
    write_arm(tmp_path)
    episode = convert(read(tmp_path, episodes="file", pictures="jpeg"), Conversion.load("own_hdf5_arm"))
    assert (episode.steps, episode.views[0].name, episode.language[0].text) == (12, "wrist_right", TASKS[0])
    assert episode.action is not None
    assert episode.state is not None
    assert np.array_equal(episode.action.values[:-1], episode.state.values[1:]), "targets are reached in the next row"


def test_what_is_not_read_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(4.0)
        file["depth"] = np.zeros((4, 3, 3), np.float32)
        file["pairs"] = np.zeros(4, [("a", "f4"), ("b", "i4")])
        file["blobs"] = np.zeros((4, 9), np.uint8)
        file["notes"] = ["a", "b", "c", "d"]
        file["limit"], file["gone"] = 3.5, np.nan
    episode = read(tmp_path, leave_out=["dep*"])
    assert episode.attributes == {"limit": 3.5, "unread": ["depth", "gone", "pairs"]}
    assert episode.texts == {"notes": ("a", "b", "c", "d")}
    assert sorted(episode.arrays) == ["blobs", "x"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.create_dataset("t", data=b"\xff\xfe"), "invalid_utf8"),
        (lambda file: file.__setitem__("l", h5py.ExternalLink("b.h5", "/x")), "external_link"),
        (lambda file: file.__setitem__("l", h5py.SoftLink("/x")), "soft_link"),
        (lambda file: file.create_dataset("big", (1 << 40,), np.uint8, chunks=(1 << 20,)), "claimed_size"),
        (lambda file: file.__delitem__("x"), "empty_episode"),
    ],
)
def test_bad_files(tmp_path, spoil, reason):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(4.0)
        spoil(file)
    (entry,) = FORMAT.scan(SourceRoot(tmp_path), None, {})
    if isinstance(entry, ScanProblem):
        assert entry.reason == reason
        return
    with pytest.raises(BadInput) as caught:
        FORMAT.read(SourceRoot(tmp_path), entry)
    assert caught.value.reason == reason


def test_options(tmp_path):
    write_arm_groups(tmp_path)
    (problem,) = FORMAT.scan(SourceRoot(tmp_path), None, {"episodes": "trial_*"})
    assert isinstance(problem, ScanProblem)
    assert problem.reason == "missing_key"
    for options in ({"episodes": 3}, {"episodes": "/"}, {"pictures": "gif"}, {"groups": "x"}):
        with pytest.raises(SpecError):
            list(FORMAT.scan(SourceRoot(tmp_path), None, options))


def test_from_a_log_to_the_lake_without_code(tmp_path):
    """`inspect --spec` drafts a converter for it; the answers are YAML."""
    write_arm(tmp_path / "logs", episodes=3)
    draft = tmp_path / "mine.yaml"
    api.inspect(tmp_path / "logs", spec=draft)
    document = yaml.safe_load(draft.read_text())
    assert [entry["array"] for entry in document["action"]] == ["command/joint_positions"]
    assert document["language"][0]["stream"] == "@task"
    known = yaml.safe_load((REPO / "converters/robot/own_hdf5_arm.yaml").read_text())
    document |= {key: known[key] for key in ("source", "embodiment", "control_mode", "time")}
    document["source"]["name"] = document["name"]
    for side in ("state", "action"):
        entries = [entry for entry in document[side] if "joint" in entry["array"]]
        document[side] = [entry | known[side][0] for entry in entries]
    document["views"], document["language"] = known["views"], known["language"]
    draft.write_text(yaml.safe_dump(document))
    report = api.ingest(tmp_path / "logs", str(draft), tmp_path / "lake", workers=1)
    assert (report.added, report.failures) == (3, [])
    assert {head.steps for head in Lake(tmp_path / "lake").heads()} == {12}
