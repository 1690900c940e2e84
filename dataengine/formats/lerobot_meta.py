"""What a LeRobot folder says about itself: `meta/info.json`, its path templates, the task texts.

All of it is untrusted: paths are built by whitelisted substitution, numbers are checked, and what is impossible is a
`FormatError` with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.documents import canonical_json, load_json
from dataengine.errors import FormatError
from dataengine.storage import SourceRoot

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
_TASKS_V2, _TASKS_V3 = "meta/tasks.jsonl", "meta/tasks.parquet"
MAX_INDEX = 10**9
_MAX_META_BYTES = 1 << 30
_MAX_TABLE_BYTES = 1 << 33

_FIELD = re.compile(r"\{(episode_chunk|episode_index|chunk_index|file_index)(?::0([1-9])d)?\}|\{(video_key)\}")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]*")
_KEY = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class PathTemplate:
    """A path template of info.json. Only LeRobot's own fields are replaced, by a regex and never by `str.format`.

    Raises `FormatError` `bad_path_template` for any other brace or character, `path_outside_root` for a template or
    a filled path that is absolute or climbs.
    """

    text: str

    def __post_init__(self) -> None:
        if not _PLAIN.fullmatch(_FIELD.sub("", self.text)):
            raise FormatError("bad_path_template", f"{self.text!r} holds more than LeRobot's path fields", where=INFO)
        self._inside(self.text)

    def fill(self, numbers: Mapping[str, int], video_key: str = "") -> str:
        """The path for these numbers (and this camera)."""

        def replace(match: re.Match[str]) -> str:
            name, width, key = match.groups()
            if key:
                if not _KEY.fullmatch(video_key):
                    raise FormatError("bad_path_template", f"{video_key!r} is no name of a camera", where=INFO)
                return video_key
            if name not in numbers:
                raise FormatError("bad_path_template", f"{self.text!r}: no value for {name}", where=INFO)
            return f"{numbers[name]:0{width or 0}d}"

        return self._inside(_FIELD.sub(replace, self.text))

    def glob(self) -> str:
        """A pattern of every path the template can make."""
        return _FIELD.sub("*", self.text)

    def _inside(self, path: str) -> str:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise FormatError("path_outside_root", f"{path!r} leaves the source folder", where=INFO)
        return pure.as_posix()


@dataclass(frozen=True)
class Info:
    """What `meta/info.json` says, checked. `features` are reduced to dtype, shape and names.

    `depth` names the videos that hold distances, which are no pictures.
    """

    version: str
    fps: float
    robot_type: str | None
    features: Mapping[str, Mapping[str, Any]]
    chunks_size: int
    total_episodes: int | None
    data_path: str | None
    video_path: str | None
    depth: tuple[str, ...] = ()

    @property
    def cameras(self) -> list[str]:
        """Features that are stored as video and hold pictures."""
        videos = [name for name, feature in self.features.items() if feature["dtype"] == "video"]
        return [name for name in videos if name not in self.depth]

    @property
    def shared_files(self) -> bool:
        """Whether several episodes lie in one file (v3.0)."""
        return self.version.startswith("v3")

    @property
    def tasks_file(self) -> str:
        return _TASKS_V3 if self.shared_files else _TASKS_V2


def load_info(root: SourceRoot) -> Info:
    """Read and check `meta/info.json`; what is missing, impossible or of another version is a `FormatError`."""
    value = load_json(root.read(INFO, _MAX_META_BYTES), INFO)
    if not isinstance(value, dict):
        raise FormatError("json_invalid", "info.json is no object", where=INFO)
    version = value.get("codebase_version")
    if version is None:
        raise FormatError(
            "missing_key",
            "info.json says no codebase_version: it was not written by LeRobot",
            where=INFO,
            fix="convert it with LeRobot's own tools, or quarantine it",
        )
    if version not in VERSIONS:
        raise FormatError("unsupported_version", f"{version!r} is none of {', '.join(VERSIONS)}", where=INFO)
    fps = value.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise FormatError("bad_rate", f"fps {fps!r} is no rate in Hz", where=INFO)
    robot = value.get("robot_type")
    paths = [value.get(name) for name in ("data_path", "video_path")]
    if any(text is not None and not isinstance(text, str) for text in [*paths, robot]):
        raise FormatError("json_invalid", "data_path, video_path and robot_type are texts", where=INFO)
    total = value.get("total_episodes")
    return Info(
        version=version,
        fps=float(fps),
        robot_type=robot,
        features=_features(value.get("features")),
        chunks_size=_count(value.get("chunks_size", 1000), "chunks_size", least=1),
        total_episodes=None if total is None else _count(total, "total_episodes"),
        data_path=paths[0],
        video_path=paths[1],
        depth=_depth(value["features"]),
    )


def _count(value: Any, name: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < MAX_INDEX:
        raise FormatError("json_invalid", f"{name} {value!r} is no count", where=INFO)
    return value


def _features(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise FormatError("missing_key", "info.json declares no features", where=INFO)
    found = {}
    for name, feature in value.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not isinstance(feature.get("dtype"), str):
            raise FormatError("json_invalid", f"the feature {name!r} lacks its dtype or shape", where=INFO)
        sizes = [_count(size, f"the shape of {name!r}") for size in shape]
        found[name] = {"dtype": feature["dtype"], "shape": sizes, "names": feature.get("names")}
    return dict(_hashable(found, INFO))


def _depth(features: Mapping[str, Any]) -> tuple[str, ...]:
    """Features marked by LeRobot's own key; `info` was called `video_info` before."""
    about = {name: feature.get("info", feature.get("video_info")) for name, feature in features.items()}
    keys = ("video.is_depth_map", "is_depth_map")
    return tuple(sorted(n for n, told in about.items() if isinstance(told, dict) and any(told.get(k) for k in keys)))


