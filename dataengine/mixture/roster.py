"""The roster: every row of the lake that a build takes in, in columns sorted by uid.

A row of the lake is some hundred bytes here instead of some thousand, so that the driver of a large build holds all of
them. `Listed` is one row again, made when it is asked for.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataengine.embodiment import Card
from dataengine.errors import SpecError
from dataengine.lake_rows import Head, Status
from dataengine.plan import SPLITS
from dataengine.specs.source import SourceInfo

STATUSES: tuple[Status, ...] = ("ok", "dropped", "quarantined")
_WIDTH = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """What the rows of one conversion of one source share."""

    source_id: str
    converter: str
    family: str
    embodiment: str
    control_mode: str
    conversion_digest: str
    source: SourceInfo
    card: Card


@dataclass(frozen=True, slots=True)
class Listed:
    """One row: `entry` is what the recipe calls its source, `media_digest` tells the bytes of its streams."""

    uid: str
    entry: str
    split: str
    status: Status
    reason: str | None
    what: str | None
    upstream_id: str
    media_digest: str
    media_bytes: int
    kind: Kind

    @property
    def source_id(self) -> str:
        return self.kind.source_id

    @property
    def converter(self) -> str:
        return self.kind.converter

    @property
    def family(self) -> str:
        return self.kind.family

    @property
    def conversion_digest(self) -> str:
        return self.kind.conversion_digest

    @property
    def source(self) -> SourceInfo:
        return self.kind.source

    @property
    def card(self) -> Card:
        return self.kind.card


@dataclass(frozen=True)
class Roster(Mapping[str, Listed]):
    """Rows by uid.

    Attributes:
        uids: [n, 32] bytes, sorted.
        entry: [n] place in `entries`.
        split: [n] place in `SPLITS`.
        status: [n] place in `STATUSES`.
        kind: [n] place in `kinds`.
        upstream: [n] upstream ids.
        media: [n, 32] bytes of the media digests.
        media_bytes: [n]
        content: [n, 32] bytes of the rows' content digests.
        told: reason and words of the rows that are not usable.
    """

    uids: NDArray[np.uint8]
    entry: NDArray[np.int16]
    split: NDArray[np.int8]
    status: NDArray[np.int8]
    kind: NDArray[np.int32]
    upstream: pa.LargeStringArray
    media: NDArray[np.uint8]
    media_bytes: NDArray[np.int64]
    content: NDArray[np.uint8]
    told: Mapping[str, tuple[str | None, str | None]]
    entries: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def __len__(self) -> int:
        return len(self.entry)

    def __iter__(self) -> Iterator[str]:
        return (self.uid(row) for row in range(len(self)))

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, str) and self._find(uid) is not None

    def __getitem__(self, uid: str) -> Listed:
        return self.row(self.index(uid))

    def uid(self, row: int) -> str:
        """The uid of a row."""
        text: str = self.uids[row].tobytes().hex()
        return text

    def index(self, uid: str) -> int:
        """The row of a uid; a `KeyError` where there is none."""
        found = self._find(uid)
        if found is None:
            raise KeyError(uid)
        return found

    def _find(self, uid: str) -> int | None:
        wanted = bytes.fromhex(uid)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.uids[middle].tobytes() < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.uids[low].tobytes() == wanted else None

    def row(self, row: int) -> Listed:
        """A row by its place."""
        uid = self.uid(row)
        reason, what = self.told.get(uid, (None, None))
        return Listed(
            uid=uid,
            entry=self.entries[self.entry[row]],
            split=SPLITS[self.split[row]],
            status=STATUSES[self.status[row]],
            reason=reason,
            what=what,
            upstream_id=self.upstream[row].as_py(),
            media_digest=self.media[row].tobytes().hex(),
            media_bytes=int(self.media_bytes[row]),
            kind=self.kinds[self.kind[row]],
        )

    @property
    def usable(self) -> NDArray[np.bool_]:
        """[n] which rows are episodes that could be read."""
        return np.asarray(self.status == 0)

    def digest(self) -> str:
        """sha256 over what decides the rows' content, in uid order; as `lake_digest`."""
        return hashlib.sha256(np.ascontiguousarray(self.content)).hexdigest()

    def only(self, rows: NDArray[np.integer]) -> Roster:
        """The rows at these places, which rise."""
        kept = {self.uid(row) for row in rows.tolist()} if self.told else set()
        told = {uid: why for uid, why in self.told.items() if uid in kept}
        columns = {name: getattr(self, name)[rows] for name in _ARRAYS}
        upstream = self.upstream.take(pa.array(rows))
        return Roster(**columns, upstream=upstream, told=told, entries=self.entries, kinds=self.kinds)


