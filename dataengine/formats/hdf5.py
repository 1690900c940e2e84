"""The one door to HDF5: opening files, walking groups and reading data sets that are what they seem.

HDF5 can make a file read other files (external links, external storage, virtual data sets), name things in circles,
claim terabytes it does not hold, or ask for a filter plugin from a search path. Nothing of that is followed: each is
a `FormatError` with its own reason. h5py's errors for broken files are varied (OSError, RuntimeError, KeyError,
ValueError, UnicodeDecodeError), so this door catches all of them.

A helper of formats, not a format.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine.errors import BadInput, DataEngineError, FormatError
from dataengine.storage import SourceRoot

MAX_BYTES = 8 << 30
MAX_DEPTH = 32
MAX_ATTRIBUTE_BYTES = 16 << 20
MAX_HEAP_BYTES = 1 << 30
_HEAP = b"GCOL\x01\0\0\0"
_HEAP_HEADER = _OBJECT_HEADER = 16
_METADATA_READ = 1 << 16
_SUSPECT_BYTES = 64 << 20
_SUSPECT_RATIO = 1000
_BLOCK_BYTES = 4 << 20
_REFERENCE = 16
"""Bytes that a row of its own length takes in its data set; its content lies in a heap."""
_KNOWN_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
"""deflate, shuffle, fletcher32, szip, n-bit, scale-offset; lzf, which h5py brings along."""

type Node = Any  # an h5py.Group or h5py.Dataset; h5py has no types


@contextmanager
def opened(root: SourceRoot, path: str) -> Iterator[h5py.File]:
    """Open a file below `root` for reading; everything HDF5 is done inside this block.

    Whatever h5py raises in the block becomes a `FormatError` `unreadable_file` (`empty_file` for no bytes at all).
    """
    if root.size(path) == 0:
        raise FormatError("empty_file", f"{path} is empty", where=path)
    try:
        _forget_plugins()
        # a file object: HDF5 sees no name to lock, or to look for other files beside
        with root.open(path) as handle, h5py.File(_Watched(handle), "r") as file:
            yield file
    except BadInput as error:
        error.where = error.where or path
        raise
    except DataEngineError:
        raise
    except Exception as error:  # the door to HDF5: see the module's text
        told = " ".join(str(error).split())[:200]
        raise FormatError("unreadable_file", f"{path} cannot be read as HDF5: {told}", where=path) from error


class _Watched(io.RawIOBase):
    """A source file whose heaps of strings are checked before HDF5 walks them.

    One damaged size in such a heap (a global heap collection, HDF5 file format specification III.E) makes HDF5 2.0.0
    walk in place for ever. They are recognised in small reads, as metadata are read; values are left alone.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file: Any = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        count = int(self._file.readinto(buffer))
        if count <= _METADATA_READ:
            data = bytes(buffer[:count])
            place = data.find(_HEAP)
            while place >= 0:
                self._check_heap(start + place)
                place = data.find(_HEAP, place + 1)
        return count

    def _check_heap(self, start: int) -> None:
        self._file.seek(start + len(_HEAP))
        size = int.from_bytes(self._file.read(8), "little")
        if not _HEAP_HEADER <= size <= MAX_HEAP_BYTES:
            raise ValueError("a heap of strings has an impossible size")
        heap = self._file.read(size - _HEAP_HEADER)
        position = 0
        while position + _OBJECT_HEADER <= len(heap):
            number, length = struct.unpack_from("<H6xQ", heap, position)
            step = length if number == 0 else _OBJECT_HEADER + (length + 7) // 8 * 8
            if not 0 < step <= size - _HEAP_HEADER - position:
                raise ValueError("a heap of strings is damaged")
            position += step


def _forget_plugins() -> None:
    """Empty HDF5's search path for filter plugins: no library is ever loaded because a file asks for it."""
    while h5py.h5pl.size():
        h5py.h5pl.remove(0)


