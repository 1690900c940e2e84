"""What lies in a shard, as values: the index in little memory, JSON facts, and .npy arrays without numpy's reader.

numpy's own reader evaluates every header anew (about 20 us); the headers here repeat, so each is understood once.
"""

from __future__ import annotations

import io
import mmap
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dataengine.errors import FormatError

_NPY_START = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class IndexTable:
    """A shard's index: sample i has the rows `starts[i] .. starts[i + 1] - 1` of the other arrays."""

    keys: tuple[str, ...]
    extensions: tuple[str, ...]
    starts: array[int]
    kinds: array[int]  # which extension
    offsets: array[int]
    sizes: array[int]

    @classmethod
    def parse(cls, data: bytes, where: str) -> IndexTable:
        """Read `shards.index.dump`'s bytes, whose digest was checked; `FormatError` `index_damaged` otherwise."""
        known: dict[str, int] = {}
        keys, starts, kinds, offsets, sizes = [], array("q", [0]), array("H"), array("q"), array("q")
        try:
            for key, members in orjson.loads(data)["samples"]:
                keys.append(str(key))
                for extension, offset, size in members:
                    kinds.append(known.setdefault(extension, len(known)))
                    offsets.append(offset)
                    sizes.append(size)
                starts.append(len(kinds))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise FormatError("index_damaged", "not a shard index", where=where) from None
        return cls(tuple(keys), tuple(known), starts, kinds, offsets, sizes)

    def names(self, row: int) -> list[str]:
        """The extensions of a sample's members."""
        start, stop = self.starts[row], self.starts[row + 1]
        return [self.extensions[kind] for kind in self.kinds[start:stop]]


class Shard:
    """One open shard: its index and its bytes, mapped."""

    def __init__(self, path: Path, table: IndexTable) -> None:
        self.path = path
        self.table = table
        with path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def raw(self, row: int) -> dict[str, bytes]:
        """A sample's members by extension."""
        table, mapped = self.table, self._mapped
        start, stop = table.starts[row], table.starts[row + 1]
        return {
            table.extensions[kind]: mapped[offset : offset + size]
            for kind, offset, size in zip(
                table.kinds[start:stop], table.offsets[start:stop], table.sizes[start:stop], strict=True
            )
        }


def parse_facts(members: Mapping[str, bytes], key: str, where: str) -> dict[str, Any]:
    """The JSON of a sample; `FormatError` `sample_damaged` when it is not that sample's."""
    try:
        facts = orjson.loads(members["json"])
    except (KeyError, orjson.JSONDecodeError):
        raise FormatError("sample_damaged", "the sample's JSON is missing or unreadable", where=where) from None
    if not isinstance(facts, dict) or facts.get("key") != key:
        raise FormatError("sample_damaged", "the sample's JSON is another sample's", where=where)
    return facts


@dataclass(frozen=True)
class Npy:
    """A member's dtype and shape, and its values as they lie there."""

    dtype: str
    shape: tuple[int, ...]
    payload: bytes


def parse_npy(data: bytes, name: str, where: str) -> Npy:
    """Split .npy bytes; anything but a whole C-ordered numeric array is a `FormatError` `sample_damaged`."""
    length = 10 + int.from_bytes(data[8:10], "little")
    header = _npy_header(data[:length])
    if header is None:
        raise FormatError("sample_damaged", f"{name} is no .npy array", where=where)
    dtype, shape, size = header
    if len(data) != length + size:
        raise FormatError("sample_damaged", f"{name} holds {len(data)} bytes, not {length + size}", where=where)
    return Npy(dtype, shape, data[length:])


@lru_cache(maxsize=4096)
def _npy_header(data: bytes) -> tuple[str, tuple[int, ...], int] | None:
    """(dtype, shape, bytes of the values), or None."""
    if not data.startswith(_NPY_START):
        return None
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(data[8:]))
    except ValueError:
        return None
    if fortran or dtype.hasobject:
        return None
    return dtype.str, shape, prod(shape) * dtype.itemsize
