"""The columns of a table, whatever file it is in: CSV, TSV, Parquet, JSON.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataengine.errors import FormatError
from dataengine.formats import fields, files, npz, parquet, table_json, table_text
from dataengine.formats import table_columns as columns_of
from dataengine.formats.table_columns import Column
from dataengine.storage import SourceRoot

PARQUET, NPY, NPZ = ".parquet", ".npy", ".npz"
MAX_CELLS = 1 << 28
_PROBED_LINES = 64 << 10
_PROBED_JSON = 32 << 20
_NPY_HEAD = 16 << 10
_PIXEL_AXES = 4


@dataclass
class Table:
    """Columns of some rows by name, the names of those that are not read, and what stands beside the rows (JSON).

    `pixels`: raw pictures [T, H, W, 3] uint8.
    """

    columns: dict[str, Column]
    unread: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    pixels: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """What the beginning of a table tells: its columns by name, as far as they are read.

    `rows`: how many there are, None where that takes reading on. `options`: what of `rows` (which list of a JSON
    document), `delimiter` and `decimal` it takes to read it.
    """

    columns: Mapping[str, Column | None]
    rows: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> list[str]:
        """The columns of numbers."""
        found = [(name, column) for name, column in self.columns.items() if column is not None]
        return [name for name, one in found if not isinstance(one, tuple) and one.dtype.kind in "fi" and one.ndim < 4]

    @property
    def singles(self) -> list[str]:
        """The columns of one number a row."""
        found = [(name, self.columns[name]) for name in self.numbers]
        return [name for name, column in found if isinstance(column, np.ndarray) and column.ndim == 1]

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        found = [self.columns[name] for name in self.numbers]
        return sum(int(np.prod(column.shape[1:])) for column in found if isinstance(column, np.ndarray))


def prefix(folder: str, path: str) -> str:
    """What the columns of a table below the folder of its episode are called by, before their own names."""
    inside = PurePosixPath(path).relative_to(folder)
    words = inside.parent if is_npy(path) else inside.with_suffix("")
    return "".join(f"{word}/" for word in words.parts)


def is_parquet(path: str) -> bool:
    """Whether a table is in Parquet, by its name."""
    return path.lower().endswith(PARQUET)


def is_npy(path: str) -> bool:
    """Whether a file holds one array, by its name: a column that is called like the file."""
    return path.lower().endswith(NPY)


def is_npz(path: str) -> bool:
    """Whether a file is an archive of arrays, by its name."""
    return path.lower().endswith(NPZ)


def is_json(path: str) -> bool:
    """Whether a table is in JSON or JSON Lines, by its name."""
    return path.lower().endswith(table_json.SUFFIXES)


@dataclass(frozen=True)
class Reading:
    """How tables are read: how text is written, which list of a JSON document holds the rows, columns left out."""

    dialect: table_text.Dialect = field(default_factory=table_text.Dialect)
    rows: str | None = None
    leave_out: frozenset[str] = frozenset()


def head(root: SourceRoot, path: str) -> Head:
    """The columns of a table by its first lines, its schema, or (JSON) all of it, where it is not too large.

    Of several lists of rows in a JSON document the longest is taken, and named.
    """
    if is_parquet(path):
        with parquet.opened(root, path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
        return Head({entry.name: _empty(entry.type, path) for entry in schema}, count)
    if is_npy(path):
        with root.open(path) as opened:
            told = npz.npy_head(opened.read(_NPY_HEAD), path)
        return Head({PurePosixPath(path).stem: _shaped(told)}, told.shape[0] if told.shape else None)
    if is_npz(path):
        return Head({name: _shaped(told) for name, told in _npz_heads(root, path).items()})
    if is_json(path):
        return _json_head(root, path)
    with root.open(path) as opened:
        data = opened.read(_PROBED_LINES)
    whole = data if len(data) < _PROBED_LINES else data[: data.rfind(b"\n") + 1]
    text = files.text_of(whole, path)
    options = table_text.sniffed(text, path)
    cells = table_text.cells_of(text, path, table_text.dialect_of(options))
    rows = max(map(len, cells.values()), default=0)
    columns = {name: columns_of.of_cells(column) for name, column in cells.items()}
    return Head(columns, rows if whole is data else None, options)


def _shaped(told: npz.NpyHead) -> Column | None:
    """An array of a header's type and shape that takes no memory."""
    usable = told.dtype is not None and told.dtype.kind in "fiub" and told.shape
    return np.broadcast_to(np.zeros((), told.dtype), told.shape) if usable else None


def _empty(kind: pa.DataType, path: str) -> Column | None:
    """A column of a type without rows."""
    found = columns_of.of_arrow(pa.nulls(0, kind), path)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return found.reshape(0, 1) if lists and isinstance(found, np.ndarray) else found


def _json_head(root: SourceRoot, path: str) -> Head:
    if root.size(path) > _PROBED_JSON:
        raise FormatError("file_too_large", f"{path} is too large for a look", where=path)
    document = files.cached(root, path, table_json.parse)
    lists = dict(table_json.lists_in(document))
    chosen = max(lists, key=lambda name: len(lists[name])) if len(lists) > 1 else None
    found = table_json.table(document, path, chosen)
    count = max((len(told) for told in found.columns.values()), default=0)
    columns = {name: table_json.column(told, name) for name, told in found.columns.items()}
    return Head(columns, count, {} if chosen is None else {"rows": chosen})


