"""Episodes: as a format reads them (raw), and as the lake keeps them (slots beside the native arrays).

Absent is absent: a stream that a source lacks is missing from the mapping, never filled with zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.camera import Camera
from dataengine.documents import canonical_json, sha256_bytes
from dataengine.errors import EpisodeError, SchemaError
from dataengine.storage import SourceFile

Family = Literal["robot", "simulation", "egocentric", "navigation", "vision_language"]
LabelKind = Literal["commanded", "reached", "next_state", "pseudo", "annotated"]
FAMILIES: tuple[Family, ...] = ("robot", "simulation", "egocentric", "navigation", "vision_language")


@dataclass(frozen=True)
class Media:
    """One encoded stream, bytes as they came.

    `kind` "images": `payload` is the images one after the other, image i is `payload[offsets[i]:offsets[i+1]]`.
    `kind` "video": `payload` is one file; frames `first_frame .. first_frame + frames - 1` in presentation order
    are the episode's, the others belong to neighbours (a cut off a keyframe) and are never shown.
    `times_ns` [frames] are nanoseconds on the episode's clock, where the source has them; empty for a VL item.
    `digest` is over what came in: the image bytes, or the video's packets (or its whole file, when not cut).
    `own`: images that were encoded here from raw pixels, so that they need not be decoded to be sure of them.
    """

    name: str
    kind: Literal["images", "video"]
    codec: str
    payload: bytes
    frames: int
    height: int
    width: int
    digest: str
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    times_ns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first_frame: int = 0
    foreign_frames: int = 0
    own: bool = False

    def image(self, index: int) -> bytes:
        """Encoded bytes of image `index` (kind "images" only)."""
        if self.kind != "images":
            raise SchemaError(f"{self.name} is a video, it holds no separate images")
        return self.payload[int(self.offsets[index]) : int(self.offsets[index + 1])]


def images_media(name: str, codec: str, images: Sequence[bytes], height: int, width: int) -> Media:
    """Bundle encoded images of one stream into a `Media`, bytes untouched."""
    offsets = np.zeros(len(images) + 1, np.int64)
    np.cumsum([len(image) for image in images], out=offsets[1:])
    payload = b"".join(images)
    return Media(name, "images", codec, payload, len(images), height, width, sha256_bytes(payload), offsets)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: text pieces and media references in order.

    `content` items are `{"type": "text", "text": ...}`, `{"type": "image", "media": "image0"}` or
    `{"type": "video", "media": "video0"}`, where `media` names an entry of the episode's media.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[Mapping[str, str], ...]
    loss: bool


@dataclass(frozen=True)
class Told:
    """What a source says of an array [T, k] of an episode: lowest, highest and mean of each column, and T."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    count: int


@dataclass(frozen=True)
class Declared:
    """What a source's metadata says of a stream; None where it says nothing.

    `hz`: rows or frames a second (an array with it holds seconds). `dtype`: an element type by numpy's name. `shape`:
    that of a row of an array, or height and width of pictures.
    """

    hz: float | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RawEpisode:
    """What a format read: native arrays, media, text and attributes, all under the source's own names.

    `arrays` share their first axis T where the source stores one row a step. `texts` holds one string (whole
    episode) or T strings (per step). `attributes` is plain JSON (rates, controller configs, names); only what
    gives the numbers their meaning, no totals that change when a neighbour is added.
    `raw_digest` covers the raw bytes of this episode as they came (see `RawDigest`). `told` is what the source says of
    its arrays, `declared` of its streams: both are compared with them, and are no part of the episode.
    """

    upstream_id: str
    files: tuple[SourceFile, ...]
    raw_digest: str
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    media: Mapping[str, Media] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    group: str | None = None
    told: Mapping[str, Told] = field(default_factory=dict)
    declared: Mapping[str, Declared] = field(default_factory=dict)


