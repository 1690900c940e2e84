"""Tombstones: what a lake must not show, and not take in again (`care/tombstones/`, sealed, never changed).

A tombstone of episodes holds digests of their uids, not the uids; one of a source its id. It also holds digests of the
video files that the episodes were cut from, by content and by place: a neighbour cut from one of them may hold frames
of what is forgotten, and is cleaned before it is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from dataengine.documents import Strict, canonical_json, seal, sha256_bytes, unseal
from dataengine.storage import SourceFile, Store

FOLDER = "tombstones"
_VIDEO = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".vrs"})


class Tombstone(Strict):
    """What was forgotten in one go. `at` is a run fact."""

    kind: Literal["source", "episodes"]
    source_id: str = ""
    uids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    reason: str = ""
    at: str = ""


@dataclass(frozen=True)
class Forgotten:
    """All tombstones of a lake: digests of uids and of files, and source ids."""

    uids: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.uids or self.sources)

    def hides(self, uid: str, source_id: str) -> bool:
        """Whether a row must not be seen."""
        return source_id in self.sources or (bool(self.uids) and digest_of(uid) in self.uids)

    def shares_video(self, source_id: str, files: Iterable[SourceFile]) -> bool:
        """Whether one of an episode's files is a video that something forgotten was cut from."""
        return bool(self.files) and not self.files.isdisjoint(file_digests(source_id, files))


@dataclass
class Tombstones:
    """The tombstones in a lake's care folder; each is read once."""

    store: Store
    _known: dict[str, Tombstone] = field(default_factory=dict)
    _union: Forgotten = Forgotten()

    def current(self) -> Forgotten:
        """All of them as they are now."""
        names = self.store.names(FOLDER, "*.json")
        if names == list(self._known):
            return self._union
        self._known = {name: self._known.get(name) or self._read(name) for name in names}
        found = self._known.values()
        self._union = Forgotten(
            frozenset(uid for stone in found for uid in stone.uids),
            frozenset(stone.source_id for stone in found if stone.kind == "source"),
            frozenset(file for stone in found for file in stone.files),
        )
        return self._union

    def _read(self, name: str) -> Tombstone:
        where = self.store.at(name)
        return Tombstone.parse(unseal(self.store.read(name), where), where)

    def write(self, stone: Tombstone) -> str:
        """Store a tombstone; it holds from then on. Returns its name."""
        body = stone.canonical()
        name = f"{FOLDER}/{sha256_bytes(canonical_json(body))[:32]}.json"
        self.store.publish(name, seal(body))
        return name


def digest_of(text: str) -> str:
    """How a tombstone names a uid."""
    return sha256_bytes(text.encode())


def file_digests(source_id: str, files: Iterable[SourceFile]) -> set[str]:
    """How a tombstone names the videos among an episode's files: by content, and by source and place.

    Without a file that is a video by its name all of them count.
    """
    listed = list(files)
    videos = [file for file in listed if PurePosixPath(file.path).suffix.lower() in _VIDEO] or listed
    return {digest_of(file.sha256) for file in videos} | {digest_of(f"{source_id}\n{file.path}") for file in videos}
