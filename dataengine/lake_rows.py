"""How an episode lies in the lake: the columns of its row, and its media rows.

Arrays are bundled with safetensors (plain buffers behind a JSON header: no pickle, same bytes every time).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray

from dataengine.camera import camera_from
from dataengine.documents import canonical_json, sha256_bytes, sha256_json
from dataengine.embodiment import Card
from dataengine.episode import Episode, Failure, Language, Media, Message, SlotArray, View
from dataengine.errors import StorageError
from dataengine.specs.source import SourceInfo
from dataengine.storage import SourceFile

Status = Literal["ok", "dropped", "quarantined"]
_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
_BLOB = {b"lance-encoding:blob": b"true"}

EPISODES = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False, metadata=_KEY),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("what", pa.string()),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("upstream_id", pa.string(), nullable=False),
        pa.field("converter", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("embodiment", pa.string(), nullable=False),
        pa.field("control_mode", pa.string(), nullable=False),
        pa.field("conversion_digest", pa.string(), nullable=False),
        pa.field("content_digest", pa.string()),
        pa.field("group", pa.string()),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("hz", pa.float64(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("meta", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("card", pa.string(), nullable=False),
        pa.field("slots", pa.large_binary()),
        pa.field("native", pa.large_binary()),
    ]
)
MEDIA = pa.schema(
    [
        pa.field("media_id", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("payload_sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("payload", pa.large_binary(), metadata=_BLOB),
    ]
)
PAYLOAD_COLUMNS = ("slots", "native")
SELECTABLE = ("source_id", "converter", "family", "embodiment", "control_mode", "upstream_id", "group", "hz", "steps")
"""Columns of an episode that a recipe's `where` may speak of."""
HEAD_COLUMNS = tuple(name for name in EPISODES.names if name not in PAYLOAD_COLUMNS)


@dataclass(frozen=True)
class MediaInfo:
    """All of a `Media` but its payload; `media_id` names its row, `payload_sha256` checks what is read back."""

    media_id: str
    name: str
    kind: Literal["images", "video"]
    codec: str
    frames: int
    height: int
    width: int
    digest: str
    payload_sha256: str
    size: int
    first_frame: int
    foreign_frames: int

    @classmethod
    def of(cls, uid: str, media: Media) -> MediaInfo:
        payload = sha256_bytes(media.payload)
        return cls(
            media_id=sha256_json([uid, media.name, media.digest, payload]),
            name=media.name,
            kind=media.kind,
            codec=media.codec,
            frames=media.frames,
            height=media.height,
            width=media.width,
            digest=media.digest,
            payload_sha256=payload,
            size=len(media.payload),
            first_frame=media.first_frame,
            foreign_frames=media.foreign_frames,
        )

    def media(self, payload: bytes, offsets: NDArray[np.int64], times: NDArray[np.int64]) -> Media:
        """The media again; a payload that is not what was stored is a `StorageError`."""
        if sha256_bytes(payload) != self.payload_sha256:
            raise StorageError(
                f"the stored stream {self.name!r} does not match its digest",
                where=f"media {self.media_id}",
                fix="the lake is damaged: ingest the source again into a new lake",
            )
        return Media(
            name=self.name,
            kind=self.kind,
            codec=self.codec,
            payload=payload,
            frames=self.frames,
            height=self.height,
            width=self.width,
            digest=self.digest,
            offsets=offsets,
            times_ns=times,
            first_frame=self.first_frame,
            foreign_frames=self.foreign_frames,
        )


@dataclass(frozen=True)
class Head:
    """A row without its arrays: what planning and listing need."""

    uid: str
    status: Status
    reason: str | None
    what: str | None
    source_id: str
    upstream_id: str
    converter: str
    family: str
    embodiment: str
    control_mode: str
    conversion_digest: str
    content_digest: str | None
    group: str | None
    steps: int
    hz: float
    media: tuple[MediaInfo, ...]
    source: SourceInfo
    card: Card

    @property
    def media_digest(self) -> str:
        """sha256 over the payloads of all streams: which bytes its pictures are made of."""
        return sha256_json(sorted(info.payload_sha256 for info in self.media))

    @property
    def media_bytes(self) -> int:
        """Bytes of all streams."""
        return sum(info.size for info in self.media)

    @property
    def content(self) -> str:
        """sha256 of what decides the row's content, its source record among it: not versions, not row order."""
        streams = sorted(info.digest for info in self.media)
        record = [self.source.record_sha256] if self.source.record_sha256 else []
        return sha256_json([self.uid, self.conversion_digest, self.status, self.reason, streams, *record])

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Head:
        plain = {name: row[name] for name in HEAD_COLUMNS if name not in ("media", "meta", "source", "card")}
        media = tuple(MediaInfo(**entry) for entry in orjson.loads(row["media"]))
        return cls(**plain, media=media, source=_source(row["source"]), card=_card(row["card"]))


@cache
def _source(text: str) -> SourceInfo:
    return SourceInfo.model_validate_json(text)


@cache
def _card(text: str) -> Card:
    return Card.model_validate_json(text)


