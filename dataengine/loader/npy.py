"""`.npy` members without numpy's reader, which evaluates every header anew: here each distinct one is read once."""

from __future__ import annotations

import io
from functools import lru_cache
from math import prod

import numpy as np

from dataengine.errors import FormatError

_START = b"\x93NUMPY\x01\x00"


def parse_npy(data: bytes, name: str, where: str) -> tuple[str, tuple[int, ...], bytes]:
    """(dtype, shape, values as they lie there); no whole C-ordered array is a `FormatError` `sample_damaged`."""
    length = 10 + int.from_bytes(data[8:10], "little")
    header = _header(data[:length])
    if header is None:
        raise FormatError("sample_damaged", f"{name} is no .npy array", where=where)
    dtype, shape, size = header
    if len(data) != length + size:
        raise FormatError("sample_damaged", f"{name} holds {len(data)} bytes, not {length + size}", where=where)
    return dtype, shape, data[length:]


@lru_cache(maxsize=4096)
def _header(data: bytes) -> tuple[str, tuple[int, ...], int] | None:
    """(dtype, shape, bytes of the values), or None."""
    if not data.startswith(_START):
        return None
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(data[8:]))
    except ValueError:
        return None
    if fortran or dtype.hasobject:
        return None
    return dtype.str, shape, prod(shape) * dtype.itemsize
