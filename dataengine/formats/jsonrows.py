"""Rows of a JSON list or of JSON Lines with their byte ranges, so that one row can be read without the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dataengine.errors import FormatError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonRow:
    """The row in the bytes `start:stop`; `value` is parsed leniently, `problem` (reason, what) says why it is not.

    A row that is used is parsed again, strictly (`documents.load_json`).
    """

    start: int
    stop: int
    value: Any = None
    problem: tuple[str, str] | None = None


def json_rows(data: bytes, path: str) -> Iterator[JsonRow]:
    """Rows of a file: the elements of a list in a `.json` file, else one row a line.

    Raises `FormatError` `invalid_utf8`, `json_invalid`, `json_too_deep` or `truncated` where a list is damaged: what
    follows the damage cannot be found. A damaged line is a problem of its own.
    """
    start = len(BOM) if data.startswith(BOM) else 0
    if path.endswith(".json") and data[start : start + 256].lstrip()[:1] == b"[":
        return _list_rows(data, start, path)
    return _line_rows(data, start)


def _list_rows(data: bytes, start: int, path: str) -> Iterator[JsonRow]:
    try:
        text = data[start:].decode()
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", f"{path} is not UTF-8 text", where=path) from None
    at, passed = _skip(text, text.index("[") + 1), 0
    first = True
    while text[at : at + 1] != "]":
        if not first:
            at = _after_comma(text, at, path)
        value, end = _element(text, at, path)
        start += len(text[passed:at].encode())
        stop = start + len(text[at:end].encode())
        yield JsonRow(start, stop, value)
        start, passed, first = stop, end, False
        at = _skip(text, end)
    if text[at + 1 :].strip():
        raise FormatError("json_invalid", f"{path} goes on after its list", where=path)


def _after_comma(text: str, at: int, path: str) -> int:
    if text[at : at + 1] != ",":
        reason = "json_invalid" if at < len(text) else "truncated"
        raise FormatError(reason, f"{path}: the list does not go on at character {at}", where=path)
    return _skip(text, at + 1)


def _element(text: str, at: int, path: str) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except RecursionError:
        raise FormatError("json_too_deep", f"{path} is nested deeper than any data is", where=path) from None
    except ValueError as error:
        raise FormatError("json_invalid", f"{path}: {error}", where=path) from None


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at


def _line_rows(data: bytes, start: int) -> Iterator[JsonRow]:
    while start < len(data):
        end = data.find(b"\n", start)
        stop = len(data) if end < 0 else end
        line = data[start:stop]
        if line.strip():
            value, problem = _line(line)
            yield JsonRow(start, stop, value, problem)
        start = stop + 1


def _line(line: bytes) -> tuple[Any, tuple[str, str] | None]:
    try:
        return json.loads(line), None
    except RecursionError:
        return None, ("json_too_deep", "nested deeper than any data is")
    except UnicodeDecodeError:
        return None, ("invalid_utf8", "not UTF-8 text")
    except ValueError as error:
        return None, ("json_invalid", f"not valid JSON: {error}")
