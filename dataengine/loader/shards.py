"""The shards of a data set: their indexes in little memory, their bytes mapped, any sample by its number."""

from __future__ import annotations

import mmap
import re
import threading
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine.documents import sha256_bytes
from dataengine.errors import FormatError
from dataengine.mixture.store import index_name, shard_name
from dataengine.specs.records import ShardEntry
from dataengine.storage import Store, sha256_file

MAX_OPEN = 256  # a mapping holds a file descriptor; a usual limit is 1024
IMAGES = (".jpg", ".png")
_ITEM_MEDIA = re.compile(r"^image\d+$")
_FIX = "run `dataengine verify`, then build again"


@dataclass(frozen=True)
class IndexTable:
    """A shard's index: sample i has the rows `starts[i] .. starts[i + 1] - 1` of the other arrays.

    `listed` is what it says of samples beside their members, by the sample's number.
    """

    keys: tuple[str, ...]
    extensions: tuple[str, ...]
    starts: array[int]
    which: array[int]  # the extension
    offsets: array[int]
    sizes: array[int]
    listed: dict[int, Mapping[str, Any]]

    @classmethod
    def parse(cls, data: bytes, where: str) -> IndexTable:
        """Read the bytes of `shards.index.dump`; `FormatError` `index_damaged` when they are none."""
        known: dict[str, int] = {}
        keys: list[str] = []
        starts, which, offsets, sizes = array("q", [0]), array("I"), array("q"), array("q")
        listed: dict[int, Mapping[str, Any]] = {}
        try:
            for key, members, *said in orjson.loads(data)["samples"]:
                if said:
                    listed[len(keys)] = said[0]
                keys.append(key)
                for extension, offset, size in members:
                    which.append(known.setdefault(extension, len(known)))
                    offsets.append(offset)
                    sizes.append(size)
                starts.append(len(which))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise FormatError("index_damaged", "not a shard index", where=where, fix=_FIX) from None
        return cls(tuple(keys), tuple(known), starts, which, offsets, sizes, listed)

    def having(self, extensions: Sequence[str]) -> NDArray[np.bool_]:
        """Which samples have a member with one of these extensions."""
        numbers = [number for number, name in enumerate(self.extensions) if name in extensions]
        rows = np.isin(np.frombuffer(self.which, np.uint32), numbers)
        members = np.diff(np.frombuffer(self.starts, np.int64)).astype(np.int64)
        owner = np.repeat(np.arange(len(self.keys)), members)
        return np.bincount(owner[rows], minlength=len(self.keys)) > 0


def view_of(extension: str) -> str | None:
    """The camera view an image member shows; None for an item's media (`image0.jpg`) and for all that is no image."""
    name = extension.partition(".")[0]
    return name if extension.endswith(IMAGES) and not _ITEM_MEDIA.match(name) else None


@lru_cache(maxsize=1024)
def _other_views(extensions: tuple[str, ...], views: tuple[str, ...]) -> frozenset[str]:
    return frozenset(extension for extension in extensions if view_of(extension) not in (None, *views))


class RawSample(NamedTuple):
    """A sample as it lies in its shard: members by extension. `segment` is the key of what it is cut out of."""

    shard: str
    key: str
    members: dict[str, bytes]
    segment: str = ""

    @property
    def where(self) -> str:
        return f"{self.shard}: {f'{self.segment}: ' if self.segment else ''}{self.key}"


class Placed(NamedTuple):
    """Where a sample's members lie in its shard: (offset, size) by extension, in their order."""

    number: int
    shard: str
    key: str
    members: dict[str, tuple[int, int]]


