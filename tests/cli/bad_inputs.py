"""Small data sets in the layouts of their own tools, and ways to break them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataengine import images
from dataengine.fixtures import vlnce_writer
from dataengine.fixtures.hot3d_writer import write_recording
from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot
from dataengine.fixtures.rlds_writer import Column, RldsEpisode, write_rlds
from dataengine.fixtures.robosuite_writer import LIFT_INFO, RobosuiteDemo, lift_states, write_robosuite
from dataengine.fixtures.vl_writer import write_squares

ROWS = 6
EPISODE = "data/chunk-000/episode_000001.parquet"
VIDEO = "videos/chunk-000/observation.image/episode_000001.mp4"
RECORDS = "toy/1.0.0/toy-train.tfrecord-00000-of-00001"
SPLIT, TRUTH = "val_seen/val_seen.json.gz", "val_seen/val_seen_gt.json.gz"
HAND = "P0002_made_up/umetrack_hand_pose_trajectory.jsonl"
Spoil = Callable[[Path], object]


def lerobot(root: Path, version: Any = "v2.1", rows: int = ROWS) -> None:
    episodes = []
    for seed in range(3):
        path = np.cumsum(np.random.default_rng(seed).normal(0, 4, (rows + 1, 2)), axis=0).astype(np.float32) + 256
        frames = [np.full((96, 96, 3), 40 + 20 * seed, np.uint8)] * rows
        episodes.append(FixtureEpisode(path[:-1], path[1:].copy(), f"push {seed}", frames))
    write_lerobot(root, episodes, 10, version=version, video_key="observation.image", robot_type="pusht")


def lerobot_v3(root: Path) -> None:
    lerobot(root, "v3.0")


def robosuite(root: Path, name: str = "demo.hdf5") -> None:
    demos = []
    for seed in range(3):
        chance = np.random.default_rng(seed)
        joints = np.cumsum(chance.normal(0, 0.01, (ROWS, 7)), axis=0)
        states = lift_states(joints, np.linspace(0, 0.04, ROWS))
        demos.append(RobosuiteDemo(states, chance.uniform(-1, 1, (ROWS, 7))))
    write_robosuite(root / name, demos)


def rlds_steps(seed: int) -> dict[str, Column]:
    chance = np.random.default_rng(seed)
    pictures = [images.encode(np.full((64, 64, 3), 40 + 20 * seed + row, np.uint8)) for row in range(ROWS)]
    return {
        "action": chance.uniform(0, 0.1, (ROWS, 7)).astype(np.float32),
        "observation/state": chance.uniform(0, 0.1, (ROWS, 7)).astype(np.float32),
        **{f"observation/image_{camera}": pictures for camera in range(4)},
        "language_instruction": [f"do {seed}"] * ROWS,
    }


def rlds(root: Path, change: Callable[[dict[str, Column]], Mapping[str, Column]] = dict) -> None:
    shutil.rmtree(root / "toy", ignore_errors=True)
    steps = [rlds_steps(0), change(rlds_steps(1)), rlds_steps(2)]
    write_rlds(root, "toy", {"train": [RldsEpisode(entry) for entry in steps]})


def squares(root: Path) -> None:
    write_squares(root, 3)


def walks(root: Path) -> None:
    made = [vlnce_writer.episode(number, [1, 1, 2, 1, 0]) for number in (1, 2, 3)]
    vlnce_writer.write_split(root, "val_seen", made)


def hands(root: Path) -> None:
    for number in (1, 2):
        write_recording(root, f"P000{number}_made_up")


@dataclass(frozen=True)
class Layout:
    """How a data set is made, which shipped converter reads it, and what its recipe requires."""

    make: Spoil
    converter: str
    episodes: int = 3
    require: Sequence[str] = ()


LAYOUTS = {
    "lerobot": Layout(lerobot, "pusht_lerobot", require=("view", "language")),
    "lerobot_v3": Layout(lerobot_v3, "pusht_lerobot", require=("view", "language")),
    "robomimic": Layout(robosuite, "robosuite_lift_152"),
    "rlds": Layout(rlds, "bridge_octo"),
    "conversation": Layout(squares, "llava_conversations"),
    "vlnce": Layout(walks, "vlnce_r2r"),
    "hot3d": Layout(hands, "hot3d_aria", episodes=2),
}


# ways to break a file


def cut(root: Path, name: str, share: float = 0.6) -> None:
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: int(len(data) * share)])


def empty(root: Path, name: str) -> None:
    (root / name).write_bytes(b"")


def fifo(root: Path, name: str) -> None:
    (root / name).unlink()
    os.mkfifo(root / name)


def folder(root: Path, name: str) -> None:
    (root / name).unlink()
    (root / name).mkdir()


def link_out(root: Path, name: str) -> None:
    """The file moves beside the root, and a link to it takes its place."""
    outside = root.parent / "outside"
    outside.mkdir(exist_ok=True)
    target = outside / Path(name).name
    shutil.move(root / name, target)
    (root / name).symlink_to(target)


def replaced(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def as_json(root: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads((root / name).read_text())
    change(value)
    (root / name).write_text(json.dumps(value))


def as_gz(root: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads(gzip.decompress((root / name).read_bytes()))
    change(value)
    (root / name).write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0))


def rows(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(root / EPISODE)), root / EPISODE)


def column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def vectors(values: Any) -> pa.Array:
    flat = np.asarray(values, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def action_value(value: float) -> Callable[[Path], None]:
    """One number of the second episode's action becomes `value`."""

    def spoil(root: Path) -> None:
        table = pq.read_table(root / EPISODE)
        action = np.stack(table["action"].to_numpy(zero_copy_only=False)).copy()
        action[2, 0] = value
        pq.write_table(column(table, "action", vectors(action)), root / EPISODE)

    return spoil


