"""Annotation tables of videos: rows of CSV, JSON and JSON Lines, and their values as times, numbers and lists.

A helper of formats, not a format.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataengine.documents import load_json
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.storage import SourceRoot

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
Row = Mapping[str, Any]
_CLOCK = re.compile(r"(\d{1,4}):([0-5]?\d):([0-5]?\d(?:[.,]\d{1,9})?)", re.ASCII)
_MINUTES = re.compile(r"(\d{1,6}):([0-5]?\d(?:[.,]\d{1,9})?)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\['"\\])*)'|"((?:[^"\\]|\\['"\\])*)"|([+-]?\d{1,18}))\s*(,|$)""", re.ASCII)
_ESCAPE = re.compile(r"\\(['\"\\])")


@dataclass(frozen=True)
class Damaged:
    """A row that cannot be used: its line holds other than the header's number of fields, or is no JSON object."""

    reason: str
    what: str


def table_rows(
    root: SourceRoot, path: str, key: str | None = None, delimiter: str | None = None
) -> tuple[Row | Damaged, ...]:
    """Rows of a table, parsed once a process and content; `key` is the member of a JSON object that holds them.

    `delimiter` parts the columns of a CSV; without it the comma (`.csv`) or the tab (`.tsv`). Raises `FormatError` for
    a file that is no table (`unknown_table`), and what the parsers raise.
    """
    if not path.endswith(SUFFIXES):
        raise FormatError("unknown_table", f"{path} is none of {', '.join(SUFFIXES)}", where=path)
    if path.endswith(".json"):
        found = files.json_file(root, path)
        if key is not None:
            found = found.get(key) if isinstance(found, dict) else None
        return _objects(found, f"{path}: {key}" if key else path, path)
    if path.endswith(".jsonl"):
        return files.cached(root, path, _lines)
    return files.cached(root, path, _PARSERS[delimiter or ("\t" if path.endswith(".tsv") else ",")])


def _comma(data: bytes, where: str) -> tuple[Row | Damaged, ...]:
    return _csv(data, where, ",")


def _semicolon(data: bytes, where: str) -> tuple[Row | Damaged, ...]:
    return _csv(data, where, ";")


def _tab(data: bytes, where: str) -> tuple[Row | Damaged, ...]:
    return _csv(data, where, "\t")


def _bar(data: bytes, where: str) -> tuple[Row | Damaged, ...]:
    return _csv(data, where, "|")


_PARSERS = {",": _comma, ";": _semicolon, "\t": _tab, "|": _bar}


def parted(text: str, delimiter: str) -> Any:
    """A strict CSV reader; where the header's names follow their delimiter with a space, all values do."""
    second = re.split(r"[\r\n]", text, maxsplit=1)[0].split(delimiter)[1:2]
    spaced = delimiter != "\t" and any(name.startswith(" ") for name in second)
    csv.field_size_limit(files.MAX_FIELD)
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)


def _csv(data: bytes, where: str, delimiter: str) -> tuple[Row | Damaged, ...]:
    reader = parted(files.text_of(data, where), delimiter)
    rows: list[Row | Damaged] = []
    try:
        header = next(reader, None)
        if not header:
            raise FormatError("no_header", f"{where} has no header line", where=where)
        files.check_header(header, (), where)
        for row in reader:
            if row and len(row) != len(header):
                what = f"line {reader.line_num} of {where} holds {len(row)} fields, the header {len(header)}"
                rows.append(Damaged("length_mismatch", what))
            elif row:
                rows.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise FormatError("csv_invalid", f"{where}, line {reader.line_num}: {error}", where=where) from None
    return tuple(rows)


def _lines(data: bytes, where: str) -> tuple[Row | Damaged, ...]:
    rows: list[Row | Damaged] = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = load_json(line, where)
        except BadInput as error:
            rows.append(Damaged(error.reason, f"line {number} of {where}: {error.what}"))
            continue
        rows.append(row if isinstance(row, dict) else Damaged("bad_type", f"line {number} of {where} is no object"))
    return tuple(rows)


def _objects(found: Any, name: str, path: str) -> tuple[Row | Damaged, ...]:
    if not isinstance(found, list):
        raise FormatError("bad_type", f"{name} is no list of objects", where=path)
    said = (f"row {number} of {name} is no object" for number in range(1, len(found) + 1))
    return tuple(
        row if isinstance(row, dict) else Damaged("bad_type", what) for row, what in zip(found, said, strict=True)
    )


def cell(row: Row, column: str) -> Any:
    """The value of a column; `missing_column` where the row has none."""
    if column not in row:
        raise EpisodeError("missing_column", f"the row has no {column!r}")
    return row[column]


def label(row: Row, column: str) -> str:
    """A name: text, or a whole number as text; `bad_value` for an empty one."""
    value = cell(row, column)
    found = str(value) if isinstance(value, int) and not isinstance(value, bool) else fields.as_text(value, column)
    if not found.strip():
        raise EpisodeError("bad_value", f"{column} is empty")
    return found


def number(value: Any, column: str) -> float:
    """A finite number, or one written as text; `bad_value` otherwise."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            raise EpisodeError("bad_value", f"{column} is {value[:40]!r}, no number")
        value = float(value)
    return fields.as_number(value, column)


def whole_number(value: Any, column: str) -> int:
    """A whole number, or one written as text; `bad_value` otherwise."""
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value.strip()):
            raise EpisodeError("bad_value", f"{column} is {value[:40]!r}, no whole number")
        value = int(value)
    return fields.as_whole(value, column)


def clock_seconds(value: Any, column: str) -> float:
    """`hh:mm:ss.ss` as seconds; `bad_value` otherwise."""
    found = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise EpisodeError("bad_value", f"{column} is {str(value)[:40]!r}, not hh:mm:ss.ss")
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3].replace(",", "."))


def minute_seconds(value: Any, column: str) -> float:
    """`mm:ss.ss` as seconds; `bad_value` otherwise."""
    found = _MINUTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise EpisodeError("bad_value", f"{column} is {str(value)[:40]!r}, not mm:ss.ss")
    return int(found[1]) * 60 + float(found[2].replace(",", "."))


def written_as(value: Any) -> str:
    """How a time is written: `clock` (hh:mm:ss), `minutes` (mm:ss), or else as a number, `seconds`."""
    text = value.strip() if isinstance(value, str) else ""
    return "clock" if _CLOCK.fullmatch(text) else "minutes" if _MINUTES.fullmatch(text) else "seconds"


def literal(value: Any, column: str) -> list[str | int]:
    """A flat list of texts and whole numbers written as Python does (`['pan', 'lid']`), read without evaluating it."""
    text = fields.as_text(value, column).strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise EpisodeError("bad_value", f"{column} is {text[:40]!r}, no list")
    inner, at, found = text[1:-1].strip(), 0, list[str | int]()
    while at < len(inner):
        item = _ITEM.match(inner, at)
        if item is None or (item[4] == "," and item.end() == len(inner)):
            raise EpisodeError("bad_value", f"{column} is no list of texts and numbers: {text[:40]!r}")
        said = item[1] if item[1] is not None else item[2]
        found.append(int(item[3]) if said is None else _ESCAPE.sub(r"\1", said))
        at = item.end()
    return found
