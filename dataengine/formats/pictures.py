"""Picture streams out of what sources store: encoded pictures as they came, raw pixels encoded once.

A helper of formats, not a format.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.documents import sha256_bytes
from dataengine.episode import Media, images_media
from dataengine.errors import EpisodeError, SpecError

PictureCodec = Literal["png", "jpeg"]
JPEG_QUALITY = 95
_JPEG_END = b"\xff\xd9"
_THREADS, _BATCH_BYTES = 2, 1 << 20
"""Encoders and sha256 let other threads run: pictures are made while the next are read."""


def picture_codec(options: Mapping[str, Any]) -> PictureCodec:
    """The option `pictures` of a converter's format: raw pixels as `png` (lossless, the default) or `jpeg` (q 95)."""
    value = options.get("pictures", "png")
    if value not in ("png", "jpeg"):
        raise SpecError(f"the option `pictures` is png or jpeg, not {value!r}", fix="correct `format.options`")
    return "jpeg" if value == "jpeg" else "png"


def encoded(name: str, pictures: Sequence[bytes]) -> Media:
    """A stream of encoded pictures, bytes untouched: all of one codec and one size, by their own headers.

    Raises `EpisodeError` `empty_stream`, `mixed_pictures`, and those of `images.sniff`.
    """
    if not pictures:
        raise EpisodeError("empty_stream", f"{name} holds no picture")
    first = _header(name, 0, pictures[0])
    for number, picture in enumerate(pictures[1:], start=1):
        header = _header(name, number, picture)
        if header != first:
            told = ", ".join(f"{h.width} x {h.height} {h.codec}" for h in (first, header))
            raise EpisodeError("mixed_pictures", f"{name}: pictures 0 and {number} differ: {told}")
    return images_media(name, first.codec, pictures, first.height, first.width)


def _header(name: str, number: int, picture: bytes) -> images.ImageHeader:
    try:
        return images.sniff(picture)
    except EpisodeError as error:
        raise EpisodeError(error.reason, f"{name}, picture {number}: {error.what}") from None


def from_pixels(name: str, pixels: Iterable[NDArray[np.uint8]], codec: PictureCodec = "png") -> Media:
    """Raw RGB pixels, each [H, W, 3] uint8 (or one stack [T, H, W, 3]), encoded once.

    The digest is over the pixels, whatever the encoder's version writes.

    Raises `EpisodeError` `empty_stream`, `bad_shape`.
    """
    made: list[tuple[str, bytes]] = []
    size: tuple[int, int] | None = None
    batch: list[NDArray[np.uint8]] = []
    encoding: deque[Future[list[tuple[str, bytes]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        for frame in _checked(name, pixels):
            size = frame.shape[0], frame.shape[1]
            batch.append(frame)
            if len(batch) * frame.nbytes < _BATCH_BYTES:
                continue
            encoding.append(threads.submit(_digested, batch, codec))
            batch = []
            if len(encoding) > _THREADS + 1:
                made += encoding.popleft().result()
        for future in encoding:
            made += future.result()
    made += _digested(batch, codec)
    if size is None:
        raise EpisodeError("empty_stream", f"{name} holds no picture")
    media = images_media(name, codec, [picture for _, picture in made], *size)
    digest = sha256_bytes("\n".join([*map(str, size), *(digest for digest, _ in made)]).encode())
    return replace(media, digest=digest, own=True)


def _checked(name: str, pixels: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Frames [H, W, 3] uint8 of one size."""
    size = None
    for frame in pixels:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise EpisodeError("bad_shape", f"{name} holds pictures {frame.dtype} {frame.shape}, not uint8 [H, W, 3]")
        if frame.shape[0] * frame.shape[1] > images.MAX_PIXELS or (size is not None and frame.shape[:2] != size):
            raise EpisodeError("bad_shape", f"{name} holds a picture of {frame.shape[:2]} pixels beside {size}")
        size = frame.shape[:2]
        yield frame


def _digested(frames: Sequence[NDArray[np.uint8]], codec: PictureCodec) -> list[tuple[str, bytes]]:
    """The digests of the pixels of frames, and the pictures."""
    return [
        (sha256_bytes(np.ascontiguousarray(frame).data), images.encode(frame, codec, JPEG_QUALITY)) for frame in frames
    ]


def trimmed_jpeg(row: bytes, where: str) -> bytes:
    """A JPEG kept in a row of fixed length, without the NUL bytes behind its end.

    Anything else behind the JPEG's end, or no end at all, is `corrupt_image`: nothing is cut off by guess.
    """
    found = row.rstrip(b"\0")
    if not found.startswith(b"\xff\xd8") or not found.endswith(_JPEG_END):
        raise EpisodeError("corrupt_image", f"{where} is no JPEG followed by padding")
    return found
