"""What a column of a table becomes: numbers, truth values or texts, by itself or side by side with others.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataengine.errors import EpisodeError

_NUMBERED = re.compile(r"(.*?)[_.\[ ]?(\d{1,3})\]?")
_AXIS = re.compile(r"(.+)[_.]([xyzw])")
CLOCK = re.compile(
    r"(?:.*[_./ ])?(?:t|ts|time|times|timestamp|timestamps|stamp|stamps|clock)(?:[_./ \[(]+(?:s|ms|us|ns|sec)[\])]?)?"
)
_COUNTER = re.compile(r"(?:.*[./])?(?:frame|step|row|tick)(?:[_ ]?(?:id|idx|index|no|num|number|count))?")
_ACTION = re.compile(r"(?:.*[_./ ])?(?:action|command|cmd|control|target)s?")
_WHOLE = re.compile(r"[+-]?\d{1,30}")
_WORDS = {"true": True, "false": False}
Column = NDArray[Any] | tuple[str, ...]


def of_cells(cells: Sequence[str]) -> Column:
    """Cells as numbers, truth values or texts: the first of these that fits them all.

    Whole numbers beyond 64 bits are texts: they are names, and a float would make others of them.
    """
    first = next((cell for cell in cells if cell.strip()), "")
    if _WHOLE.fullmatch(first.strip()) and all(_WHOLE.fullmatch(cell.strip()) for cell in cells):
        whole = [int(cell) for cell in cells]
        return np.array(whole, np.int64) if max(map(abs, whole)) < 1 << 63 else tuple(cells)
    if first.strip().lower() in _WORDS and all(cell.strip().lower() in _WORDS for cell in cells):
        return np.array([_WORDS[cell.strip().lower()] for cell in cells])
    try:
        if first and not any("_" in cell for cell in cells):
            return np.array([float(cell) if cell and not cell.isspace() else np.nan for cell in cells], np.float64)
    except ValueError:
        pass
    return tuple(cells)


def of_arrow(column: pa.Array, where: str) -> Column | None:
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


def grouped(columns: Mapping[str, Column], groups: Mapping[str, Sequence[str]]) -> dict[str, NDArray[Any]]:
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
        if len(set(map(len, parts))) > 1:
            told = ", ".join(f"{member} {len(part)}" for member, part in zip(members, parts, strict=True))
            raise EpisodeError("length_mismatch", f"the columns of the group {name} differ in length: {told}")
        taken |= set(members)
        arrays[name] = np.stack(parts, axis=1)
    for name, column in columns.items():
        if name in taken or isinstance(column, tuple):
            continue
        if name in arrays:
            raise EpisodeError("duplicate_stream", f"{name} is a column and a group")
        arrays[name] = column
    return arrays


def side_by_side(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns called as parts of one array, `q_0, q_1, ...` (from 0 or 1 on) or `p_x, p_y, p_z`, in that order.

    Names alone say so: a proposal for the option `groups`, not what a table holds.
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        told = _NUMBERED.fullmatch(name) or _AXIS.fullmatch(name)
        if told is not None and told[1]:
            found.setdefault(told[1].rstrip("_. "), {})[told[2]] = name
    made = {}
    for group, parts in found.items():
        counts = [str(number) for number in range(len(parts))]
        shifted = [str(number + 1) for number in range(len(parts))]
        for keys in (counts, shifted, ["x", "y", "z"], ["x", "y", "z", "w"]):
            if set(parts) == set(keys) and len(parts) > 1 and group not in names:
                made[group] = [parts[key] for key in keys]
    return made


def rows_by(numbers: Sequence[str]) -> tuple[str, str] | None:
    """What says that the rows of a table follow one another in time, and the column's (or group's) name."""
    for what, names in (("the clock", CLOCK), ("the counter", _COUNTER)):
        found = next((name for name in numbers if names.fullmatch(name.lower())), None)
        if found is not None:
            return what, found
    groups = side_by_side(numbers)
    action = next((name for name in (*numbers, *groups) if _ACTION.fullmatch(name.lower())), None)
    return None if action is None else ("the action", action)


def missing(column: Column) -> int:
    """Empty cells of a column."""
    if isinstance(column, tuple):
        return sum(not text for text in column)
    return int(np.isnan(column).sum()) if column.dtype.kind == "f" else 0
