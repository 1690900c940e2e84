"""Typed access to untrusted JSON values: what a field should be, or an `EpisodeError` that names it.

JSON that parses can still hold anything: a number where a text stands elsewhere, a ragged list, a text that is no
Unicode, a number no machine holds. Formats take values out of parsed JSON through these functions only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine.documents import canonical_json
from dataengine.errors import EpisodeError

MAX_TEXT = 1 << 20
_INT64 = 1 << 63


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def member(value: Mapping[str, Any], key: str, where: str) -> Any:
    """The value under a key; a missing one is `missing_key`."""
    if key not in value:
        raise EpisodeError("missing_key", f"{where} has no {key!r}")
    return value[key]


def as_object(value: Any, name: str) -> dict[str, Any]:
    """A JSON object, or `bad_type`."""
    if not isinstance(value, dict):
        raise EpisodeError("bad_type", f"{name} is {_kind(value)}, not an object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """A JSON list, or `bad_type`."""
    if not isinstance(value, list):
        raise EpisodeError("bad_type", f"{name} is {_kind(value)}, not a list")
    return value


def as_text(value: Any, name: str) -> str:
    """A text that is valid Unicode without NUL, at most 1 MiB long, else `bad_text`."""
    if not isinstance(value, str):
        raise EpisodeError("bad_type", f"{name} is {_kind(value)}, not a text")
    if len(value) > MAX_TEXT:
        raise EpisodeError("bad_text", f"{name} holds {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EpisodeError("bad_text", f"{name} holds half a surrogate pair") from None
    if "\0" in value:
        raise EpisodeError("bad_text", f"{name} holds a NUL character")
    return value


def as_whole(value: Any, name: str) -> int:
    """A whole number that fits 64 bits, or `bad_type`, `bad_value`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise EpisodeError("bad_type", f"{name} is {_kind(value)}, not a whole number")
    if not -_INT64 <= value < _INT64:
        raise EpisodeError("bad_value", f"{name} does not fit 64 bits")
    return value


def as_number(value: Any, name: str) -> float:
    """A finite number, or `bad_type`, `bad_value`."""
    return float(as_array(value, name, ()))


def as_array(value: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Finite numbers as float64 of exactly `shape`; only its first may be -1, any length.

    Raises `EpisodeError` `bad_type`, `bad_shape` or `bad_value`.
    """
    flat: list[float] = []
    found = _flatten(value, name, shape, flat)
    try:
        array = np.array(flat, np.float64)
    except OverflowError:
        array = np.array([math.inf])
    if not np.isfinite(array).all():
        raise EpisodeError("bad_value", f"{name} holds a number that is not finite")
    return array.reshape(found)


def _flatten(value: Any, name: str, shape: tuple[int, ...], into: list[float]) -> tuple[int, ...]:
    """Append the numbers of a nested list and return its shape; every level is checked against `shape`."""
    if not shape:
        if type(value) is not float and type(value) is not int:
            raise EpisodeError("bad_type", f"{name} is {_kind(value)}, not a number")
        into.append(value)
        return ()
    items = as_list(value, name)
    if shape[0] not in (-1, len(items)):
        raise EpisodeError("bad_shape", f"{name} holds {len(items)} values, not {shape[0]}")
    if len(shape) == 1 and all(type(item) is float for item in items):
        into.extend(items)
        return (len(items),)
    inner = shape[1:]
    for item in items:
        inner = _flatten(item, name, shape[1:], into)
    return (len(items), *(max(size, 0) for size in inner))


def as_whole_array(value: Any, name: str) -> NDArray[np.int64]:
    """Whole numbers of 64 bits as int64 [n], or `bad_type`, `bad_value`."""
    return np.array([as_whole(item, name) for item in as_list(value, name)], np.int64)


def canonical(value: Any, name: str) -> bytes:
    """Canonical JSON of a parsed value; one that has none (a number over 64 bits, no Unicode) is `bad_value`."""
    try:
        written = canonical_json(value)
    except orjson.JSONEncodeError as error:
        raise EpisodeError("bad_value", f"{name} cannot be written as JSON: {error}") from None
    # The writer turns a number that is not finite (1e400 in a file, NaN in a table) into null.
    if b"null" in written and not _is_finite(value):
        raise EpisodeError("bad_value", f"{name} holds a number that is not finite")
    return written


def _is_finite(value: Any) -> bool:
    """Whether every number in nested lists and objects is finite."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return False
        waiting += item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else ()
    return True
