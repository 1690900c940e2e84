"""Logs in JSON, and pictures beside tables: what keys become, which pictures belong to a row, reasons for refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import images, video
from dataengine.convert import Conversion, convert
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, SpecError
from dataengine.fixtures.table_log_writer import TASKS, motion, write_csv_log, write_json_log, write_npy_log
from dataengine.formats.base import ScanProblem, get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

FORMAT = get_format("table_episodes")
FRONT = {"front": "front/*.jpg"}


def read(path: Path, number: int = 0, **options: Any) -> RawEpisode:
    entry = list(FORMAT.scan(SourceRoot(path), None, options))[number]
    if isinstance(entry, ScanProblem):
        pytest.fail(f"{entry.reason}: {entry.what}")
    return FORMAT.read(SourceRoot(path), entry)


def reason(path: Path, **options: Any) -> str:
    entry = next(iter(FORMAT.scan(SourceRoot(path), None, options)))
    if isinstance(entry, ScanProblem):
        return entry.reason
    with pytest.raises(BadInput) as caught:
        FORMAT.read(SourceRoot(path), entry)
    return caught.value.reason


def log(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix.lower() != ".json"
    path.write_text("\n".join(map(json.dumps, document)) if lines else json.dumps(document))
    return path.parent


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode(np.full((16, 24, 3), shade, np.uint8), "png"))


def shades(raw: RawEpisode, name: str) -> list[int]:
    media = raw.media[name]
    return [int(images.decode(media.image(row))[0, 0, 0]) for row in range(media.frames)]


def test_steps_in_an_object(tmp_path: Path) -> None:
    write_json_log(tmp_path)
    raw = read(tmp_path, 1, images=FRONT)
    joints, commands, times = motion(1, 6)
    assert np.array_equal(raw.arrays["state/q"], joints)
    assert np.array_equal(raw.arrays["command"], commands)
    assert np.array_equal(raw.arrays["t"], times)
    assert np.array_equal(raw.arrays["state/load"], [0, np.nan, 1, 1.5, 2, 2.5], equal_nan=True)
    assert raw.arrays["stopped"].dtype == np.bool_
    assert raw.texts["instruction"] == (TASKS[1],)
    assert raw.attributes == {
        "recorder": {"version": 3, "hz": 20},
        "instruction": TASKS[1],
        "missing": {"state/load": 1},
    }
    assert (raw.media["front"].codec, raw.media["front"].frames) == ("jpeg", 6)


def test_pictures_that_steps_name_are_those_of_the_folder(tmp_path: Path) -> None:
    write_json_log(tmp_path)
    by_folder, by_name = read(tmp_path, images=FRONT), read(tmp_path, images={"front": {"column": "picture"}})
    assert by_folder.media["front"].digest == by_name.media["front"].digest
    assert "picture" in by_folder.texts
    assert "picture" not in by_name.texts
    assert {file.path for file in by_name.files} == {file.path for file in by_folder.files}


def test_the_example_converter(tmp_path: Path) -> None:
    write_json_log(tmp_path)
    options = load_converter("own_json_arm").format.options
    episode = convert(read(tmp_path, **options), Conversion.load("own_json_arm"))
    assert (episode.steps, episode.views[0].name, {entry.text for entry in episode.language}) == (
        6,
        "front",
        {TASKS[0]},
    )
    assert episode.action is not None
    assert episode.state is not None
    assert np.array_equal(episode.action.values[:-1], episode.state.values[1:])


ROWS = [{"t": 0.1 * row, "q": [row, 2.0], "note": "a"} for row in range(4)]


@pytest.mark.parametrize(
    ("name", "document", "options"),
    [
        ("a.json", ROWS, {}),
        ("a.jsonl", ROWS, {}),
        ("a.ndjson", ROWS, {}),
        ("A.JSON", {"meta": {"robot": "arm"}, "trajectory": {"steps": ROWS}}, {}),
        ("a.json", {"cameras": [{"name": "left"}], "steps": ROWS}, {"rows": "steps"}),
        ("a.json", {"joints": ["a", "b"], **{key: [row[key] for row in ROWS] for key in ROWS[0]}}, {}),
        (
            "a.json",
            {"home": [0.0, 1.0, 2.0], **{key: [row[key] for row in ROWS] for key in ROWS[0]}},
            {"leave_out": ["home"]},
        ),
    ],
)
def test_places_of_rows(tmp_path: Path, name: str, document: Any, options: dict[str, Any]) -> None:
    raw = read(log(tmp_path / name, document), **options)
    assert np.array_equal(raw.arrays["q"], [[0, 2], [1, 2], [2, 2], [3, 2]])
    assert np.allclose(raw.arrays["t"], [0, 0.1, 0.2, 0.3])
    assert raw.texts["note"] == ("a",) * 4


def test_what_values_are(tmp_path: Path) -> None:
    common = {"odd": {}, "names": ["a"]}
    rows = [
        {"t": 0, "whole": 1, "gap": 1.5, "late": None, "flag": True, "maybe": True, "n": {"m": [[1, 2]]}},
        {"t": 1, "whole": -2, "gap": float("nan"), "late": "x", "flag": False, "maybe": None, "n": {"m": [[3, 4]]}},
    ]
    rows = [row | common for row in rows]
    raw = read(log(tmp_path / "a.jsonl", rows))
    assert {name: (array.dtype.str, array.shape) for name, array in raw.arrays.items()} == {
        "t": ("<i8", (2,)),
        "whole": ("<i8", (2,)),
        "gap": ("<f8", (2,)),
        "flag": ("|b1", (2,)),
        "n/m": ("<i8", (2, 1, 2)),
    }
    assert raw.texts == {"late": ("", "x")}
    assert raw.attributes == {"missing": {"gap": 1, "late": 1}, "unread": ["maybe", "names", "odd"]}


def test_episodes_told_apart_by_a_key(tmp_path: Path) -> None:
    rows = [{"t": row, "q": row, "episode": row // 2} for row in range(6)]
    log(tmp_path / "all.jsonl", rows)
    found = list(FORMAT.scan(SourceRoot(tmp_path), None, {"episodes": "episode"}))
    assert [entry.upstream_id for entry in found if not isinstance(entry, ScanProblem)] == [
        f"all.jsonl#{number}" for number in range(3)
    ]
    assert read(tmp_path, 1, episodes="episode").arrays["q"].tolist() == [2, 3]
    assert reason(tmp_path) == "several_episodes"


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("", {}, "empty_file"),
        ("[]", {}, "empty_episode"),
        ("{", {}, "json_invalid"),
        ("3", {}, "no_table"),
        ('{"name": "arm"}', {}, "no_table"),
        ('[{"t": 0}, 3]', {}, "not_an_object"),
        ('[{"t": 0, "t": 1}]', {}, "json_duplicate_key"),
        ('{"a": [{"t": 0}], "b": [{"t": 1}]}', {}, "several_tables"),
        ('{"a": [{"t": 0}]}', {"rows": "b"}, "missing_key"),
        ('{"t": [0, 1, 2], "q": [0, 1]}', {}, "length_mismatch"),
        ('[{"t": 0, "q": [1, 2]}, {"t": 1, "q": [1]}]', {}, "bad_shape"),
        ('[{"t": 0, "q": [1, 2]}, {"t": 1}]', {}, "bad_shape"),
        ('[{"t": 0, "q": [1, null]}]', {}, "bad_value"),
        ('[{"t": 0, "q": 1}, {"t": 1, "q": "one"}]', {}, "bad_type"),
        ('[{"t": 99999999999999999999}]', {}, "bad_value"),
        ('[{"t": 0, "q": [99999999999999999999]}]', {}, "bad_value"),
        ('[{"t": 0, "q": [18446744073709551615]}]', {}, "bad_value"),
        ('[{"t": 0}]', {"leave_out": ["q"]}, "missing_column"),
        ('[{"t": 0}]', {"episodes": "q"}, "missing_column"),
        ('[{"t": 0, "note": "\\ud800"}]', {}, "bad_text"),
        ('{"unread": 1, "steps": [{"t": 0}]}', {}, "name_conflict"),
    ],
)
def test_bad_logs(tmp_path: Path, text: str, options: dict[str, Any], found: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert reason(tmp_path, **options) == found


def test_keys_without_end_are_refused(tmp_path: Path) -> None:
    """A row a key: the table would be the square of the file."""
    log(tmp_path / "a.json", [{f"key_{row}": row} for row in range(9000)])
    assert reason(tmp_path) == "claimed_size"


def test_comments_without_end_take_no_quadratic_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("#\n" * 300_000 + "t,q\n0,1\n")
    assert read(tmp_path).arrays["q"].tolist() == [1]


def test_pictures_whose_names_are_times(tmp_path: Path) -> None:
    write_csv_log(tmp_path / "logs", episodes=1)
    (tmp_path / "logs/run_0.mp4").unlink()
    for row in range(5):
        picture(tmp_path / f"logs/run_0/rgb/{1_772_000_000_000_000_000 + row * 100_000_000}.png", row)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options["images"] == {"rgb": {"files": "{stem}/rgb/*.png", "times": "ns"}}
    media = read(tmp_path, images=detected.options["images"]).media["rgb"]
    assert (media.times_ns - 1_772_000_000_000_000_000).tolist() == [row * 100_000_000 for row in range(5)]
    (tmp_path / "logs/run_0/rgb/1772000000000000000.png").rename(tmp_path / "logs/run_0/rgb/first.png")
    assert reason(tmp_path, images=detected.options["images"]) == "bad_timestamp"


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_units_of_times_in_names(tmp_path: Path, unit: str) -> None:
    log(tmp_path / "a.json", ROWS)
    names = {"s": "1305031102.175304", "ms": "1305031102175"}
    picture(tmp_path / f"rgb/x_{names[unit]}.png", 1)
    media = read(tmp_path, images={"rgb": {"files": "rgb/*", "times": unit}}).media["rgb"]
    assert media.times_ns.tolist() == [1305031102175304000 if unit == "s" else 1305031102175000000]


def test_folders_of_pictures_are_proposed(tmp_path: Path) -> None:
    for number in range(2):
        log(tmp_path / f"run_{number}/steps.json", ROWS)
        for camera in ("cam_left", "cam_right"):
            for row in range(4):
                picture(tmp_path / f"run_{number}/{camera}/{row}.png", 10 * row)
        picture(tmp_path / f"run_{number}/thumbs/0.png", 0)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {"images": {"cam_left": "cam_left/*.png", "cam_right": "cam_right/*.png"}}
    assert shades(read(tmp_path, 1, **detected.options), "cam_right") == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("videos", "proposed"),
    [
        (["run_0/log.mp4"], None),
        (["run_0/left.mp4", "run_0/right.mp4"], {"left": "left.mp4", "right": "right.mp4"}),
        (["run_0/videos/top.mp4", "run_1/videos/top.mp4"], {"top": "videos/top.mp4"}),
        (["run_0/log_front.mp4"], {"front": "{stem}_front.mp4"}),
    ],
)
def test_videos_are_proposed(tmp_path: Path, videos: list[str], proposed: dict[str, str] | None) -> None:
    for number in range(2):
        log(tmp_path / f"run_{number}/log.json", ROWS)
    for name in videos:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(video.encode([np.zeros((64, 64, 3), np.uint8)] * 4, 20, gop=5))
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options.get("videos") == proposed
    assert set(read(tmp_path, **detected.options).media) == set(proposed or {"video": ""})


def test_videos_of_several_tables_in_one_folder(tmp_path: Path) -> None:
    for number in range(2):
        log(tmp_path / f"ep{number}.json", ROWS)
        for camera in ("a", "b"):
            at = tmp_path / f"videos/ep{number}/{camera}.mp4"
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(video.encode([np.full((64, 64, 3), 40 * number, np.uint8)] * 4, 20, gop=5))
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options["videos"] == {"a": "videos/{stem}/a.mp4", "b": "videos/{stem}/b.mp4"}
    assert [sorted(read(tmp_path, number, **detected.options).media) for number in range(2)] == [["a", "b"]] * 2


def write_run(folder: Path, start: float, rows: int = 6) -> None:
    """Tables of their own rates, pictures whose names are times, and a word about the run."""
    folder.mkdir(parents=True)
    clock = [start + row / 10 for row in range(rows)]
    (folder / "joints.csv").write_text("time,q0,q1\n" + "".join(f"{t!r},{t - start},2\n" for t in clock))
    fast = [start + row / 20 for row in range(2 * rows)]
    (folder / "commands.csv").write_text("time,cmd_0,cmd_1\n" + "".join(f"{t!r},{t - start},3\n" for t in fast))
    (folder / "meta.json").write_text(json.dumps({"task": "stack", "operator": 7}))
    for row in range(rows):
        picture(folder / f"rgb/{round(clock[row] * 1000)}.png", 10 * row)


def test_folders_of_tables(tmp_path: Path) -> None:
    for number in range(2):
        write_run(tmp_path / f"run_{number}", 1_772_000_000.0 + 60 * number)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {
        "folders": "*",
        "groups": {
            "commands/cmd": ["commands/cmd_0", "commands/cmd_1"],
            "joints/q": ["joints/q0", "joints/q1"],
        },
        "images": {"rgb": {"files": "rgb/*.png", "times": "ms"}},
    }
    raw = read(tmp_path, 1, **detected.options)
    assert raw.upstream_id == "run_1"
    assert {name: array.shape for name, array in raw.arrays.items()} == {
        "joints/time": (6,),
        "joints/q": (6, 2),
        "commands/time": (12,),
        "commands/cmd": (12, 2),
    }
    assert np.array_equal(raw.media["rgb"].times_ns, np.rint(raw.arrays["joints/time"] * 1e3).astype(np.int64) * 10**6)
    assert (raw.texts, raw.attributes) == ({"meta/task": ("stack",)}, {"meta": {"task": "stack", "operator": 7}})
    assert {file.path for file in raw.files} >= {"run_1/joints.csv", "run_1/commands.csv", "run_1/meta.json"}
    inside = FORMAT.detect(SourceRoot(tmp_path / "run_0"), None)
    assert inside is not None
    assert inside.options == {**detected.options, "folders": "."}
    assert read(tmp_path / "run_0", **inside.options).upstream_id == "log"
    left = read(tmp_path, **{**detected.options, "leave_out": ["joints/time"]})
    assert ("joints/time" in left.arrays, left.attributes["unread"]) == (False, ["joints/time"])


def test_words_beside_a_table(tmp_path: Path) -> None:
    """An instruction in a file of its own makes the folder the episode."""
    for number in range(2):
        log(tmp_path / f"run_{number}/steps.json", ROWS)
        log(tmp_path / f"run_{number}/meta.json", {"task": "stack", "cameras": ["a"]})
        log(
            tmp_path / f"run_{number}/camera.json", {"K": [[9.0, 0, 4], [0, 9, 4], [0, 0, 1]], "distortion": [0.1, 0.2]}
        )
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {"folders": "*"}
    raw = read(tmp_path, 1, folders="*")
    assert (raw.upstream_id, raw.texts["meta/task"], raw.arrays["steps/q"].shape) == ("run_1", ("stack",), (4, 2))
    assert raw.attributes["camera"]["distortion"] == [0.1, 0.2]
    log(tmp_path / "run_1/camera.json", {"time": [0.0, 0.1, 0.2], "exposure": [1.0, 2.0]})
    assert "length_mismatch" in {reason(tmp_path / "run_1", folders=".")}


def test_folders_of_arrays(tmp_path: Path) -> None:
    write_npy_log(tmp_path)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert (detected.layout, detected.options) == ("npy_log", {"folders": "*"})
    raw = read(tmp_path, 1, folders="*")
    joints, commands, times = motion(1, 6)
    assert {name: array.dtype.str for name, array in raw.arrays.items()} == {"t": "<f8", "q": "<f8", "cmd": "<f4"}
    assert np.array_equal(raw.arrays["q"], joints)
    assert np.array_equal(raw.arrays["cmd"], commands.astype(np.float32))
    assert np.array_equal(raw.arrays["t"], times)
    assert images.decode(raw.media["rgb"].image(2))[30, 12].tolist() == [210, 40, 30]
    assert (raw.media["rgb"].codec, read(tmp_path, 1, folders="*", pictures="jpeg").media["rgb"].codec) == (
        "png",
        "jpeg",
    )
    assert (raw.texts["meta/task"], raw.attributes["meta"]["hz"]) == ((TASKS[1],), 20)
    assert read(tmp_path, 1, folders="*", leave_out=["cmd"]).attributes["unread"] == ["cmd"]


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("words", np.array(["a", "b"]), None),
        ("hz", np.array(20.0), None),
        ("z", np.zeros(3, np.complex64), "unsupported_dtype"),
        ("objects", np.array([{"a": 1}], dtype=object), "object_dtype"),
        ("cut", None, "truncated"),
    ],
)
def test_arrays_of_other_kinds(tmp_path: Path, name: str, values: Any, found: str | None) -> None:
    write_npy_log(tmp_path, episodes=1)
    np.save(tmp_path / f"run_0/{name}.npy", np.zeros(3) if values is None else values, allow_pickle=True)
    if values is None:
        (tmp_path / f"run_0/{name}.npy").write_bytes((tmp_path / f"run_0/{name}.npy").read_bytes()[:-4])
    if found is not None:
        assert reason(tmp_path, folders="*") == found
        return
    raw = read(tmp_path, folders="*")
    assert (raw.texts.get("words"), raw.attributes.get("hz")) == (
        (("a", "b"), None) if name == "words" else (None, 20.0)
    )


def test_archives_of_arrays(tmp_path: Path) -> None:
    joints, commands, times = motion(0, 6)
    pixels = np.full((6, 16, 24, 3), 7, np.uint8)
    odd = np.array([{"a": 1}], dtype=object)
    np.savez(
        tmp_path / "run_0.npz", t=times, q=joints, cmd=commands, rgb=pixels, task=np.array("stack"), hz=20.0, odd=odd
    )
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert (detected.layout, detected.options) == ("npy_log", {})
    raw = read(tmp_path)
    assert np.array_equal(raw.arrays["q"], joints)
    assert (raw.media["rgb"].frames, shades(raw, "rgb")) == (6, [7] * 6)
    assert (raw.texts, raw.attributes) == ({"task": ("stack",)}, {"hz": 20.0, "task": "stack", "unread": ["odd"]})
    np.savez(tmp_path / "run_0.npz", t=np.arange(6), q=joints, episode=np.array([0, 0, 1, 1, 1, 2]))
    assert read(tmp_path, 1, episodes="episode").arrays["q"].tolist() == joints[2:5].tolist()
    whole = (tmp_path / "run_0.npz").read_bytes()
    (tmp_path / "run_0.npz").write_bytes(whole[:-30])
    assert reason(tmp_path) == "truncated"


def test_arrays_with_numbered_names_are_no_columns_of_a_group(tmp_path: Path) -> None:
    log(tmp_path / "a.json", [{"t": row, "arm_0": [1.0, 2.0], "arm_1": [3.0, 4.0]} for row in range(3)])
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {}


def test_a_folder_of_runs_is_no_folder_of_tables(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"run_{number}.csv").write_text(f"t,q0,q1,extra{number}\n0,1,2,3\n")
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert "folders" not in detected.options


@pytest.mark.parametrize(
    ("spoil", "options", "found"),
    [
        (lambda run: (run / "joints.csv").write_text("time,q0\n0\n"), {}, "length_mismatch"),
        (lambda run: (run / "joints.json").write_text('[{"time": 0}]'), {}, "duplicate_stream"),
        (lambda run: (run / "notes.json").write_text("[]"), {}, None),
        (lambda run: (run / "notes.json").write_text("3"), {}, "no_table"),
        (lambda run: None, {"leave_out": ["arms/time"]}, "missing_column"),
        (lambda run: None, {"leave_out": ["joints/speed"]}, "missing_column"),
        (lambda run: None, {"groups": {"q": ["joints/q0", "commands/cmd_0"]}}, "length_mismatch"),
        (lambda run: [path.unlink() for path in (run / "rgb").iterdir()], {}, "missing_media"),
    ],
)
def test_bad_folders_of_tables(tmp_path: Path, spoil: Any, options: dict[str, Any], found: str | None) -> None:
    write_run(tmp_path / "run_0", 1_772_000_000.0)
    spoil(tmp_path / "run_0")
    asked = {"folders": "*", "images": {"rgb": {"files": "rgb/*.png", "times": "ms"}}, **options}
    if found is None:
        read(tmp_path, **asked)
    else:
        assert reason(tmp_path, **asked) == found


def test_pictures_with_a_clock_of_their_own(tmp_path: Path) -> None:
    """EuRoC's way: a table a sensor, pictures named in one of them."""
    for row in range(4):
        picture(tmp_path / f"mav0/cam0/data/{1403636579763555584 + row * 50_000_000}.png", row)
    lines = "".join(
        f"{1403636579763555584 + row * 50_000_000},{1403636579763555584 + row * 50_000_000}.png\n" for row in range(4)
    )
    (tmp_path / "mav0/cam0/data.csv").write_text(f"#timestamp [ns],filename\n{lines}")
    (tmp_path / "mav0/imu0").mkdir()
    lines = "".join(f"{1403636579763555584 + row * 5_000_000},0.{row},1,2\n" for row in range(40))
    (tmp_path / "mav0/imu0/data.csv").write_text(f"#timestamp [ns],w_x,w_y,w_z\n{lines}")
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options["images"] == {
        "cam0": {"column": "cam0/data/filename", "folder": "cam0/data", "times": "ns"}
    }
    raw = read(tmp_path, **detected.options)
    assert raw.arrays["imu0/data/timestamp [ns]"][:2].tolist() == [1403636579763555584, 1403636579768555584]
    assert raw.media["cam0"].times_ns.tolist() == raw.arrays["cam0/data/timestamp [ns]"].tolist()
    by_clock = {
        "column": "cam0/data/filename",
        "folder": "cam0/data",
        "clock": "cam0/data/timestamp [ns]",
        "times": "ns",
    }
    again = read(tmp_path, **{**detected.options, "images": {"cam0": by_clock}})
    assert again.media["cam0"].times_ns.tolist() == raw.media["cam0"].times_ns.tolist()


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.csv", "t;q;note\n0,5;1,25;x, y\n1,5;2,25;z\n", {"delimiter": ";", "decimal": ","}),
        ("a.csv", "t\tq\tnote\n0.5\t1.25\tx, y\n1.5\t2.25\tz\n", {"delimiter": "\t"}),
        ("a.txt", "# a log\n# t q note\n0.5 1.25   x,y\n1.5  2.25 z\n", {}),
        ("a.txt", "# written by hand\n0.5 1.25 x,y\n1.5 2.25 z\n", {"header": ["t", "q", "note"]}),
        ("a.csv", "0.5,1.25,x\n1.5,2.25,z\n", {"header": ["t", "q", "note"]}),
        ("a.csv", "# made by hand\nt,q,note\n0.5,1.25,x\n1.5,2.25,z\n", {}),
    ],
)
def test_ways_to_write_a_table(tmp_path: Path, name: str, text: str, options: dict[str, Any]) -> None:
    (tmp_path / name).write_text(text)
    raw = read(tmp_path, files=[name], **options)
    assert (raw.arrays["t"].tolist(), raw.arrays["q"].tolist()) == ([0.5, 1.5], [1.25, 2.25])
    assert raw.texts["note"][0].replace(" ", "") in ("x,y", "x")
    found = FORMAT.detect(SourceRoot(tmp_path), name)
    if "header" not in options:
        assert found is None or {key: value for key, value in found.options.items() if key != "groups"} == options


