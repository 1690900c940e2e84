"""One topic of a bag while it is read: messages collected, decoded in batches, and given as a stream.

A helper of the format `rosbag`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media
from dataengine.errors import EpisodeError
from dataengine.formats import rosbag_types
from dataengine.formats.rosbag_beside import Beside
from dataengine.formats.rosbag_cdr import Decoder, MisfitError
from dataengine.formats.rosbag_columns import Column
from dataengine.formats.rosbag_model import Channel
from dataengine.formats.rosbag_options import Clock, Options, Topic
from dataengine.formats.rosbag_pictures import COMPRESSED_TYPES, RAW_TYPES, Pictures, UnreadError
from dataengine.formats.rosbag_proto import ProtoDecoder
from dataengine.formats.rosbag_rows import JsonDecoder, columns_of, json_row
from dataengine.formats.rosbag_streams import JOINT_TYPES, TRANSFORM_TYPES, Fields, Found, Joints, Transforms, stamps
from dataengine.formats.rosbag_types import DefinitionError, Types, short

BATCH_BYTES = 4 << 20
BATCH = 8192
_LARGE = 16384
_NO_STREAM = frozenset({"alpha_channel", "changed_names", "mixed_pictures"})
_UNREAD_TYPES = {
    "sensor_msgs/PointCloud2": "point clouds",
    "sensor_msgs/PointCloud": "point clouds",
    "foxglove.PointCloud": "point clouds",
    "foxglove.CompressedVideo": "video packets",
    "nav_msgs/OccupancyGrid": "maps",
}
AnyDecoder = Decoder | ProtoDecoder | JsonDecoder
Times = tuple[NDArray[np.int64], NDArray[np.int64] | None]
"""When messages were recorded and published (ns) [N]."""


class Decoders:
    """Decoders by type and schema: many topics share one."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._made: dict[tuple[str, str, str, bytes], AnyDecoder] = {}

    def of(self, channel: Channel) -> AnyDecoder:
        """Raises `DefinitionError` with why the channel's messages cannot be decoded."""
        key = channel.type, channel.encoding, channel.schema_encoding, channel.schema
        if key not in self._made:
            self._made[key] = self._make(channel)
        return self._made[key]

    def _make(self, channel: Channel) -> AnyDecoder:
        if channel.encoding == "json":
            return JsonDecoder()
        if channel.encoding == "protobuf":
            if channel.schema_encoding != "protobuf":
                raise DefinitionError(f"its schema is {channel.schema_encoding!r}")
            return ProtoDecoder(channel.type, channel.schema)
        if channel.encoding not in ("cdr", "ros1"):
            raise DefinitionError(f"its messages are encoded as {channel.encoding!r}")
        ros1 = channel.encoding == "ros1"
        if channel.type.endswith("_Event") and "/msg/" not in channel.type:
            raise DefinitionError("it is a service or an action, whose events are not messages of one type")
        return Decoder(short(channel.type), self._types(channel, ros1=ros1), ros1=ros1)

    def _types(self, channel: Channel, *, ros1: bool) -> Types:
        """The types a channel needs: the converter's, those beside the messages, else those of a distribution."""
        given: dict[str, tuple[rosbag_types.Field, ...]] = dict(rosbag_types.STAMP_ROS1 if ros1 else rosbag_types.STAMP)
        for name, text in self._options.definitions.items():
            given |= rosbag_types.parse(name, text.encode(), ros1=ros1)
        if short(channel.type) in given and channel.type in self._options.definitions:
            return given
        if channel.schema_encoding in ("ros2msg", "ros1msg"):
            return rosbag_types.parse(channel.type, channel.schema, ros1=ros1) | given
        if self._options.distro is not None:
            return {**rosbag_types.distribution(self._options.distro), **given}
        if short(channel.type) in given:
            return given
        told = f"kept as {channel.schema_encoding}" if channel.schema_encoding else "not kept in the file"
        raise DefinitionError(f"its definition is {told}; the option `distro` or `definitions` gives it")


