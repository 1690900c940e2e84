"""Which episodes a LeRobot folder declares, and where each one's rows and frames are said to lie.

v2.x lists them in `meta/episodes.jsonl`, v3.0 in `meta/episodes/chunk-*/file-*.parquet`. A lie becomes a `ScanProblem`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dataengine.errors import FormatError
from dataengine.formats.base import ScanProblem
from dataengine.formats.lerobot_meta import (
    INFO,
    MAX_INDEX,
    Info,
    PathTemplate,
    json_lines,
    open_parquet,
    read_groups,
)
from dataengine.storage import SourceRoot

_LISTING_V2 = "meta/episodes.jsonl"
_LISTING_V3 = "meta/episodes/*/*.parquet"


@dataclass(frozen=True)
class Declared:
    """One episode as the metadata declares it; nothing here was compared with the files.

    `videos` by camera: `path`, and in v3.0 `from`, `to` (s in that file) and `next` (s where the next episode of the
    file starts, None for the last). `listing` is the metadata file the numbers came from where frames depend on it.
    `tasks` are the texts that the listing gives the episode, None where it gives none.
    """

    index: int
    length: int
    data: str
    videos: Mapping[str, dict[str, Any]]
    listing: str | None = None
    tasks: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return f"episode_{self.index:06d}"


def list_episodes(
    root: SourceRoot, info: Info, data: PathTemplate, video: PathTemplate | None
) -> list[Declared | ScanProblem]:
    """Every declared episode (`Declared`) by index, and a `ScanProblem` for each line that declares none."""
    found = list(_listed_v3(root, info, data, video) if info.shared_files else _listed_v2(root, info, data, video))
    return sorted(found, key=lambda entry: entry.index if isinstance(entry, Declared) else -1)


def _listed_v2(
    root: SourceRoot, info: Info, data: PathTemplate, video: PathTemplate | None
) -> Iterator[Declared | ScanProblem]:
    for where, row in json_lines(root, _LISTING_V2):
        if isinstance(row, FormatError):
            yield ScanProblem("episode", where, row.reason, row.what)
            continue
        try:
            index, length = _whole(row, "episode_index", where), _whole(row, "length", where)
        except FormatError as error:
            yield ScanProblem("episode", where, error.reason, error.what)
            continue
        numbers = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        cameras = info.cameras if video is not None else []
        videos = {key: {"path": video.fill(numbers, key)} for key in cameras if video is not None}
        yield Declared(index, length, data.fill(numbers), videos, tasks=_tasks(row))


def _tasks(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = row.get("tasks")
    return tuple(value) if isinstance(value, list) and all(isinstance(text, str) for text in value) else None


def _whole(row: Any, name: str, where: str) -> int:
    value = row.get(name) if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_INDEX:
        raise FormatError("missing_key", f"{where}: {name} is {value!r}, no count", where=where)
    return value


def _listed_v3(
    root: SourceRoot, info: Info, data: PathTemplate, video: PathTemplate | None
) -> Iterator[Declared | ScanProblem]:
    files = root.glob(_LISTING_V3)
    if not files:
        raise FormatError("missing_file", f"no episode is listed in {_LISTING_V3}", where=INFO)
    found: list[Declared] = []
    for relative in files:
        for number, row in enumerate(_listing_rows(root, relative, info.cameras)):
            where = f"{relative}:{number}"
            try:
                found.append(_declared_v3(row, info.cameras, data, video, relative))
            except FormatError as error:
                if error.reason in ("bad_path_template", "path_outside_root"):
                    raise
                yield ScanProblem("episode", where, error.reason, f"{where}: {error.what}")
    _note_neighbours(found)
    yield from found


def _listing_rows(root: SourceRoot, relative: str, cameras: Sequence[str]) -> list[dict[str, Any]]:
    needed = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    wanted = [*needed, "tasks", *(f"videos/{key}/{part}" for key in cameras for part in parts)]
    with open_parquet(root, relative) as opened:
        names = set(opened.schema_arrow.names)
        absent = [name for name in needed if name not in names]
        if absent:
            raise FormatError("missing_key", f"{relative} lacks {', '.join(absent)}", where=relative)
        columns = [name for name in wanted if name in names]
        rows: list[dict[str, Any]] = read_groups(opened, range(opened.num_row_groups), columns, relative).to_pylist()
    return rows


def _declared_v3(
    row: Mapping[str, Any], cameras: Sequence[str], data: PathTemplate, video: PathTemplate | None, listing: str
) -> Declared:
    index, length = _whole(row, "episode_index", listing), _whole(row, "length", listing)
    places = {part: _whole(row, f"data/{part}", listing) for part in ("chunk_index", "file_index")}
    videos = {}
    for key in cameras if video is not None else ():
        prefix = f"videos/{key}"
        if video is None or row.get(f"{prefix}/chunk_index") is None:  # this episode has no such video
            continue
        numbers = {part: _whole(row, f"{prefix}/{part}", listing) for part in ("chunk_index", "file_index")}
        start, stop = (row.get(f"{prefix}/{part}_timestamp") for part in ("from", "to"))
        if not all(isinstance(time, int | float) and math.isfinite(time) for time in (start, stop)):
            raise FormatError("bad_timestamp", f"{key} lies from {start} to {stop} s", where=listing)
        videos[key] = {"path": video.fill(numbers, key), "from": start, "to": stop, "next": None}
    return Declared(index, length, data.fill({**places, "episode_index": index}), videos, listing, _tasks(row))


def _note_neighbours(found: Sequence[Declared]) -> None:
    """Tell each video range where the next episode of the same file starts."""
    files: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for episode in found:
        for key, place in episode.videos.items():
            files.setdefault((key, place["path"]), []).append(place)
    for places in files.values():
        places.sort(key=lambda place: place["from"])
        for place, after in pairwise(places):
            place["next"] = after["from"]
