"""Which tables, or rows of them, are an episode; and its columns.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats import files, table_files, table_json, table_text
from dataengine.formats.base import ScanProblem, option_names
from dataengine.storage import SourceRoot


def paths(root: SourceRoot, only: str | None, wanted: Sequence[str], *, everything: bool) -> list[str]:
    """The tables: those `wanted`, else CSV, TSV and Parquet files, else JSON, else .npz (or `everything`)."""
    plain = (".csv", ".tsv", table_files.PARQUET)
    if only is not None:
        known = (*plain, *table_json.SUFFIXES, *table_text.SUFFIXES, table_files.NPZ)
        return [only] if PurePosixPath(only).suffix.lower() in known else []
    if wanted:
        return files.natural({path for pattern in wanted for path in root.glob(pattern)})
    if everything:
        return files.natural(files.ending(root, (*plain, *table_json.SUFFIXES, table_files.NPY, table_files.NPZ)))
    return files.natural(
        files.ending(root, plain) or files.ending(root, table_json.SUFFIXES) or files.ending(root, (table_files.NPZ,))
    )


def word(options: Mapping[str, Any], name: str) -> str | None:
    """An option that is a name or a pattern, None where it is not given."""
    told = options.get(name)
    if told is not None and not isinstance(told, str):
        raise SpecError(f"the option `{name}` is a name", fix="correct `format.options`")
    return told


@dataclass(frozen=True)
class Part:
    """One episode: its tables, the rows of them (`rows` None: all), the folder and name that patterns speak of."""

    name: str
    tables: tuple[str, ...]
    folder: str
    stem: str
    episode: str | None = None
    first: int = 0
    rows: int | None = None
    prefixed: bool = False


def reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options those that say how tables are read."""
    found = {name: options[name] for name in ("delimiter", "decimal", "header", "rows") if name in options}
    leave_out = list(option_names(options, "leave_out", ()))
    return found | ({"leave_out": leave_out} if leave_out else {})


def how(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The options `episodes` and `folders`: what tells episodes apart."""
    apart, folders = word(options, "episodes"), word(options, "folders")
    if apart is not None and folders is not None:
        raise SpecError("`episodes` tells the rows of a table apart, `folders` takes tables together", fix="keep one")
    return apart, folders


def in_folders(paths: Sequence[str], pattern: str) -> Iterator[Part]:
    """A part for each folder that the pattern names, with all tables below it."""
    wanted = PurePosixPath(pattern).parts  # none for the root itself
    held: dict[str, list[str]] = {}
    for path in paths:
        above = PurePosixPath(path).parts[:-1][: len(wanted)]
        if len(above) == len(wanted) and all(map(fnmatchcase, above, wanted)):
            held.setdefault("/".join(above) or ".", []).append(path)
    for folder in files.natural(held):
        name = "log" if folder == "." else folder
        yield Part(name, tuple(held[folder]), folder, PurePosixPath(folder).name, prefixed=True)


def in_tables(
    root: SourceRoot, paths: Sequence[str], apart: str | None, options: Mapping[str, Any]
) -> Iterator[Part | ScanProblem]:
    """A part for each table, or for each run of its rows with one value in the column `apart`."""
    for path in paths:
        place = PurePosixPath(path)
        whole = Part(path, (path,), str(place.parent), place.stem)
        if apart is None:
            yield whole
            continue
        for run in _runs(root, path, apart, _reader(reading(options))):
            if isinstance(run, ScanProblem):
                yield run
            else:
                value, first, rows = run
                yield replace(whole, name=f"{path}#{value}", episode=value, first=first, rows=rows)


def _reader(options: Mapping[str, Any], leave_out: Collection[str] | None = None) -> table_files.Reading:
    left = options.get("leave_out", ()) if leave_out is None else leave_out
    return table_files.Reading(table_text.dialect_of(options), options.get("rows"), frozenset(left))


def table_of(root: SourceRoot, part: Part, options: Mapping[str, Any]) -> table_files.Table:
    """The columns of an episode: of its table, or of all tables in its folder, each under its table's name."""
    rows = slice(part.first, None if part.rows is None else part.first + part.rows)
    if not part.prefixed:
        return table_files.table(root, part.tables[0], _reader(options), rows)
    whole, about = table_files.Table({}), dict[str, Any]()
    left = set(options.get("leave_out", ()))
    for path in part.tables:
        prefix = table_files.prefix(part.folder, path)
        own = {name.removeprefix(prefix) for name in left if name.startswith(prefix)}
        left -= {f"{prefix}{name}" for name in own}
        found = table_files.table_or_facts(root, path, _reader(options, own), rows)
        facts = (
            dict(found.about) if table_files.is_npy(path) else {prefix[:-1]: dict(found.about)} if found.about else {}
        )
        columns = {f"{prefix}{name}": column for name, column in found.columns.items()}
        pixels = {f"{prefix}{name}": values for name, values in found.pixels.items()}
        if (columns | pixels).keys() & (whole.columns | whole.pixels).keys() or facts.keys() & about.keys():
            what = f"two tables are called as {path} is"
            raise EpisodeError("duplicate_stream", what, where=path, fix="choose with `files`")
        whole.columns |= columns
        whole.pixels |= pixels
        whole.unread += [f"{prefix}{name}" for name in found.unread]
        about |= facts
    if left:
        raise EpisodeError("missing_column", f"{part.name} has no column {', '.join(sorted(left))}")
    return replace(whole, about=about)


def _runs(
    root: SourceRoot, path: str, apart: str, reading: table_files.Reading
) -> Iterator[tuple[str, int, int] | ScanProblem]:
    """The runs of rows of one file that are an episode each: value, first row, how many.

    Rows without a value, and an episode whose rows lie in several places, are told and left out.
    """
    try:
        values = table_files.values(root, path, apart, reading)
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
            yield value, *found[0]
