"""Tables in text: CSV and its relatives, parted by commas, semicolons, tabs or spaces.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from dataengine.errors import FormatError, SpecError
from dataengine.formats import files

SPACE = "space"
SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": SPACE}
_DELIMITERS = (",", ";", "\t", "|", SPACE)
_COMMENT = "#"
_COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")
_SEEN = 20

Cells = Mapping[str, tuple[str, ...]]
"""The cells of a table by the names of its columns, each a text a row."""


@dataclass(frozen=True)
class Dialect:
    """How a table is written. `delimiter`: None goes by the file's ending. `header`: names that no line gives."""

    delimiter: str | None = None
    decimal: str = "."
    header: tuple[str, ...] = ()


def dialect_of(options: Mapping[str, Any]) -> Dialect:
    """The options `delimiter`, `decimal` and `header`, checked."""
    delimiter, decimal, header = options.get("delimiter"), options.get("decimal", "."), options.get("header", ())
    if delimiter is not None and delimiter not in _DELIMITERS:
        raise SpecError("the option `delimiter` is `,`, `;`, `|`, a tab or `space`", fix="correct `format.options`")
    if decimal not in (".", ","):
        raise SpecError("the option `decimal` is `.` or `,`", fix="correct `format.options`")
    if not isinstance(header, list | tuple) or not all(isinstance(name, str) and name for name in header):
        raise SpecError("the option `header` is a list of names", fix="correct `format.options`")
    return Dialect(delimiter, decimal, tuple(header))


@lru_cache(maxsize=16)
def parser(dialect: Dialect) -> Callable[[bytes, str], Cells]:
    """A function (data, path) that gives the cells of a table of this dialect: the same one for the same dialect."""

    def parse(data: bytes, path: str) -> Cells:
        if not data:
            raise FormatError("empty_file", f"{path} is empty", where=path)
        return cells_of(files.text_of(data, path), path, dialect)

    return parse


def cells_of(text: str, path: str, dialect: Dialect) -> Cells:
    """Cells by the names of the columns, with a point for the decimal comma.

    Lines that begin with `#` may stand above the rows; the last of them names the columns where the option `header`
    does not and it has as many words as the first row. Raises what `files.csv_rows` raises.
    """
    delimiter = dialect.delimiter or SUFFIXES.get(PurePosixPath(path).suffix.lower(), ",")
    header, body = _headed(text, delimiter, dialect.header)
    if header is not None:
        made = io.StringIO()
        csv.writer(made, delimiter="," if delimiter == SPACE else delimiter, lineterminator="\n").writerow(header)
        body = made.getvalue() + (_joined(body) if delimiter == SPACE else body)
    elif delimiter == SPACE:
        body = _joined(body)
    names, rows = files.csv_cells(body.encode(), path, delimiter="," if delimiter == SPACE else delimiter)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    if dialect.decimal == ",":
        columns = [tuple(map(_pointed, column)) for column in columns]
    return dict(zip(names, columns, strict=True))


def _headed(text: str, delimiter: str, given: Sequence[str]) -> tuple[list[str] | None, str]:
    """The names of the columns, None where the first line of the body holds them; and the body."""
    start, last = 0, None
    while text.startswith(_COMMENT, start):
        end = text.find("\n", start)
        stop = len(text) if end < 0 else end
        last, start = text[start:stop], stop + 1
    text = text[start:] if start else text
    if given:
        return list(given), text
    if last is None:
        return None, text
    names = _split(last.lstrip(_COMMENT).strip(), delimiter)
    first = text.partition("\n")[0].strip("\r")
    return (names, text) if len(names) == len(_split(first, delimiter)) else (None, text)


def _split(line: str, delimiter: str) -> list[str]:
    return line.split() if delimiter == SPACE else [cell.strip() for cell in line.split(delimiter)]


def _joined(body: str) -> str:
    """Words parted by spaces as cells parted by commas."""
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows(line.split() for line in body.splitlines())
    return made.getvalue()


def _pointed(cell: str) -> str:
    return cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell


def sniffed(text: str, path: str) -> dict[str, str]:
    """The options `delimiter` and `decimal` that the beginning of a table needs; empty where its ending says enough."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_COMMENT)][:_SEEN]
    usual = SUFFIXES.get(PurePosixPath(path).suffix.lower(), ",")
    for delimiter in (usual, *(other for other in _DELIMITERS if other != usual)):
        rows = [_split(line, delimiter) for line in lines]
        if len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
            continue
        found = {} if delimiter == usual else {"delimiter": delimiter}
        commas = sum(_COMMA.fullmatch(cell) is not None for row in rows[1:] for cell in row)
        return found | ({"decimal": ","} if commas and delimiter not in (",", SPACE) else {})
    return {}
