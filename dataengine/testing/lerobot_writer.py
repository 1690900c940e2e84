"""Write small LeRobot data sets: a *layout fixture* for demos and tests, not data and not LeRobot's own writer.

Files, columns, types and metadata keys follow what LeRobot's writer leaves on disk (v2.1: a parquet and an mp4 an
episode; v3.0: all episodes in one parquet, a row group each, and in one mp4). Two things differ on purpose: there are
no statistics, and the shared mp4 of v3.0 is encoded in one go with a long GOP, so that episodes begin off keyframes
(LeRobot joins mp4s that were encoded one by one).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataengine import video
from dataengine.errors import SpecError
from dataengine.images import Pixels

Version = Literal["v2.1", "v3.0"]
_BITS = 12
_BAR = 8
_INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_PATHS = {
    "v2.1": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3.0": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
_PANDAS_INDEX = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
    "pandas_version": "2.0.0",
}


@dataclass(frozen=True)
class FixtureEpisode:
    """One episode to write: `state` and `action` [T, n] float32, `frames` T RGB images [H, W, 3] or none, its task."""

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    task: str
    frames: Sequence[Pixels] = ()


def write_lerobot(
    root: Path,
    episodes: Sequence[FixtureEpisode],
    fps: int,
    *,
    version: Version = "v3.0",
    robot_type: str = "fixture",
    video_key: str = "observation.images.front",
    gop: int = 30,
) -> None:
    """Write a layout fixture below `root` (made when missing). H.264, one keyframe every `gop` frames.

    Either every episode has as many frames as rows or none has any; else a `SpecError`.
    """
    filmed = {len(episode.frames) == len(episode.state) for episode in episodes if len(episode.frames)}
    if False in filmed or (filmed and not all(len(episode.frames) for episode in episodes)):
        raise SpecError("a fixture's episodes have a frame for every row, or none has frames")
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    tables = _tables(episodes, tasks, fps)
    (root / "meta").mkdir(parents=True, exist_ok=True)
    info = _info(episodes, tasks, fps, version=version, robot_type=robot_type, video_key=video_key)
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    if version == "v2.1":
        _write_v21(root, episodes, tables, tasks)
        clips = [(index, episode.frames) for index, episode in enumerate(episodes) if filmed]
    else:
        _write_v30(root, episodes, tables, tasks, fps=fps, video_key=video_key if filmed else None)
        clips = [(0, [frame for episode in episodes for frame in episode.frames])] if filmed else []
    for index, frames in clips:
        path = root / _path(_PATHS[version][1], index, video_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video.encode(frames, fps, gop=gop))


def numbered_frames(first: int, count: int) -> list[Pixels]:
    """`count` images [64, 96, 3] whose bars spell the numbers `first ..` in binary: `frame_number` reads them back."""
    numbers = np.arange(first, first + count)
    bits = (numbers[:, None] >> np.arange(_BITS)) & 1
    bars = np.repeat(np.where(bits, 235, 20), _BAR, axis=1).astype(np.uint8)
    return [np.repeat(np.repeat(row[None, :, None], 64, axis=0), 3, axis=2) for row in bars]


def frame_number(pixels: Pixels) -> int:
    """The number that `numbered_frames` drew, after lossy coding too."""
    bars = pixels.astype(np.float64).mean(axis=(0, 2)).reshape(_BITS, _BAR).mean(axis=1)
    return int(((bars > 128) << np.arange(_BITS)).sum())


def _path(template: str, episode: int, video_key: str = "") -> str:
    """The template for chunk 0 (and file 0 in v3.0)."""
    numbers = {"episode_chunk:03d": "000", "chunk_index:03d": "000", "file_index:03d": "000", "video_key": video_key}
    numbers["episode_index:06d"] = f"{episode:06d}"
    for name, value in numbers.items():
        template = template.replace("{" + name + "}", value)
    return template


def _vectors(values: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _tables(episodes: Sequence[FixtureEpisode], tasks: list[str], fps: int) -> list[pa.Table]:
    start, tables = 0, []
    for index, episode in enumerate(episodes):
        rows = np.arange(len(episode.state))
        columns = {
            "observation.state": _vectors(episode.state),
            "action": _vectors(episode.action),
            "timestamp": pa.array((rows / fps).astype(np.float32)),
            "frame_index": pa.array(rows),
            "episode_index": pa.array(np.full(len(rows), index)),
            "index": pa.array(rows + start),
            "task_index": pa.array(np.full(len(rows), tasks.index(episode.task))),
        }
        tables.append(pa.table(columns))
        start += len(rows)
    return tables


def _info(
    episodes: Sequence[FixtureEpisode],
    tasks: list[str],
    fps: int,
    *,
    version: Version,
    robot_type: str,
    video_key: str,
) -> dict[str, Any]:
    filmed = bool(len(episodes[0].frames))
    info: dict[str, Any] = {
        "codebase_version": version,
        "robot_type": robot_type,
        "total_episodes": len(episodes),
        "total_frames": sum(len(episode.state) for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": _PATHS[version][0],
        "video_path": _PATHS[version][1] if filmed else None,
    }
    if version == "v2.1":
        info |= {"total_videos": len(episodes) if filmed else 0, "total_chunks": 1}
    else:
        info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    return info | {"features": _features(episodes[0], fps, video_key)}


def _features(episode: FixtureEpisode, fps: int, video_key: str) -> dict[str, Any]:
    features: dict[str, Any] = {}
    if len(episode.frames):
        height, width, _ = episode.frames[0].shape
        about = {"video.fps": fps, "video.height": height, "video.width": width, "video.channels": 3}
        features[video_key] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {**about, "video.codec": "h264", "video.pix_fmt": "yuv420p", "has_audio": False},
        }
    for name, values in (("observation.state", episode.state), ("action", episode.action)):
        names = [f"motor_{column}" for column in range(values.shape[1])]
        features[name] = {"dtype": "float32", "shape": [values.shape[1]], "names": names}
    for name in _INDEX_COLUMNS:
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return features


def _write_v21(
    root: Path, episodes: Sequence[FixtureEpisode], tables: Sequence[pa.Table], tasks: Sequence[str]
) -> None:
    listed = [
        {"episode_index": index, "tasks": [episode.task], "length": len(episode.state)}
        for index, episode in enumerate(episodes)
    ]
    texts = [{"task_index": index, "task": task} for index, task in enumerate(tasks)]
    for name, rows in (("episodes", listed), ("tasks", texts)):
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for index, table in enumerate(tables):
        path = root / _path(_PATHS["v2.1"][0], index)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)


def _write_v30(
    root: Path,
    episodes: Sequence[FixtureEpisode],
    tables: Sequence[pa.Table],
    tasks: Sequence[str],
    *,
    fps: int,
    video_key: str | None,
) -> None:
    listing = root / "meta/episodes/chunk-000/file-000.parquet"
    data = root / _path(_PATHS["v3.0"][0], 0)
    for path in (listing, data):
        path.parent.mkdir(parents=True, exist_ok=True)
    texts = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    pq.write_table(texts.replace_schema_metadata({"pandas": json.dumps(_PANDAS_INDEX)}), root / "meta/tasks.parquet")
    pq.write_table(pa.Table.from_pylist(_listing(episodes, fps, video_key)), listing)
    with pq.ParquetWriter(data, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def _listing(episodes: Sequence[FixtureEpisode], fps: int, video_key: str | None) -> list[dict[str, Any]]:
    start, rows = 0, []
    for index, episode in enumerate(episodes):
        stop = start + len(episode.state)
        row: dict[str, Any] = {"episode_index": index, "tasks": [episode.task], "length": stop - start}
        row |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": start, "dataset_to_index": stop}
        if video_key is not None:
            row |= {f"videos/{video_key}/{part}_index": 0 for part in ("chunk", "file")}
            row |= {f"videos/{video_key}/from_timestamp": start / fps, f"videos/{video_key}/to_timestamp": stop / fps}
        rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        start = stop
    return rows