_ARRAYS = ("uids", "entry", "split", "status", "kind", "media", "media_bytes", "content")


class RosterBuilder:
    """Gathers rows in any order; `entry` chooses the recipe's source of a row, `split` its split."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._entries = tuple(entries)
        self._bytes = {name: bytearray() for name in ("uids", "media", "content")}
        self._numbers = {"entry": array("h"), "split": array("b"), "status": array("b")}
        self._kind, self._media_bytes = array("i"), array("q")
        self._upstream: list[pa.LargeStringArray] = []
        self._told: dict[str, tuple[str | None, str | None]] = {}
        self._kinds: dict[tuple[str | int, ...], int] = {}
        self._made: list[Kind] = []

    def __len__(self) -> int:
        return len(self._kind)

    def add(self, entry: str, heads: Iterable[Head], split: Callable[[Head], str]) -> None:
        """Rows of one source of the recipe."""
        number, upstream = self._entries.index(entry), []
        for head in heads:
            self._bytes["uids"] += bytes.fromhex(head.uid)
            self._bytes["media"] += bytes.fromhex(head.media_digest)
            self._bytes["content"] += bytes.fromhex(head.content)
            self._numbers["entry"].append(number)
            self._numbers["split"].append(SPLITS.index(split(head)))
            self._numbers["status"].append(STATUSES.index(head.status))
            self._kind.append(self._kind_of(head))
            self._media_bytes.append(head.media_bytes)
            upstream.append(head.upstream_id)
            if head.status != "ok":
                self._told[head.uid] = (head.reason, head.what)
        self._upstream.append(pa.array(upstream, pa.large_string()))

    def _kind_of(self, head: Head) -> int:
        shared = (head.source_id, head.converter, head.family, head.embodiment, head.control_mode)
        key = (*shared, head.conversion_digest, id(head.source), id(head.card))  # both are kept, one object a text
        number = self._kinds.setdefault(key, len(self._kinds))
        if number == len(self._made):
            self._made.append(Kind(*shared, head.conversion_digest, head.source, head.card))
        return number

    def made(self) -> Roster:
        """All rows; one that two sources of the recipe choose is a `SpecError`."""
        wide = {name: np.frombuffer(data, np.uint8).reshape(-1, _WIDTH) for name, data in self._bytes.items()}
        order = np.lexsort(tuple(_words(wide["uids"])[:, ::-1].T)) if len(self) else np.zeros(0, np.int64)
        entry = np.frombuffer(self._numbers["entry"], np.int16)[order]
        uids = wide["uids"][order]
        same = np.flatnonzero((uids[1:] == uids[:-1]).all(axis=1))
        if len(same):
            one, two = sorted(self._entries[entry[row]] for row in (same[0], same[0] + 1))
            raise SpecError(
                f"{len(same):,} episodes are chosen by two sources: {one} and {two}",
                where=uids[same[0]].tobytes().hex(),
                fix="let their selections differ",
            )
        upstream = pa.concat_arrays(self._upstream) if self._upstream else pa.array([], pa.large_string())
        return Roster(
            uids=uids,
            entry=entry,
            split=np.frombuffer(self._numbers["split"], np.int8)[order],
            status=np.frombuffer(self._numbers["status"], np.int8)[order],
            kind=np.frombuffer(self._kind, np.int32)[order],
            upstream=upstream.take(pa.array(order)),
            media=wide["media"][order],
            media_bytes=np.frombuffer(self._media_bytes, np.int64)[order],
            content=wide["content"][order],
            told=self._told,
            entries=self._entries,
            kinds=tuple(self._made),
        )


def _words(wide: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """[n, 4] the bytes as big-endian numbers, which sort as the bytes do."""
    return np.ascontiguousarray(wide).view(">u8").astype(np.uint64)
