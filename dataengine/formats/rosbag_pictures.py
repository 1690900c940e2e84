"""Pictures of robot logs: raw ones encoded as they pass, compressed ones as they came.

Upstream: sensor_msgs/Image with sensor_msgs/image_encodings.hpp (ros2/common_interfaces), sensor_msgs/CompressedImage
with image_transport's compressed publisher (ros-perception/image_transport_plugins), foxglove RawImage and
CompressedImage (foxglove/foxglove-sdk, schemas).

A helper of the format `rosbag`.
"""

from __future__ import annotations

import base64
import binascii
import re
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.documents import sha256_bytes
from dataengine.episode import Media, images_media
from dataengine.errors import EpisodeError
from dataengine.formats.pictures import JPEG_QUALITY, PictureCodec, encoded
from dataengine.formats.rosbag_beside import Beside
from dataengine.formats.rosbag_columns import Columns

RAW_TYPES = ("sensor_msgs/Image", "foxglove.RawImage", "foxglove_msgs/RawImage")
COMPRESSED_TYPES = ("sensor_msgs/CompressedImage", "foxglove.CompressedImage", "foxglove_msgs/CompressedImage")
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8uc1": 1}
_DEPTH = re.compile(r"(16|32|64)(u|s|f)c\d|mono16|.*compresseddepth.*", re.IGNORECASE)
_KNOWN_FORMAT = re.compile(r"(?:[\w]+\s*;\s*)?(jpeg|jpg|png|webp)(?:\s+compressed(?:\s+\w*)?)?", re.IGNORECASE)


class UnreadError(ValueError):
    """A stream of pictures that is not read; the text says why."""


@dataclass
class Pictures:
    """Pictures of one topic, in the order in which they come; `told` is their encoding or format."""

    name: str
    kind: str
    codec: PictureCodec
    beside: Beside
    told: str | None = None
    _came: list[bytes] = field(default_factory=list)
    _made: list[Future[tuple[str, bytes]]] = field(default_factory=list)
    _size: tuple[int, int] | None = None

    def add(self, columns: Columns, rows: int) -> None:
        """Take the pictures of a batch of messages.

        Raises `UnreadError` for a kind that is not read, `EpisodeError` `mixed_pictures`, `bad_shape`, `bad_value`,
        `alpha_channel`.
        """
        key = "encoding" if self.kind in RAW_TYPES else "format"
        for row in range(rows):
            told = columns[key].row(row) if key in columns else ""
            if not isinstance(told, str) or (self.told is not None and told != self.told):
                raise EpisodeError("mixed_pictures", f"{self.name} holds pictures {self.told!r} and {told!r}")
            self.told = told
            data = _bytes(columns["data"].row(row) if "data" in columns else None, self.name)
            if self.kind in RAW_TYPES:
                self._raw(columns, row, told, data)
            else:
                self._came.append(bytes(data))
                _check_format(self.name, told, self._came[-1])

    def _raw(self, columns: Columns, row: int, told: str, data: bytes | memoryview) -> None:
        height, width, step = (_whole(columns, name, row, self.name) for name in ("height", "width", "step"))
        pixels = _pixels(self.name, told, data, height, width, step)
        if self._size not in (None, pixels.shape[:2]):
            raise EpisodeError("mixed_pictures", f"{self.name} holds pictures of {self._size} and {pixels.shape[:2]}")
        self._size = pixels.shape[0], pixels.shape[1]
        self._made.append(self.beside.encode(partial(_encoded, pixels, self.codec), pixels.nbytes))

    def media(self, order: NDArray[np.intp], times: NDArray[np.int64]) -> Media:
        """The stream in this order; of raw pictures the digest is over the pixels, whatever the encoder writes."""
        if self._size is None:
            return replace(encoded(self.name, [self._came[number] for number in order.tolist()]), times_ns=times)
        digests, made = zip(*(self._made[number].result() for number in order.tolist()), strict=True)
        media = images_media(self.name, self.codec, made, *self._size)
        digest = sha256_bytes("\n".join([*map(str, self._size), *digests]).encode())
        return replace(media, digest=digest, times_ns=times)


def _encoded(pixels: NDArray[np.uint8], codec: PictureCodec) -> tuple[str, bytes]:
    """The digest of pixels [H, W, 3], and the picture."""
    return sha256_bytes(pixels.data), images.encode(pixels, codec, JPEG_QUALITY)


def _bytes(value: object, name: str) -> bytes | memoryview:
    if isinstance(value, bytes | memoryview):
        return value
    try:  # foxglove's JSON schemas keep bytes as base64
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except (binascii.Error, ValueError):
        raise EpisodeError("bad_type", f"{name}: a picture without bytes") from None


def _whole(columns: Columns, field: str, row: int, name: str) -> int:
    value = columns[field].row(row) if field in columns else None
    if not isinstance(value, int | np.integer) or not 0 < value <= images.MAX_PIXELS:
        raise EpisodeError("bad_shape", f"{name}: a picture with {field} {value}")
    return int(value)


def _pixels(name: str, told: str, data: bytes | memoryview, height: int, width: int, step: int) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of a raw picture whose rows are `step` bytes apart."""
    kind = told.strip().lower()
    channels = _CHANNELS.get(kind)
    if channels is None:
        why = "depth" if _DEPTH.fullmatch(kind) else "not converted"
        raise UnreadError(f"pictures {told}, {why}")
    if height * width > images.MAX_PIXELS or step < width * channels or len(data) != step * height:
        what = f"{len(data)} bytes for {height} rows of {step} bytes, {width} pixels {told} each"
        raise EpisodeError("bad_shape", f"{name}: {what}")
    rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * channels]
    found = rows.reshape(height, width, channels)
    if channels == 1:
        return np.repeat(found, 3, axis=2)
    if channels == 4 and (found[:, :, 3] != 255).any():
        raise EpisodeError("alpha_channel", f"{name}: a picture {told} is transparent somewhere; nothing is blended")
    colours = found[:, :, 2::-1] if kind.startswith("bgr") else found[:, :, :3]
    return np.ascontiguousarray(colours)


def _check_format(name: str, told: str, data: bytes) -> None:
    """A compressed picture is what its format says. An empty format says nothing, the bytes do."""
    if _DEPTH.fullmatch(told.partition(";")[0].strip()) or "compresseddepth" in told.lower():
        raise UnreadError(f"pictures {told}, depth")
    match = _KNOWN_FORMAT.fullmatch(told.strip())
    if told.strip() and match is None:
        raise UnreadError(f"pictures {told}, not read")
    codec = images.sniff(data).codec
    declared = match[1].lower().replace("jpg", "jpeg") if match is not None else codec
    if declared != codec:
        raise EpisodeError("bad_value", f"{name}: a picture is {codec}, its format says {told!r}")
