"""Tables in JSON: a list of rows, JSON Lines, an object that holds such a list, or one that holds columns.

Objects within a row are taken apart: `{"state": {"q": [...]}}` is the column `state/q`.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.documents import load_json
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.formats.table_columns import Column

LINES = (".jsonl", ".ndjson")
SUFFIXES = (".json", *LINES)
_DEPTH = 3
_FEWEST = 2
_MAX_INTEGER = 1 << 63
MAX_CELLS = 1 << 26


@dataclass(frozen=True)
class JsonTable:
    """Columns of raw values by name, None where a row has none; `about` is what stands beside the rows."""

    columns: Mapping[str, Sequence[Any]]
    about: Mapping[str, Any]


def parse(data: bytes, path: str) -> Any:
    """The document, or a list of the rows of JSON Lines. NaN and Infinity are numbers, as Python writes them."""
    if not data:
        raise FormatError("empty_file", f"{path} is empty", where=path)
    text = files.text_of(data, path)
    if not path.lower().endswith(LINES):
        return load_json(text.encode(), path, constants=True)
    lines = enumerate(text.split("\n"), start=1)
    return [
        load_json(line.encode(), f"{path}, line {number}", constants=True) for number, line in lines if line.strip()
    ]


def table(document: Any, path: str, rows: str | None, left: Collection[str] = ()) -> JsonTable:
    """The table in a document; `rows` names the list of rows in it (`trajectory/steps`), `left` what is not read.

    Raises `FormatError`: `missing_key` for a list that is not there, `several_tables`, `no_table`, `not_an_object`,
    `length_mismatch` for columns of several lengths.
    """
    if isinstance(document, list):
        return JsonTable(_by_column(document, path), {})
    found = dict(lists_in(document))
    if rows is None and len(found) > 1:
        fix = f"say which of them with `rows` among the converter's options: {', '.join(found)}"
        raise FormatError("several_tables", f"{path} holds {len(found)} lists of rows", where=path, fix=fix)
    if rows is not None and rows not in found:
        fix = f"its lists of rows: {', '.join(found) or 'none'}"
        raise FormatError("missing_key", f"{path} holds no list of rows {rows!r}", where=path, fix=fix)
    if found:
        name = rows if rows is not None else next(iter(found))
        return JsonTable(_by_column(found[name], path), _without(document, name.split("/")))
    return _of_columns(document, path, left)


def _of_columns(document: Any, path: str, left: Collection[str]) -> JsonTable:
    """An object whose members are columns; lists of texts of another length (names of joints) are none."""
    found = dict(leaves(document)) if isinstance(document, dict) else {}
    lists = {name: value for name, value in found.items() if isinstance(value, list) and value and name not in left}
    numbers = {name: value for name, value in lists.items() if not all(isinstance(one, str) for one in value)}
    lengths = Counter(map(len, numbers.values()))
    if len(numbers) < _FEWEST or max(lengths) < _FEWEST:
        raise FormatError("no_table", f"{path} holds no list of rows, and no columns of one length", where=path)
    if len(lengths) > 1:
        told = ", ".join(f"{name} {len(value)}" for name, value in numbers.items())
        fix = "`leave_out` passes over what is no column"
        raise FormatError("length_mismatch", f"{path}: columns differ in length: {told}", where=path, fix=fix)
    columns = {name: value for name, value in lists.items() if len(value) in lengths}
    return JsonTable(columns, {name: value for name, value in found.items() if name not in columns})


def lists_in(document: Any, above: str = "", depth: int = 0) -> Iterator[tuple[str, list[Any]]]:
    """Lists of objects in an object, by their path."""
    if not isinstance(document, dict) or depth > _DEPTH:
        return
    for name, value in document.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            yield f"{above}{name}", value
        else:
            yield from lists_in(value, f"{above}{name}/", depth + 1)


def column(values: Sequence[Any], where: str) -> Column | None:
    """Values as numbers, truth values, arrays [T, ...] or texts; None for what is none of these.

    No value is NaN among numbers, an empty text among texts. Raises `EpisodeError`: `bad_type` (texts among numbers),
    `bad_shape` (lists of several shapes, or none in a row), `bad_value` (a whole number beyond 64 bits).
    """
    told = [value for value in values if value is not None]
    kinds = {type(value) for value in told}
    if not told or dict in kinds:
        return None
    if kinds == {str}:
        return tuple("" if value is None else fields.as_text(value, where) for value in values)
    if kinds == {list}:
        return _stacked(values, where)
    if kinds == {bool}:
        return np.array(values, np.bool_) if len(told) == len(values) else None
    if not kinds <= {int, float}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise EpisodeError("bad_type", f"{where} holds {names}", fix="`leave_out` passes it over")
    _check_whole(told, where)
    if kinds == {int} and len(told) == len(values):
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _stacked(values: Sequence[Any], where: str) -> Column | None:
    try:
        found = np.array(values)
    except ValueError:
        raise EpisodeError("bad_shape", f"{where} holds lists of several shapes, or none in a row") from None
    if found.dtype.kind in "Ou" and any(_beyond(value) for value in values):
        raise EpisodeError("bad_value", f"{where} holds a whole number beyond 64 bits")
    if found.dtype.kind == "O" and any(None in row for row in values if isinstance(row, list)):
        raise EpisodeError("bad_value", f"{where} holds a list with an empty place")
    return found if found.dtype.kind in "fib" and found.size else None


def _beyond(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_beyond, value))
    return isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER


def _check_whole(values: Sequence[Any], where: str) -> None:
    if _beyond(list(values)):
        raise EpisodeError("bad_value", f"{where} holds a whole number beyond 64 bits")


def _by_column(rows: Sequence[Any], path: str) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise FormatError("not_an_object", f"{path}: row {number} is no object", where=path)
        for name, value in leaves(row):
            column = columns.get(name)
            if column is None:
                if (len(columns) + 1) * len(rows) > MAX_CELLS:
                    what = f"{path}: {len(rows)} rows have more than {len(columns)} keys between them"
                    raise FormatError("claimed_size", what, where=path)
                column = columns[name] = [None] * len(rows)
            column[number] = value
    return columns


def leaves(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """What an object holds that is no object, by its path."""
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from leaves(inner, f"{above}{name}/")
        else:
            yield f"{above}{name}", inner


def _without(document: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A document without the list at a path."""
    rest = {name: value for name, value in document.items() if name != path[0]}
    if len(path) > 1 and (inner := _without(document[path[0]], path[1:])):
        rest[path[0]] = inner
    return rest
