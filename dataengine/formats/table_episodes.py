"""Logs of one's own in tables: a CSV, TSV, Parquet or JSON file an episode, columns as streams, pictures beside.

With the option `episodes` a file holds many: each run of rows with one value in that column is an episode.

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

from dataengine import video
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats import fields, files, table_files, table_json, table_pictures
from dataengine.formats import table_columns as columns_of
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.table_columns import Column
from dataengine.storage import SourceRoot

MAX_VIDEO = 4 << 30
_PROBED = 4
_FEWEST = 3
_EPISODE = re.compile(
    r"(?:.*[_./ ])?(?:episode|traj|trajectory|demo|demonstration|rollout|trial)"
    r"(?:[_ ]?(?:id|idx|index|no|num|number|name))?"
)
_CLOCK = re.compile(
    r"(?:.*[_./ ])?(?:t|time|times|timestamp|timestamps|stamp|clock)(?:[_./ \[(](?:s|ms|us|ns|sec)[\])]?)?"
)
_COUNTER = re.compile(r"(?:.*[./])?(?:frame|step|row|tick)(?:[_ ]?(?:id|idx|index|no|num|number|count))?")
_ACTION = re.compile(r"(?:.*[_./ ])?(?:action|command|cmd|control|target)s?")


class TableEpisodesFormat:
    """Episodes in tables.

    Options: `episodes`, the column whose value tells the episodes of a file apart; `groups`, names of arrays [T, k] and
    the columns that they take (`{q: [q_0, q_1]}`); `videos`, streams and the file of each, `{stem}` for the table's own
    name, `{episode}` for the value in the column of `episodes` (default: `<stem>.mp4` as `video`, where a file is one);
    `images`, streams of picture files: a pattern (`front/*.jpg`), `{files, times: ns}` where their names are times, or
    `{column, folder}` where a column names them; `rows`, the list of rows in a JSON object; `leave_out`, columns that
    are not read; `files`, patterns of the tables (default every .csv, .tsv and .parquet; where there is none, every
    .json, .jsonl and .ndjson).
    """

    name: ClassVar[str] = "table_episodes"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "logs of one's own: a CSV, Parquet or JSON table an episode, videos or pictures beside it"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "csv_log",
            "robot",
            "any CSV or TSV table of numbers over time, one file an episode, mp4 or pictures beside",
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
        Layout(
            "json_log",
            "robot",
            "any JSON or JSON Lines list of steps, one file an episode, pictures beside",
            "writer library",
            14,
            "Python 3.12's json; the keys are made up",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A table with a column that is named like a clock, a counter or an action, beside numbers.

        Every layout of a name is surer.
        """
        tables = _paths(root, only, ())
        for path in tables[:_PROBED]:
            try:
                head = table_files.head(root, path)
            except BadInput:
                continue
            rows_by = _rows_by(head.numbers)
            if rows_by is not None and head.width >= _FEWEST:
                told = [f"{path} holds {len(head.numbers)} columns of numbers beside {rows_by[0]} {rows_by[1]}"]
                options = _proposed(root, path, head, rows_by[1], tables)
                if "episodes" in options:
                    told.append(f"its column {options['episodes']} tells episodes apart")
                beside = {**options.get("images", {}), **options.get("videos", {})}
                told += [f"beside it lie pictures: {', '.join(beside)}"] if beside else []
                sure = 0.12 if rows_by[0] == "the clock" else 0.11
                return Detection(self.name, sure, tuple(told), layout=_layout(path), options=options)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every table, in natural order; with `episodes` each of its episodes, in the order of the rows."""
        check_options(options, ("episodes", "groups", "videos", "images", "rows", "leave_out", "files"), self.name)
        images, rows = table_pictures.checked(options.get("images", {})), _word(options, "rows")
        leave_out = list(option_names(options, "leave_out", ()))
        made = {"groups": _groups(options.get("groups", {})), "leave_out": leave_out, "images": images, "table": rows}
        apart = _word(options, "episodes")
        for path in _paths(root, only, option_names(options, "files", ())):
            for part in _parts(root, path, apart, rows):
                if isinstance(part, ScanProblem):
                    yield part
                    continue
                name = path if part["episode"] is None else f"{path}#{part['episode']}"
                try:
                    videos = _videos(root, path, options.get("videos"), part["episode"])
                    pictured = _image_files(root, path, images, part["episode"])
                except BadInput as error:
                    yield ScanProblem("episode", name, error.reason, error.what)
                    continue
                beside = (*videos.values(), *(file for found in pictured.values() for file in found))
                yield EpisodeRef(name, {"file": path, "videos": videos, **made, **part}, (path, *beside))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        asked = ref.locator
        path, videos = str(asked["file"]), dict(asked["videos"])
        with root.unchanged(*ref.files):
            table = table_files.table(root, path, asked)
            columns, about = table.columns, table.about
            arrays = columns_of.grouped(columns, asked["groups"])
            if not arrays or not len(next(iter(arrays.values()))):
                raise EpisodeError("empty_episode", f"{path} holds no rows of numbers", where=path)
            _check_one(columns, asked)
            media = {name: _video(root, name, at) for name, at in sorted(videos.items())}
            shown, named = _images(root, asked, columns)
            described = tuple(root.describe(name) for name in dict.fromkeys((*ref.files, *named)))
        both = sorted(shown.keys() & media.keys())
        if both:
            raise EpisodeError("duplicate_stream", f"{both[0]} is a video and pictures", where=path)
        media |= shown
        pictured = {entry["column"] for entry in asked["images"].values() if "column" in entry}
        texts = {name: one for name, one in columns.items() if isinstance(one, tuple) and name not in pictured}
        facts, told, odd = _about(about, path)
        texts |= {name: (text,) for name, text in told.items() if name not in columns}
        missing = {name: count for name, column in sorted(columns.items()) if (count := columns_of.missing(column))}
        unread = sorted([*table.unread, *odd, *asked["leave_out"]])
        attributes = facts | ({"missing": missing} if missing else {}) | ({"unread": unread} if unread else {})
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("texts", {name: list(values) for name, values in sorted(texts.items())})
        digest.add_json("media", {name: one.digest for name, one in media.items()})
        if facts:
            digest.add_json("attributes", facts)
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


def _rows_by(numbers: Sequence[str]) -> tuple[str, str] | None:
    """What says that the rows of a table follow one another in time, and the column's (or group's) name."""
    for what, names in (("the clock", _CLOCK), ("the counter", _COUNTER)):
        found = next((name for name in numbers if names.fullmatch(name.lower())), None)
        if found is not None:
            return what, found
    groups = columns_of.side_by_side(numbers)
    action = next((name for name in (*numbers, *groups) if _ACTION.fullmatch(name.lower())), None)
    return None if action is None else ("the action", action)


def _layout(path: str) -> str:
    if table_files.is_json(path):
        return "json_log"
    return "parquet_log" if table_files.is_parquet(path) else "csv_log"


def _proposed(root: SourceRoot, path: str, head: table_files.Head, clock: str, tables: Sequence[str]) -> dict[str, Any]:
    """Options for tables like this one, by the names of its columns and what lies beside it."""
    apart = next((name for name in head.columns if _EPISODE.fullmatch(name.lower())), None)
    groups = columns_of.side_by_side([name for name in head.numbers if name not in (apart, clock)])
    images = table_pictures.propose(root, path, head.columns, head.rows, tables)
    videos = table_pictures.propose_videos(root, path, tables) if apart is None else {}
    found = {"episodes": apart, "groups": groups, "images": images, "videos": videos, "rows": head.table}
    return {name: value for name, value in found.items() if value}


def _word(options: Mapping[str, Any], name: str) -> str | None:
    told = options.get(name)
    if told is not None and not isinstance(told, str):
        raise SpecError(f"the option `{name}` is a name", fix="correct `format.options`")
    return told


def _image_files(
    root: SourceRoot, path: str, images: Mapping[str, table_pictures.Entry], episode: str | None
) -> dict[str, list[str]]:
    """The files of the streams that are told by a pattern."""
    told = {name: entry for name, entry in images.items() if "files" in entry}
    return {name: table_pictures.listed(root, path, entry, episode) for name, entry in sorted(told.items())}


def _images(
    root: SourceRoot, asked: Mapping[str, Any], columns: Mapping[str, Column]
) -> tuple[dict[str, Media], list[str]]:
    """Streams of pictures, and the files that columns name."""
    path, found, named = str(asked["file"]), dict[str, Media](), list[str]()
    for name, entry in sorted(asked["images"].items()):
        if "column" in entry:
            paths = table_pictures.named(root, path, entry, columns, asked["episode"])
            named += paths
        else:
            paths = table_pictures.listed(root, path, entry, asked["episode"])
            if "times" not in entry:
                table_pictures.check_whole(paths)
        found[name] = table_pictures.stream(root, name, paths, entry.get("times"))
    return found, named


def _about(about: Mapping[str, Any], path: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """What stands beside the rows of a JSON table: attributes, texts by their path, and what has no plain value."""
    facts: dict[str, Any] = {}
    odd: list[str] = []
    for name, value in about.items():
        try:
            fields.canonical(value, f"{path}: {name}")
        except BadInput:
            odd.append(name)
            continue
        if name in ("missing", "unread"):
            raise EpisodeError("name_conflict", f"{path} holds {name!r}, a word of our own", where=path)
        facts[name] = value
    texts = {name: value for name, value in table_json.leaves(facts) if isinstance(value, str)}
    return facts, texts, odd


def _paths(root: SourceRoot, only: str | None, wanted: Sequence[str]) -> list[str]:
    plain = (*table_files.DELIMITERS, table_files.PARQUET)
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() in (*plain, *table_json.SUFFIXES) else []
    if not wanted:
        return files.natural(files.ending(root, plain) or files.ending(root, table_json.SUFFIXES))
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


def _parts(root: SourceRoot, path: str, apart: str | None, rows: str | None) -> Iterator[dict[str, Any] | ScanProblem]:
    """The runs of rows of one file that are an episode each; all of it where no column tells them apart.

    Rows without a value, and an episode whose rows lie in several places, are told and left out.
    """
    if apart is None:
        yield {"episode": None, "first": 0, "rows": None}
        return
    try:
        values = table_files.values(root, path, apart, rows)
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