def values(root: SourceRoot, path: str, apart: str, reading: Reading) -> Sequence[str]:
    """The value of the column `apart` in each row, as text; empty where there is none."""
    if is_json(path):
        found = table_json.table(files.cached(root, path, table_json.parse), path, reading.rows, reading.leave_out)
        files.check_header(list(found.columns), (apart,), path)
        told: Sequence[Any] = found.columns[apart]
    elif is_parquet(path):
        with parquet.opened(root, path) as file:
            files.check_header(file.schema_arrow.names, (apart,), path)
            told = file.read(columns=[apart])[apart].to_pylist()
    elif is_npz(path):
        files.check_header(list(_npz_heads(root, path)), (apart,), path)
        told = npz.read_npz(root.read(path, limit=npz.MAX_BYTES), path, only=(apart,))[apart].reshape(-1).tolist()
    else:
        cells = files.cached(root, path, table_text.parser(reading.dialect))
        files.check_header(list(cells), (apart,), path)
        return [cell.strip() for cell in cells[apart]]
    return ["" if value is None else str(value).strip() for value in told]


def table(root: SourceRoot, path: str, reading: Reading, part: slice) -> Table:
    """The rows `part` of the file at `path`."""
    left = set(reading.leave_out)
    if is_parquet(path):
        return _parquet(root, path, left, part)
    if is_json(path):
        return _json(root, path, left, part, reading.rows)
    if is_npy(path) or is_npz(path):
        return _arrays(root, path, left, part)
    cells = files.cached(root, path, table_text.parser(reading.dialect))
    files.check_header(list(cells), tuple(left), path)
    return Table({name: columns_of.of_cells(column[part]) for name, column in cells.items() if name not in left})


def _arrays(root: SourceRoot, path: str, left: set[str], part: slice) -> Table:
    """The array of a .npy file, or the arrays of a .npz; pickled objects are named, never opened."""
    if is_npy(path):
        name = PurePosixPath(path).stem
        files.check_header([name], sorted(left), path)
        found = {} if left else {name: npz.read_npy(root.read(path), path)}
        objects: list[str] = []
    else:
        heads = _npz_heads(root, path)
        files.check_header(list(heads), sorted(left), path)
        objects = [name for name, head in heads.items() if head.dtype is None and name not in left]
        found = npz.read_npz(root.read(path, limit=npz.MAX_BYTES), path, only=set(heads) - left - set(objects))
    result = Table({}, objects)
    for name, values in found.items():
        _place(result, name, values[part] if values.ndim else values, path)
    return result


def _place(result: Table, name: str, values: NDArray[Any], path: str) -> None:
    if values.dtype.kind == "U" and values.ndim <= 1:
        texts = tuple(fields.as_text(str(text), f"{path}: {name}") for text in np.atleast_1d(values).tolist())
        if values.ndim:
            result.columns[name] = texts
        else:
            result.about[name] = texts[0]
    elif values.dtype.kind not in "fiub":
        result.unread.append(name)
    elif not values.ndim:
        result.about[name] = values.item()
    elif values.dtype == np.uint8 and values.ndim == _PIXEL_AXES and values.shape[3] == 3:
        result.pixels[name] = values
    else:
        result.columns[name] = values


def _npz_heads(root: SourceRoot, path: str) -> dict[str, npz.NpyHead]:
    with root.open(path) as file:
        return npz.npz_heads(file, path)


def table_or_facts(root: SourceRoot, path: str, reading: Reading, part: slice) -> Table:
    """As `table`; a JSON object that holds no table (`meta.json` beside others) is what stands beside the rows."""
    about = facts(root, path) if is_json(path) else None
    return table(root, path, reading, part) if about is None else Table({}, about=about)


def facts(root: SourceRoot, path: str) -> dict[str, Any] | None:
    """A JSON object without rows: no list of them, and no lists of which one is named like a clock or an action.

    Lists without such a name are a camera's matrix and the like. None where it is a table, or no object.
    """
    document = files.cached(root, path, table_json.parse)
    if not isinstance(document, dict) or any(table_json.lists_in(document)):
        return None
    lists = [name for name, value in table_json.leaves(document) if isinstance(value, list) and len(value) > 1]
    return document if columns_of.rows_by(lists) is None else None


def _json(root: SourceRoot, path: str, left: set[str], part: slice, rows: str | None) -> Table:
    document = files.cached(root, path, table_json.parse)
    found = table_json.table(document, path, rows, left)
    absent = left - found.columns.keys() - (found.about.keys() if rows is None else set())
    files.check_header(list(found.columns), sorted(absent), path)
    result = Table({}, about=dict(found.about))
    for name in found.columns:
        if name in left:
            continue
        column = table_json.column(found.columns[name][part], f"{path}: {name}")
        if column is None:
            result.unread.append(name)
        else:
            result.columns[name] = column
    return result


def _parquet(root: SourceRoot, path: str, left: set[str], part: slice) -> Table:
    result = Table({})
    found = _arrow_table(root.path, path, root.describe(path).sha256, frozenset(left))[part]
    for name in found.column_names:
        column = columns_of.of_arrow(found[name].combine_chunks(), f"{path}: {name}")
        if column is None:
            result.unread.append(name)
        else:
            result.columns[name] = column
    return result


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
        found = file.read(columns=[name for name in names if name not in left])
        found.validate(full=True)
    return found
