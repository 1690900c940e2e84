"""Logs of one's own in tables: a CSV, TSV or Parquet file an episode, columns as streams, videos of its name beside it.

With the option `episodes` a file holds many: each run of rows with one value in that column is an episode.

A column of numbers is an array [T], float64 or int64 (Parquet: its own type; lists of one length are [T, k]); empty
cells are NaN and counted in `attributes["missing"]`, as are empty texts. `true`/`false` is an array of booleans,
anything else a text a row.
The option `groups` puts columns side by side. Upstream: no recorder in particular; RFC 4180 for CSV.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa

from dataengine import video
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, parquet
from dataengine.formats import table_columns as columns_of
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.table_columns import Column
from dataengine.storage import SourceRoot

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
MAX_VIDEO = 4 << 30
MAX_CELLS = 1 << 28
_PROBED = 4
_PROBED_LINES = 64 << 10
_FEWEST = 3
_EPISODE = re.compile(
    r"(?:.*[_./ ])?(?:episode|traj|trajectory|demo|demonstration|rollout|trial)"
    r"(?:[_ ]?(?:id|idx|index|no|num|number|name))?"
)
_CLOCK = re.compile(
    r"(?:.*[_./ ])?(?:t|time|times|timestamp|timestamps|stamp|clock)(?:[_./ \[(](?:s|ms|us|ns|sec)[\])]?)?"
)


class TableEpisodesFormat:
    """Episodes in tables.

    Options: `episodes`, the column whose value tells the episodes of a file apart; `groups`, names of arrays [T, k] and
    the columns that they take (`{q: [q_0, q_1]}`); `videos`, streams and the file of each, `{stem}` for the table's own
    name, `{episode}` for the value in the column of `episodes` (default: `<stem>.mp4` as `video`, where a file is one);
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
                names, numbers = _named(root, path)
            except BadInput:
                continue
            clocks = [name for name in numbers if _CLOCK.fullmatch(name.lower())]
            if clocks and len(numbers) >= _FEWEST:
                told = [f"{path} holds {len(numbers)} columns of numbers beside the clock {clocks[0]}"]
                layout = "parquet_log" if _is_parquet(path) else "csv_log"
                apart = next((name for name in names if _EPISODE.fullmatch(name.lower())), None)
                told += [f"its column {apart} tells episodes apart"] if apart is not None else []
                groups = columns_of.side_by_side([name for name in numbers if name not in (apart, clocks[0])])
                options = ({"episodes": apart} if apart is not None else {}) | ({"groups": groups} if groups else {})
                return Detection(self.name, 0.12, tuple(told), layout=layout, options=options)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every table, in natural order; with `episodes` each of its episodes, in the order of the rows."""
        check_options(options, ("episodes", "groups", "videos", "leave_out", "files"), self.name)
        made = {
            "groups": _groups(options.get("groups", {})),
            "leave_out": list(option_names(options, "leave_out", ())),
        }
        apart = options.get("episodes")
        if apart is not None and not isinstance(apart, str):
            raise SpecError("the option `episodes` is the name of a column", fix="correct `format.options`")
        for path in _paths(root, only, option_names(options, "files", ())):
            for part in _parts(root, path, apart):
                if isinstance(part, ScanProblem):
                    yield part
                    continue
                name = path if part["episode"] is None else f"{path}#{part['episode']}"
                try:
                    beside = _videos(root, path, options.get("videos"), part["episode"])
                except BadInput as error:
                    yield ScanProblem("episode", name, error.reason, error.what)
                    continue
                yield EpisodeRef(name, {"file": path, "videos": beside, **made, **part}, (path, *beside.values()))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        asked = ref.locator
        path, videos = str(asked["file"]), dict(asked["videos"])
        with root.unchanged(*ref.files):
            columns, unread = _table(root, path, asked)
            media = {name: _video(root, name, at) for name, at in sorted(videos.items())}
            described = tuple(root.describe(name) for name in ref.files)
        arrays = columns_of.grouped(columns, asked["groups"])
        if not arrays or not len(next(iter(arrays.values()))):
            raise EpisodeError("empty_episode", f"{path} holds no rows of numbers", where=path)
        _check_one(columns, asked)
        texts = {name: column for name, column in columns.items() if isinstance(column, tuple)}
        missing = {name: count for name, column in sorted(columns.items()) if (count := columns_of.missing(column))}
        attributes: dict[str, Any] = {"missing": missing} if missing else {}
        attributes |= {"unread": sorted([*unread, *asked["leave_out"]])} if unread or asked["leave_out"] else {}
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("texts", {name: list(values) for name, values in sorted(texts.items())})
        digest.add_json("media", {name: one.digest for name, one in media.items()})
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


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


def _videos(root: SourceRoot, path: str, given: Any, episode: str | None) -> dict[str, str]:
    """Streams and their files; `missing_media` for one that is named and not there."""
    place = PurePosixPath(path)
    if given is None and episode is not None:
        return {}
    if given is None:
        beside = str(place.with_suffix(".mp4"))
        return {"video": beside} if root.exists(beside) else {}
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given.values()):
        raise SpecError("the option `videos` gives a file by the name of a stream", fix="correct `format.options`")
    found = {}
    for name, pattern in given.items():
        at = str(place.parent / pattern.replace("{stem}", place.stem).replace("{episode}", episode or ""))
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


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(PARQUET)


def _delimiter(path: str) -> str:
    return DELIMITERS[PurePosixPath(path).suffix.lower()]


def _named(root: SourceRoot, path: str) -> tuple[list[str], list[str]]:
    """The names of all columns, and of those of numbers, by the first lines of a table or the schema."""
    if _is_parquet(path):
        with parquet.opened(root, path) as file:
            schema = file.schema_arrow
        return schema.names, [entry.name for entry in schema if _holds_numbers(entry.type)]
    with root.open(path) as opened:
        head = opened.read(_PROBED_LINES)
    whole = head if len(head) < _PROBED_LINES else head[: head.rfind(b"\n") + 1]
    rows = files.csv_rows(whole, path, delimiter=_delimiter(path))
    columns = {name: columns_of.of_cells([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    numbers = [name for name, one in columns.items() if not isinstance(one, tuple) and one.dtype.kind in "fi"]
    return list(columns), numbers


def _holds_numbers(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind))


def _parts(root: SourceRoot, path: str, apart: str | None) -> Iterator[dict[str, Any] | ScanProblem]:
    """The runs of rows of one file that are an episode each; all of it where no column tells them apart.

    Rows without a value, and an episode whose rows lie in several places, are told and left out.
    """
    if apart is None:
        yield {"episode": None, "first": 0, "rows": None}
        return
    try:
        values = _values(root, path, apart)
    except BadInput as error:
        yield ScanProblem("file", path, error.reason, error.what)
        return
    starts = [row for row, value in enumerate(values) if row == 0 or value != values[row - 1]]
    runs: dict[str, list[tuple[int, int]]] = {}
    for first, end in zip(starts, [*starts[1:], len(values)], strict=True):
        runs.setdefault(values[first], []).append((first, end - first))
    if not runs:
        yield ScanProblem("file", path, "empty_episode", f"{path} holds no rows")
    for value, found in runs.items():
        if not value:
            lost = f"{sum(rows for _, rows in found)} rows from row {found[0][0]} on have no {apart}"
            yield ScanProblem("episode", f"{path}#", "missing_value", lost)
        elif len(found) > 1:
            places = " and ".join(str(row) for row, _ in found[:3])
            what = (
                f"the rows of {apart} {value} lie apart, they begin at {places}: sort the table, or give each its own"
            )
            yield ScanProblem("episode", f"{path}#{value}", "split_episode", what)
        else:
            yield {"episode": value, "first": found[0][0], "rows": found[0][1]}


def _values(root: SourceRoot, path: str, apart: str) -> Sequence[str]:
    """The value of a column in each row, as text; empty where there is none."""
    if not _is_parquet(path):
        rows = files.cached(root, path, _cells)
        files.check_header(list(rows[0]) if rows else [apart], (apart,), path)
        return [row[apart].strip() for row in rows]
    with parquet.opened(root, path) as file:
        files.check_header(file.schema_arrow.names, (apart,), path)
        values = file.read(columns=[apart])[apart].to_pylist()
    return ["" if value is None else str(value) for value in values]


def _check_one(columns: Mapping[str, Column], asked: Mapping[str, Any]) -> None:
    """`several_episodes` for a table that is read as one episode and has a column that says otherwise."""
    for name, column in columns.items():
        if asked["episode"] is None and _EPISODE.fullmatch(name.lower()):
            found = len(set(column if isinstance(column, tuple) else column.tolist()))
            if found > 1:
                raise EpisodeError(
                    "several_episodes",
                    f"the column {name} has {found} values in it",
                    fix=f"say `episodes: {name}` among the converter's options, or `leave_out: [{name}]` if it is one",
                )


def _table(root: SourceRoot, path: str, asked: Mapping[str, Any]) -> tuple[dict[str, Column], list[str]]:
    """Columns of an episode's rows by name, and the names of those that are not read."""
    first, left = asked["first"], set(asked["leave_out"])
    stop = None if asked["rows"] is None else first + asked["rows"]
    if _is_parquet(path):
        return _parquet(root, path, left, slice(first, stop))
    rows = files.cached(root, path, _cells)
    files.check_header(list(rows[0]) if rows else [], tuple(left) if rows else (), path)
    names = [name for name in (rows[0] if rows else ()) if name not in left]
    return {name: columns_of.of_cells([row[name] for row in rows[first:stop]]) for name in names}, []