@pytest.mark.parametrize(
    "given",
    [
        {"delimiter": "::"},
        {"decimal": ";"},
        {"header": "t"},
        {"folders": 3},
        {"folders": "*", "episodes": "e"},
        {"rows": 1},
    ],
)
def test_words_that_are_none(tmp_path: Path, given: Any) -> None:
    log(tmp_path / "a.json", ROWS)
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, given))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"time_s": 0.0, "frame": 0, "q": [1.0, 2.0]}, "the clock time_s"),
        ({"frame_idx": 0, "q": [1.0, 2.0]}, "the counter frame_idx"),
        ({"obs": {"q": [1.0, 2.0]}, "action": [0.0, 1.0]}, "the action action"),
        ({"q": 1.0, "cmd_0": 1.0, "cmd_1": 1.0}, "the action cmd"),
        ({"q": [1.0, 2.0], "area": 3.0}, None),
        ({"t": 0.0, "id": 3}, None),
    ],
)
def test_what_says_that_rows_are_steps(tmp_path: Path, row: dict[str, Any], told: str | None) -> None:
    log(tmp_path / "a.json", [row] * 3)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert (detected is None) == (told is None)
    assert detected is None or detected.evidence[0].endswith(f"beside {told}")


def test_pictures_named_by_rows_from_the_root_or_a_folder(tmp_path: Path) -> None:
    rows = [{**row, "file": f"frames/{number}.png"} for number, row in enumerate(ROWS)]
    log(tmp_path / "logs/a.json", rows)
    for number in range(4):
        picture(tmp_path / f"frames/{number}.png", 40 - number)
    detected = FORMAT.detect(SourceRoot(tmp_path), None)
    assert detected is not None
    assert detected.options == {"images": {"file": {"column": "file"}}}
    assert shades(read(tmp_path, **detected.options), "file") == [40, 39, 38, 37]
    log(
        tmp_path / "logs/a.json",
        [{**row, "file": f"/home/robot/frames/{number}.png"} for number, row in enumerate(ROWS)],
    )
    assert reason(tmp_path, **detected.options) == "path_outside_root"
    there = {"file": {"column": "file", "folder": "../frames"}}
    assert shades(read(tmp_path, images=there), "file") == [40, 39, 38, 37]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("side/*.png", "missing_media"),
        ("../../*.png", "missing_media"),
        ({"column": "file"}, "missing_column"),
        ({"column": "t"}, "bad_type"),
        ({"column": "note"}, "missing_media"),
    ],
)
def test_pictures_that_are_not_there(tmp_path: Path, entry: Any, found: str) -> None:
    log(tmp_path / "a.json", ROWS)
    assert reason(tmp_path, images={"front": entry}) == found