class RawDigest:
    """sha256 over named pieces of one episode's raw content, independent of how a library chunks it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add_bytes(self, name: str, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(canonical_json([name, len(data)]))
        self._hash.update(data)

    def add_array(self, name: str, array: NDArray[Any]) -> None:
        """dtype, shape and little-endian values of a plain (non-object) array."""
        if array.dtype.hasobject:
            raise SchemaError(f"{name}: an object array has no canonical bytes")
        array = np.ascontiguousarray(array)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        self._hash.update(canonical_json([name, array.dtype.str, list(array.shape)]))
        self._hash.update(array.data if array.size else b"")

    def blocks(
        self, name: str, shape: Sequence[int], blocks: Iterable[NDArray[np.uint8]]
    ) -> Iterator[NDArray[np.uint8]]:
        """The blocks of rows of a uint8 stack [T, ...] as they pass: as `add_array` of it, which is never whole."""
        self._hash.update(canonical_json([name, "|u1", list(shape)]))
        for block in blocks:
            self._hash.update(np.ascontiguousarray(block, np.uint8).data)
            yield block

    def add_json(self, name: str, value: Any) -> None:
        """Plain JSON. What has no canonical bytes (a number beyond 64 bits) is an `EpisodeError` `bad_value`."""
        try:
            data = canonical_json(value)
        except TypeError as error:
            raise EpisodeError("bad_value", f"{name}: no plain JSON: {error}") from None
        self.add_bytes(name, data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True)
class SlotArray:
    """Compact unified values: `channels` [c] int16 sorted indices, `values` [T, c] float32 SI, `mask` [T, c] bool."""

    channels: NDArray[np.int16]
    values: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows, width = self.values.shape
        if self.channels.shape != (width,) or self.mask.shape != (rows, width):
            raise SchemaError(f"channels {self.channels.shape}, values {self.values.shape}, mask {self.mask.shape}")
        if np.any(np.diff(self.channels) <= 0):
            raise SchemaError("channels are not strictly increasing")

    def columns(self, start: int, stop: int) -> NDArray[np.intp]:
        """Positions of the present channels with `start <= index < stop`."""
        return np.flatnonzero((self.channels >= start) & (self.channels < stop))


@dataclass(frozen=True)
class View:
    """A named camera view and the media stream that shows it.

    `channel_order` is what a standard decoder returns; `rotate` the degrees, counterclockwise, by which the decoded
    picture is turned to stand upright. `camera` is the calibration of the picture as it is decoded, before that turn;
    None where the source has none (`camera.shown` turns and scales it).
    """

    name: str
    media: str
    channel_order: Literal["rgb", "bgr"] = "rgb"
    rotate: Literal[0, 90, 180, 270] = 0
    camera: Camera | None = None


@dataclass(frozen=True)
class Language:
    """One text about the episode. `span` is the half-open step range it holds for."""

    text: str
    source: str
    level: Literal["episode", "task", "subtask", "step"]
    span: tuple[int, int]
    confidence: float | None = None


@dataclass(frozen=True)
class Episode:
    """A converted episode. `times_ns` [T]; a VL item has `messages`, no steps and neither state nor action."""

    uid: str
    source_id: str
    upstream_id: str
    converter: str
    family: Family
    embodiment: str
    control_mode: str
    conversion_digest: str
    content_digest: str
    group: str
    times_ns: NDArray[np.int64]
    hz: float
    state: SlotArray | None
    action: SlotArray | None
    labels: Mapping[str, LabelKind]
    frames: Mapping[str, str]
    native_units: Mapping[str, str]
    views: tuple[View, ...]
    language: tuple[Language, ...]
    messages: tuple[Message, ...]
    native: Mapping[str, NDArray[Any]]
    native_action: Mapping[str, Any]
    media: Mapping[str, Media]
    files: tuple[SourceFile, ...]
    attributes: Mapping[str, Any]
    notes: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Rows of a trajectory; a VL item counts as one step."""
        return len(self.times_ns) if not self.messages else 1

    @property
    def has_numbers(self) -> bool:
        """Whether there is a state or an action; an item has none, nor has a video with its narration alone."""
        return self.state is not None or self.action is not None

    @property
    def dt_ns(self) -> int:
        return round(1_000_000_000 / self.hz) if self.hz else 0


@dataclass(frozen=True)
class Failure:
    """An episode or file that could not be used. It is kept as a row: in = kept + dropped, always."""

    unit: Literal["episode", "file"]
    upstream_id: str
    reason: str
    what: str
