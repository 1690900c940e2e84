"""Files that many episodes share (tables, annotations) and numbered files: parsed once, inflated within bounds, sorted.

A helper of formats, not a format.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataengine.documents import load_json, sha256_bytes
from dataengine.errors import FormatError
from dataengine.storage import CHUNK, SourceRoot

MAX_BYTES = 2 << 30
MAX_RATIO = 200
MAX_FIELD = 1 << 20
_CACHED = 8
_DIGITS = re.compile(r"(\d+)")


def cached[Parsed](root: SourceRoot, path: str, parse: Callable[[bytes, str], Parsed]) -> Parsed:
    """The file as `parse(data, path)` gives it, parsed once a process and content.

    `parse` is a function of a module (it is part of the key) and what it returns is shared: never changed by the
    caller. Raises what `parse` raises, `empty_file`, `file_too_large`, `changed_during_read`.
    """
    found: Parsed = _parsed(root.path, path, root.describe(path).sha256, parse)
    return found


@lru_cache(maxsize=_CACHED)
def _parsed(folder: Path, path: str, sha256: str, parse: Callable[[bytes, str], Any]) -> Any:
    data = SourceRoot(folder).read(path, limit=MAX_BYTES)
    if sha256_bytes(data) != sha256:
        raise FormatError("changed_during_read", f"{path} changed while it was read", where=path)
    return parse(data, path)


def json_file(root: SourceRoot, path: str) -> Any:
    """A JSON file, `.json` or `.json.gz`, parsed strictly and once; shared, so it must not be changed."""
    return cached(root, path, _json)


def _json(data: bytes, where: str) -> Any:
    return load_json(gzip_data(data, where) if where.endswith(".gz") else data, where)


def gzip_data(data: bytes, where: str) -> bytes:
    """What a gzip stream holds, refused beyond 2 GiB or 200 times its size.

    Raises `FormatError` `gzip_bomb`, `truncated`, `unreadable_file`.
    """
    limit = min(MAX_BYTES, MAX_RATIO * len(data) + CHUNK)
    parts, total = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while part := stream.read(CHUNK):
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise FormatError("gzip_bomb", f"{where} inflates to more than {limit} bytes", where=where)
    except EOFError:
        raise FormatError("truncated", f"{where} ends in the middle of its gzip stream", where=where) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FormatError("unreadable_file", f"{where} is damaged: {error}", where=where) from None
    return b"".join(parts)


def text_of(data: bytes, where: str) -> str:
    """UTF-8 text, a byte order mark taken off; `invalid_utf8`, and `bad_text` for a NUL."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", f"{where} is not UTF-8 text", where=where) from None
    if "\0" in text:
        raise FormatError("bad_text", f"{where} holds a NUL character", where=where)
    return text


def csv_rows(
    data: bytes, where: str, columns: Sequence[str] = (), *, delimiter: str = ","
) -> tuple[Mapping[str, str], ...]:
    """Rows of a CSV table with a header line, values as texts; as `csv_cells`, a row as a mapping."""
    header, rows = csv_cells(data, where, columns, delimiter=delimiter)
    return tuple(dict(zip(header, row, strict=True)) for row in rows)


def csv_cells(
    data: bytes, where: str, columns: Sequence[str] = (), *, delimiter: str = ","
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV table, values as texts.

    The header must hold `columns`, each name once, and every row as many fields as the header.

    Raises `FormatError`: `no_header`, `missing_column`, `duplicate_column`, `length_mismatch` (a row of another width),
    `csv_invalid` (a quote without its end, a field over 1 MiB), `invalid_utf8`, `bad_text`.
    """
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(io.StringIO(text_of(data, where), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise FormatError("no_header", f"{where} has no header line", where=where)
        check_header(header, columns, where)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                what = f"line {reader.line_num} holds {len(row)} fields, the header {len(header)}"
                raise FormatError("length_mismatch", f"{where}: {what}", where=where)
            if row:
                rows.append(row)
    except csv.Error as error:
        raise FormatError("csv_invalid", f"{where}, line {reader.line_num}: {error}", where=where) from None
    return header, rows


def check_header(header: Sequence[str], columns: Iterable[str], where: str) -> None:
    """`duplicate_column` for a name that stands twice, `missing_column` for one of `columns` that does not stand."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise FormatError("duplicate_column", f"{where} names {', '.join(map(repr, repeated))} twice", where=where)
    missing = [name for name in columns if name not in header]
    if missing:
        raise FormatError("missing_column", f"{where} has no column {', '.join(map(repr, missing))}", where=where)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts `img_2` before `img_10`, and never compares a number with a text."""
    parts = (part for part in _DIGITS.split(name) if part)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order of the numbers in them."""
    return sorted(names, key=natural_key)


def ending(root: SourceRoot, suffixes: Sequence[str]) -> list[str]:
    """Paths of the files anywhere below the root with one of the suffixes, in capitals or not, sorted."""
    found: set[str] = set()
    for suffix in suffixes:
        either = "".join(f"[{sign.lower()}{sign.upper()}]" if sign.isalpha() else sign for sign in suffix)
        found.update(root.glob(f"**/*{either}"))
    return sorted(found)


def numbered(root: SourceRoot, folder: str, suffixes: Sequence[str]) -> list[str]:
    """Paths of the files directly in `folder` (`""`: the root) with one of the suffixes, in natural order.

    A file whose name holds no number is `unknown_name`, one number twice (`1.jpg` beside `01.jpg`) `duplicate_name`.
    """
    prefix = f"{folder}/" if folder else ""
    found = [path for suffix in suffixes for path in root.glob(f"{prefix}*{suffix}")]
    numbers: dict[int, str] = {}
    for path in natural(found):
        digits = _DIGITS.findall(path.rpartition("/")[2].rpartition(".")[0])
        if not digits:
            raise FormatError("unknown_name", f"{path} has no number in its name", where=path)
        if int(digits[-1]) in numbers:
            raise FormatError("duplicate_name", f"{path} and {numbers[int(digits[-1])]} have one number", where=path)
        numbers[int(digits[-1])] = path
    return [numbers[number] for number in sorted(numbers)]