def test_a_lost_picture_is_told(tmp_path: Path) -> None:
    """With one in the middle gone, every picture behind it would stand a row early."""
    log(tmp_path / "a.json", ROWS)
    for row in (0, 5, 10, 15):
        picture(tmp_path / f"front/{row:03d}.png", row)
    assert shades(read(tmp_path, images={"front": "front/*.png"}), "front") == [0, 5, 10, 15]
    (tmp_path / "front/005.png").unlink()
    assert reason(tmp_path, images={"front": "front/*.png"}) == "missing_file"
    rows = [{**row, "file": f"front/{5 * number:03d}.png"} for number, row in enumerate(ROWS)]
    assert reason(log(tmp_path / "a.json", rows), images={"front": {"column": "file"}}) == "missing_media"
    rows[1]["file"] = None
    assert reason(log(tmp_path / "a.json", rows), images={"front": {"column": "file"}}) == "missing_media"


@pytest.mark.parametrize(
    "given",
    [
        ["front"],
        {"front": 3},
        {"front": {"files": "a", "times": "h"}},
        {"front": {"column": "a", "clock": "t"}},
        {"front": {}},
    ],
)
def test_options_that_are_none(tmp_path: Path, given: Any) -> None:
    log(tmp_path / "a.json", ROWS)
    with pytest.raises(SpecError):
        list(FORMAT.scan(SourceRoot(tmp_path), None, {"images": given}))