@dataclass
class Stream:
    """The messages of one topic (or of those that a pattern joins) on their way to a stream."""

    name: str
    kind: str
    entry: Topic | None
    options: Options
    sink: Fields | Joints | Transforms | Pictures = field(default_factory=Fields)
    why: str | None = None
    _log: list[NDArray[np.int64]] = field(default_factory=list)
    _publish: list[NDArray[np.int64] | None] = field(default_factory=list)
    _headers: list[NDArray[np.int64] | None] = field(default_factory=list)
    _kept: list[NDArray[np.bool_]] = field(default_factory=list)
    _decoded: int = 0

    @classmethod
    def of(cls, name: str, channel: Channel, entry: Topic | None, options: Options, beside: Beside) -> Stream:
        kind = short(channel.type) if channel.encoding in ("cdr", "ros1") else channel.type.replace("/", ".")
        made = cls(name, kind, entry, options)
        if kind in RAW_TYPES or kind in COMPRESSED_TYPES:
            made.sink = Pictures(name, kind, options.pictures, beside)
            if options.images is not None and channel.topic not in options.images:
                made.why = "not among the converter's `images`"
        elif kind in JOINT_TYPES:
            made.sink = Joints()
        elif kind in TRANSFORM_TYPES:
            made.sink = Transforms()
        elif entry is not None and entry.payload is not None:
            made.sink = Fields(keep_all=True)
        made.why = made.why or _UNREAD_TYPES.get(kind)
        return made

    def take(self, decoder: AnyDecoder, times: Times, data: Sequence[bytes]) -> None:
        """Decode messages. A topic that is not what its type says from its first message on becomes unread."""
        if self.why is not None:
            return
        try:
            self._take(decoder.columns(data), times, len(data))
        except (DefinitionError, UnreadError) as error:
            self._leave(str(error))
        except EpisodeError as error:
            self.excuse(error)
        except MisfitError as error:
            if self._decoded or _fits(decoder, data[0]):
                raise EpisodeError("bad_message", f"{self.name}: {error}") from None
            self._leave(f"its messages are not of the type {self.kind}: {error}")
        self._decoded += len(data)

    def excuse(self, error: EpisodeError) -> None:
        """Name a stream as unread that is sound but no one stream, where no converter asked for it; else raise."""
        if self.entry is not None or error.reason not in _NO_STREAM:
            raise error
        self.why = f"{error.what}; {error.fix}" if error.fix else error.what

    @property
    def entries(self) -> tuple[Topic | None, ...]:
        """What the converter says of each stream that comes of the topic: one, or one a publisher of joints."""
        return (self.entry,) if self.entry is None else (self.entry, *self.entry.beside)

    def _leave(self, why: str) -> None:
        if self._decoded:
            raise EpisodeError("bad_message", f"{self.name}: {why}")
        self.why = why

    def _take(self, columns: Mapping[str, Column], times: Times, rows: int) -> None:
        self._log.append(times[0])
        self._publish.append(times[1])
        header = stamps(columns, "header/stamp")
        self._headers.append(header if header is not None else stamps(columns, "timestamp"))
        if self.entry is not None and self.entry.payload is not None:
            columns, kept = _payload(self.name, columns, rows, self.entry)
            self._kept.append(kept)
            rows = int(kept.sum())
        if isinstance(self.sink, Joints | Transforms | Pictures) or rows:
            self.sink.add(columns, rows)

    def give(self, found: Found, media: dict[str, Media], entry: Topic | None) -> Clock:
        """Put the stream of one of `entries`, in the order in which it was recorded, into an episode.

        Returns the clock of its times.
        """
        name = (entry.stream if entry is not None else None) or self.name
        log = np.concatenate(self._log)
        clock, times = self._times(log, entry)
        if self._kept:
            kept = np.concatenate(self._kept)
            log, times = log[kept], times[kept]
        order = np.argsort(log, kind="stable")
        if isinstance(self.sink, Transforms):
            self.sink.give(name, order, found, times, header=clock == "header")
            return clock
        if isinstance(self.sink, Pictures):
            if name in media:
                raise EpisodeError("duplicate_stream", f"two topics give {name}")
            media[name] = self.sink.media(order, times[order])
            found.told["pictures"] = self.sink.told
        elif isinstance(self.sink, Joints):
            order = self.sink.give(name, order, found, entry.joints if entry is not None else ())
        else:
            self.sink.give(name, order, found)
        found.add(f"{name}/time_ns", times[order])
        return clock

    def _times(self, log: NDArray[np.int64], entry: Topic | None) -> tuple[Clock, NDArray[np.int64]]:
        """Times [N] by the chosen clock; `header` falls back to the log's where a type has no header."""
        clock = (entry.clock if entry is not None else None) or self.options.clock
        own = entry is not None and entry.clock is not None
        if clock == "publish":
            if any(part is None for part in self._publish):
                what = f"{self.name}: the storage keeps no times of publishing"
                raise EpisodeError("missing_time", what, fix="choose the clock log or header")
            return "publish", np.concatenate([part for part in self._publish if part is not None])
        if clock == "header" and isinstance(self.sink, Transforms):
            return "header", log
        if clock == "header":
            if all(part is not None for part in self._headers):
                return "header", np.concatenate([part for part in self._headers if part is not None])
            if own:
                raise EpisodeError("missing_time", f"{self.name}: its messages have no header", fix="clock: log")
        return "log", log