def _cells(data: bytes, path: str) -> tuple[Mapping[str, str], ...]:
    if not data:
        raise FormatError("empty_file", f"{path} is empty", where=path)
    return files.csv_rows(data, path, delimiter=_delimiter(path))


def _parquet(root: SourceRoot, path: str, left: set[str], rows: slice) -> tuple[dict[str, Column], list[str]]:
    found: dict[str, Column] = {}
    unread: list[str] = []
    table = _arrow_table(root.path, path, root.describe(path).sha256, frozenset(left))[rows]
    for name in table.column_names:
        column = columns_of.of_arrow(table[name].combine_chunks(), f"{path}: {name}")
        if column is None:
            unread.append(name)
        else:
            found[name] = column
    return found, unread


@lru_cache(maxsize=2)
def _arrow_table(folder: Path, path: str, sha256: str, left: frozenset[str]) -> pa.Table:
    """A Parquet file without the columns `left`, read once a process and content."""
    root = SourceRoot(folder)
    if root.describe(path).sha256 != sha256:
        raise FormatError("changed_during_read", f"{path} changed while it was read", where=path)
    with parquet.opened(root, path) as file:
        names = file.schema_arrow.names
        files.check_header(names, sorted(left), path)
        if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
            raise FormatError("claimed_size", f"{path} claims {file.metadata.num_rows} rows", where=path)
        table = file.read(columns=[name for name in names if name not in left])
        table.validate(full=True)
    return table