def member(group: h5py.Group, name: str) -> Node | None:
    """A direct member of a group, None when there is none; links to elsewhere are refused."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    place = f"{group.name.rstrip('/')}/{name}"
    if isinstance(link, h5py.ExternalLink):
        raise FormatError("external_link", f"{place} points into another file")
    if not isinstance(link, h5py.HardLink):
        raise FormatError("soft_link", f"{place} is a soft link; it may point anywhere", fix="copy with h5repack")
    found = group[name]
    return found if isinstance(found, h5py.Group | h5py.Dataset) else None


def datasets(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set below a group as (relative path, data set), sorted by path.

    A group that is reached twice (hard links in a circle) and nesting beyond 32 levels are `link_loop`.
    """
    seen = {_address(group)}
    waiting: list[tuple[str, h5py.Group, int]] = [("", group, 0)]
    found: dict[str, h5py.Dataset] = {}
    while waiting:
        prefix, parent, depth = waiting.pop()
        for name in names(parent):
            node = member(parent, name)
            path = f"{prefix}{name}"
            if isinstance(node, h5py.Dataset):
                found[path] = node
            elif node is not None:
                if _address(node) in seen or depth >= MAX_DEPTH:
                    raise FormatError("link_loop", f"{node.name} is reached twice, or nested too deep")
                seen.add(_address(node))
                waiting.append((f"{path}/", node, depth + 1))
    yield from sorted(found.items())


def _address(group: h5py.Group) -> Any:
    return h5py.h5o.get_info(group.id).addr


def check(dataset: h5py.Dataset, *, texts: bool = False) -> int:
    """The bytes a data set takes in memory, after every reason not to read it was looked for.

    With `texts` it may hold strings instead of numbers.

    `external_storage`, `virtual_dataset`, `object_dtype`, `unsupported_dtype`, `no_values`, `unknown_filter`,
    `claimed_size` (more than 8 GiB, or over 64 MiB and 1000 times what is stored).
    """
    place = dataset.name
    _check_place(dataset)
    if texts and h5py.check_string_dtype(dataset.dtype) is None:
        raise FormatError("unsupported_dtype", f"{place} holds {dataset.dtype}, not texts")
    if dataset.dtype.hasobject and not texts:
        raise FormatError("object_dtype", f"{place} holds {dataset.dtype}: objects or strings of any length")
    if dataset.dtype.kind not in "fiub" and not texts:
        raise FormatError("unsupported_dtype", f"{place} holds {dataset.dtype}, not numbers")
    _check_filters(dataset)
    claimed = int(dataset.size) * int(dataset.dtype.itemsize)
    _check_claim(dataset, claimed)
    return claimed


def _check_claim(dataset: h5py.Dataset, claimed: int) -> None:
    stored = int(dataset.id.get_storage_size())
    suspicious = claimed > _SUSPECT_BYTES and claimed > _SUSPECT_RATIO * stored
    if claimed > MAX_BYTES or suspicious:
        raise FormatError("claimed_size", f"{dataset.name} claims {claimed} bytes and stores {stored}")


def _check_place(dataset: h5py.Dataset) -> None:
    if dataset.external:
        raise FormatError("external_storage", f"{dataset.name} keeps its values in another file")
    if dataset.is_virtual:
        raise FormatError("virtual_dataset", f"{dataset.name} is a view of other data sets")
    if dataset.shape is None:
        raise FormatError("no_values", f"{dataset.name} has no shape")


def _check_filters(dataset: h5py.Dataset) -> None:
    properties = dataset.id.get_create_plist()
    for position in range(properties.get_nfilters()):
        number = int(properties.get_filter(position)[0])
        if number not in _KNOWN_FILTERS or not h5py.h5z.filter_avail(number):
            raise FormatError("unknown_filter", f"{dataset.name} is packed with the filter {number}")


