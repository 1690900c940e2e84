"""HDF5 demonstrations with pictures into the lake, beside a naive script of the same work, in one run: steps a second.

    python benchmarks/hdf5_ingest.py [--episodes 20] [--rows 200] [--size 128] [--repeats 2] [--files 1]

A layout fixture in robomimic's layout (two cameras of raw pixels a row) is written to a temporary folder, and read

- `dataengine`: by `dataengine ingest` with a converter's `pictures: jpeg`, as users type it, into a new lake: a worker
  process beside the command's own, and more where the work is worth their start. Files, episodes and pictures get
  digests, every picture is encoded at quality 95, slots and masks are filled, rows are written with checksums and
  committed;
- `one process`: the same with `--workers 1`, which reads in the command's own process and starts no other;
- `two workers`: the same with `--workers 2`;
- `naive`: by a script of 30 lines in one process: h5py, the same JPEG encoder at the same quality, one tar with the
  pictures and the numbers of each row.

Each runs in a process of its own, and its time is from that process' start to its end. The peak is of the memory of
that process and all below it, shared pages counted by their share (Linux: Pss). The best of the repeats, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
NUMBERS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "robot0_joint_pos": 7}
CONVERTER = "robomimic_can"
EVERY_S = 0.05


def write(path: Path, episodes: int, rows: int, size: int) -> None:
    """Smooth pictures that move, with some noise: about as large, once encoded, as rendered ones are."""
    chance = np.random.default_rng(0)
    top = [0.05] * 3 + [0.5] * 3
    controller = {"input_max": 1, "input_min": -1, "output_max": top, "output_min": [-value for value in top]}
    kwargs = {"controller_configs": {"body_parts": {"right": controller}}}
    grid = np.linspace(0, 6, size)
    base = np.stack([np.sin(grid[:, None] * k + grid[None] * (4 - k)) for k in (1, 2, 3)], axis=-1) * 90 + 128
    noisy = [np.clip(base + chance.normal(0, 4, base.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PickPlaceCan", "type": 1, "env_kwargs": kwargs})
        for number in range(episodes):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = rows
            group["actions"] = chance.uniform(-1, 1, (rows, 7))
            for name, width in NUMBERS.items():
                values = chance.uniform(0.1, 1, (rows, width))
                unit = np.linalg.norm(values, axis=1, keepdims=True) if name.endswith("quat") else 1.0
                group[f"obs/{name}"] = values / unit
            for shift, camera in enumerate(CAMERAS):
                frames = [np.roll(noisy[row % 8], 3 * row + 40 * shift + number, axis=1) for row in range(rows)]
                group[f"obs/{camera}"] = np.stack(frames)


def naive(source: Path, out: Path) -> None:
    """The same work in 30 lines: a row a sample, pictures as JPEG, numbers as float32."""
    with tarfile.open(out / "naive.tar", "w") as tar:
        for path in sorted(source.glob("*.hdf5")):
            with h5py.File(path) as file:
                for name, demo in file["data"].items():
                    actions = demo["actions"][()].astype(np.float32)
                    state = np.concatenate([demo[f"obs/{key}"][()] for key in NUMBERS], axis=1).astype(np.float32)
                    stacks = [demo[f"obs/{camera}"][()] for camera in CAMERAS]
                    for row in range(len(actions)):
                        members = {"action.bin": actions[row].tobytes(), "state.bin": state[row].tobytes()}
                        for camera, stack in zip(CAMERAS, stacks, strict=True):
                            members[f"{camera}.jpg"] = simplejpeg.encode_jpeg(stack[row], 95, colorsubsampling="420")
                        for kind, content in members.items():
                            info = tarfile.TarInfo(f"{path.stem}_{name}_{row:06d}.{kind}")
                            info.size = len(content)
                            tar.addfile(info, BytesIO(content))


OURS: dict[str, list[str]] = {
    "dataengine": [],
    "one process": ["--workers", "1"],
    "two workers": ["--workers", "2"],
}


def command(kind: str, source: Path, out: Path) -> list[str]:
    """What runs one kind in a process of its own."""
    if kind not in OURS:
        return [sys.executable, __file__, "--run", str(source), str(out)]
    program = str(Path(sys.executable).with_name("dataengine"))
    return [program, "ingest", str(source), "--converter", CONVERTER, "--lake", str(out / "lake"), *OURS[kind]]


def below(process: int) -> Iterator[int]:
    """The process and all that it started, directly or not."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from below(int(child))


def memory(process: int) -> int:
    """Bytes of one process, pages that it shares with others by its share; 0 when it is gone."""
    try:
        told = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in told.splitlines() if line.startswith("Pss:")), 0)


def seconds(process: int) -> float:
    """CPU seconds of one process until now; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(kind: str, source: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak bytes of one run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        start = time.perf_counter()
        started = subprocess.Popen(command(kind, source, Path(out)), stdout=subprocess.DEVNULL)
        peak, spent = 0, dict[int, float]()
        while started.poll() is None:
            each = list(below(started.pid))
            peak = max(peak, sum(map(memory, each)))
            spent |= {one: max(spent.get(one, 0.0), seconds(one)) for one in each}
            time.sleep(EVERY_S)
        wall = time.perf_counter() - start
        if started.returncode:
            sys.exit(f"{kind} failed")
        return wall, sum(spent.values()), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--size", type=int, default=128, help="of a picture, in pixels")
    parser.add_argument("--files", type=int, default=1, help="over how many files the episodes are spread")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--run", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        naive(Path(options.run[0]), Path(options.run[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for number in range(options.files):
            write(source / f"part{number}.hdf5", options.episodes // options.files, options.rows, options.size)
        steps = options.episodes // options.files * options.files * options.rows
        found: dict[str, list[tuple[float, float, int]]] = {kind: [] for kind in ("naive", *OURS)}
        for _ in range(options.repeats):
            for kind, runs in found.items():
                runs.append(run(kind, source))
    print(f"{steps:,} steps, {len(CAMERAS)} cameras of {options.size} x {options.size}, {os.cpu_count()} CPUs")
    print(f"{'':12} {'steps/s':>8} {'wall s':>7} {'per CPU s':>10} {'CPU s':>7} {'peak MB':>8}")
    for kind, runs in found.items():
        wall, cpu, peak = min(runs)[0], min(one[1] for one in runs), max(one[2] for one in runs)
        print(f"{kind:12} {steps / wall:8,.0f} {wall:7.1f} {steps / cpu:10,.0f} {cpu:7.1f} {peak / 1e6:8.0f}")


if __name__ == "__main__":
    main()
