"""The format `rosbag` against the plain loop over rosbags' reader on the same bag, in one run: seconds an episode.

    python benchmarks/ros_bags.py [--frames 1000] [--raw 200] [--repeats 3]

Writes bags of 640 x 480 pictures at 30 Hz beside joint states at 500 Hz (sensor_msgs/JointState, seven joints) with
rosbags' own writer and reads them both ways into the same arrays: times, position, velocity, effort, and the pictures
as they are kept. The loop deserializes every message and stacks. The format does the same, and checks counts and
checksums, and takes digests of every message, of the pictures and of the file; `digests` is the loop that takes them,
too; `arrays` is the loop as it is mostly written, which turns every picture that came as JPEG into an array (the format
hands it on as it came). Raw pictures are encoded as JPEG on all sides, by the same encoder with the same quality. Each
row is the best of --repeats, taken in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dataengine import images
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.storage import SourceRoot

JOINTS = [f"joint{number}" for number in range(7)]
OPTIONS = {"pictures": "jpeg"}
START = 1_700_000_000_000_000_000


def pictures(count: int) -> list[np.ndarray[Any, Any]]:
    """A few smooth pictures with noise, shown in turn: JPEGs of some 60 kB."""
    chance = np.random.default_rng(7)
    ramp = np.add.outer(np.arange(480), np.arange(640))[..., None] * np.array([0.1, 0.2, 0.15])
    made = [(ramp + chance.normal(0, 6, ramp.shape) + 10 * k).clip(0, 255).astype(np.uint8) for k in range(10)]
    return [made[number % len(made)] for number in range(count)]


def write(path: Path, frames: int, storage: StoragePlugin, *, raw: bool, joints: int | None = None) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types

    def header(stamp: int) -> Any:
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), "frame")

    shown = pictures(frames)
    jpegs = {id(one): np.frombuffer(images.encode(one, "jpeg", 90), np.uint8) for one in shown[:10]}
    rows: list[tuple[int, str, Callable[[int], Any]]] = []
    for number, one in enumerate(shown):
        stamp = START + number * 33_333_333
        kind = "Image" if raw else "CompressedImage"
        message = types[f"sensor_msgs/msg/{kind}"]
        parts = (480, 640, "rgb8", 0, 1920, one.reshape(-1)) if raw else ("jpeg", jpegs[id(one)])
        rows.append((stamp, "/camera", lambda at, message=message, parts=parts: message(header(at), *parts)))
    joint = types["sensor_msgs/msg/JointState"]
    for number in range(frames * 500 // 30 if joints is None else joints):
        values = np.sin(np.arange(7) + number * 0.002)
        stamp = START + number * 2_000_000
        rows.append((stamp, "/joints", lambda at, v=values: joint(header(at), JOINTS, v, v * 2, v * 3)))
    rows.sort(key=lambda row: row[0])
    with Writer(path, version=9, storage_plugin=storage) as writer:
        known: dict[str, Any] = {}
        for stamp, topic, make in rows:
            made = make(stamp)
            if topic not in known:
                known[topic] = writer.add_connection(topic, made.__msgtype__, typestore=store)
            writer.write(known[topic], stamp, store.serialize_cdr(made, made.__msgtype__))


def by_the_format(path: Path) -> tuple[Any, ...]:
    reader, root = get_format("rosbag"), SourceRoot(path)
    ref = next(iter(reader.scan(root, None, OPTIONS)))
    assert isinstance(ref, EpisodeRef)
    episode = reader.read(root, ref)
    joints = [episode.arrays[f"joints/{part}"] for part in ("time_ns", "position", "velocity", "effort")]
    if not episode.media:
        return *joints, np.zeros(0, np.int64), b""
    return *joints, episode.arrays["camera/time_ns"], episode.media["camera"].payload


def by_the_loop(path: Path, *, digests: bool = False, arrays: bool = False) -> tuple[Any, ...]:
    times: dict[str, list[int]] = {"/joints": [], "/camera": []}
    joints: list[Any] = []
    shown: list[bytes] = []
    hashed = {topic: hashlib.sha256() for topic in times}
    with AnyReader([path]) as reader:
        for connection, stamp, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            times[connection.topic].append(stamp)
            if digests:
                hashed[connection.topic].update(data)
            if connection.topic == "/joints":
                joints.append(message)
            elif connection.msgtype.endswith("CompressedImage"):
                shown.append(message.data.tobytes())
                if arrays:
                    images.decode(shown[-1])
            else:
                pixels = message.data.reshape(message.height, message.width, 3)
                shown.append(images.encode(pixels, "jpeg", 95))
                if digests:
                    hashlib.sha256(pixels)
    stacked = [np.stack([getattr(one, part) for one in joints]) for part in ("position", "velocity", "effort")]
    return np.array(times["/joints"]), *stacked, np.array(times["/camera"]), b"".join(shown)


def by_the_loop_with_digests(path: Path) -> tuple[Any, ...]:
    """The loop, and sha256 of the file, of every message and of the pictures."""
    found = by_the_loop(path, digests=True)
    hashlib.sha256(found[-1])
    for file in path.iterdir():
        with file.open("rb") as opened:
            hashlib.file_digest(opened, "sha256")
    return found


def by_the_loop_to_arrays(path: Path) -> tuple[Any, ...]:
    """The loop, and every picture that came as JPEG decoded by the decoder that the engine uses."""
    return by_the_loop(path, arrays=True)


def measure(name: str, path: Path, repeats: int) -> None:
    ways = {
        "format": by_the_format,
        "loop": by_the_loop,
        "digests": by_the_loop_with_digests,
        "arrays": by_the_loop_to_arrays,
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        results = {}
        for way, function in ways.items():
            start = time.perf_counter()
            results[way] = function(path)
            best[way] = min(best[way], time.perf_counter() - start)
        for one, two in zip(results["format"], results["loop"], strict=True):
            assert np.array_equal(one, two) if isinstance(one, np.ndarray) else one == two
    size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    told = "   ".join(f"{way} {seconds:6.2f} s" for way, seconds in best.items())
    times = " ".join(f"{best[way] / best['format']:5.1f} x" for way in ("loop", "digests", "arrays"))
    print(f"{name:42s} {size:7.1f} MB   {told}   {times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--raw", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "joints")
        write(path, 0, StoragePlugin.MCAP, raw=False, joints=50_000)
        measure("mcap, 50000 joint states alone", path, given.repeats)
        for name, storage in (("mcap", StoragePlugin.MCAP), ("sqlite3", StoragePlugin.SQLITE3)):
            for raw, frames in ((False, given.frames), (True, given.raw)):
                path = Path(folder, f"{name}_{raw}")
                write(path, frames, storage, raw=raw)
                kind = "rgb8, to JPEG" if raw else "JPEG as it came"
                measure(f"{name}, {frames} pictures, {kind}", path, given.repeats)


if __name__ == "__main__":
    main()