def _fits(decoder: AnyDecoder, message: bytes) -> bool:
    try:
        decoder.columns([message])
    except (MisfitError, DefinitionError):
        return False
    return True


def _payload(
    name: str, columns: Mapping[str, Column], rows: int, entry: Topic
) -> tuple[Mapping[str, Column], NDArray[np.bool_]]:
    """What a field of bytes or text holds: texts, or JSON objects of which `where` picks."""
    column = columns.get(str(entry.inside))
    if column is None or column.kind not in ("bytes", "text"):
        raise EpisodeError("missing_key", f"{name}: its messages have no bytes {entry.inside!r}")
    values = [value.encode() if isinstance(value, str) else bytes(value) for value in column.values]
    if entry.payload == "text":
        try:
            texts = [value.decode() for value in values]
        except UnicodeDecodeError:
            raise EpisodeError("invalid_utf8", f"{name}: {entry.inside} is not UTF-8 text") from None
        return {str(entry.inside): Column("text", texts)}, np.ones(rows, np.bool_)
    found = [json_row(value) for value in values]
    kept = np.asarray([all(row.get(key) in wanted for key, wanted in entry.where.items()) for row in found], np.bool_)
    return columns_of([row for row, keep in zip(found, kept.tolist(), strict=True) if keep], {}), kept


class Inbox:
    """The messages of one channel as they pass: collected, hashed and handed to a stream in batches.

    `digest` is over all times and lengths and over all bytes, however they were batched.
    """

    def __init__(self, topic: str, stream: Stream | None, decoder: AnyDecoder | None, beside: Beside) -> None:
        self.topic, self.stream, self.decoder = topic, stream, decoder
        self._beside = beside
        self.count = 0
        self._times, self._bytes = hashlib.sha256(), hashlib.sha256()
        self._log: list[int] = []
        self._publish: list[int | None] = []
        self._data: list[bytes] = []
        self._size = 0
        self._last = -(1 << 63)
        self.backwards = 0

    def add(self, log: int, publish: int | None, data: bytes) -> None:
        self._log.append(log)
        self._publish.append(publish)
        self._data.append(data)
        self._size += len(data)
        if self._size >= BATCH_BYTES or len(self._log) >= BATCH:
            self.flush()

    def flush(self) -> None:
        if not self._log:
            return
        data, size, self._data, self._size = self._data, self._size, [], 0
        log = np.array(self._log, np.int64)
        publish = np.array(self._publish, np.int64) if None not in self._publish else None
        self._log, self._publish = [], []
        self.backwards += int((np.diff(log) < 0).sum()) + int(log[0] < self._last)
        self._last = int(log[-1])
        self.count += len(data)
        lengths = np.array([len(one) for one in data], np.int64)
        self._times.update(np.stack([log, log if publish is None else publish, lengths], axis=1).data)
        for part in data if size > _LARGE * len(data) else (b"".join(data),):
            self._beside.update(self._bytes.update, part)
        if self.stream is not None and self.decoder is not None:
            self.stream.take(self.decoder, (log, publish), data)

    def digest(self) -> str:
        """The digest of what passed, once the thread beside is through with it."""
        self._beside.wait()
        return f"{self._times.hexdigest()} {self._bytes.hexdigest()}"
