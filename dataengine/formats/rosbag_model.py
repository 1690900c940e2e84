"""What the three storages of robot logs (MCAP, SQLite, ROS 1 bag) have in common: channels, messages, chunks.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from dataengine.errors import FormatError

MAX_CHUNK = 1 << 30
MAX_CHANNELS = 65_536
SMALL = 64 << 20
RATIO = 1000
_PIECE = 1024


@dataclass(frozen=True)
class Channel:
    """One publisher's stream of a topic: `encoding` of its messages, `schema` as it is stored beside them."""

    topic: str
    type: str
    encoding: str
    schema_encoding: str
    schema: bytes = field(repr=False)


Stored = tuple[Channel, int, int | None, bytes]
"""A message: its channel, when it was recorded and published (ns; None where the storage has one time only), bytes."""


class Storage(Protocol):
    """One storage file while it is read. The messages pass once; what is declared is complete behind the last one."""

    declared: dict[str, int]
    """Messages a topic, as the storage itself counts them; topics without messages may be missing."""
    counted: bool
    """Whether the storage counts its messages at all."""
    recovered: list[str]
    """What was lost at the end of a file that its recorder did not finish; empty for a whole one."""

    def messages(self) -> Iterator[Stored]:
        """Every message in the order of the file.

        Raises `FormatError`: `truncated`, `bad_crc`, `claimed_size`, `unreadable_file`, `bad_value`.
        """
        ...


def compare(found: Mapping[str, int], declared: Mapping[str, int], by: str, where: str) -> None:
    """Messages found a topic against a count of them; `count_mismatch` names the first topic that differs."""
    for topic in sorted(set(found) | set(declared)):
        if found.get(topic, 0) != declared.get(topic, 0):
            what = f"{topic} holds {found.get(topic, 0)} messages, {by} says {declared.get(topic, 0)}"
            raise FormatError("count_mismatch", f"{where}: {what}", where=where)


def decompress(data: bytes, codec: str, size: int, where: str) -> bytes:
    """A compressed chunk (`lz4` frames, `zstd`, `bz2`) of exactly `size` bytes, inflated within bounds.

    Raises `FormatError` `claimed_size`, `unknown_compression`, `unreadable_file`.
    """
    if size > MAX_CHUNK or size > max(SMALL, RATIO * len(data)):
        raise FormatError("claimed_size", f"{where}: a chunk of {len(data)} bytes claims {size}", where=where)
    if codec == "":
        found = data
    elif codec == "bz2":
        found = _bz2(data, size, where)
    elif codec in ("lz4", "zstd"):
        found = _arrow(data, codec, size, where)
    else:
        raise FormatError("unknown_compression", f"{where} is compressed with {codec!r}", where=where)
    if len(found) != size:
        raise FormatError("unreadable_file", f"{where}: a chunk of {len(found)} bytes claims {size}", where=where)
    return found


def beginning(data: bytes, codec: str, size: int) -> bytes:
    """What the beginning of a compressed chunk of `size` bytes inflates to, as far as it goes."""
    import pyarrow

    if codec not in ("lz4", "zstd") or size > max(SMALL, RATIO * len(data)):
        return data[:size] if codec == "" else b""
    parts, left = [], size
    broken = suppress(OSError, ValueError, EOFError, MemoryError)
    with broken, pyarrow.input_stream(pyarrow.py_buffer(data), compression=codec) as stream:
        while left > 0 and (part := stream.read(min(_PIECE, left))):
            parts.append(bytes(part))
            left -= len(part)
    return b"".join(parts)


def inflated(data: bytes, where: str) -> bytes:
    """One message that rosbag2 compressed by itself (zstd), whose size nobody declares.

    Raises `FormatError` `claimed_size`, `unreadable_file`.
    """
    limit = min(MAX_CHUNK, max(SMALL, RATIO * len(data)))
    found = _arrow(data, "zstd", limit, where)
    if len(found) > limit:
        raise FormatError(
            "claimed_size", f"{where}: a message of {len(data)} bytes inflates beyond {limit}", where=where
        )
    if not found:
        raise FormatError("unreadable_file", f"{where}: a message does not inflate", where=where)
    return found


def _bz2(data: bytes, size: int, where: str) -> bytes:
    import bz2

    try:
        return bz2.BZ2Decompressor().decompress(data, max_length=size + 1)
    except (OSError, EOFError) as error:
        raise FormatError("unreadable_file", f"{where}: a chunk does not inflate: {error}", where=where) from None


def _arrow(data: bytes, codec: str, size: int, where: str) -> bytes:
    import pyarrow

    try:
        with pyarrow.input_stream(pyarrow.py_buffer(data), compression=codec) as stream:
            return bytes(stream.read(size + 1))
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise FormatError("unreadable_file", f"{where}: a chunk does not inflate: {error}", where=where) from None


def text(data: bytes | memoryview, where: str) -> str:
    """UTF-8 text of a header; `invalid_utf8`."""
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", f"{where}: a name is not UTF-8 text", where=where) from None