def demo(change: Callable[[h5py.Group], object], name: str = "demo.hdf5") -> Callable[[Path], None]:
    """Change the second demonstration of a robosuite file."""

    def spoil(root: Path) -> None:
        with h5py.File(root / name, "a") as file:
            change(file["data/demo_2"])

    return spoil


def instead(group: h5py.Group, name: str, value: Any) -> None:
    del group[name]
    group[name] = value


def external(group: h5py.Group) -> None:
    del group["actions"]
    group["actions"] = h5py.ExternalLink("/etc/hostname", "/x")


def claimed(group: h5py.Group) -> None:
    del group["actions"]
    group.create_dataset("actions", (1 << 37, 7), "f8", chunks=(1024, 7))


def controller(**changes: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        info = json.loads(json.dumps(dict(LIFT_INFO)))
        info["controller_configs"]["body_parts"]["right"].update(changes)
        with h5py.File(root / "demo.hdf5", "a") as file:
            file["data"].attrs["env_info"] = json.dumps(info)

    return spoil


def steps(**changes: Any) -> Callable[[Path], None]:
    """The second RLDS episode with other features; one that is None is left out."""

    def spoil(root: Path) -> None:
        rlds(root, lambda entry: {k: v for k, v in {**entry, **changes}.items() if v is not None})

    return spoil


def flip(root: Path, name: str) -> None:
    data = bytearray((root / name).read_bytes())
    data[len(data) // 2] ^= 1
    (root / name).write_bytes(data)


def second_answer(value: str) -> Callable[[Path], None]:
    return lambda root: as_json(root, "squares.json", lambda d: d[1]["conversations"][1].update(value=value))


def second_image(value: str) -> Callable[[Path], None]:
    return lambda root: as_json(root, "squares.json", lambda d: d[1].update(image=value))


def info(**changes: Any) -> Callable[[Path], None]:
    return lambda root: as_json(root, "meta/info.json", lambda d: d.update(changes))


def task(value: str) -> Callable[[Path], None]:
    return lambda root: replaced(root, "meta/tasks.jsonl", '"push 1"', json.dumps(value))


def fewer_frames(root: Path) -> None:
    lerobot(root.parent / "short", rows=ROWS - 2)
    shutil.copy(root.parent / "short" / VIDEO, root / VIDEO)


@dataclass(frozen=True)
class Case:
    """A data set, what is done to it, the reason that must be told, the unit and the file it must name, and how many
    episodes are still good.
    """

    layout: str
    name: str
    spoil: Spoil = field(repr=False)
    reason: str
    unit: str
    file: str
    left: int = 2


E1, DEMO, RECORD, ROW, WALK, TAKE = (
    *("episode_000001", "demo.hdf5#demo_2", "train-00000#1"),
    *("squares.json#square-1", "val_seen/2", "P0002_made_up"),
)
LONG, BIDI, NUL = "x" * 1_000_000, "turn \u202eleft", "turn \0left"
CASES = [
    Case("lerobot", "truncated parquet", lambda r: cut(r, EPISODE), "unreadable_file", E1, EPISODE),
    Case("lerobot", "empty parquet", lambda r: empty(r, EPISODE), "empty_file", E1, EPISODE),
    Case("lerobot", "missing parquet", lambda r: (r / EPISODE).unlink(), "missing_file", E1, EPISODE),
    Case("lerobot", "truncated video", lambda r: cut(r, VIDEO), "no_video_stream", E1, VIDEO),
    Case("lerobot", "empty video", lambda r: empty(r, VIDEO), "empty_file", E1, VIDEO),
    Case("lerobot", "missing video", lambda r: (r / VIDEO).unlink(), "missing_stream", E1, "observation.image"),
    Case(
        "lerobot",
        "playlist",
        lambda r: (r / VIDEO).write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
        *("unsupported_video", E1, VIDEO),
    ),
    Case("lerobot", "frames short of rows", fewer_frames, "frame_count_mismatch", E1, "observation.image"),
    Case(
        "lerobot", "rows short of metadata", lambda r: rows(r, lambda t: t.slice(0, 4)), "length_mismatch", E1, EPISODE
    ),
    Case(
        "lerobot",
        "no action",
        lambda r: rows(r, lambda t: t.drop_columns(["action"])),
        "missing_stream",
        E1,
        "'action'",
    ),
    Case(
        "lerobot",
        "null",
        lambda r: rows(
            r,
            lambda t: column(
                t, "action", pa.array([None, *t["action"].to_pylist()[1:]], t.schema.field("action").type)
            ),
        ),
        "null_values",
        E1,
        EPISODE,
    ),
    Case(
        "lerobot",
        "wide action",
        lambda r: rows(r, lambda t: column(t, "action", vectors(np.zeros((ROWS, 3))))),
        *("wrong_dimension", E1, EPISODE),
    ),
    Case(
        "lerobot",
        "time goes back",
        lambda r: rows(
            r, lambda t: column(t, "timestamp", pa.array(np.array([0, 0.1, 0.3, 0.2, 0.4, 0.5], np.float32)))
        ),
        "time_mismatch",
        E1,
        EPISODE,
    ),
    Case(
        "lerobot",
        "no time",
        lambda r: rows(
            r, lambda t: column(t, "timestamp", pa.array(np.array([0, 0.1, np.nan, 0.3, 0.4, 0.5], np.float32)))
        ),
        "bad_timestamp",
        E1,
        EPISODE,
    ),
    Case(
        "lerobot",
        "unknown task",
        lambda r: rows(r, lambda t: column(t, "task_index", pa.array([7] * ROWS))),
        *("missing_task", E1, EPISODE),
    ),
    Case("lerobot", "truncated info", lambda r: cut(r, "meta/info.json"), "json_invalid", *["meta/info.json"] * 2, 0),
    Case("lerobot", "NaN in info", info(fps=float("nan")), "json_nan", *["meta/info.json"] * 2, 0),
    Case(
        "lerobot",
        "the same key twice",
        lambda r: replaced(r, "meta/info.json", '"fps": 10', '"fps": 10, "fps": 20'),
        *("json_duplicate_key", "meta/info.json", "meta/info.json", 0),
    ),
    Case(
        "lerobot",
        "deep info",
        lambda r: (r / "meta/info.json").write_text("[" * 100_000 + "]" * 100_000),
        *("json_too_deep", "meta/info.json", "meta/info.json", 0),
    ),
    Case("lerobot", "no rate", info(fps=1e-300), "bad_rate", E1, EPISODE, 0),
    Case(
        "lerobot",
        "truncated listing",
        lambda r: cut(r, "meta/episodes.jsonl", 0.9),
        *("json_invalid", "meta/episodes.jsonl:3", "meta/episodes.jsonl"),
    ),
    Case(
        "lerobot",
        "declared twice",
        lambda r: replaced(r, "meta/episodes.jsonl", '"episode_index": 2', *('"episode_index": 1',)),
        "duplicate_episode",
        E1,
        E1,
        1,
    ),
    Case(
        "lerobot",
        "path out of the root",
        info(data_path="../../../../etc/passwd{episode_index}"),
        *("path_outside_root", "meta/info.json", "etc/passwd", 0),
    ),
    Case(
        "lerobot",
        "path with code",
        info(data_path="{episode_index.__class__}.parquet"),
        *("bad_path_template", "meta/info.json", "__class__", 0),
    ),
    Case("lerobot", "link out", lambda r: link_out(r, VIDEO), "path_outside_root", E1, VIDEO),
    Case("lerobot", "pipe", lambda r: fifo(r, EPISODE), "not_a_regular_file", E1, EPISODE),
    Case("lerobot", "folder for a file", lambda r: folder(r, VIDEO), "not_a_regular_file", E1, VIDEO),
    Case("lerobot", "endless task", task(LONG), "bad_text", E1, EPISODE),
    Case("lerobot", "NUL in a task", task(NUL), "bad_text", E1, EPISODE),
    Case("lerobot", "turned task", task(BIDI), "bad_text", E1, "\\u202e"),
    Case(
        "lerobot_v3",
        "truncated shared video",
        lambda r: cut(r, "videos/observation.image/chunk-000/file-000.mp4"),
        "no_video_stream",
        E1,
        "file-000.mp4",
        0,
    ),
    Case(
        "lerobot_v3",
        "truncated listing",
        lambda r: cut(r, "meta/episodes/chunk-000/file-000.parquet"),
        *("unreadable_file", *["meta/episodes/chunk-000/file-000.parquet"] * 2, 0),
    ),
    Case("robomimic", "truncated", lambda r: cut(r, "demo.hdf5"), "unreadable_file", "demo.hdf5", "demo.hdf5", 0),
    Case("robomimic", "empty", lambda r: empty(r, "demo.hdf5"), "empty_file", "demo.hdf5", "demo.hdf5", 0),
    Case("robomimic", "pipe", lambda r: fifo(r, "demo.hdf5"), "not_a_regular_file", "demo.hdf5", "demo.hdf5", 0),
    Case("robomimic", "link out", lambda r: link_out(r, "demo.hdf5"), "path_outside_root", *["demo.hdf5"] * 2, 0),
    Case(
        "robomimic",
        "short action",
        demo(lambda g: instead(g, "actions", np.zeros((4, 7)))),
        *("length_mismatch", DEMO, "demo.hdf5"),
    ),
    Case(
        "robomimic",
        "no rows",
        demo(lambda g: [instead(g, name, np.zeros((0, width))) for name, width in (("actions", 7), ("states", 32))]),
        "empty_episode",
        DEMO,
        "demo.hdf5",
    ),
    Case("robomimic", "no action", demo(lambda g: g.__delitem__("actions")), "missing_stream", DEMO, "'actions'"),
    Case(
        "robomimic",
        "text for numbers",
        demo(lambda g: instead(g, "actions", np.array([b"x"] * ROWS))),
        *("unsupported_dtype", DEMO, "demo.hdf5"),
    ),
    Case(
        "robomimic",
        "narrow action",
        demo(lambda g: instead(g, "actions", np.zeros((ROWS, 3)))),
        *("wrong_dimension", DEMO, "demo.hdf5"),
    ),
    Case("robomimic", "one number", demo(lambda g: instead(g, "actions", 1.0)), "bad_shape", DEMO, "demo.hdf5"),
    Case(
        "robomimic",
        "time goes back",
        demo(lambda g: g["states"].__setitem__((3, 0), 0.0)),
        *("time_not_increasing", DEMO, "demo.hdf5"),
    ),
    Case(
        "robomimic",
        "time beyond all",
        demo(lambda g: g["states"].__setitem__((5, 0), 1e300)),
        *("bad_timestamp", DEMO, "demo.hdf5"),
    ),
    Case("robomimic", "external link", demo(external), "external_link", DEMO, "demo.hdf5"),
    Case("robomimic", "claims terabytes", demo(claimed), "claimed_size", DEMO, "demo.hdf5"),
    Case("robomimic", "a text as limit", controller(input_max="x"), "bad_attribute", DEMO, "demo.hdf5", 0),
    Case("robomimic", "no input range", controller(input_max=-1), "bad_attribute", DEMO, "demo.hdf5", 0),
    Case("rlds", "truncated", lambda r: cut(r, RECORDS), "truncated", RECORD, RECORDS, 1),
    Case("rlds", "empty", lambda r: empty(r, RECORDS), "empty_file", RECORD, RECORDS, 0),
    Case(
        "rlds", "missing", lambda r: (r / RECORDS).unlink(), "missing_file", "toy/1.0.0/*-train.tfrecord-*", "train", 0
    ),
    Case("rlds", "flipped bit", lambda r: flip(r, RECORDS), "crc_mismatch", RECORD, RECORDS),
    Case(
        "rlds",
        "endless record",
        lambda r: (r / RECORDS).write_bytes(struct.pack("<Q", 1 << 63) + (r / RECORDS).read_bytes()[8:]),
        "crc_mismatch",
        RECORD,
        RECORDS,
        0,
    ),
    Case(
        "rlds",
        "truncated features",
        lambda r: cut(r, "toy/1.0.0/features.json"),
        *("json_invalid", "toy/1.0.0/features.json", "features.json", 0),
    ),
    Case(
        "rlds",
        "missing features",
        lambda r: (r / "toy/1.0.0/features.json").unlink(),
        *("missing_file", "features.json", "features.json", 0),
    ),
    Case("rlds", "short action", steps(action=np.zeros((4, 7), np.float32)), "length_mismatch", RECORD, RECORDS),
    Case("rlds", "missing feature", steps(action=None), "missing_key", RECORD, RECORDS),
    Case(
        "rlds",
        "cut picture",
        steps(**{"observation/image_0": [images.encode(np.zeros((64, 64, 3), np.uint8))[:300]] * ROWS}),
        "corrupt_image",
        RECORD,
        "image_0",
    ),
    Case("rlds", "turned text", steps(language_instruction=[BIDI] * ROWS), "bad_text", RECORD, RECORDS),
    Case("rlds", "NUL in a text", steps(language_instruction=[NUL] * ROWS), "bad_text", RECORD, RECORDS),
    Case("conversation", "truncated", lambda r: cut(r, "squares.json"), "json_invalid", *["squares.json"] * 2, 0),
    Case(
        "conversation",
        "UTF-16",
        lambda r: (r / "squares.json").write_text((r / "squares.json").read_text(), "utf-16"),
        *("json_invalid", "squares.json", "squares.json", 0),
    ),
    Case(
        "conversation",
        "a row is no object",
        lambda r: as_json(r, "squares.json", lambda d: d.__setitem__(1, "x")),
        *("bad_row", "squares.json#1", "squares.json"),
    ),
    Case(
        "conversation",
        "NaN in a row",
        lambda r: replaced(r, "squares.json", '"square-1"', "NaN"),
        *("json_nan", "squares.json#1", "squares.json"),
    ),
    Case(
        "conversation",
        "deep row",
        lambda r: replaced(r, "squares.json", '"square-1"', "[" * 999 + "]" * 999),
        *("json_too_deep", "squares.json#1", "squares.json"),
    ),
    Case(
        "conversation",
        "missing picture",
        lambda r: (r / "images/square_001.png").unlink(),
        *("missing_media", ROW, "square_001.png"),
    ),
    Case(
        "conversation",
        "cut picture",
        lambda r: cut(r, "images/square_001.png", 0.95),
        *("corrupt_image", ROW, "square_001.png"),
    ),
    Case(
        "conversation",
        "picture out of the root",
        second_image("../../../../etc/passwd"),
        *("path_outside_root", ROW, "etc/passwd"),
    ),
    Case("conversation", "absolute picture", second_image("/etc/passwd"), "path_outside_root", ROW, "/etc/passwd"),
    Case("conversation", "endless path", second_image("a" * 5000), "unreadable_file", ROW, "squares.json"),
    Case(
        "conversation",
        "linked picture",
        lambda r: link_out(r, "images/square_001.png"),
        *("path_outside_root", ROW, "square_001.png"),
    ),
    Case(
        "conversation",
        "pipe for a picture",
        lambda r: fifo(r, "images/square_001.png"),
        *("not_a_regular_file", ROW, "square_001.png"),
    ),
    Case("conversation", "endless answer", second_answer(LONG), "bad_text", ROW, "squares.json"),
    Case("conversation", "NUL in an answer", second_answer(NUL), "bad_text", ROW, "squares.json"),
    Case("conversation", "turned answer", second_answer(BIDI), "bad_text", ROW, "squares.json"),
    Case("conversation", "terminal codes", second_answer("\x1b[2J"), "bad_text", ROW, "squares.json"),
    Case(
        "conversation",
        "name that cannot be shown",
        lambda r: as_json(r, "squares.json", lambda d: d[1].update(id="\x1b[2J\ud800")),
        "bad_name",
        "squares.json#\\x1b[2J\\ud800",
        "squares.json",
    ),
    Case("vlnce", "truncated", lambda r: cut(r, SPLIT), "truncated", SPLIT, SPLIT, 0),
    Case("vlnce", "no gzip", lambda r: (r / TRUTH).write_text("{}"), "unreadable_file", TRUTH, TRUTH, 0),
    Case(
        "vlnce",
        "bomb",
        lambda r: (r / SPLIT).write_bytes(gzip.compress(bytes(64 << 20), 9, mtime=0)),
        *("gzip_bomb", SPLIT, SPLIT, 0),
    ),
    Case("vlnce", "missing truth", lambda r: (r / TRUTH).unlink(), "missing_ground_truth", SPLIT, SPLIT, 0),
    Case(
        "vlnce",
        "no truth for one",
        lambda r: as_gz(r, TRUTH, lambda d: d.pop("2")),
        *("missing_ground_truth", WALK, TRUTH),
    ),
    Case(
        "vlnce",
        "the same id twice",
        lambda r: as_gz(r, SPLIT, lambda d: d["episodes"][1].update(episode_id=1)),
        *("duplicate_episode", "val_seen/1 (1 of 2)", SPLIT, 1),
    ),
    Case(
        "vlnce",
        "unknown action",
        lambda r: as_gz(r, TRUTH, lambda d: d["2"].update(actions=[9, 1, 1, 1, 0])),
        *("unknown_action", WALK, SPLIT),
    ),
    Case(
        "vlnce",
        "no action",
        lambda r: as_gz(r, TRUTH, lambda d: d["2"].update(actions=[])),
        "empty_episode",
        WALK,
        SPLIT,
    ),
    Case(
        "vlnce",
        "endless instruction",
        lambda r: as_gz(r, SPLIT, lambda d: d["episodes"][1]["instruction"].update(instruction_text=LONG)),
        "bad_text",
        WALK,
        SPLIT,
    ),
    Case("hot3d", "truncated hands", lambda r: cut(r, HAND), "json_invalid", TAKE, HAND, 1),
    Case("hot3d", "missing hands", lambda r: (r / HAND).unlink(), "missing_stream", TAKE, "umetrack", 1),
    Case(
        "hot3d",
        "empty metadata",
        lambda r: empty(r, "P0002_made_up/metadata.json"),
        *("empty_file", *["P0002_made_up/metadata.json"] * 2, 1),
    ),
    Case(
        "hot3d",
        "cut table",
        lambda r: cut(r, "P0002_made_up/headset_trajectory.csv"),
        *("truncated", TAKE, "headset_trajectory.csv", 1),
    ),
]
