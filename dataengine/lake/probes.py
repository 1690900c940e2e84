"""Probes: short pieces of what is forgotten, and finding many of them in any bytes.

Of each payload, frame and array slices of 32 bytes are taken, spread over it; of the row its uid (in hex, and its
32 bytes), and the texts and the upstream id that no row in sight has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import canonical_json
from dataengine.episode import Episode

Kind = Literal["uid", "stream", "array", "text"]
WIDTH = 32
UID_CHARACTERS = 20  # sample keys hold that much of a uid
MIN_TEXT = 12
MIN_NAME = 16
_KEY = 8
_PIECE = 4 << 20
_DISTINCT = {"stream": 12, "array": 10}


@dataclass(frozen=True)
class Probe:
    """`pattern` (8 to some hundred bytes) of the `episode`-th of what is forgotten."""

    pattern: bytes
    kind: Kind
    episode: int


@dataclass
class Probes:
    """A set of probes that is searched for at once."""

    probes: list[Probe]
    _keys: NDArray[np.uint64] = field(init=False)
    _by_key: dict[int, list[int]] = field(init=False)
    _masks: list[NDArray[np.bool_]] = field(init=False)

    def __post_init__(self) -> None:
        heads = [int.from_bytes(probe.pattern[:_KEY], "little") for probe in self.probes]
        self._by_key = {}
        for number, head in enumerate(heads):
            self._by_key.setdefault(head, []).append(number)
        self._keys = np.unique(np.array(heads, np.uint64))
        self._masks = []
        for part in range(0, _KEY, 2):
            mask = np.zeros(1 << 16, np.bool_)
            mask[((self._keys >> np.uint64(8 * part)) & np.uint64(0xFFFF)).astype(np.int64)] = True
            self._masks.append(mask)
        self._longest = max((len(probe.pattern) for probe in self.probes), default=0)

    @property
    def longest(self) -> int:
        """Bytes of the longest pattern: pieces of a file must overlap by one less."""
        return self._longest

    def counts(self) -> dict[str, int]:
        """Probes by kind."""
        return dict(sorted(Counter(probe.kind for probe in self.probes).items()))

    def find(self, data: bytes | memoryview) -> set[int]:
        """Numbers of the probes that occur in `data`."""
        found: set[int] = set()
        for start in range(0, len(data), _PIECE) if self.probes else ():
            found |= self._find(memoryview(data)[start : start + _PIECE + self._longest - 1])
        return found

    def _find(self, piece: memoryview) -> set[int]:
        a = np.frombuffer(piece, np.uint8)
        if len(a) < _KEY:
            return set()
        pairs = a[:-1].astype(np.uint16) | (a[1:].astype(np.uint16) << 8)
        count = len(a) - _KEY + 1
        places = np.flatnonzero(self._masks[0][pairs[:count]] & self._masks[1][pairs[2 : 2 + count]])
        for part in (2, 3):
            places = places[self._masks[part][pairs[places + 2 * part]]]
        if not len(places):
            return set()
        keys = np.zeros(len(places), np.uint64)
        for part in range(_KEY):
            keys |= a[places + part].astype(np.uint64) << np.uint64(8 * part)
        hits = np.isin(keys, self._keys)
        found = set()
        for place, key in zip(places[hits].tolist(), keys[hits].tolist(), strict=True):
            for number in self._by_key[key]:
                pattern = self.probes[number].pattern
                if piece[place : place + len(pattern)] == pattern:
                    found.add(number)
        return found


def windows(data: bytes | memoryview, count: int, kind: Literal["stream", "array"], *, skip: int = 0) -> list[bytes]:
    """At most `count` slices of 32 bytes spread over the data behind `skip`, those that repeat a few bytes left out."""
    last = len(data) - WIDTH
    if last < skip or count < 1:
        return []
    step = max(WIDTH, (last - skip) // count)
    pieces = (bytes(data[place : place + WIDTH]) for place in range(skip + (last - skip) % step // 2, last + 1, step))
    return [piece for piece in pieces if len(set(piece)) >= _DISTINCT[kind]][:count]


def of_uid(uid: str, episode: int) -> list[Probe]:
    """The uid as it stands in documents and keys, and as its bytes."""
    patterns = (uid[:UID_CHARACTERS].encode(), bytes.fromhex(uid))
    return [Probe(pattern, "uid", episode) for pattern in patterns]


def of_episode(episode: Episode, number: int, count: int, others: OtherTexts) -> Iterator[Probe]:
    """About `count` probes of an episode's streams, and as many of its arrays; its texts that are its own."""
    yield from of_uid(episode.uid, number)
    for media in episode.media.values():
        for piece in of_stream(media.kind, media.payload, media.offsets, count // max(1, len(episode.media))):
            yield Probe(piece, "stream", number)
    arrays = [slots.values for slots in (episode.state, episode.action) if slots is not None]
    arrays += [array for array in episode.native.values() if array.dtype.kind in "fiu" and not _counts(array)]
    for array in arrays:
        data = np.ascontiguousarray(array).tobytes()
        for piece in windows(data, max(2, count // len(arrays)), "array"):
            yield Probe(piece, "array", number)
    for text in sorted(others.own(episode)):
        yield Probe(text, "text", number)


def of_stream(kind: str, payload: bytes, offsets: NDArray[np.int64], count: int) -> list[bytes]:
    """Slices of a stream: of each frame of some spread over it, from behind its header."""
    if kind == "video":
        from dataengine import video

        return of_packets([data for _, data in video.packets(payload)], count)
    images = [payload[start:stop] for start, stop in pairwise(offsets.tolist())]
    return of_packets(images, count)


def of_packets(frames: Sequence[bytes], count: int) -> list[bytes]:
    """Slices of encoded frames; small frames give one, and frames of a few bytes none."""
    chosen = [frames[int(place)] for place in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), count)))]
    each = max(1, count // max(1, len(chosen)))
    return [piece for data in chosen for piece in windows(data, each, "stream", skip=len(data) // 8)]


def _counts(array: NDArray[Any]) -> bool:
    """Whether an array only counts up or stays the same (indices, times of an even clock): every episode has such."""
    rows = array.reshape(len(array), -1).astype(np.float64) if len(array) > 1 else np.zeros((1, 1))
    steps = np.diff(rows, axis=0)
    return bool(np.all(np.abs(steps - steps[:1]) <= 1e-4 * np.maximum(1.0, np.abs(steps[:1])))) if len(steps) else True


@dataclass
class OtherTexts:
    """Texts and names of the rows in sight, to tell which of an episode's are its own."""

    texts: set[bytes] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, upstream_id: str, meta: Mapping[str, Any]) -> None:
        """Texts of one row in sight."""
        self.names.add(upstream_id)
        self.texts |= set(_texts(entry["text"] for entry in meta.get("language", ())))
        contents = (part for message in meta.get("messages", ()) for part in message["content"])
        self.texts |= set(_texts(part["text"] for part in contents if "text" in part))

    def own(self, episode: Episode) -> set[bytes]:
        """Texts of an episode that no row in sight has, in part or whole; and its name if that is no common one."""
        parts = (part for message in episode.messages for part in message.content)
        texts = [text.text for text in episode.language] + [part["text"] for part in parts if "text" in part]
        found = {text for text in _texts(texts) if not any(text in other for other in self.texts)}
        name = episode.upstream_id
        if len(name) >= MIN_NAME and not any(name in other for other in self.names):
            found.add(name.encode())
        return found


def _texts(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts as they stand in JSON."""
    yield from (canonical_json(text)[1:-1] for text in texts if len(text) >= MIN_TEXT)