class Shards:
    """The shards of one split, in the manifest's order. Indexes are read when first needed and then kept."""

    def __init__(self, root: str, entries: tuple[ShardEntry, ...]) -> None:
        self._root = root
        self._entries = entries
        self._stops = list(accumulate(entry.samples for entry in entries))
        self._forget()

    def _forget(self) -> None:
        self._store = Store(self._root)
        self._tables: dict[int, IndexTable] = {}
        self._mapped: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self._root, "entries": self._entries, "stops": self._stops}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._root, self._entries, self._stops = state["root"], state["entries"], state["stops"]
        self._forget()

    @property
    def samples(self) -> int:
        return self._stops[-1]

    @property
    def stops(self) -> NDArray[np.int64]:
        """[shards] the number behind the last sample of each."""
        return np.array(self._stops, np.int64)

    def check(self, *, digests: bool) -> None:
        """Every shard stands there in its full size, and has its digest; else a `FormatError`."""
        for entry in self._entries:
            name = shard_name(entry.sha256)
            where, size = self._store.at(name), self._store.size(name)
            if size is None:
                raise FormatError("missing_file", "a shard of the version is missing", where=where, fix=_FIX)
            if size != entry.bytes:
                what = f"the shard holds {size} bytes, not {entry.bytes}"
                raise FormatError("truncated", what, where=where, fix=_FIX)
            if digests:
                with self._store.local(name) as path:
                    found = sha256_file(path)
                if found != entry.sha256:
                    what = "the shard does not have the digest in its name"
                    raise FormatError("digest_mismatch", what, where=where, fix=_FIX)

    def tables(self) -> Iterator[tuple[int, IndexTable]]:
        """The number of each shard's first sample, and its index."""
        for number, stop in enumerate(self._stops):
            yield stop - self._entries[number].samples, self._table(number)

    def read(self, place: int, views: tuple[str, ...] | None = None) -> RawSample:
        """The sample at `place`, `0 <= place < samples`; with `views`, without the images of other views."""
        number = bisect_right(self._stops, place)
        entry = self._entries[number]
        row = place - self._stops[number] + entry.samples
        table = self._table(number)
        start, stop = table.starts[row], table.starts[row + 1]
        names, which, offsets, sizes = table.extensions, table.which, table.offsets, table.sizes
        leave = _other_views(names, views) if views is not None else ()
        if not self._store.is_local:
            return RawSample(shard_name(entry.sha256), table.keys[row], self._fetched(entry, table, row, leave))
        mapped = self._bytes(number)
        members = {
            name: mapped[offsets[at] : offsets[at] + sizes[at]]
            for at in range(start, stop)
            if (name := names[which[at]]) not in leave
        }
        return RawSample(shard_name(entry.sha256), table.keys[row], members)

    def placed(self, place: int) -> Placed:
        """Where the members of the sample at `place` lie, to read some of them with `members`."""
        number = bisect_right(self._stops, place)
        entry = self._entries[number]
        row = place - self._stops[number] + entry.samples
        table = self._table(number)
        members = {
            table.extensions[table.which[at]]: (table.offsets[at], table.sizes[at])
            for at in range(table.starts[row], table.starts[row + 1])
        }
        return Placed(number, shard_name(entry.sha256), table.keys[row], members)

    def members(self, placed: Placed, names: Sequence[str]) -> dict[str, bytes]:
        """Some members of a sample by extension; with one request, so best such that lie side by side."""
        wanted = [(name, *placed.members[name]) for name in names]
        if self._store.is_local:
            mapped = self._bytes(placed.number) if wanted else b""
            return {name: mapped[offset : offset + size] for name, offset, size in wanted}
        return self._requested(placed.shard, wanted)

    def _fetched(self, entry: ShardEntry, table: IndexTable, row: int, leave: Container[str]) -> dict[str, bytes]:
        """The members of a sample, which lie side by side, with one request."""
        wanted = [
            (name, table.offsets[at], table.sizes[at])
            for at in range(table.starts[row], table.starts[row + 1])
            if (name := table.extensions[table.which[at]]) not in leave
        ]
        return self._requested(shard_name(entry.sha256), wanted)

    def _requested(self, shard: str, wanted: Sequence[tuple[str, int, int]]) -> dict[str, bytes]:
        """(name, offset, size) by name, with one request for all from the first byte to the last."""
        if not wanted:
            return {}
        first = min(offset for _, offset, _ in wanted)
        stop = max(offset + size for _, offset, size in wanted)
        data = self._store.backend.read(shard, first, stop - first)
        return {name: data[offset - first : offset - first + size] for name, offset, size in wanted}

    def _table(self, number: int) -> IndexTable:
        found = self._tables.get(number)
        if found is None:
            entry = self._entries[number]
            name = index_name(entry.sha256)
            data = self._store.read(name) if self._store.exists(name) else b""
            if sha256_bytes(data) != entry.index_sha256:
                what = "the index is missing or does not have the digest that the manifest says"
                raise FormatError("index_damaged", what, where=self._store.at(name), fix=_FIX)
            found = self._tables[number] = IndexTable.parse(data, self._store.at(name))
        return found

    def _bytes(self, number: int) -> mmap.mmap:
        found = self._mapped.get(number)
        if found is None:
            path = self._store.path(shard_name(self._entries[number].sha256))
            with self._lock:
                while len(self._mapped) >= MAX_OPEN:
                    self._mapped.pop(next(iter(self._mapped)))
                try:
                    with path.open("rb") as file:
                        found = self._mapped[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise FormatError("unreadable_file", f"cannot map: {error}", where=str(path), fix=_FIX) from None
        return found