def _hashable(value: Any, where: str) -> Any:
    """`value`, or a `FormatError` where it cannot be hashed (a lone surrogate, an integer over 64 bits)."""
    try:
        canonical_json(value)
    except TypeError as error:
        raise FormatError("json_invalid", f"holds what is no JSON: {error}", where=where) from None
    return value


@contextmanager
def open_parquet(root: SourceRoot, relative: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file; whatever pyarrow throws for damaged bytes becomes a `FormatError` `unreadable_file`."""
    if root.size(relative) == 0:
        raise FormatError("empty_file", f"{relative} is empty", where=relative)
    try:
        with root.open(relative) as file, pq.ParquetFile(file, page_checksum_verification=True) as opened:
            names = opened.schema_arrow.names
            if len(set(names)) != len(names):
                raise FormatError("duplicate_column", f"{relative} holds a column twice", where=relative)
            yield opened
    except (pa.ArrowException, OSError, UnicodeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError("unreadable_file", f"{relative} is no readable parquet: {told}", where=relative) from None


def read_groups(opened: pq.ParquetFile, groups: Sequence[int], columns: list[str] | None, where: str) -> pa.Table:
    """The row groups as a validated table; a declared size no memory holds is `file_too_large`."""
    declared = sum(opened.metadata.row_group(group).total_byte_size for group in groups)
    if not 0 <= declared <= _MAX_TABLE_BYTES:
        raise FormatError("file_too_large", f"{where} declares {declared} bytes in memory", where=where)
    table = opened.read_row_groups(list(groups), columns=columns, use_threads=False)
    table.validate(full=True)
    return table


def file_state(root: SourceRoot, relative: str) -> tuple[str, str, int, int]:
    """A key that changes when the file does, for caches: root, path, size, time of change."""
    state = root.locate(relative).stat()
    return str(root.path), relative, state.st_size, state.st_mtime_ns


def load_tasks(root: SourceRoot, info: Info) -> Mapping[int, str]:
    """Task texts by index; a data set without the file has none."""
    return _tasks(*file_state(root, info.tasks_file)) if root.exists(info.tasks_file) else {}


@lru_cache(maxsize=4)
def _tasks(place: str, relative: str, size: int, changed: int) -> Mapping[int, str]:  # noqa: ARG001 - part of the key
    root = SourceRoot(Path(place))
    rows = _tasks_parquet(root, relative) if relative == _TASKS_V3 else [row for _, row in json_lines(root, relative)]
    found: dict[int, str] = {}
    for row in rows:
        if isinstance(row, FormatError):
            raise row
        index, text = (row.get("task_index"), row.get("task")) if isinstance(row, dict) else (None, None)
        if isinstance(index, bool) or not isinstance(index, int) or not isinstance(text, str):
            raise FormatError("json_invalid", f"{relative}: {row!r} is no task with its index", where=relative)
        if found.setdefault(index, text) != text:
            raise FormatError("duplicate_task", f"{relative}: two texts for task {index}", where=relative)
    _hashable(list(found.values()), relative)
    return found


def _tasks_parquet(root: SourceRoot, relative: str) -> list[dict[str, Any]]:
    """LeRobot stores the text as the pandas index: a column `task`, or unnamed as `__index_level_0__`."""
    with open_parquet(root, relative) as opened:
        names = opened.schema_arrow.names
        text = next((name for name in ("task", "__index_level_0__") if name in names), None)
        if text is None or "task_index" not in names:
            raise FormatError("missing_key", f"{relative} holds no task texts with their index", where=relative)
        table = read_groups(opened, range(opened.num_row_groups), ["task_index", text], relative)
        pairs = zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True)
        return [{"task_index": index, "task": task} for index, task in pairs]


def json_lines(root: SourceRoot, relative: str) -> Iterator[tuple[str, Any]]:
    """(file:line, value or the `FormatError` of a line that does not parse): other lines stay usable."""
    for number, line in enumerate(root.read(relative, _MAX_META_BYTES).split(b"\n"), 1):
        if line.strip():
            where = f"{relative}:{number}"
            try:
                yield where, load_json(line, where)
            except FormatError as error:
                yield where, error
