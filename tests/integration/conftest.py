"""The raw files of every source as plain readers see them: what the windows in the shards must hold.

Nothing of the engine is used here. Channels are written as numbers, rotations as formulas, and the records of Bridge
are scanned byte by byte, so that the schema, the converters, the geometry and the formats are all judged from outside.
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

Array = NDArray[np.float64]
Channels = dict[int, Array]
EXACT = Interpolation.POINT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


class Video:
    """Every frame of an mp4 by its absolute index, decoded by PyAV from the file's start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with av.open(str(path)) as container:
            self.marks = [zlib.crc32(frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]

    @lru_cache(maxsize=16)  # noqa: B019 - lives as long as the module's fixtures
    def around(self, index: int) -> list[NDArray[np.int16] | None]:
        """RGB pixels of the frames before, at and after `index`; None where the file has none."""
        found: dict[int, NDArray[np.int16]] = {}
        with av.open(str(self.path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if abs(number - index) <= 1:
                    shown = frame.reformat(format="rgb24", interpolation=EXACT)
                    found[number] = shown.to_ndarray().astype(np.int16)
                if number > index:
                    break
        return [found.get(number) for number in (index - 1, index, index + 1)]

    def moves(self, index: int) -> bool:
        """Whether the frame differs from its neighbours (G1's camera is slower than its rows: many are repeats)."""
        near = self.marks[max(index - 1, 0) : index] + self.marks[index + 1 : index + 2]
        return self.marks[index] not in near


@dataclass(frozen=True)
class Truth:
    """One episode worked out from its raw files: columns [T] by unified channel, ns, pictures by view."""

    times_ns: NDArray[np.int64]
    state: Channels
    action: Channels = field(default_factory=dict)
    targets: int = 0  # rows that have an action; T where every row has one
    text: str | None = None
    ids: Sequence[int] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    videos: Mapping[str, tuple[Video, int]] = field(default_factory=dict)  # the file, and where in it row 0 lies

    @property
    def steps(self) -> int:
        return len(self.times_ns)


@dataclass(frozen=True)
class Item:
    """One conversation: messages as the row has them, and the file of every medium in the order of the row."""

    messages: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]


def at(start: int, block: NDArray[Any]) -> Channels:
    """The columns of `block` [T, n] in the channels from `start` on."""
    return {start + column: block[:, column].astype(np.float64) for column in range(block.shape[1])}


def rotation_of_euler(rpy: Array) -> Array:
    """Rz(yaw) Ry(pitch) Rx(roll) [N, 3, 3] of roll, pitch, yaw about the fixed axes x, y, z."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy).T, np.sin(rpy).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def rotation_of_quaternion(wxyz: Array) -> Array:
    """The matrix [N, 3, 3] of unit quaternions, scalar first."""
    w, x, y, z = (wxyz / np.linalg.norm(wxyz, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def six(matrices: Array) -> Array:
    """The first column of each matrix, then the second: [N, 6]."""
    return np.concatenate([matrices[:, :, 0], matrices[:, :, 1]], axis=1)


def rotvec(matrices: Array) -> Array:
    """Axis times angle [N, 3] of turns well below half a circle."""
    angle = np.arccos(np.clip((np.trace(matrices, axis1=1, axis2=2) - 1) / 2, -1, 1))
    axis = np.stack([matrices[:, i, j] - matrices[:, j, i] for i, j in ((2, 1), (0, 2), (1, 0))], axis=1)
    small = angle < 1e-5
    return axis / 2 * np.where(small, 1, angle / np.where(small, 1, np.sin(angle)))[:, None]


def wire(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of one protobuf message: integers, or the bytes of nested ones."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = 4 if tag & 7 == 5 else varint()
        yield tag >> 3, data[place : place + size]
        place += size


def examples(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a TFRecord file: u64 length, u32, payload, u32; each a tf.train.Example of bytes or floats."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        record: dict[str, Any] = {}
        for _, features in wire(data[place + 12 : place + 12 + size]):
            for _, entry in wire(features):
                (_, name), (_, feature) = wire(entry)
                ((kind, values),) = wire(feature)
                found = [value for _, value in wire(values)]
                record[name.decode()] = np.frombuffer(b"".join(found), "<f4") if kind == 2 else found
        yield record
        place += 16 + size


def bridge(data: Path) -> dict[str, Truth]:
    file = "robot/rlds_octo_bridge/bridge_dataset/1.0.0/bridge_dataset-train.tfrecord-00000-of-00001"
    truths = {}
    for number, record in enumerate(examples(data / file)):
        state = record["steps/observation/state"].reshape(10, 7).astype(np.float64)
        action = record["steps/action"].reshape(10, 7).astype(np.float64)
        truths[f"train-00000#{number}"] = Truth(
            np.arange(10) * 200_000_000,
            at(7, state[:, :3]) | at(10, six(rotation_of_euler(state[:, 3:6]))) | at(16, state[:, 6:]),
            at(160, action[:, :3]) | at(163, rotvec(rotation_of_euler(action[:, 3:6]))) | at(16, action[:, 6:]),
            10,
            record["steps/language_instruction"][0].decode(),
            images={f"ext_{n + 1}": record[f"steps/observation/image_{n}"] for n in range(3)},
        )
    return truths


def column(table: Any, name: str) -> NDArray[np.float32]:
    return np.array(table[name].to_pylist(), np.float32)


def g1(data: Path) -> dict[str, Truth]:
    truths, folder = {}, data / "robot/lerobot_v21_g1"
    for name in ("episode_000029", "episode_000030"):
        table = pq.read_table(folder / f"data/chunk-000/{name}.parquet")
        sides = [
            at(64, found[:, :7]) | at(0, found[:, 7:14]) | at(240, found[:, 14:])
            for found in (column(table, "observation.state"), column(table, "action"))
        ]
        video = Video(folder / f"videos/chunk-000/observation.images.cam_high/{name}.mp4")
        times = np.rint(np.arange(table.num_rows) * 1e9 / 30).astype(np.int64)
        text = "Pick up the yellow bottle on the table."
        truths[name] = Truth(times, *sides, table.num_rows, text, videos={"head": (video, 0)})
    return truths


def pusht(data: Path) -> dict[str, Truth]:
    truths, folder = {}, data / "robot/lerobot_v30_pusht"
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    state, action, episode = (column(table, name) for name in ("observation.state", "action", "episode_index"))
    video = Video(folder / "videos/observation.image/chunk-000/file-000.mp4")
    assert len(video.marks) == 160
    for number, text in enumerate(("circle around", "circle around", "short circle")):
        rows = np.flatnonzero(episode == number)
        truths[f"episode_{number:06d}"] = Truth(
            np.arange(len(rows)) * 100_000_000,
            at(240, state[rows]),
            at(240, action[rows]),
            len(rows),
            text,
            videos={"front": (video, int(rows[0]))},
        )
    return truths


def panda(data: Path, file: str, upstream: str, turn: float, text: str) -> dict[str, Truth]:
    """`turn`: robosuite 1.0.1 turns the goal by the transpose of the commanded rotation, 1.5.2 by itself."""
    truths = {}
    with h5py.File(data / file) as opened:
        info = json.loads(opened["data"].attrs["env_info"])["controller_configs"]
        info = info.get("body_parts", {}).get("right", info)
        scale = np.array(info["output_max"])
        assert (info["input_max"], info["input_min"], info["output_min"]) == (1, -1, (-scale).tolist())
        for name, demo in opened["data"].items():
            states, command = demo["states"][()], np.clip(demo["actions"][()], -1, 1)
            # time, then qpos (9 of the arm, 7 of each cube), then qvel (9 and 6): 1 + n + (n - cubes) columns
            cubes = (states.shape[1] - 19) // 13
            velocity = 1 + 9 + 7 * cubes
            opening = (states[:, 8:9] - states[:, 9:10]) / 0.08  # between the fingers, 0.08 m when open
            truths[f"{upstream}#{name}"] = Truth(
                np.rint((states[:, 0] - states[0, 0]) * 1e9).astype(np.int64),
                at(0, states[:, 1:8]) | at(16, opening) | at(166, states[:, velocity : velocity + 7]),
                at(160, command[:, :3] * scale[:3])
                | at(163, command[:, 3:6] * scale[3:] * turn)
                | at(16, (1 - command[:, 6:]) / 2),
                len(states),
                text,
            )
    return truths


def baxter(data: Path) -> dict[str, Truth]:
    """Time, 15 qpos and 15 qvel a row, head first; rows that repeat the time before them are left out."""
    truths = {}
    with h5py.File(data / "robot/robosuite_human_demos/BaxterPegInHole/demo.hdf5") as opened:
        for name, demo in opened["data"].items():
            rows = demo["states"][()]
            once = rows[np.concatenate([[True], np.diff(rows[:, 0]) > 0])]
            right, left, right_velocity, left_velocity = (once[:, c : c + 7] for c in (2, 9, 17, 24))
            truths[f"demo.hdf5#{name}"] = Truth(
                np.rint((once[:, 0] - once[0, 0]) * 1e9).astype(np.int64),
                at(0, right) | at(64, left) | at(166, right_velocity) | at(198, left_velocity),
                text="insert the peg into the hole",
                notes={"merged_rows": len(rows) - len(once)},
            )
    return truths


def hot3d(data: Path) -> dict[str, Truth]:
    """Two timestamps a frame, under a millisecond apart: the first counts. Hand 1 is right, hand 0 left."""
    folder = data / "egocentric/hot3d/Aria/P0003_c701bd11"
    text = (folder / "umetrack_hand_pose_trajectory.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    kept = lines[:1] + [b for a, b in pairwise(lines) if b["timestamp_ns"] > a["timestamp_ns"] + 1e6]
    times = np.array([line["timestamp_ns"] for line in kept])
    wrists: Channels = {}
    for hand, start in (("1", 7), ("0", 71)):
        poses = [line["hand_poses"][hand]["wrist_xform"] for line in kept]
        turns = rotation_of_quaternion(np.array([pose["q_wxyz"] for pose in poses]))
        wrists |= at(start, np.array([pose["t_xyz"] for pose in poses])) | at(start + 3, six(turns))
    with (folder / "headset_trajectory.csv").open() as file:
        rows = {int(row["timestamp[ns]"]): row for row in csv.DictReader(file)}
    heads = [rows[time] for time in times.tolist()]
    where = np.array([[float(row[f"t_wo_{axis}[m]"]) for axis in "xyz"] for row in heads])
    how = np.array([[float(row[f"q_wo_{axis}"]) for axis in "wxyz"] for row in heads])
    state = wrists | at(143, where) | at(146, six(rotation_of_quaternion(how)))
    # what a row leads to is the next frame's pose; the last frame has none
    action = {channel: np.append(values[1:], np.nan) for channel, values in wrists.items()}
    notes = {"merged_rows": len(lines) - len(kept)}
    return {"P0003_c701bd11": Truth(times - times[0], state, action, len(kept) - 1, notes=notes)}


def r2r(data: Path) -> dict[str, Truth]:
    truths = {}
    for split in ("val_seen", "val_unseen"):
        stem = data / "navigation/vlnce_r2r/R2R_VLNCE_v1-3_preprocessed" / split / split
        told = json.loads(gzip.decompress(Path(f"{stem}.json.gz").read_bytes()))["episodes"]
        found = json.loads(gzip.decompress(Path(f"{stem}_gt.json.gz").read_bytes()))
        for entry in told:
            truths[f"{split}/{entry['episode_id']}"] = walk(entry, found[str(entry["episode_id"])])
    return truths


def walk(entry: Mapping[str, Any], found: Mapping[str, Any]) -> Truth:
    """Habitat looks along -z with y up: ahead is -sin h along x, -cos h along z; 2 turns left, 3 right, 15 degrees."""
    _, y, _, w = entry["start_rotation"]
    heading = 2 * np.arctan2(y, w)
    ahead, left = (-np.sin(heading), -np.cos(heading)), (-np.cos(heading), np.sin(heading))
    poses, place, degrees = [], 0, 0
    for action in [*found["actions"], 0]:
        x, up, z = (here - there for here, there in zip(found["locations"][place], found["locations"][0], strict=True))
        yaw = degrees - 360 if degrees > 180 else degrees
        poses.append((x * ahead[0] + z * ahead[1], x * left[0] + z * left[1], up, np.radians(yaw)))
        place += action == 1
        degrees = (degrees + {2: 15, 3: -15}.get(action, 0)) % 360
    path, stop = np.array(poses), np.array(found["actions"])[:, None] == 0
    return Truth(
        np.arange(len(stop)) * 500_000_000,
        at(138, path[:-1]),
        at(138, path[1:]) | at(142, stop) | at(155, stop),
        len(stop),
        entry["instruction"]["instruction_text"],
        found["actions"],
    )


def conversations(folder: Path, image_root: str, video_root: str, prefix: str = "") -> dict[str, Item]:
    """Every row of every JSON file, whether its media are there or not."""
    items = {}
    for path in sorted(folder.glob("*.json")):
        for number, row in enumerate(json.loads(path.read_text())):
            files = {}
            for kind, root in (("image", image_root), ("video", video_root)):
                listed = row.get(kind, [])
                for index, name in enumerate([listed] if isinstance(listed, str) else listed):
                    files[f"{kind}{index}"] = folder / root / name.removeprefix(prefix)
            items[f"{path.name}#{number}"] = Item(turns(row), files)
    return items


def turns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's turns; the n-th `<image>` or `<video>` of the whole conversation stands for the n-th medium."""
    messages, counts = [], {"image": 0, "video": 0}
    if row.get("system_prompt"):
        content = [{"type": "text", "text": row["system_prompt"]}]
        messages.append({"role": "system", "content": content, "loss": False})
    for turn in row["conversations"]:
        content, rest = [], turn["value"]
        while rest:
            starts = {kind: rest.find(f"<{kind}>") for kind in counts if f"<{kind}>" in rest}
            kind = min(starts, key=starts.__getitem__, default=None)
            text = rest if kind is None else rest[: starts[kind]]
            if text:
                content.append({"type": "text", "text": text})
            rest = rest[len(text) :]
            if kind is not None:
                content.append({"type": kind, "media": f"{kind}{counts[kind]}"})
                counts[kind] += 1
                rest = rest.removeprefix(f"<{kind}>")
        human = turn["from"] == "human"
        messages.append({"role": "user" if human else "assistant", "content": content, "loss": not human})
    return messages


@pytest.fixture(scope="session")
def truths(data: Path) -> dict[str, dict[str, Truth]]:
    """Episodes by converter and upstream id."""
    human = "robot/robosuite_human_demos"
    lift, stack = "lift the cube", "stack the red cube on the green cube"
    return {
        "bridge_octo": bridge(data),
        "unitree_g1_inspire": g1(data),
        "pusht_lerobot": pusht(data),
        "robosuite_panda_lift": panda(data, f"{human}/lift/panda/demo.hdf5", "panda/demo.hdf5", -1.0, lift),
        "robosuite_panda_stack": panda(data, f"{human}/stack/panda/demo.hdf5", "panda/demo.hdf5", -1.0, stack),
        "robosuite_lift_152": panda(data, "simulation/robosuite_1.5.2_lift/demo.hdf5", "demo.hdf5", 1.0, lift),
        "robosuite_baxter": baxter(data),
        "hot3d_aria": hot3d(data),
        "vlnce_r2r": r2r(data),
    }


@pytest.fixture(scope="session")
def told_items(data: Path) -> dict[str, dict[str, Item]]:
    """Conversations by converter and upstream id."""
    folder = data / "vision_language"
    return {
        "llava_conversations": conversations(folder / "llava_conversations", "images", "videos"),
        "qwen_vl_demo": conversations(folder / "qwen_vl_finetune_demo", ".", "videos", "demo/"),
    }


@pytest.fixture(scope="session")
def from_lake() -> Callable[[str], str]:
    """A recipe without its sources' paths: what is in the lake is not read anew for it."""

    def without_paths(recipe: str) -> str:
        document = yaml.safe_load(recipe)
        for source in document["sources"]:
            del source["path"]
        return str(yaml.safe_dump(document))

    return without_paths


@pytest.fixture(scope="session")
def five_families(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pipelines/five_families.yaml` of the real files: the lake `L` and the mixture `M`, made once for all tests of a
    run, whichever process asks first, by the command, in one process and another folder. Nothing may be written there.
    """
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "five_families"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            recipe = Path(__file__).resolve().parents[2] / "pipelines" / "five_families.yaml"
            words = ["build", str(recipe), "--set", f"data={data}", "--lake", str(root / "L"), "--out", str(root / "M")]
            program = str(Path(sys.executable).with_name("dataengine"))
            words += ["--engine", "local", "--workers", "1"]
            made = subprocess.run([program, *words], capture_output=True, text=True, cwd=root, timeout=600, check=False)
            assert made.returncode == 0, made.stderr
            (root / "done").touch()
    return root
