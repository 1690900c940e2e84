"""What the first and outermost bytes of a video file say: its container, and whether it is whole.

Demuxers stop at a cut without a word, so a container's own sizes are held against the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from dataengine.errors import EpisodeError

_DEMUXERS = ((4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (0, b"\x1aE\xdf\xa3", "matroska"), (0, b"RIFF", "avi"))
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"styp", b"sidx", b"meta")


def sniff(file: BinaryIO) -> str:
    """The name of the demuxer for a file, by its first bytes; `EpisodeError` `unsupported_video`."""
    head = file.read(12)
    file.seek(0)
    for offset, magic, name in _DEMUXERS:
        if head[offset : offset + len(magic)] == magic:
            return name
    raise EpisodeError("unsupported_video", "neither MP4, Matroska nor AVI by its first bytes")


def check_length(file: BinaryIO, container: str) -> None:
    """Refuse a file that ends before its container says: the demuxer stops at the cut without a word.

    Matroska (RFC 9559): the element Segment behind the EBML header, whose size may be unknown; AVI: the RIFF chunk.
    """
    if container == "mp4":
        _check_boxes(file)
        return
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(1 << 12)
    if container == "avi":
        wanted = 8 + int.from_bytes(head[4:8], "little")
    else:
        at, size = _element(head, 0)
        at, size = _element(head, at + size)
        wanted = at + size
    if wanted > end:
        raise EpisodeError("video_truncated", f"the file ends {wanted - end} bytes before its {container} data does")


def _element(head: bytes, at: int) -> tuple[int, int]:
    """Where the content of the EBML element at `at` starts, and its size; 0 for one of unknown size."""
    for _ in range(2):  # an ID, then a size: the leading zeros of the first byte tell the length (RFC 8794, 4)
        if at >= len(head) or not head[at]:
            return at, 0
        length = 9 - head[at].bit_length()
        value = int.from_bytes(head[at : at + length], "big") & ((1 << (7 * length)) - 1)
        at += length
    return at, 0 if value == (1 << (7 * length)) - 1 else value


def _check_boxes(file: BinaryIO) -> None:
    """Refuse a file that ends within one of its outermost boxes.

    ISO/IEC 14496-12, 4.2: a size of 32 bits and a type; size 1 means 64 bits behind them, 0 up to the file's end.
    """
    end = file.seek(0, io.SEEK_END)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if head[4:8] not in _BOXES or size < 8:
            return
        at += size
        if at > end:
            raise EpisodeError(
                "video_truncated", f"the file ends {at - end} bytes before its {head[4:8].decode()} does"
            )


def has_moov(file: BinaryIO) -> bool:
    """Whether one of the outermost boxes of an MP4 is its index, and whole."""
    end = file.seek(0, io.SEEK_END)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if head[4:8] == b"moov":
            return at + size <= end
        if size < 8:
            return False
        at += size
    return False


_IDENTITY = bytes.fromhex("00010000" + "00000000" * 2 + "00010000")
_INSIDE = (b"moov", b"trak")
_MATRIX = {b"mvhd": {0: 36, 1: 48}, b"tkhd": {0: 40, 1: 52}}
"""Where the matrix of a movie and of a track lies behind the box's head, by the box's version (ISO/IEC 14496-12)."""


def may_be_turned(file: BinaryIO, container: str) -> bool:
    """Whether the container has something to say on how pictures are turned before they are shown.

    MP4: a matrix other than the identity; Matroska: an element Projection (RFC 9559), or the like of its id.
    """
    file.seek(0)
    if container != "mp4":
        return container == "matroska" and b"\x76\x70" in file.read(1 << 16)
    return any(matrix != _IDENTITY for matrix in _matrices(file, 0, file.seek(0, io.SEEK_END)))


def _matrices(file: BinaryIO, at: int, end: int) -> Iterator[bytes]:
    """The first two rows (without their last value) of each matrix in an MP4's index."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, body = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, body = int.from_bytes(head[8:16], "big"), 16
        size = size or end - at
        if size < body:
            return
        if head[4:8] in _INSIDE:
            yield from _matrices(file, at + body, min(end, at + size))
        elif head[4:8] in _MATRIX:
            file.seek(at + body)
            inner = file.read(72)
            start = _MATRIX[head[4:8]].get(inner[0] if inner else 0, 40)
            yield inner[start : start + 8] + inner[start + 12 : start + 20]
        at += size
