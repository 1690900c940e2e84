"""MCAP files, read from front to back: chunks, their checksums, and what the summary at the end says of them.

Upstream: the MCAP specification (foxglove/mcap, website/docs/spec/index.md). The file is read by its records and not
by its index, which is optional, so that a file whose recorder died gives what it holds.

A helper of the format `rosbag`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dataengine.errors import FormatError
from dataengine.formats.rosbag_model import MAX_CHANNELS, MAX_CHUNK, Channel, Stored, beginning, decompress, text
from dataengine.storage import SourceRoot

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQI")
_FOOTER = struct.Struct("<QQI")
_STATISTICS = struct.Struct("<QHIIIIQQ")
_HEADER, _FOOT, _SCHEMA, _CHANNEL, _MESSAGE_OP, _CHUNK_OP = 1, 2, 3, 4, 5, 6
_ATTACHMENT, _STATISTICS_OP, _DATA_END = 9, 11, 15
_LAST = (1 << 63) - 1
_FIX = "`format.options: {recover: true}` reads what is whole"


@dataclass
class _Schema:
    name: str
    encoding: str
    data: bytes


class Mcap:
    """One MCAP file as a storage. `recover` reads a file that ends in the middle of a record up to there."""

    def __init__(self, root: SourceRoot, path: str, *, recover: bool = False) -> None:
        self.declared: dict[str, int] = {}
        self.counted = False
        self.recovered: list[str] = []
        self.attachments = 0
        self._root, self._path, self._recover = root, path, recover
        self._schemas: dict[int, _Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: dict[int, int] = {}
        self._ended = False
        self._rest = b"", b""

    def messages(self) -> Iterator[Stored]:
        with self._root.open(self._path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FormatError("empty_file", f"{self._path} is empty", where=self._path)
            if file.read(len(MAGIC)) != MAGIC:
                raise self._bad("unreadable_file", "it does not begin as an MCAP file does")
            yield from self._data(file, size)
        for number, count in self._counts.items():
            if number not in self._channels:
                raise self._bad("bad_value", f"its statistics count messages of the unknown channel {number}")
            topic = self._channels[number].topic
            self.declared[topic] = self.declared.get(topic, 0) + count

    def _data(self, file: BinaryIO, size: int) -> Iterator[Stored]:
        """Messages of the data section; then the summary and the footer."""
        crc = zlib.crc32(MAGIC)
        while True:
            found = self._record(file, size)
            if found is None:
                yield from self._salvaged()
                return
            code, head, content = found
            if code in (_DATA_END, _FOOT):
                if code == _DATA_END:
                    self._check_crc(content, crc, "the data section")
                yield from self._summary(file, size, found)
                return
            crc = zlib.crc32(content, zlib.crc32(head, crc))
            if code == _CHUNK_OP:
                yield from self._chunk(content)
            elif code == _ATTACHMENT:
                self.attachments += 1
            else:
                yield from self._take(code, memoryview(content))

    def _record(self, file: BinaryIO, size: int) -> tuple[int, bytes, bytes] | None:
        """The next record (code, head, content); None at an end that is none, which `recovered` tells."""
        at = file.tell()
        head = file.read(_HEAD.size)
        if not head:
            self.recovered.append("the file ends without its index: the recorder did not finish; no message is cut")
            return None
        if len(head) < _HEAD.size or size - at - _HEAD.size < (length := _HEAD.unpack(head)[1]):
            self._rest = head, file.read(MAX_CHUNK)
            return self._cut(size - at)
        if length > MAX_CHUNK:
            raise self._bad("claimed_size", f"a record claims {length} bytes")
        content = file.read(length)
        if len(content) < length:
            return self._cut(size - at)
        return head[0], head, content

    def _cut(self, lost: int) -> tuple[int, bytes, bytes] | None:
        """A record that the end of the file cuts: lost when recovering, refused otherwise."""
        if self._ended:
            self.recovered.append(f"the index is cut: its last {lost} bytes; no message is lost")
            return None
        if not self._recover:
            what = f"{self._path} ends in the middle of a record: {lost} bytes of it are there"
            raise FormatError("truncated", what, where=self._path, fix=_FIX)
        self.recovered.append(f"the last {lost} bytes are a cut record, which is lost")
        return None

    def _salvaged(self) -> Iterator[Stored]:
        """The whole messages of a chunk that the end of the file cuts; its checksum cannot be compared."""
        head, content = self._rest
        if head[:1] != bytes([_CHUNK_OP]) or len(content) < _CHUNK.size + 12:
            return
        _, _, size, _ = _CHUNK.unpack_from(content)
        codec, at = self._string(memoryview(content), _CHUNK.size)
        data = beginning(content[at + 8 :], codec, size)
        count = at = 0
        while at + _HEAD.size <= len(data):
            code, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size + length
            if at > len(data):
                break
            for message in self._take(code, memoryview(data)[at - length : at]):
                count += 1
                yield message
        if count:
            self.recovered.append(f"but for {count} messages at the beginning of that chunk, read without its checksum")

    def _chunk(self, content: bytes) -> Iterator[Stored]:
        if len(content) < _CHUNK.size:
            raise self._bad("bad_value", "a chunk has no head")
        _, _, size, crc = _CHUNK.unpack_from(content)
        codec, at = self._string(memoryview(content), _CHUNK.size)
        if at + 8 > len(content) or struct.unpack_from("<Q", content, at)[0] != len(content) - at - 8:
            raise self._bad("bad_value", "a chunk has another length than it says")
        data = decompress(content[at + 8 :], codec, size, self._path)
        if crc and zlib.crc32(data) != crc:
            raise self._bad("bad_crc", "a chunk does not match its checksum")
        at, last, unpack, heads = 0, size - _HEAD.size, _HEAD.unpack_from, _MESSAGE.unpack_from
        channels = self._channels
        while at < size:
            if at > last:
                raise self._bad("truncated", "a chunk ends in the middle of a record")
            code, length = unpack(data, at)
            at += _HEAD.size
            if at + length > size:
                raise self._bad("truncated", "a chunk ends in the middle of a record")
            if code != _MESSAGE_OP:
                yield from self._take(code, memoryview(data)[at : at + length])
            elif length < _MESSAGE.size:
                raise self._bad("bad_value", "a message has no head")
            else:  # the innermost loop of a file: `_message`, without a call
                number, _, log, publish = heads(data, at)
                if number not in channels or log > _LAST or publish > _LAST:
                    yield self._message(memoryview(data)[at : at + length])
                yield channels[number], log, publish, data[at + _MESSAGE.size : at + length]
            at += length

    def _take(self, code: int, content: memoryview) -> Iterator[Stored]:
        if code == _MESSAGE_OP:
            yield self._message(content)
        elif code == _SCHEMA:
            self._schema(content)
        elif code == _CHANNEL:
            self._channel(content)
        elif code == 0:
            raise self._bad("bad_value", "a record has the code 0")

    def _message(self, content: memoryview) -> Stored:
        if len(content) < _MESSAGE.size:
            raise self._bad("bad_value", "a message has no head")
        number, _, log, publish = _MESSAGE.unpack_from(content)
        channel = self._channels.get(number)
        if channel is None:
            raise self._bad("bad_value", f"a message is of the unknown channel {number}")
        if log > _LAST or publish > _LAST:
            raise self._bad("bad_timestamp", f"a message of {channel.topic} has a time beyond 64 bits")
        return channel, log, publish, bytes(content[_MESSAGE.size :])

    def _schema(self, content: memoryview) -> None:
        (number,) = self._unpack("<H", content, 0)
        name, at = self._string(content, 2)
        encoding, at = self._string(content, at)
        (length,) = self._unpack("<I", content, at)
        data = bytes(content[at + 4 : at + 4 + length])
        if len(data) != length or number == 0:
            raise self._bad("bad_value", f"the schema {name!r} is cut")
        if len(self._schemas) >= MAX_CHANNELS:
            raise self._bad("claimed_size", f"it has more than {MAX_CHANNELS} schemas")
        made = _Schema(name, encoding, data)
        if self._schemas.setdefault(number, made) != made:
            raise self._bad("bad_value", f"the schema {number} is {self._schemas[number].name!r} and {name!r}")

    def _channel(self, content: memoryview) -> None:
        number, kind = self._unpack("<HH", content, 0)
        topic, at = self._string(content, 4)
        encoding, _ = self._string(content, at)
        schema = self._schemas.get(kind)
        if schema is None and kind != 0:
            raise self._bad("bad_value", f"the channel {topic!r} is of the unknown schema {kind}")
        schema = schema or _Schema("", "", b"")
        made = Channel(topic, schema.name, encoding, schema.encoding, schema.data)
        before = self._channels.setdefault(number, made)
        if before != made or len(self._channels) > MAX_CHANNELS:
            raise self._bad("bad_value", f"the channel {number} is {before.topic!r} and {topic!r}, or one too many")

    def _summary(self, file: BinaryIO, size: int, found: tuple[int, bytes, bytes]) -> Iterator[Stored]:
        """Read on to the footer, with the checksum over the summary, and take the counts of its statistics."""
        self._ended = True
        known, crc = set(self._channels), 0
        while found[0] != _FOOT:
            following = self._record(file, size)
            if following is None:
                return
            found = following
            code, head, content = found
            if code == _FOOT:
                break
            crc = zlib.crc32(content, zlib.crc32(head, crc))
            if code in (_MESSAGE_OP, _CHUNK_OP):
                raise self._bad("bad_value", "a message stands behind the end of the data")
            if code == _STATISTICS_OP:
                self._statistics(memoryview(content))
            else:
                yield from self._take(code, memoryview(content))
        self._footer(file, found, crc)
        if not known and self._counts and any(self._counts.values()):
            raise self._bad("bad_value", "its statistics count messages, it holds no channel")

    def _footer(self, file: BinaryIO, found: tuple[int, bytes, bytes], crc: int) -> None:
        _, head, content = found
        if len(content) < _FOOTER.size:
            raise self._bad("bad_value", "its footer is cut")
        declared = _FOOTER.unpack_from(content)[2]
        if declared and zlib.crc32(content[: _FOOTER.size - 4], zlib.crc32(head, crc)) != declared:
            raise self._bad("bad_crc", "its summary does not match its checksum")
        if file.read(len(MAGIC) + 1) != MAGIC:
            self.recovered.append("the file does not end as an MCAP file does; no message is cut")

    def _statistics(self, content: memoryview) -> None:
        if len(content) < _STATISTICS.size + 4:
            raise self._bad("bad_value", "its statistics are cut")
        total = _STATISTICS.unpack_from(content)[0]
        (length,) = self._unpack("<I", content, _STATISTICS.size)
        at = _STATISTICS.size + 4
        if length % 10 or at + length > len(content):
            raise self._bad("bad_value", "its statistics are cut")
        self._counts = dict(struct.iter_unpack("<HQ", content[at : at + length]))
        self.counted = sum(self._counts.values()) == total
        if not self.counted:
            raise self._bad("count_mismatch", f"its statistics count {total} messages, and another number a channel")

    def _check_crc(self, content: bytes, crc: int, what: str) -> None:
        (declared,) = self._unpack("<I", memoryview(content), 0)
        if declared and declared != crc:
            raise self._bad("bad_crc", f"{what} does not match its checksum")

    def _string(self, content: memoryview, at: int) -> tuple[str, int]:
        (length,) = self._unpack("<I", content, at)
        if at + 4 + length > len(content):
            raise self._bad("bad_value", "a name is cut")
        return text(content[at + 4 : at + 4 + length], self._path), at + 4 + length

    def _unpack(self, form: str, content: memoryview, at: int) -> tuple[int, ...]:
        if at + struct.calcsize(form) > len(content):
            raise self._bad("bad_value", "a record is shorter than its kind")
        return struct.unpack_from(form, content, at)

    def _bad(self, reason: str, what: str) -> FormatError:
        return FormatError(reason, f"{self._path}: {what}", where=self._path)