def byte_rows(dataset: h5py.Dataset) -> list[bytes]:
    """Rows of bytes, each of its own length [T] (variable-length uint8): encoded pictures, most often.

    `external_storage`, `virtual_dataset`, `unknown_filter`, `unsupported_dtype` (another type, more axes),
    `claimed_size` (more than 8 GiB in all).
    """
    place = dataset.name
    if h5py.check_vlen_dtype(dataset.dtype) != np.uint8 or dataset.shape is None or len(dataset.shape) != 1:
        raise FormatError("unsupported_dtype", f"{place} holds {dataset.dtype} {dataset.shape}, not rows of bytes")
    _check_place(dataset)
    _check_filters(dataset)
    _check_claim(dataset, int(dataset.size) * _REFERENCE)
    found, total = [], 0
    for number in range(dataset.shape[0]):
        found.append(np.asarray(dataset[number], np.uint8).tobytes())
        total += len(found[-1])
        if total > MAX_BYTES:
            raise FormatError("claimed_size", f"{place} holds more than {MAX_BYTES} bytes")
    return found


def first_row(dataset: h5py.Dataset) -> bytes:
    """The first of the rows that `byte_rows` gives, with its checks; empty where there is none."""
    if h5py.check_vlen_dtype(dataset.dtype) != np.uint8 or not dataset.shape or len(dataset.shape) != 1:
        raise FormatError(
            "unsupported_dtype", f"{dataset.name} holds {dataset.dtype} {dataset.shape}, not rows of bytes"
        )
    _check_place(dataset)
    _check_filters(dataset)
    return np.asarray(dataset[0], np.uint8).tobytes() if dataset.shape[0] else b""


def values(dataset: h5py.Dataset) -> NDArray[Any]:
    """All values of a checked data set, in their own dtype and shape."""
    return np.asarray(dataset[()])


def blocks(dataset: h5py.Dataset) -> Iterator[NDArray[Any]]:
    """The rows of a checked data set [T, ...] in order, some megabytes at a time.

    Blocks end where the file's chunks end, so that every chunk is read and inflated once.
    """
    rows = dataset.shape[0]
    row_bytes = max(1, int(dataset.size) // max(1, rows) * int(dataset.dtype.itemsize))
    chunk = dataset.chunks[0] if dataset.chunks else 1
    step = max(1, _BLOCK_BYTES // (row_bytes * chunk)) * chunk
    for start in range(0, rows, step):
        yield np.asarray(dataset[start : start + step])


def attributes(node: Node) -> tuple[dict[str, Any], list[str]]:
    """Attributes as plain JSON values (texts, numbers, booleans, lists of them), and the names of all others.

    `claimed_size` for an attribute over 16 MiB, `invalid_utf8` for a text that is none.
    """
    plain: dict[str, Any] = {}
    unread: list[str] = []
    for name in names(node.attrs):
        attribute = node.attrs.get_id(name)
        plain_class = attribute.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
        textual = attribute.get_type().get_class() == h5py.h5t.STRING
        if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL or not (plain_class or textual):
            unread.append(name)  # other types are not even read: a damaged one crashes the library
            continue
        if attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES:
            raise FormatError("claimed_size", f"the attribute {name!r} of {node.name} is larger than any description")
        value = node.attrs[name]
        if textual:
            plain[name] = _texts(value)
        elif np.isfinite(value).all():
            plain[name] = np.asarray(value).tolist()
        else:
            unread.append(name)
    return plain, unread


def integer(node: Node, name: str) -> int | None:
    """One attribute that is a single whole number, None where there is none such; no other attribute is read."""
    if name not in node.attrs:
        return None
    attribute = node.attrs.get_id(name)
    single = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    if not single or attribute.get_type().get_class() != h5py.h5t.INTEGER:
        return None
    return int(node.attrs[name])


def names(members: Iterable[str]) -> list[str]:
    """Names of members or attributes, sorted; `invalid_utf8` for one that is no text (h5py hides that)."""
    return sorted(_text(name) for name in members)


def _texts(value: Any) -> Any:
    """A text, or nested lists of texts, out of what h5py gives for strings."""
    if isinstance(value, np.ndarray):
        return [_texts(item) for item in value]
    return _text(value.decode() if isinstance(value, bytes) else value)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError("invalid_utf8", f"{value!r} is no text") from None
    return value
