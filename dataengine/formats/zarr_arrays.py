"""Zarr arrays of version 2 and 3 in a folder or a ZIP, read chunk by chunk and strictly.

The zarr library fills a chunk that is missing with the fill value and finds codecs by the name that a file gives; both
would be silent. So the metadata are parsed here (zarr specifications v2, and v3 with the regular grid), and only the
codecs named below are ever called, each told how many bytes must come out.

A helper of formats, not a format.
"""

from __future__ import annotations

import glob
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.errors import BadInput, FormatError
from dataengine.formats import archive_zip, fields
from dataengine.formats.zarr_codecs import CODECS, corrupt, jpeg_xl
from dataengine.storage import SourceRoot

MAX_AXES = 8
MAX_CHUNK = 1 << 30
MAX_CHUNKS = 1 << 12
MAX_BYTES = 8 << 30
MAX_METADATA = 1 << 20
JPEG_XL = "imagecodecs_jpegxl"
_DTYPE = re.compile(r"([<>|])([biuf])([1248])")
_V3_TYPES = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")
_JPEG_XL_OPTIONS = ("index", "keeporientation")


class Store(Protocol):
    """Where the chunks lie: files by name."""

    def names(self) -> tuple[str, ...]:
        """Every name below the store, sorted."""
        ...

    def has(self, name: str) -> bool: ...

    def read(self, name: str, limit: int) -> bytes: ...

    def files(self, names: list[str]) -> tuple[str, ...]:
        """The files below the root in which these names lie."""
        ...


@dataclass(frozen=True)
class FolderStore:
    """A store that is a folder: `prefix` is empty or ends with a slash."""

    root: SourceRoot
    prefix: str

    def names(self) -> tuple[str, ...]:
        """Names of metadata files alone; a folder of a million chunks is not listed."""
        pattern = glob.escape(self.prefix)
        found = [
            path for name in (".zarray", ".zgroup", "zarr.json") for path in self.root.glob(f"{pattern}*/*/{name}")
        ]
        return tuple(sorted(path[len(self.prefix) :] for path in found))

    def has(self, name: str) -> bool:
        return self.root.exists(self.prefix + name)

    def read(self, name: str, limit: int) -> bytes:
        return self.root.read(self.prefix + name, limit=limit)

    def files(self, names: list[str]) -> tuple[str, ...]:
        return tuple(self.prefix + name for name in names)


@dataclass(frozen=True)
class ZipStore:
    """A store that lies in the ZIP `path`, below `prefix` (empty, or ending with a slash)."""

    root: SourceRoot
    path: str
    prefix: str

    @property
    def _members(self) -> Mapping[str, archive_zip.ZipMember]:
        return archive_zip.zip_members(self.root, self.path)

    def names(self) -> tuple[str, ...]:
        return tuple(name[len(self.prefix) :] for name in self._members if name.startswith(self.prefix))

    def has(self, name: str) -> bool:
        return self.prefix + name in self._members

    def read(self, name: str, limit: int) -> bytes:
        member = self._members.get(self.prefix + name)
        if member is None:
            raise FormatError("missing_file", f"{self.path} holds no {self.prefix}{name}", where=self.path)
        if member.size > limit:
            raise FormatError("file_too_large", f"{self.path}:{member.name} holds {member.size} bytes", where=self.path)
        return archive_zip.zip_bytes(self.root, self.path, member)

    def files(self, names: list[str]) -> tuple[str, ...]:  # noqa: ARG002
        return (self.path,)


