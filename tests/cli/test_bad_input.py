"""Broken data, from the command line: a reason, file and episode; the rest goes on; repaired is as good as new."""

from __future__ import annotations

import functools
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
import pytest
import yaml
from typer.testing import CliRunner

from dataengine import images
from dataengine.cli.main import app
from dataengine.fixtures import vlnce_writer
from dataengine.fixtures.hot3d_writer import write_recording
from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot
from dataengine.fixtures.rlds_writer import Column, RldsEpisode, write_rlds
from dataengine.fixtures.robosuite_writer import LIFT_INFO, RobosuiteDemo, lift_states, write_robosuite
from dataengine.fixtures.vl_writer import write_squares

ROWS = 6
Spoil = Callable[[Path], object]

# ---- small data sets, each in the layout of its own tool


def lerobot(root: Path, version: Any = "v2.1", rows: int = ROWS) -> None:
    episodes = []
    for seed in range(3):
        path = np.cumsum(np.random.default_rng(seed).normal(0, 4, (rows + 1, 2)), axis=0).astype(np.float32) + 256
        frames = [np.full((96, 96, 3), 40 + 20 * seed, np.uint8)] * rows
        episodes.append(FixtureEpisode(path[:-1], path[1:].copy(), f"push {seed}", frames))
    write_lerobot(root, episodes, 10, version=version, video_key="observation.image", robot_type="pusht")


def robosuite(root: Path, name: str = "demo.hdf5") -> None:
    demos = []
    for seed in range(3):
        chance = np.random.default_rng(seed)
        states = lift_states(np.cumsum(chance.normal(0, 0.01, (ROWS, 7)), axis=0), np.linspace(0, 0.04, ROWS))
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


def rlds(root: Path, **changes: Any) -> None:
    """The second episode has `changes`; a feature that is None is left out."""
    shutil.rmtree(root / "toy", ignore_errors=True)
    second = {name: column for name, column in {**rlds_steps(1), **changes}.items() if column is not None}
    write_rlds(root, "toy", {"train": [RldsEpisode(steps) for steps in (rlds_steps(0), second, rlds_steps(2))]})


def walks(root: Path) -> None:
    made = [vlnce_writer.episode(number, [1, 1, 2, 1, 0]) for number in (1, 2, 3)]
    vlnce_writer.write_split(root, "val_seen", made)


def hands(root: Path) -> None:
    for number in (1, 2):
        write_recording(root, f"P000{number}_made_up")


@dataclass(frozen=True)
class Layout:
    """How a data set is made, which shipped converter reads it, and what its recipe requires."""

    make: Callable[[Path], object]
    converter: str
    episodes: int = 3
    require: Sequence[str] = ()


LAYOUTS = {
    "lerobot": Layout(lerobot, "pusht_lerobot", require=("view", "language")),
    "lerobot_v3": Layout(functools.partial(lerobot, version="v3.0"), "pusht_lerobot", require=("view", "language")),
    "robomimic": Layout(robosuite, "robosuite_lift_152"),
    "rlds": Layout(rlds, "bridge_octo"),
    "conversation": Layout(lambda root: write_squares(root, 3), "llava_conversations"),
    "vlnce": Layout(walks, "vlnce_r2r"),
    "hot3d": Layout(hands, "hot3d_aria", episodes=2),
}

# ---- ways to break a file; each gives a function of the data set's folder


def cut(name: str, share: float = 0.6) -> Spoil:
    return lambda root: (root / name).write_bytes(
        (root / name).read_bytes()[: int((root / name).stat().st_size * share)]
    )


def write(name: str, data: bytes = b"") -> Spoil:
    return lambda root: (root / name).write_bytes(data)


