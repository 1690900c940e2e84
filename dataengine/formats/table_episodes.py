"""Logs of one's own in tables: a CSV, TSV, Parquet or JSON file an episode, columns as streams, pictures beside.

With the option `episodes` a file holds many: each run of rows with one value in that column is an episode.

A column of numbers is an array [T], float64 or int64 (Parquet: its own type; lists of one length are [T, k]); empty
cells are NaN and counted in `attributes["missing"]`, as are empty texts. `true`/`false` is an array of booleans,
anything else a text a row.
The option `groups` puts columns side by side. Upstream: no recorder in particular; RFC 4180 for CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from dataengine import video
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats import (
    fields,
    pictures,
    table_files,
    table_json,
    table_parts,
    table_pictures,
    table_propose,
    table_text,
)
from dataengine.formats import table_columns as columns_of
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.table_columns import Column
from dataengine.formats.table_parts import Part
from dataengine.storage import SourceRoot

MAX_VIDEO = 4 << 30
_OPTIONS = (
    *("episodes", "folders", "files", "groups", "leave_out", "videos", "images", "rows"),
    *("delimiter", "decimal", "header", "pictures"),
)
_PROBED = 4
_FEWEST = 3
_SURE, _LESS_SURE = 0.12, 0.11


class TableEpisodesFormat:
    """Episodes in tables.

    Options: `episodes`, the column whose value tells the episodes of a file apart; `groups`, names of arrays [T, k] and
    the columns that they take (`{q: [q_0, q_1]}`); `videos`, streams and the file of each, `{stem}` for the table's own
    name, `{episode}` for the value in the column of `episodes` (default: `<stem>.mp4` as `video`, where a file is one);
    `images`, streams of picture files: a pattern (`front/*.jpg`), `{files, times: ns}` where their names are times, or
    `{column, folder}` where a column names them; `folders`, a pattern of folders that are an episode each with all
    tables and .npy arrays below, whose raw pixels are kept as `pictures`, png or jpeg; `rows`, the list of rows in a
    JSON object; `delimiter`, `decimal` and `header` of text; `leave_out`, columns that are not read; `files`, patterns
    of the tables (default every .csv, .tsv and .parquet; where there is none, every .json, .jsonl and .ndjson, else
    .npz; with `folders` all of these).
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
        Layout(
            "npy_log",
            "robot",
            "any folder of .npy arrays, or any .npz, an episode each, JSON or pictures beside",
            "writer library",
            10,
            "numpy 2's own writer; the names are made up",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A table with a column that is named like a clock, a counter or an action, beside numbers.

        Every layout of a name is surer.
        """
        everything = table_parts.paths(root, only, (), everything=True) if only is None else []
        folders = table_propose.for_folders(root, everything)
        if folders:
            told = [f"folders of tables with columns of their own, the first {everything[0]}"]
            return Detection(self.name, _SURE, tuple(told), layout=_layout(everything[0]), options=folders)
        tables = table_parts.paths(root, only, (), everything=False)
        for path in tables[:_PROBED]:
            try:
                head = table_files.head(root, path)
            except BadInput:
                continue
            rows_by = columns_of.rows_by(head.numbers)
            if rows_by is not None and head.width >= _FEWEST:
                told = [f"{path} holds {len(head.numbers)} columns of numbers beside {rows_by[0]} {rows_by[1]}"]
                options = table_propose.for_a_table(root, path, head, rows_by[1], tables)
                if "episodes" in options:
                    told.append(f"its column {options['episodes']} tells episodes apart")
                beside = {**options.get("images", {}), **options.get("videos", {})}
                told += [f"beside it lie pictures: {', '.join(beside)}"] if beside else []
                sure = _SURE if rows_by[0] == "the clock" else _LESS_SURE
                return Detection(self.name, sure, tuple(told), layout=_layout(path), options=options)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every table, in natural order; with `episodes` each of its episodes, in the order of the rows."""
        check_options(options, _OPTIONS, self.name)
        table_text.dialect_of(options)
        table_parts.word(options, "rows")
        images, apart, folders = table_pictures.checked(options.get("images", {})), *table_parts.how(options)
        shared = {
            "groups": _groups(options.get("groups", {})),
            "images": images,
            "options": table_parts.reading(options),
            "pictures": pictures.picture_codec(options),
        }
        paths = table_parts.paths(root, only, option_names(options, "files", ()), everything=folders is not None)
        parts = table_parts.in_tables(root, paths, apart, options)
        for part in parts if folders is None else table_parts.in_folders(paths, folders):
            if isinstance(part, ScanProblem):
                yield part
                continue
            place = table_pictures.Place(part.folder, part.stem, part.episode)
            try:
                videos = _videos(root, place, options.get("videos"), usual=folders is None and apart is None)
                told = [entry for _, entry in sorted(images.items()) if "files" in entry]
                pictured = [file for entry in told for file in table_pictures.listed(root, place, entry)]
            except BadInput as error:
                yield ScanProblem("episode", part.name, error.reason, error.what)
                continue
            locator = {"part": asdict(part), "videos": videos, **shared}
            yield EpisodeRef(part.name, locator, (*part.tables, *videos.values(), *pictured))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        asked, part = ref.locator, Part(**ref.locator["part"])
        with root.unchanged(*ref.files):
            table = table_parts.table_of(root, part, asked["options"])
            columns, about = table.columns, table.about
            arrays = columns_of.grouped(columns, asked["groups"])
            if not any(map(len, (*arrays.values(), *table.pixels.values()))):
                raise EpisodeError("empty_episode", f"{part.name} holds no rows of numbers", where=part.tables[0])
            if part.episode is None:
                _check_one(columns)
            media = {name: _video(root, name, at) for name, at in sorted(asked["videos"].items())}
            shown, named = _images(root, part, asked["images"], columns)
            raw = {name: pictures.from_pixels(name, one, asked["pictures"]) for name, one in table.pixels.items()}
            described = tuple(root.describe(name) for name in dict.fromkeys((*ref.files, *named)))
        both = sorted((shown.keys() & media.keys()) | (raw.keys() & (shown | media).keys()))
        if both:
            raise EpisodeError("duplicate_stream", f"two streams are called {both[0]}", where=part.tables[0])
        media |= shown | raw
        pictured = {entry["column"] for entry in asked["images"].values() if "column" in entry}
        texts = {name: one for name, one in columns.items() if isinstance(one, tuple) and name not in pictured}
        facts, told, odd = _about(about, part.tables[0])
        texts |= {name: (text,) for name, text in told.items() if name not in columns}
        missing = {name: count for name, column in sorted(columns.items()) if (count := columns_of.missing(column))}
        unread = sorted([*table.unread, *odd, *asked["options"].get("leave_out", ())])
        attributes = facts | ({"missing": missing} if missing else {}) | ({"unread": unread} if unread else {})
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("texts", {name: list(values) for name, values in sorted(texts.items())})
        digest.add_json("media", {name: one.digest for name, one in media.items()})
        if facts:
            digest.add_json("attributes", facts)
        return RawEpisode(part.name, described, digest.hexdigest(), arrays, media, texts, attributes)


def _layout(path: str) -> str:
    if table_files.is_json(path):
        return "json_log"
    if table_files.is_npy(path) or table_files.is_npz(path):
        return "npy_log"
    return "parquet_log" if table_files.is_parquet(path) else "csv_log"


def _images(
    root: SourceRoot, part: Part, images: Mapping[str, table_pictures.Entry], columns: Mapping[str, Column]
) -> tuple[dict[str, Media], list[str]]:
    """Streams of pictures, and the files that columns name."""
    found, names = dict[str, Media](), list[str]()
    place = table_pictures.Place(part.folder, part.stem, part.episode)
    for name, entry in sorted(images.items()):
        if "column" in entry:
            paths = table_pictures.named(root, place, entry, columns)
            names += paths
        else:
            paths = table_pictures.listed(root, place, entry)
            if "times" not in entry:
                table_pictures.check_whole(paths)
        found[name] = table_pictures.stream(root, name, paths, entry, columns)
    return found, names


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


def _videos(root: SourceRoot, place: table_pictures.Place, given: Any, *, usual: bool) -> dict[str, str]:
    """Streams and their files; `missing_media` for one that is named and not there. `usual`: `<stem>.mp4` is one."""
    if given is None:
        beside = place.fill("{stem}.mp4")
        return {"video": beside} if usual and root.exists(beside) else {}
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given.values()):
        raise SpecError("the option `videos` gives a file by the name of a stream", fix="correct `format.options`")
    found = {str(name): place.fill(pattern) for name, pattern in given.items()}
    for at in found.values():
        if not root.exists(at):
            raise EpisodeError("missing_media", f"{at} is not there")
    return found


def _video(root: SourceRoot, name: str, path: str) -> Media:
    try:
        return video.whole(name, root.read(path, limit=MAX_VIDEO))
    except BadInput as error:
        error.where = error.where or path
        raise


def _check_one(columns: Mapping[str, Column]) -> None:
    """`several_episodes` for a table that is read as one episode and has a column that says otherwise."""
    for name, column in columns.items():
        if table_propose.EPISODE.fullmatch(name.lower()):
            found = len(set(column if isinstance(column, tuple) else column.tolist()))
            if found > 1:
                raise EpisodeError(
                    "several_episodes",
                    f"the column {name} has {found} values in it",
                    fix=f"say `episodes: {name}` among the converter's options, or `leave_out: [{name}]` if it is one",
                )
