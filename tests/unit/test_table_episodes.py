"""Logs in tables: what a column is read as, columns side by side, videos beside, and reasons for what is not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine import video
from dataengine.convert import Conversion, convert
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.table_log_writer import TASKS, motion, write_csv_log, write_csv_table, write_parquet_log
from dataengine.formats.base import EpisodeRef, ScanProblem, get_format
from dataengine.formats.table_columns import side_by_side
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

FORMAT = get_format("table_episodes")


def read(path: Path, number: int = 0, **options: object):
    entry = list(FORMAT.scan(SourceRoot(path), None, options))[number]
    if isinstance(entry, ScanProblem):
        pytest.fail(entry.what)
    return FORMAT.read(SourceRoot(path), entry)


def reason(path: Path, **options: object) -> str:
    entry = next(iter(FORMAT.scan(SourceRoot(path), None, options)))
    if isinstance(entry, ScanProblem):
        return entry.reason
    with pytest.raises(BadInput) as caught:
        FORMAT.read(SourceRoot(path), entry)
    return caught.value.reason


def test_csv_with_its_video(tmp_path):
    write_csv_log(tmp_path)
    found = list(FORMAT.scan(SourceRoot(tmp_path), None, {}))
    assert [(ref.upstream_id, ref.files) for ref in found if isinstance(ref, EpisodeRef)] == [
        ("run_0.csv", ("run_0.csv", "run_0.mp4")),
        ("run_1.csv", ("run_1.csv", "run_1.mp4")),
    ]
    joints, commands, times = motion(1, 10)
    groups = {"q": [f"q_{k}" for k in range(6)]}
    episode = read(tmp_path, 1, groups=groups)
    assert np.array_equal(episode.arrays["q"], joints)
    assert np.array_equal(episode.arrays["cmd_3"], commands[:, 3])
    assert np.array_equal(episode.arrays["timestamp"], times)
    assert "q_0" not in episode.arrays
    assert (episode.arrays["estop"].dtype, episode.texts) == (np.bool_, {"task": (TASKS[1],) * 10})
    assert len(list(video.frames(episode.media["video"], range(10)))) == 10


def test_the_example_converter(tmp_path):
    write_csv_log(tmp_path)
    options = load_converter("own_csv_arm").format.options
    episode = convert(read(tmp_path, **options), Conversion.load("own_csv_arm"))
    assert (episode.steps, episode.views[0].name, {entry.text for entry in episode.language}) == (
        *(10, "wrist_right"),
        {TASKS[0]},
    )
    assert episode.action is not None
    assert episode.state is not None
    assert np.array_equal(episode.action.values[:-1], episode.state.values[1:])


def test_parquet(tmp_path):
    write_parquet_log(tmp_path)
    episode = read(tmp_path, 1)
    joints, commands, times = motion(1, 10)
    assert {name: (array.dtype.str, array.shape) for name, array in episode.arrays.items()} == {
        "time": ("<i8", (10,)),
        "q": ("<f8", (10, 6)),
        "q_target": ("<f4", (10, 6)),
        "force": ("<f8", (10,)),
        "step": ("<i4", (10,)),
    }
    assert np.array_equal(episode.arrays["q"], joints)
    assert np.array_equal(episode.arrays["q_target"], commands.astype(np.float32))
    assert np.array_equal(episode.arrays["time"], (times * 1e9).astype(np.int64))


def test_what_cells_are(tmp_path):
    """Empty cells are NaN and counted, whole numbers stay whole, and what is no number in one row is text in all."""
    text = "t,n,gap,word,code,flag\n0.0,1,2.5,a,007,True\n0.1,-2,,b,x,FALSE\n0.2,3,nan,,9,true\n"
    (tmp_path / "a.csv").write_text(text)
    episode = read(tmp_path)
    assert {name: array.dtype.str for name, array in episode.arrays.items()} == {
        "t": "<f8",
        "n": "<i8",
        "gap": "<f8",
        "flag": "|b1",
    }
    assert episode.texts == {"word": ("a", "b", ""), "code": ("007", "x", "9")}
    assert episode.attributes == {"missing": {"gap": 2, "word": 1}}
    assert read(tmp_path, leave_out=["word"]).attributes["unread"] == ["word"]


def test_times_in_nanoseconds_keep_every_digit(tmp_path):
    (tmp_path / "a.csv").write_text("t,id\n1403636579763555584,99999999999999999999\n1403636579763555585,1\n")
    episode = read(tmp_path)
    assert episode.arrays["t"].tolist() == [1403636579763555584, 1403636579763555585]
    assert episode.texts["id"] == ("99999999999999999999", "1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "empty_file"),
        ("t,a\n", "empty_episode"),
        ("t,a\n0,1\n1\n", "length_mismatch"),
        ("t,t\n0,1\n", "duplicate_column"),
        ('t,a\n0,"1\n', "csv_invalid"),
        ("name,word\na,b\n", "empty_episode"),
    ],
)
def test_bad_tables(tmp_path, text, found):
    (tmp_path / "a.csv").write_text(text)
    assert reason(tmp_path) == found


def test_bad_parquet(tmp_path):
    lists = pa.table({"t": [0.0, 1.0], "q": pa.array([[1.0, 2.0], [1.0]])})
    pq.write_table(lists, tmp_path / "a.parquet")
    assert reason(tmp_path) == "bad_shape"
    pq.write_table(pa.table({"t": [0.0, 1.0], "q": pa.array([[1.0], None])}), tmp_path / "a.parquet")
    assert reason(tmp_path) == "bad_shape"
    pq.write_table(pa.table({"t": [0.0, 1.0], "n": pa.array([1, None]), "s": [{"x": 1}] * 2}), tmp_path / "a.parquet")
    episode = read(tmp_path)
    assert (episode.attributes, episode.arrays["n"].dtype) == ({"missing": {"n": 1}, "unread": ["s"]}, np.float64)


def test_groups_and_videos_must_be_there(tmp_path):
    write_csv_log(tmp_path, episodes=1)
    assert reason(tmp_path, groups={"q": ["q_9"]}) == "missing_column"
    assert reason(tmp_path, groups={"q": ["task"]}) == "bad_type"
    assert reason(tmp_path, groups={"cmd_0": ["q_0"]}) == "duplicate_stream"
    assert reason(tmp_path, videos={"front": "{stem}_front.mp4"}) == "missing_media"
    assert reason(tmp_path, videos={"front": "../{stem}.mp4"}) in ("path_outside_root", "missing_media")
    (tmp_path / "run_0.mp4").write_bytes((tmp_path / "run_0.mp4").read_bytes()[:900])
    assert reason(tmp_path) == "video_unreadable"
    for options in ({"groups": ["q"]}, {"groups": {"q": []}}, {"videos": "a.mp4"}, {"columns": 1}):
        with pytest.raises(SpecError):
            list(FORMAT.scan(SourceRoot(tmp_path), None, options))


@pytest.mark.parametrize("text", ["name,label\na,b\n", "x,y,z\n1,2,3\n", "time,word\n0.1,a\n"])
def test_other_tables_are_not_claimed(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    assert FORMAT.detect(SourceRoot(tmp_path), None) is None


def test_many_episodes_in_one_table(tmp_path):
    """Each has its own rows and video; a table read as one that says it holds several is refused."""
    write_csv_table(tmp_path)
    options = {"episodes": "episode_index", "videos": {"video": "video/{episode}.mp4"}, "groups": {"q": ["q_0", "q_1"]}}
    found = list(FORMAT.scan(SourceRoot(tmp_path), None, options))
    assert [entry.upstream_id for entry in found] == ["all.csv#0", "all.csv#1", "all.csv#2"]
    assert found[1].files == ("all.csv", "video/1.mp4")
    joints, _, times = motion(1, 10)
    episode = read(tmp_path, 1, **options)
    assert np.array_equal(episode.arrays["q"], joints[:, :2])
    assert np.array_equal(episode.arrays["timestamp"], times)
    assert (set(episode.arrays["episode_index"].tolist()), episode.texts) == ({1}, {"task": (TASKS[1],) * 10})
    assert reason(tmp_path) == "several_episodes"
    assert len(read(tmp_path, leave_out=["episode_index"]).arrays["timestamp"]) == 30
    (tmp_path / "video/1.mp4").unlink()
    left = list(FORMAT.scan(SourceRoot(tmp_path), None, options))
    assert [getattr(entry, "reason", None) for entry in left] == [None, "missing_media", None]
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {
        "episodes": "episode_index",
        "groups": {name: [f"{name}_{joint}" for joint in range(6)] for name in ("q", "cmd")},
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".PARQUET"])
def test_rows_that_lie_apart_or_have_no_episode(tmp_path, suffix):
    values = ["a", "a", "b", None, "b", "c", "", "d", "d"]
    table = pa.table({"trial": values, "t": np.arange(9.0), "x": np.arange(9)})
    if suffix == ".csv":
        rows = [f"{value or ''},{row}.0,{row}" for row, value in enumerate(values)]
        (tmp_path / "all.csv").write_text("trial,t,x\n" + "\n".join(rows) + "\n")
    else:
        pq.write_table(table, tmp_path / f"all{suffix}")
    found = {entry.upstream_id: entry for entry in FORMAT.scan(SourceRoot(tmp_path), None, {"episodes": "trial"})}
    told = {name.partition("#")[2]: getattr(entry, "reason", None) for name, entry in found.items()}
    assert told == {"a": None, "b": "split_episode", "": "missing_value", "c": None, "d": None}
    last = FORMAT.read(SourceRoot(tmp_path), found[f"all{suffix}#d"])
    assert last.arrays["x"].tolist() == [7, 8]
    problems = list(FORMAT.scan(SourceRoot(tmp_path), None, {"episodes": "demo"}))
    assert [(entry.unit, entry.reason) for entry in problems] == [("file", "missing_column")]
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, {"episodes": ["trial"]}))


def test_names_that_say_what_belongs_together():
    names = [
        "joint1",
        "joint2",
        "joint10",
        "q[1]",
        "q[0]",
        "p.z",
        "p.x",
        "p.y",
        "r_w",
        "r_x",
        "r_y",
        "r_z",
        "f_x",
        "v0",
    ]
    assert side_by_side(names) == {
        "q": ["q[0]", "q[1]"],
        "p": ["p.x", "p.y", "p.z"],
        "r": ["r_x", "r_y", "r_z", "r_w"],
    }
    assert side_by_side(["a_1", "a_2", "a_3", "a"]) == {}