@dataclass(frozen=True)
class ZarrArray:
    """One array's metadata. `codec` is (id, options), None for raw chunks; `fill` its fill value, as it is written.

    With `filling` a chunk that is not there is one of fill values: only where somebody vouches that none was lost.
    """

    store: Store
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    codec: tuple[str, Mapping[str, Any]] | None
    separator: str
    key_prefix: str
    fill: Any = None
    filling: bool = False

    def left_out(self, start: int, stop: int) -> list[str]:
        """Names of the chunks of rows `start` to `stop` that are not there, where they are filled."""
        return [key for key in self.chunk_names(start, stop) if self.filling and not self.store.has(key)]

    def chunk_names(self, start: int, stop: int) -> list[str]:
        """Names of the chunks that hold rows `start` to `stop`, in grid order."""
        return [self._key(place) for place in self._places(start, stop)]

    def _places(self, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        first = range(start // self.chunks[0], -(-stop // self.chunks[0]))
        rest = (range(-(-size // chunk)) for size, chunk in zip(self.shape[1:], self.chunks[1:], strict=True))
        return itertools.product(first, *rest)

    def _key(self, place: tuple[int, ...]) -> str:
        return f"{self.name}/{self.key_prefix}{self.separator.join(map(str, place))}"

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`; a chunk that is not there is `missing_chunk`, and a fill value only with `filling`.

        Raises `FormatError` `missing_chunk`, `claimed_size`, `corrupt_chunk`, and those of the codecs.
        """
        if (stop - start) * math.prod(self.shape[1:]) * self.dtype.itemsize > MAX_BYTES:
            raise FormatError("claimed_size", f"{self.name} claims more than {MAX_BYTES} bytes for one episode")
        made = np.empty((stop - start, *self.shape[1:]), self.dtype.newbyteorder("="))
        for place in self._places(start, stop):
            low = [index * chunk for index, chunk in zip(place, self.chunks, strict=True)]
            high = [min(a + chunk, size) for a, chunk, size in zip(low, self.chunks, self.shape, strict=True)]
            low[0], high[0], first = max(low[0], start), min(high[0], stop), place[0] * self.chunks[0]
            inner = (slice(low[0] - first, high[0] - first), *(slice(0, b - a) for a, b in zip(low[1:], high[1:])))  # noqa: B905
            outer = (slice(low[0] - start, high[0] - start), *(slice(a, b) for a, b in zip(low[1:], high[1:])))  # noqa: B905
            made[outer] = self._chunk(self._key(place))[inner]
        return made

    def packed(self, key: str) -> bytes:
        """A chunk's bytes as they are stored."""
        if not self.store.has(key):
            raise missing_chunk(key)
        return self.store.read(key, limit=MAX_CHUNK)

    def _chunk(self, key: str) -> NDArray[Any]:
        if self.filling and not self.store.has(key):
            return np.full(self.chunks, _fill_value(self.fill, self.dtype, self.name))
        data, size = self.packed(key), math.prod(self.chunks) * self.dtype.itemsize
        if self.codec is not None and self.codec[0] == JPEG_XL:
            return jpeg_xl(data, self.chunks, self.dtype, key).reshape(self.chunks)
        unpacked = data if self.codec is None else CODECS[self.codec[0]](data, size, key)
        if len(unpacked) != size:
            raise corrupt(key, f"it holds {len(unpacked)} bytes, its array says {size}")
        return np.frombuffer(unpacked, self.dtype).reshape(self.chunks, order="F" if self.order == "F" else "C")


def missing_chunk(key: str) -> FormatError:
    """The error for a chunk that is not there: lost, or left out by zarr 3, which nobody can tell apart."""
    told = (
        f"{key} is not there; a fill value would be made up: copy the file again, or, where the writer left out chunks "
        "of nothing but the fill value (zarr 3 does), say `missing_chunks: fill` among the converter's options"
    )
    return FormatError("missing_chunk", told, where=key)


def _fill_value(fill: Any, dtype: np.dtype[Any], name: str) -> Any:
    """A fill value as numpy has it; `bad_value` for none, or one that the type does not hold."""
    if fill in ("NaN", "Infinity", "-Infinity") and dtype.kind == "f":
        return dtype.type(float(fill))
    whole = isinstance(fill, int) and (dtype.kind not in "iu" or np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max)
    if isinstance(fill, bool) if dtype.kind == "b" else whole or (isinstance(fill, float) and dtype.kind == "f"):
        return dtype.type(fill)
    raise FormatError("bad_value", f"{name} lacks a chunk, and its fill value {str(fill)[:40]!r} is none of {dtype}")


def open_array(store: Store, name: str, *, filling: bool = False) -> ZarrArray:
    """The metadata of one array, version 2 (`.zarray`) or 3 (`zarr.json`), checked.

    Raises `FormatError`: `missing_file`, `json_invalid`, `bad_type`, `bad_value`, `object_dtype`, `unsupported_dtype`,
    `unsupported_codec` (another codec than none, blosc, zstd, zlib, gzip, lz4 and JPEG XL; any filter; sharding),
    `bad_shape`, `claimed_size`.
    """
    third = not store.has(f"{name}/.zarray")
    where = f"{name}/{'zarr.json' if third else '.zarray'}"
    if not store.has(where):
        raise FormatError("missing_file", f"{name} is no zarr array", where=where)
    told = fields.as_object(load_json(store.read(where, limit=MAX_METADATA), where), where)
    try:
        made = _third(store, name, told, where) if third else _second(store, name, told, where)
    except BadInput as error:
        raise FormatError(error.reason, f"{where}: {error.what}", where=where) from None
    if made.codec is not None and made.codec[0] == JPEG_XL:
        _check_jpeg_xl(made, where)
    return replace(made, fill=told.get("fill_value"), filling=filling)


def _second(store: Store, name: str, told: Mapping[str, Any], where: str) -> ZarrArray:
    if fields.member(told, "zarr_format", where) != 2:
        raise FormatError("bad_value", "no zarr array of version 2")
    if told.get("filters"):
        raise FormatError("unsupported_codec", "filters (of objects, deltas and the like) are not read")
    shape, chunks = _grid(fields.member(told, "shape", where), fields.member(told, "chunks", where))
    codec = told.get("compressor")
    if codec is not None:
        codec = _codec(fields.as_text(fields.as_object(codec, "compressor").get("id"), "compressor id"), codec)
    order, separator = told.get("order", "C"), told.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise FormatError("bad_value", f"order {order!r}, separator {separator!r}")
    dtype = _dtype(fields.member(told, "dtype", where))
    return _made(ZarrArray(store, name, shape, chunks, dtype, order, codec, separator, ""))


def _third(store: Store, name: str, told: Mapping[str, Any], where: str) -> ZarrArray:
    if told.get("zarr_format") != 3 or told.get("node_type") != "array" or told.get("storage_transformers"):
        raise FormatError("bad_value", "no plain zarr array of version 3")
    grid = fields.as_object(fields.member(told, "chunk_grid", where), "chunk_grid")
    if grid.get("name") != "regular":
        raise FormatError("unsupported_codec", "only regular grids of chunks are read")
    inner = fields.as_object(grid.get("configuration"), "chunk_grid")
    shape, chunks = _grid(fields.member(told, "shape", where), inner.get("chunk_shape"))
    keys = fields.as_object(fields.member(told, "chunk_key_encoding", where), "chunk_key_encoding")
    kind = keys.get("name")
    separator = fields.as_object(keys.get("configuration", {}), "chunk_key_encoding").get("separator")
    separator = separator or ("/" if kind == "default" else ".")
    if kind not in ("default", "v2") or separator not in (".", "/"):
        raise FormatError("bad_value", "chunks are named in another way than zarr's two")
    codecs = [fields.as_object(item, "codec") for item in fields.as_list(told.get("codecs"), "codecs")]
    if not codecs or codecs[0].get("name") != "bytes" or len(codecs) > 2:
        raise FormatError("unsupported_codec", "codecs are `bytes` and at most one compressor")
    endian = fields.as_object(codecs[0].get("configuration", {}), "bytes").get("endian", "little")
    named = fields.member(told, "data_type", where)
    if not isinstance(named, str) or not _V3_TYPES.fullmatch(named) or endian not in ("little", "big"):
        raise FormatError("unsupported_dtype", f"values of the type {str(named)[:40]!r}")
    dtype = np.dtype(named).newbyteorder("<" if endian == "little" else ">")
    codec = None
    if len(codecs) == 2:
        options = fields.as_object(codecs[1].get("configuration", {}), "codec")
        codec = _codec(fields.as_text(codecs[1].get("name"), "codec").removeprefix("numcodecs."), options)
    return _made(
        ZarrArray(store, name, shape, chunks, dtype, "C", codec, separator, f"c{separator}" * (kind == "default"))
    )


def _grid(shape: Any, chunks: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = tuple(int(size) for size in fields.as_whole_array(shape, "shape"))
    steps = tuple(int(size) for size in fields.as_whole_array(chunks, "chunks"))
    if not 1 <= len(sizes) <= MAX_AXES or len(sizes) != len(steps) or min(sizes) < 0 or min(steps) < 1:
        raise FormatError("bad_shape", f"an array {sizes} in chunks of {steps}")
    return sizes, steps


def _made(array: ZarrArray) -> ZarrArray:
    """The array, unless one chunk or the number of chunks is more than any data set has."""
    count = math.prod(-(-size // chunk) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True))
    if math.prod(array.chunks) * array.dtype.itemsize > MAX_CHUNK or count > MAX_CHUNKS:
        raise FormatError("claimed_size", f"chunks of {array.chunks} of {array.dtype}, {count} of them a row")
    return array


def _dtype(value: Any) -> np.dtype[Any]:
    if isinstance(value, str) and value.startswith("|O"):
        raise FormatError("object_dtype", "objects are pickles, and are not read")
    found = _DTYPE.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found[2], found[3]) in {("b", "2"), ("b", "4"), ("b", "8"), ("f", "1")}:
        raise FormatError("unsupported_dtype", f"values of the type {str(value)[:40]!r}")
    return np.dtype(str(value))


def _codec(name: str, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if name not in CODECS and name != JPEG_XL:
        raise FormatError("unsupported_codec", f"chunks packed with {name[:40]!r}, which is not read")
    return name, options


def _check_jpeg_xl(array: ZarrArray, where: str) -> None:
    options = array.codec[1] if array.codec is not None else {}
    if any(options.get(name) for name in _JPEG_XL_OPTIONS):
        raise FormatError("unsupported_codec", f"{where}: JPEG XL of another frame or orientation", where=where)
    if array.dtype != np.uint8 or array.order != "C" or array.chunks[-1] != 3 or len(array.chunks) < 3:
        raise FormatError("unsupported_codec", f"{where}: JPEG XL holds RGB pictures of 8 bits here", where=where)
