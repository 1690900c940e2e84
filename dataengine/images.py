"""The one door to still images: sniffing, decoding and encoding JPEG, PNG and (reading only) WebP.

simplejpeg (libjpeg-turbo) for JPEG, Pillow for the others. Sizes are checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from dataengine.errors import EpisodeError

Pixels = NDArray[np.uint8]
Codec = Literal["jpeg", "png", "webp"]
MAX_PIXELS = 64 * 1024 * 1024
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
Fit = Literal["stretch", "pad"]
EXTENSION: dict[str, str] = {"jpeg": "jpg", "png": "png"}
"""Codecs whose bytes may stand in a shard as they are; others are decoded and encoded."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says: codec, height and width in pixels."""

    codec: Codec
    height: int
    width: int


def sniff(data: bytes) -> ImageHeader:
    """Read the header; `EpisodeError` `unsupported_image` or `corrupt_image`, `image_too_large` before decoding."""
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise EpisodeError("corrupt_image", f"not a readable JPEG: {error}") from None
        header = ImageHeader("jpeg", int(height), int(width))
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 33:
        width, height = struct.unpack(">II", data[16:24])
        header = ImageHeader("png", height, width)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp_header(data)
    else:
        raise EpisodeError("unsupported_image", "neither JPEG, PNG nor WebP by its first bytes")
    if header.height * header.width > MAX_PIXELS:
        raise EpisodeError("image_too_large", f"{header.width} x {header.height} pixels are refused")
    return header


def _webp_header(data: bytes) -> ImageHeader:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            return ImageHeader("webp", image.height, image.width)
    except (ValueError, OSError) as error:
        raise EpisodeError("corrupt_image", f"not a readable WebP: {error}") from None


def decode(data: bytes) -> Pixels:
    """RGB pixels [H, W, 3] uint8 of a JPEG, PNG or WebP; `EpisodeError` `corrupt_image` when it does not decode."""
    header = sniff(data)
    if header.codec == "png" and _PNG_END not in data:
        raise EpisodeError("corrupt_image", "the PNG is cut: its end is missing")
    try:
        if header.codec == "jpeg":
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), np.uint8)
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            if image.mode.startswith("I"):
                # 16 bits a pixel: Pillow's own conversion cuts everything above 255 off instead of scaling it.
                gray = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
                return np.repeat(gray[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"), np.uint8)
    except (ValueError, OSError, SyntaxError, struct.error) as error:
        raise EpisodeError("corrupt_image", f"the image does not decode: {error}") from None


def resize(pixels: Pixels, size: tuple[int, int], fit: Fit = "stretch") -> Pixels:
    """Scale RGB [H, W, 3] uint8 to `size` (height, width): bilinear, with antialiasing where it shrinks.

    `stretch` fills the size whatever the aspect; `pad` keeps the aspect, centred on black.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    inner = size
    if fit == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = np.array(Image.fromarray(pixels).resize(inner[::-1], Image.Resampling.BILINEAR), np.uint8)
    if inner == size:
        return scaled
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded = np.zeros((*size, 3), np.uint8)
    padded[top : top + inner[0], left : left + inner[1]] = scaled
    return padded


def as_shown(pixels: Pixels, channel_order: str, rotate: int) -> Pixels:
    """A decoded picture [H, W, 3] as a view shows it: RGB, turned counterclockwise by `rotate` degrees."""
    shown = pixels[..., ::-1] if channel_order == "bgr" else pixels
    return np.rot90(shown, rotate // 90) if rotate else shown


def encode(pixels: Pixels, codec: Codec = "jpeg", quality: int = 90) -> bytes:
    """Encode RGB [H, W, 3] uint8. JPEG uses 4:2:0 and the given quality; PNG is lossless."""
    pixels = np.ascontiguousarray(pixels, np.uint8)
    if codec == "jpeg":
        return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420"))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