def episode_row(episode: Episode, head: Mapping[str, str]) -> dict[str, Any]:
    """The row of a usable episode; `head` is what all rows of a conversion share."""
    media = [MediaInfo.of(episode.uid, item) for item in episode.media.values()]
    meta = {
        "labels": dict(episode.labels),
        "frames": dict(episode.frames),
        "native_units": dict(episode.native_units),
        "views": [_view_row(view) for view in episode.views],
        "language": [asdict(text) for text in episode.language],
        "messages": [_message(message) for message in episode.messages],
        "native_action": episode.native_action.get("params") if episode.native_action else None,
        "files": [asdict(file) for file in episode.files],
        "attributes": dict(episode.attributes),
        "notes": dict(episode.notes),
    }
    arrays: dict[str, NDArray[Any]] = {"times_ns": episode.times_ns}
    for side, slots in (("state", episode.state), ("action", episode.action)):
        if slots is not None:
            arrays |= {f"{side}/channels": slots.channels, f"{side}/values": slots.values, f"{side}/mask": slots.mask}
    for item in episode.media.values():
        arrays |= {f"media/{item.name}/offsets": item.offsets, f"media/{item.name}/times_ns": item.times_ns}
    if episode.native_action:
        arrays["native_action/ids"] = episode.native_action["ids"]
    return {
        **head,
        "uid": episode.uid,
        "status": "ok",
        "reason": None,
        "what": None,
        "upstream_id": episode.upstream_id,
        "content_digest": episode.content_digest,
        "group": episode.group,
        "steps": episode.steps,
        "hz": episode.hz,
        "media": canonical_json([asdict(info) for info in media]).decode(),
        "meta": canonical_json(meta).decode(),
        "slots": _bundle(arrays),
        "native": _bundle(dict(episode.native)),
    }


def failure_row(failure: Failure, head: Mapping[str, str]) -> dict[str, Any]:
    """The row of something that could not be used; `head` is what all rows of a conversion share."""
    status = "quarantined" if failure.unit == "file" else "dropped"
    return {
        **head,
        "uid": sha256_json([head["source_id"], failure.upstream_id, status]),
        "status": status,
        "reason": failure.reason,
        "what": failure.what,
        "upstream_id": failure.upstream_id,
        "content_digest": None,
        "group": None,
        "steps": 0,
        "hz": 0.0,
        "media": "[]",
        "meta": "{}",
        "slots": None,
        "native": None,
    }


def media_rows(episode: Episode) -> list[dict[str, Any]]:
    """One media row a stream."""
    return [media_row(episode.uid, item) for item in episode.media.values()]


def media_row(uid: str, media: Media) -> dict[str, Any]:
    """The row of one stream."""
    info = MediaInfo.of(uid, media)
    return {
        "media_id": info.media_id,
        "uid": uid,
        "payload_sha256": info.payload_sha256,
        "bytes": info.size,
        "payload": media.payload,
    }


def _view_row(view: View) -> dict[str, Any]:
    """A view's fields; an absent camera takes no place, as in rows of before there were cameras."""
    return {name: value for name, value in asdict(view).items() if name != "camera" or value is not None}


def _view(fields: Mapping[str, Any]) -> View:
    told = fields.get("camera")
    return View(**{**fields, "camera": None if told is None else camera_from(told)})


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": [dict(part) for part in message.content], "loss": message.loss}


def _bundle(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(
        {
            name: array if array.dtype.byteorder != ">" else array.astype(array.dtype.newbyteorder("<"))
            for name, array in plain.items()
        }
    )


def read_episode(row: Mapping[str, Any], payloads: Mapping[str, bytes]) -> Episode:
    """An episode from its row. `payloads` holds the media that are wanted by stream name; others are left out."""
    arrays = safetensors.numpy.load(row["slots"])
    meta = orjson.loads(row["meta"])
    native = safetensors.numpy.load(row["native"]) if row.get("native") else {}
    media = {}
    for entry in orjson.loads(row["media"]):
        info = MediaInfo(**entry)
        if info.name in payloads:
            offsets, times = (arrays[f"media/{info.name}/{part}"] for part in ("offsets", "times_ns"))
            media[info.name] = info.media(payloads[info.name], offsets, times)
    native_action: dict[str, Any] = {}
    if "native_action/ids" in arrays:
        native_action = {"ids": arrays["native_action/ids"], "params": meta["native_action"]}
    return Episode(
        **{
            name: row[name]
            for name in (
                *("uid", "source_id", "upstream_id", "converter", "family", "embodiment", "control_mode"),
                *("conversion_digest", "content_digest", "group", "hz"),
            )
        },
        times_ns=arrays["times_ns"],
        state=_slots(arrays, "state"),
        action=_slots(arrays, "action"),
        labels=meta["labels"],
        frames=meta["frames"],
        native_units=meta["native_units"],
        views=tuple(_view(view) for view in meta["views"]),
        language=tuple(Language(**{**text, "span": tuple(text["span"])}) for text in meta["language"]),
        messages=tuple(Message(m["role"], tuple(m["content"]), m["loss"]) for m in meta["messages"]),
        native=native,
        native_action=native_action,
        media=media,
        files=tuple(SourceFile(**file) for file in meta["files"]),
        attributes=meta["attributes"],
        notes=meta["notes"],
    )


def _slots(arrays: Mapping[str, NDArray[Any]], side: str) -> SlotArray | None:
    if f"{side}/channels" not in arrays:
        return None
    return SlotArray(arrays[f"{side}/channels"], arrays[f"{side}/values"], arrays[f"{side}/mask"])