def gone(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def flip(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[len(data) // 2] ^= 1
        (root / name).write_bytes(data)

    return spoil


def fifo(name: str) -> Spoil:
    return lambda root: [(root / name).unlink(), os.mkfifo(root / name)]


def folder(name: str) -> Spoil:
    return lambda root: [(root / name).unlink(), (root / name).mkdir()]


def linked(name: str) -> Spoil:
    """The file moves beside the root, and a link to it takes its place."""

    def spoil(root: Path) -> None:
        target = root.parent / Path(name).name
        shutil.move(root / name, target)
        (root / name).symlink_to(target)

    return spoil


def text(name: str, old: str, new: str) -> Spoil:
    def spoil(root: Path) -> None:
        before = (root / name).read_text()
        assert old in before
        (root / name).write_text(before.replace(old, new))

    return spoil


def document(name: str, change: Callable[[Any], object]) -> Spoil:
    """Change a JSON document, in gzip or not."""

    def spoil(root: Path) -> None:
        packed = name.endswith(".gz")
        data = (root / name).read_bytes()
        value = json.loads(gzip.decompress(data) if packed else data)
        change(value)
        data = json.dumps(value).encode()
        (root / name).write_bytes(gzip.compress(data, mtime=0) if packed else data)

    return spoil


def table(name: str, values: Callable[[pa.Table], Any] | None) -> Spoil:
    """Another column in the second LeRobot episode; None takes it out."""

    def spoil(root: Path) -> None:
        before = pq.read_table(root / EPISODE)
        place = before.schema.get_field_index(name)
        after = before.remove_column(place) if values is None else before.set_column(place, name, values(before))
        pq.write_table(after, root / EPISODE)

    return spoil


def vectors(values: Any) -> pa.Array:
    flat = np.asarray(values, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def action(value: float) -> Spoil:
    """One number of the second LeRobot episode's action becomes `value`."""

    def values(before: pa.Table) -> pa.Array:
        found = np.stack(before["action"].to_numpy(zero_copy_only=False)).copy()
        found[2, 0] = value
        return vectors(found)

    return table("action", values)


def times(*seconds: float) -> Spoil:
    return table("timestamp", lambda _: pa.array(np.array(seconds, np.float32)))


def fewer_rows(root: Path) -> None:
    pq.write_table(pq.read_table(root / EPISODE).slice(0, ROWS - 2), root / EPISODE)


def fewer_frames(root: Path) -> None:
    lerobot(root.parent / "short", rows=ROWS - 2)
    shutil.copy(root.parent / "short" / VIDEO, root / VIDEO)


def demo(change: Callable[[h5py.Group], object]) -> Spoil:
    """Change the second robosuite demonstration."""

    def spoil(root: Path) -> None:
        with h5py.File(root / "demo.hdf5", "a") as file:
            change(file["data/demo_2"])

    return spoil


def holds(**values: Any) -> Spoil:
    """The second robosuite demonstration with other datasets; None takes one out."""

    def change(group: h5py.Group) -> None:
        for name, value in values.items():
            del group[name]
            if value is not None:
                group[name] = value

    return demo(change)


def claimed(group: h5py.Group) -> None:
    del group["actions"]
    group.create_dataset("actions", (1 << 37, 7), "f8", chunks=(1024, 7))


def controller(**changes: Any) -> Spoil:
    def spoil(root: Path) -> None:
        info = json.loads(json.dumps(dict(LIFT_INFO)))
        info["controller_configs"]["body_parts"]["right"].update(changes)
        with h5py.File(root / "demo.hdf5", "a") as file:
            file["data"].attrs["env_info"] = json.dumps(info)

    return spoil


def steps(**changes: Any) -> Spoil:
    return lambda root: rlds(root, **changes)


def answer(value: str) -> Spoil:
    return document("squares.json", lambda d: d[1]["conversations"][1].update(value=value))


def picture(value: str) -> Spoil:
    return document("squares.json", lambda d: d[1].update(image=value))


def info(**changes: Any) -> Spoil:
    return document(INFO, lambda d: d.update(changes))


def truth(**changes: Any) -> Spoil:
    return document(TRUTH, lambda d: d["2"].update(changes))


def in_utf_16(root: Path) -> None:
    (root / ROWS_JSON).write_text((root / ROWS_JSON).read_text(), "utf-16")


INFO, EPISODE, LISTED = "meta/info.json", "data/chunk-000/episode_000001.parquet", "meta/episodes.jsonl"
VIDEO, TASKS = "videos/chunk-000/observation.image/episode_000001.mp4", "meta/tasks.jsonl"
LISTED3, VIDEO3 = "meta/episodes/chunk-000/file-000.parquet", "videos/observation.image/chunk-000/file-000.mp4"
HDF5, ROWS_JSON, PNG = "demo.hdf5", "squares.json", "images/square_001.png"
RECORDS, FEATURES = "toy/1.0.0/toy-train.tfrecord-00000-of-00001", "toy/1.0.0/features.json"
SPLIT, TRUTH = "val_seen/val_seen.json.gz", "val_seen/val_seen_gt.json.gz"
META, HAND = "P0002_made_up/metadata.json", "P0002_made_up/umetrack_hand_pose_trajectory.jsonl"
HEADSET = "P0002_made_up/headset_trajectory.csv"
E1, DEMO, RECORD, ROW, WALK, TAKE = (
    *("episode_000001", "demo.hdf5#demo_2", "train-00000#1"),
    *("squares.json#square-1", "val_seen/2", "P0002_made_up"),
)
LONG, TURNED, NUL, CODES = "x" * 1_000_000, "turn \u202eleft", "turn \0left", "\x1b[2J"
JPEG = images.encode(np.zeros((64, 64, 3), np.uint8))
PASSWORDS = "../../../../etc/passwd"


@dataclass(frozen=True)
class Case:
    """A data set, what is done to it, and what must be told: the reason, the unit that is left out (the beginning of
    its name) and the file or stream. `left` episodes are still good.
    """

    layout: str
    name: str
    spoil: Spoil = field(repr=False)
    reason: str
    unit: str
    file: str
    left: int = 2


CASES = [
    Case("lerobot", "truncated parquet", cut(EPISODE), "unreadable_file", E1, EPISODE),
    Case("lerobot", "empty parquet", write(EPISODE), "empty_file", E1, EPISODE),
    Case("lerobot", "missing parquet", gone(EPISODE), "missing_file", E1, EPISODE),
    Case("lerobot", "truncated video", cut(VIDEO), "no_video_stream", E1, VIDEO),
    Case("lerobot", "empty video", write(VIDEO), "empty_file", E1, VIDEO),
    Case("lerobot", "missing video", gone(VIDEO), "missing_stream", E1, "observation.image"),
    Case(
        "lerobot", "playlist", write(VIDEO, b"ffconcat version 1.0\nfile /etc/passwd\n"), "unsupported_video", E1, VIDEO
    ),
    Case("lerobot", "video shorter than rows", fewer_frames, "frame_count_mismatch", E1, "observation.image"),
    Case("lerobot", "rows short of metadata", fewer_rows, "length_mismatch", E1, EPISODE),
    Case("lerobot", "no action", table("action", None), "missing_stream", E1, "'action'"),
    Case("lerobot", "wide action", table("action", lambda _: vectors(np.ones((6, 3)))), "wrong_dimension", E1, EPISODE),
    Case("lerobot", "no values", table("index", lambda t: pa.nulls(6, t["index"].type)), "null_values", E1, EPISODE),
    Case("lerobot", "time goes back", times(0, 0.1, 0.3, 0.2, 0.4, 0.5), "time_mismatch", E1, EPISODE),
    Case("lerobot", "no time", times(0, 0.1, np.nan, 0.3, 0.4, 0.5), "bad_timestamp", E1, EPISODE),
    Case("lerobot", "unknown task", table("task_index", lambda _: pa.array([7] * 6)), "missing_task", E1, TASKS),
    Case("lerobot", "truncated info", cut(INFO), "json_invalid", INFO, INFO, 0),
    Case("lerobot", "NaN in info", info(fps=float("nan")), "json_nan", INFO, INFO, 0),
    Case("lerobot", "key twice", text(INFO, '"fps": 10', '"fps": 9, "fps": 10'), "json_duplicate_key", INFO, INFO, 0),
    Case("lerobot", "deep info", write(INFO, b"[" * 100_000 + b"]" * 100_000), "json_too_deep", INFO, INFO, 0),
    Case("lerobot", "no rate", info(fps=1e-300), "bad_rate", E1, EPISODE, 0),
    Case("lerobot", "truncated listing", cut(LISTED, 0.9), "json_invalid", f"{LISTED}:3", LISTED),
    Case(
        "lerobot",
        "declared twice",
        text(LISTED, '"episode_index": 2', '"episode_index": 1'),
        "duplicate_episode",
        *(E1, E1, 1),
    ),
    Case(
        "lerobot", "path out", info(data_path=f"{PASSWORDS}{{episode_index}}"), "path_outside_root", INFO, PASSWORDS, 0
    ),
    Case(
        "lerobot",
        "code in a path",
        info(data_path="{episode_index.__class__}"),
        "bad_path_template",
        INFO,
        "__class__",
        0,
    ),
    Case("lerobot", "link out", linked(VIDEO), "path_outside_root", E1, VIDEO),
    Case("lerobot", "pipe", fifo(EPISODE), "not_a_regular_file", E1, EPISODE),
    Case("lerobot", "folder for a file", folder(VIDEO), "not_a_regular_file", E1, VIDEO),
    Case("lerobot", "endless task", text(TASKS, "push 1", LONG), "bad_text", E1, EPISODE),
    Case("lerobot", "NUL in a task", text(TASKS, "push 1", "\\u0000"), "bad_text", E1, EPISODE),
    Case("lerobot", "turned task", text(TASKS, "push 1", "\\u202e"), "bad_text", E1, "\\u202e"),
    Case("lerobot_v3", "truncated video", cut(VIDEO3), "no_video_stream", E1, VIDEO3, 0),
    Case("lerobot_v3", "truncated listing", cut(LISTED3), "unreadable_file", LISTED3, LISTED3, 0),
    Case("robomimic", "truncated", cut(HDF5), "unreadable_file", HDF5, HDF5, 0),
    Case("robomimic", "empty", write(HDF5), "empty_file", HDF5, HDF5, 0),
    Case("robomimic", "pipe", fifo(HDF5), "not_a_regular_file", HDF5, HDF5, 0),
    Case("robomimic", "link out", linked(HDF5), "path_outside_root", HDF5, HDF5, 0),
    Case("robomimic", "short action", holds(actions=np.zeros((4, 7))), "length_mismatch", DEMO, HDF5),
    Case(
        "robomimic", "no rows", holds(actions=np.zeros((0, 7)), states=np.zeros((0, 32))), "empty_episode", DEMO, HDF5
    ),
    Case("robomimic", "no action", holds(actions=None), "missing_stream", DEMO, "'actions'"),
    Case("robomimic", "text for numbers", holds(actions=np.array([b"x"] * 6)), "unsupported_dtype", DEMO, HDF5),
    Case("robomimic", "narrow action", holds(actions=np.zeros((6, 3))), "wrong_dimension", DEMO, HDF5),
    Case("robomimic", "one number", holds(actions=1.0), "bad_shape", DEMO, HDF5),
    Case(
        "robomimic",
        "time goes back",
        demo(lambda g: g["states"].__setitem__((3, 0), 0)),
        "time_not_increasing",
        DEMO,
        HDF5,
    ),
    Case(
        "robomimic", "endless time", demo(lambda g: g["states"].__setitem__((5, 0), 1e300)), "bad_timestamp", DEMO, HDF5
    ),
    Case(
        "robomimic",
        "external link",
        holds(actions=h5py.ExternalLink("/etc/hostname", "/x")),
        "external_link",
        DEMO,
        HDF5,
    ),
    Case("robomimic", "claims terabytes", demo(claimed), "claimed_size", DEMO, HDF5),
    Case("robomimic", "a text for a limit", controller(input_max="x"), "bad_attribute", DEMO, HDF5, 0),
    Case("robomimic", "no input range", controller(input_max=-1), "bad_attribute", DEMO, HDF5, 0),
    Case("rlds", "truncated", cut(RECORDS), "truncated", RECORD, RECORDS, 1),
    Case("rlds", "empty", write(RECORDS), "empty_file", RECORD, RECORDS, 0),
    Case("rlds", "missing", gone(RECORDS), "missing_file", "toy/1.0.0/*-train.tfrecord-*", "train", 0),
    Case("rlds", "flipped bit", flip(RECORDS), "crc_mismatch", RECORD, RECORDS),
    Case(
        "rlds", "endless record", write(RECORDS, struct.pack("<QI", 1 << 63, 0) * 9), "crc_mismatch", RECORD, RECORDS, 0
    ),
    Case("rlds", "truncated features", cut(FEATURES), "json_invalid", FEATURES, FEATURES, 0),
    Case("rlds", "missing features", gone(FEATURES), "missing_file", "features.json", "features.json", 0),
    Case("rlds", "short action", steps(action=np.zeros((4, 7), np.float32)), "length_mismatch", RECORD, RECORDS),
    Case("rlds", "missing feature", steps(action=None), "missing_key", RECORD, RECORDS),
    Case("rlds", "cut picture", steps(**{"observation/image_0": [JPEG[:-99]] * 6}), "corrupt_image", RECORD, "image_0"),
    Case("rlds", "turned text", steps(language_instruction=[TURNED] * 6), "bad_text", RECORD, RECORDS),
    Case("rlds", "NUL in a text", steps(language_instruction=[NUL] * 6), "bad_text", RECORD, RECORDS),
    Case("conversation", "truncated", cut(ROWS_JSON), "json_invalid", ROWS_JSON, ROWS_JSON, 0),
    Case("conversation", "UTF-16", in_utf_16, "json_invalid", ROWS_JSON, ROWS_JSON, 0),
    Case(
        "conversation",
        "no object",
        document(ROWS_JSON, lambda d: d.__setitem__(1, "x")),
        "bad_row",
        "squares.json#1",
        ROWS_JSON,
    ),
    Case("conversation", "NaN in a row", text(ROWS_JSON, '"square-1"', "NaN"), "json_nan", "squares.json#1", ROWS_JSON),
    Case(
        "conversation",
        "deep row",
        text(ROWS_JSON, '"square-1"', "[" * 99 + "]" * 99),
        "json_too_deep",
        *("squares.json#1", ROWS_JSON),
    ),
    Case("conversation", "missing picture", gone(PNG), "missing_media", ROW, "square_001.png"),
    Case("conversation", "cut picture", cut(PNG, 0.95), "corrupt_image", ROW, "image0"),
    Case("conversation", "picture outside", picture(PASSWORDS), "path_outside_root", ROW, PASSWORDS),
    Case("conversation", "absolute picture", picture("/etc/passwd"), "path_outside_root", ROW, "/etc/passwd"),
    Case("conversation", "endless path", picture("a" * 5000), "unreadable_file", ROW, ROWS_JSON),
    Case("conversation", "linked picture", linked(PNG), "path_outside_root", ROW, PNG),
    Case("conversation", "pipe for a picture", fifo(PNG), "not_a_regular_file", ROW, PNG),
    Case("conversation", "endless answer", answer(LONG), "bad_text", ROW, ROWS_JSON),
    Case("conversation", "NUL in an answer", answer(NUL), "bad_text", ROW, ROWS_JSON),
    Case("conversation", "turned answer", answer(TURNED), "bad_text", ROW, ROWS_JSON),
    Case("conversation", "terminal codes", answer(CODES), "bad_text", ROW, ROWS_JSON),
    Case(
        "conversation",
        "a name that hides",
        document(ROWS_JSON, lambda d: d[1].update(id=f"{CODES}\ud800")),
        *("bad_name", "squares.json#\\x1b[2J\\ud800", ROWS_JSON),
    ),
    Case("vlnce", "truncated", cut(SPLIT), "truncated", SPLIT, SPLIT, 0),
    Case("vlnce", "no gzip", write(TRUTH, b"{}"), "unreadable_file", TRUTH, TRUTH, 0),
    Case("vlnce", "bomb", write(SPLIT, gzip.compress(bytes(64 << 20), mtime=0)), "gzip_bomb", SPLIT, SPLIT, 0),
    Case("vlnce", "missing truth", gone(TRUTH), "missing_ground_truth", SPLIT, SPLIT, 0),
    Case("vlnce", "truth of one missing", document(TRUTH, lambda d: d.pop("2")), "missing_ground_truth", WALK, TRUTH),
    Case(
        "vlnce",
        "id twice",
        document(SPLIT, lambda d: d["episodes"][1].update(episode_id=1)),
        "duplicate_episode",
        *("val_seen/1 (1 of 2)", SPLIT, 1),
    ),
    Case("vlnce", "unknown action", truth(actions=[9, 1, 1, 1, 0]), "unknown_action", WALK, SPLIT),
    Case("vlnce", "no action", truth(actions=[]), "empty_episode", WALK, SPLIT),
    Case(
        "vlnce",
        "endless instruction",
        document(SPLIT, lambda d: d["episodes"][1]["instruction"].update(instruction_text=LONG)),
        "bad_text",
        WALK,
        SPLIT,
    ),
    Case("hot3d", "truncated hands", cut(HAND), "json_invalid", TAKE, HAND, 1),
    Case("hot3d", "missing hands", gone(HAND), "missing_stream", TAKE, "umetrack", 1),
    Case("hot3d", "empty metadata", write(META), "empty_file", META, META, 1),
    Case("hot3d", "cut table", cut(HEADSET), "truncated", TAKE, HEADSET, 1),
]


class Workbench:
    """A folder with raw data, a lake and a mixture, and the commands on them."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root, self.layout = root, layout
        self.raw, self.lake, self.out = root / "raw", root / "L", root / "M"

    def run(self, *words: object) -> tuple[int, Any]:
        """Exit code and the JSON document; anything else on standard output, or a traceback, fails."""
        done = CliRunner().invoke(app, [str(word) for word in (*words, "--json")])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr

    def ingest(self, *words: object) -> tuple[int, Any]:
        converter = self.layout.converter
        return self.run("ingest", self.raw, "--converter", converter, "--lake", self.lake, "--workers", 1, *words)

    def build(
        self, accept: Sequence[str] = (), *, filters: Sequence[str] = (), path: Path | None = None
    ) -> tuple[int, Any]:
        source: Mapping[str, object] = {"converter": self.layout.converter, "accept": list(accept)}
        recipe = {
            "name": "small",
            "sources": [{**source, "path": str(path)} if path else source],
            "require": list(self.layout.require),
            "filters": [{"name": name} for name in filters],
            "window": {"chunk": {"steps": 2}},
            "split": {"valid": 0.0},
            "shards": {"buckets": {"train": 1}},
            "normalization": {"representations": ["absolute"]},
        }
        (self.root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return self.run("build", self.root / "recipe.yaml", "--lake", self.lake, "--out", self.out, "--engine", "local")

    def source(self) -> dict[str, Any]:
        """The one source of the latest version; in = kept + dropped, and the drops are those of the ledger."""
        code, found = self.run("audit", self.out)
        assert code == 0
        (source,) = found["sources"]
        assert source["episodes_in"] == source["episodes_kept"] + source["episodes_dropped"]
        assert sum(found["drops"].values()) == source["episodes_dropped"]
        return {**source, "drops": found["drops"]}


Bench = Callable[[str], Workbench]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set, unbroken."""
    root = tmp_path_factory.mktemp("good")
    for name, layout in LAYOUTS.items():
        (root / name).mkdir()
        layout.make(root / name)
    return root


@pytest.fixture
def bench(good: Path, tmp_path: Path) -> Bench:
    """A workbench with a fresh copy of a data set; called again, the copy is fresh and the lake stays."""

    def make(layout: str) -> Workbench:
        made = Workbench(tmp_path, LAYOUTS[layout])
        shutil.rmtree(made.raw, ignore_errors=True)
        shutil.copytree(good / layout, made.raw)
        return made

    return make


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}: {case.name}")
def test_one_defect_from_ingest_to_repair(case: Case, bench: Bench) -> None:
    desk = bench(case.layout)
    case.spoil(desk.raw)
    code, told = desk.ingest()
    assert code == 3
    assert told["added"] == case.left
    assert told["scanned"] == told["added"] + told["dropped"] == told["added"] + len(told["failures"])
    met = [f for f in told["failures"] if f["reason"] == case.reason and f["upstream_id"].startswith(case.unit)]
    assert met, told["failures"]
    assert case.file in f"{met[0]['upstream_id']} {met[0]['what']}"
    assert str(desk.root) not in json.dumps(told["failures"]), "a path of this machine"
    assert max(len(f["what"]) + len(f["upstream_id"]) for f in told["failures"]) < 3500

    assert desk.build()[0] == 3
    source = desk.source()
    assert (source["episodes_kept"], source["drops"]) == (case.left, told["reasons"])
    code, checked = desk.run("verify", desk.out)
    assert (code, checked["ok"]) == (0, True)
    assert desk.build(sorted(told["reasons"]))[0] == 0

    desk = bench(case.layout)
    code, told = desk.ingest()
    assert (code, told["failures"], told["standing"]) == (0, [], [])
    assert told["added"] + case.left == desk.layout.episodes
    assert desk.build()[0] == 0
    source = desk.source()
    assert (source["episodes_kept"], source["drops"]) == (desk.layout.episodes, {})
