"""Logs of one's own in tables: a CSV, TSV or Parquet file an episode, columns as streams, videos of its name beside it.

A column of numbers is an array [T], float64 or int64 (Parquet: its own type; lists of one length are [T, k]); empty
cells are NaN and counted in `attributes["missing"]`, as are empty texts. `true`/`false` is an array of booleans,
anything else a text a row.
The option `groups` puts columns side by side. Upstream: no recorder in particular; RFC 4180 for CSV.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataengine import video
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, parquet
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.storage import SourceRoot

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
MAX_TABLE = 1 << 30
MAX_VIDEO = 4 << 30
MAX_CELLS = 1 << 28
_PROBED = 4
_PROBED_LINES = 64 << 10
_FEWEST = 3
_CLOCK = re.compile(
    r"(?:.*[_./ ])?(?:t|time|times|timestamp|timestamps|stamp|clock)(?:[_./ \[(](?:s|ms|us|ns|sec)[\])]?)?"
)
_WORDS = {"true": True, "false": False}
Column = NDArray[Any] | tuple[str, ...]


class TableEpisodesFormat:
    """Episodes in tables.

    Options: `groups`, names of arrays [T, k] and the columns that they take (`{q: [q_0, q_1]}`); `videos`, streams and
    the file of each, `{stem}` for the table's own name (default: `<stem>.mp4` as `video` where it is there);
    `leave_out`, columns that are not read; `files`, patterns of the tables (default every .csv, .tsv and .parquet).
    """

    name: ClassVar[str] = "table_episodes"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "logs of one's own: a CSV, TSV or Parquet table an episode, videos beside it"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "csv_log",
            "robot",
            "any CSV or TSV table of numbers over time, one file an episode, mp4 beside",
            "writer library",
            4,
            "Python 3.12's csv; the columns are made up",
        ),
        Layout(
            "parquet_log",
            "robot",
            "any Parquet table of numbers over time, one file an episode",
            "writer library",
            2,
            "pyarrow 26.0.1; the columns are made up",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A table with a column that is named like a clock beside numbers. Every layout of a name is surer."""
        for path in _paths(root, only, ())[:_PROBED]:
            try:
                numbers = _numeric(root, path)
            except BadInput:
                continue
            clocks = [name for name in numbers if _CLOCK.fullmatch(name.lower())]
            if clocks and len(numbers) >= _FEWEST:
                told = f"{path} holds {len(numbers)} columns of numbers beside the clock {clocks[0]}"
                layout = "parquet_log" if path.endswith(PARQUET) else "csv_log"
                return Detection(self.name, 0.12, (told,), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every table, in natural order. Nothing is read."""
        check_options(options, ("groups", "videos", "leave_out", "files"), self.name)
        made = {
            "groups": _groups(options.get("groups", {})),
            "leave_out": list(option_names(options, "leave_out", ())),
        }
        videos = options.get("videos")
        for path in _paths(root, only, option_names(options, "files", ())):
            try:
                beside = _videos(root, path, videos)
            except BadInput as error:
                yield ScanProblem("episode", path, error.reason, error.what)
                continue
            locator = {"file": path, "videos": beside, **made}
            yield EpisodeRef(path, locator, (path, *beside.values()))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        asked = ref.locator
        path, videos = str(asked["file"]), dict(asked["videos"])
        with root.unchanged(*ref.files):
            columns, unread = _table(root, path, set(asked["leave_out"]))
            media = {name: _video(root, name, at) for name, at in sorted(videos.items())}
            described = tuple(root.describe(name) for name in ref.files)
        arrays = _grouped(columns, asked["groups"])
        if not arrays or not len(next(iter(arrays.values()))):
            raise EpisodeError("empty_episode", f"{path} holds no rows of numbers", where=path)
        texts = {name: column for name, column in columns.items() if isinstance(column, tuple)}
        missing = {name: count for name, column in sorted(columns.items()) if (count := _missing(column))}
        attributes: dict[str, Any] = {"missing": missing} if missing else {}
        attributes |= {"unread": sorted([*unread, *asked["leave_out"]])} if unread or asked["leave_out"] else {}
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("texts", {name: list(values) for name, values in sorted(texts.items())})
        digest.add_json("media", {name: one.digest for name, one in media.items()})
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


def _missing(column: Column) -> int:
    """Empty cells of a column."""
    if isinstance(column, tuple):
        return sum(not text for text in column)
    return int(np.isnan(column).sum()) if column.dtype.kind == "f" else 0


def _paths(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    suffixes = (*DELIMITERS, PARQUET)
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() in suffixes else []
    if not wanted:
        return files.natural(files.ending(root, suffixes))
    return files.natural({path for pattern in wanted for path in root.glob(pattern)})


def _groups(given: Any) -> dict[str, list[str]]:
    """The option `groups`, checked."""
    if not isinstance(given, Mapping):
        raise SpecError("the option `groups` gives columns by the name of an array", fix="correct `format.options`")
    made: dict[str, list[str]] = {}
    for name, columns in given.items():
        if not isinstance(columns, list | tuple) or not columns or not all(isinstance(one, str) for one in columns):
            raise SpecError(f"the group {name!r} is no list of columns", fix="correct `format.options`")
        made[str(name)] = list(columns)
    return made


def _videos(root: SourceRoot, path: str, given: Any) -> dict[str, str]:
    """Streams and their files; `missing_media` for one that is named and not there."""
    place = PurePosixPath(path)
    if given is None:
        beside = str(place.with_suffix(".mp4"))
        return {"video": beside} if root.exists(beside) else {}
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given.values()):
        raise SpecError("the option `videos` gives a file by the name of a stream", fix="correct `format.options`")
    found = {}
    for name, pattern in given.items():
        at = str(place.parent / pattern.replace("{stem}", place.stem))
        if not root.exists(at):
            raise EpisodeError("missing_media", f"{at} is not there", where=path)
        found[str(name)] = at
    return found


def _video(root: SourceRoot, name: str, path: str) -> Media:
    try:
        return video.whole(name, root.read(path, limit=MAX_VIDEO))
    except BadInput as error:
        error.where = error.where or path
        raise


def _numeric(root: SourceRoot, path: str) -> list[str]:
    """The columns of numbers, by the first lines of a table or the schema."""
    if path.endswith(PARQUET):
        with parquet.opened(root, path) as file:
            schema = file.schema_arrow
        return [entry.name for entry in schema if _holds_numbers(entry.type)]
    with root.open(path) as opened:
        head = opened.read(_PROBED_LINES)
    whole = head if len(head) < _PROBED_LINES else head[: head.rfind(b"\n") + 1]
    rows = files.csv_rows(whole, path, delimiter=DELIMITERS[PurePosixPath(path).suffix.lower()])
    columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return [name for name, column in columns.items() if not isinstance(column, tuple) and column.dtype.kind in "fi"]


def _holds_numbers(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind))


def _table(root: SourceRoot, path: str, left: set[str]) -> tuple[dict[str, Column], list[str]]:
    """Columns by name, and the names of those that are not read."""
    if path.endswith(PARQUET):
        return _parquet(root, path, left)
    data = root.read(path, limit=MAX_TABLE)
    if not data:
        raise FormatError("empty_file", f"{path} is empty", where=path)
    rows = files.csv_rows(data, path, tuple(left), delimiter=DELIMITERS[PurePosixPath(path).suffix.lower()])
    names = [name for name in (rows[0] if rows else ()) if name not in left]
    return {name: _column([row[name] for row in rows]) for name in names}, []


def _column(cells: Sequence[str]) -> Column:
    """Cells as numbers, truth values or texts: the first of these that fits them all."""
    stripped = [cell.strip() for cell in cells]
    told = [cell for cell in stripped if cell]
    if told and all(cell.lower() in _WORDS for cell in stripped):
        return np.array([_WORDS[cell.lower()] for cell in stripped])
    try:
        if told and len(told) == len(stripped) and all(re.fullmatch(r"[+-]?\d{1,18}", cell) for cell in told):
            return np.array([int(cell) for cell in told], np.int64)
        if told and not any("_" in cell for cell in told):
            return np.array([float(cell) if cell else np.nan for cell in stripped], np.float64)
    except ValueError:
        pass
    return tuple(cells)


def _parquet(root: SourceRoot, path: str, left: set[str]) -> tuple[dict[str, Column], list[str]]:
    found: dict[str, Column] = {}
    unread: list[str] = []
    with parquet.opened(root, path) as file:
        absent = sorted(left - set(file.schema_arrow.names))
        if absent:
            raise FormatError("missing_column", f"{path} has no column {', '.join(absent)}", where=path)
        if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
            raise FormatError("claimed_size", f"{path} claims {file.metadata.num_rows} rows", where=path)
        kept = [name for name in file.schema_arrow.names if name not in left]
        table = file.read(columns=kept)
        table.validate(full=True)
    for name in kept:
        column = _arrow(table[name].combine_chunks(), f"{path}: {name}")
        if column is None:
            unread.append(name)
        else:
            found[name] = column
    return found, unread


def _arrow(column: pa.Array, where: str) -> Column | None:
    """A column as an array [T] or [T, k], or texts; None for a type that is neither."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return tuple(text or "" for text in column.to_pylist())
    if pa.types.is_timestamp(kind):
        column, kind = column.cast(pa.timestamp("ns")).cast(pa.int64()), pa.int64()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        if not (pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner)):
            return None
        rows = column.to_pylist()
        widths = {None if row is None else len(row) for row in rows}
        if len(widths) > 1 or None in widths:
            raise EpisodeError("bad_shape", f"{where} holds lists of several lengths, or none in a row")
        if any(value is None for row in rows for value in row):
            raise EpisodeError("bad_value", f"{where} holds a list with an empty place")
        return np.array(rows, inner.to_pandas_dtype()).reshape(len(rows), *widths)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    if column.null_count and not pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    return np.array(column.to_numpy(zero_copy_only=False))


def _grouped(columns: Mapping[str, Column], groups: Mapping[str, Sequence[str]]) -> dict[str, NDArray[Any]]:
    """Arrays by name, the columns of a group side by side under its name and no longer by themselves."""
    taken: set[str] = set()
    arrays: dict[str, NDArray[Any]] = {}
    for name, members in groups.items():
        parts = []
        for member in members:
            part = columns.get(member)
            if part is None:
                raise EpisodeError("missing_column", f"there is no column {member!r} (for the group {name})")
            if isinstance(part, tuple) or part.ndim != 1:
                raise EpisodeError("bad_type", f"the column {member!r} (for the group {name}) holds no single numbers")
            parts.append(part)
        taken |= set(members)
        arrays[name] = np.stack(parts, axis=1)
    for name, column in columns.items():
        if name in taken or isinstance(column, tuple):
            continue
        if name in arrays:
            raise EpisodeError("duplicate_stream", f"{name} is a column and a group")
        arrays[name] = column
    return arrays
