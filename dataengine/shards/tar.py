"""Deterministic tar: ustar, mtime 0, uid and gid 0, mode 0644, no names, ends with two zero blocks.

Members go through a hash as they are written; an index of offsets grows beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataengine.errors import FormatError, StorageError
from dataengine.storage import StagedFile

BLOCK = 512
MAX_NAME = 100
MAX_MEMBER = 8**11 - 1
_END = b"\0" * (2 * BLOCK)


@dataclass(frozen=True)
class Member:
    """A file inside a tar: name, place of its content, size."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """A sample: its key, and its members as (extension, content), in the order they are written.

    `listed` is what the index beside the shard says of it besides (see `shards.segments.listed`).
    """

    key: str
    members: tuple[tuple[str, bytes], ...]
    listed: Mapping[str, Any] | None = None


@dataclass
class TarWriter:
    """Appends samples to a staged file."""

    target: StagedFile
    index: list[tuple[str, tuple[Member, ...]]] = field(default_factory=list)
    listed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _at: int = 0

    def add(self, sample: Sample) -> None:
        """Write one sample's members; a name longer than 100 bytes or a member over 8 GiB is a `StorageError`."""
        members = []
        for extension, content in sample.members:
            name = f"{sample.key}.{extension}"
            self.target.write(header(name, len(content)))
            members.append(Member(name, self._at + BLOCK, len(content)))
            self.target.write(content)
            padding = -len(content) % BLOCK
            if padding:
                self.target.write(b"\0" * padding)
            self._at += BLOCK + len(content) + padding
        self.index.append((sample.key, tuple(members)))
        if sample.listed is not None:
            self.listed[sample.key] = sample.listed

    def close(self) -> None:
        """Write the end of the archive."""
        self.target.write(_END)


def header(name: str, size: int) -> bytes:
    """One ustar header block."""
    encoded = name.encode("ascii")
    if len(encoded) > MAX_NAME or size > MAX_MEMBER:
        raise StorageError(f"a member does not fit into ustar: {name!r}, {size} bytes")
    block = bytearray(BLOCK)
    block[: len(encoded)] = encoded
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[329:337] = block[337:345] = b"0000000\0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def members(data: bytes | memoryview) -> Iterator[Member]:
    """Hop the headers of a tar held in memory or mapped; anything irregular is a `FormatError` `tar_damaged`."""
    size = len(data)
    if size % BLOCK or size < 2 * BLOCK:
        raise FormatError("tar_damaged", f"{size} bytes are no whole tar")
    at = 0
    while at < size:
        block = bytes(data[at : at + BLOCK])
        if block == b"\0" * BLOCK:
            if any(data[at:]) or size - at < 2 * BLOCK:
                raise FormatError("tar_damaged", f"the end of the archive at {at} is damaged")
            return
        member = _parse(block, at)
        at += BLOCK + member.size + (-member.size % BLOCK)
        yield member
    raise FormatError("tar_damaged", "the end of the archive is missing")


def _parse(block: bytes, at: int) -> Member:
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        size = int(block[124:135], 8)
    except ValueError:
        raise FormatError("tar_damaged", f"the header at {at} is damaged") from None
    if header(name, size) != block:
        raise FormatError("tar_damaged", f"the header at {at} is not one of ours")
    return Member(name, at + BLOCK, size)


def group(found: Iterable[Member]) -> Iterator[tuple[str, tuple[Member, ...]]]:
    """Members by sample: neighbours with the same name up to the first dot; a key that comes back is an error."""
    seen: set[str] = set()
    key, held = None, list[Member]()
    for member in found:
        own = member.name.partition(".")[0]
        if own != key:
            if key is not None:
                yield key, tuple(held)
            if own in seen:
                raise FormatError("tar_damaged", f"the key {own} stands twice")
            seen.add(own)
            key, held = own, []
        held.append(member)
    if key is not None:
        yield key, tuple(held)
