"""Logs of robots: MCAP files, bags of ROS 2 (MCAP, SQLite) and of ROS 1. One bag is one episode.

The storage file itself is read, from front to back, and its messages are counted against what it and the bag's
metadata.yaml declare. Definitions of messages are interpreted; no code is made of them. Every topic becomes a stream of
its own, on its own clock; `format.options` name and choose them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.rosbag_bags import Bag, Metadata, bags, read_metadata, storage
from dataengine.formats.rosbag_beside import Beside
from dataengine.formats.rosbag_cdr import check_head
from dataengine.formats.rosbag_layouts import LAYOUTS, layout_of
from dataengine.formats.rosbag_model import Channel, Storage, compare, inflated
from dataengine.formats.rosbag_options import Options, Topic, parse
from dataengine.formats.rosbag_packed import unpacked
from dataengine.formats.rosbag_streams import Found, Joints, told_of
from dataengine.formats.rosbag_topics import AnyDecoder, Decoders, Inbox, Stream
from dataengine.formats.rosbag_types import DefinitionError
from dataengine.storage import SourceRoot

MAX_PROBED = 10


class RosbagFormat:
    """Bags of ROS 1 and ROS 2 and MCAP files, one episode each; every topic a stream on its own clock."""

    name: ClassVar[str] = "rosbag"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "robot logs: MCAP (ROS 2, protobuf, JSON), ROS 2 bags (SQLite, MCAP), ROS 1 bags"
    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        found = [bag for bag in bags(root, only) if isinstance(bag, Bag)]
        for bag in found[:MAX_PROBED]:
            try:
                layout, told = layout_of(root, bag.files[0])
            except BadInput:
                continue
            beside = f", {len(bag.files)} storage files in {bag.metadata}" if bag.metadata else ""
            return Detection(self.name, 0.95 if layout else 0.6, (f"{bag.files[0]} {told}{beside}",), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every bag below the root: folders with a metadata.yaml, and single .mcap, .db3 and .bag files.

        Options: `topics` names streams of topics (docs/formats/rosbag.md), `images` chooses camera topics, `clock` is
        log, publish or header, `pictures` png or jpeg for raw pictures, `distro` or `definitions` give the types that
        a file does not keep, `recover` reads what is whole of a cut file.
        """
        parse(options)
        for bag in bags(root, only):
            if isinstance(bag, ScanProblem):
                yield bag
                continue
            problem = _unusable(root, bag)
            if problem is not None:
                yield problem
                continue
            locator = {"files": list(bag.files), "metadata": bag.metadata, "options": dict(options)}
            files = (*bag.files, bag.metadata) if bag.metadata else bag.files
            yield EpisodeRef(bag.name, locator, files)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        files, metadata = [str(file) for file in ref.locator["files"]], ref.locator["metadata"]
        options = parse(ref.locator["options"])
        described_by = [str(metadata)] if metadata is not None else []
        # Digests and encoded pictures are made beside the reading, the files' digests in a pass of their own.
        with root.unchanged(*files, *described_by), ThreadPoolExecutor(1) as passing, Beside() as beside:
            reader = _Reader(options, beside)
            digests = [passing.submit(root.describe, path) for path in (*files, *described_by)]
            told = read_metadata(root, described_by[0]) if described_by else None
            for path in files:
                with unpacked(root, path) as (place, name):
                    opened = storage(place, name, recover=reader.options.recover)
                    reader.file(opened, path, compressed=told is not None and told.compressed)
            reader.check(told, *described_by)
            found, media, attributes = reader.give()
            messages = reader.digests()
            described = tuple(digest.result() for digest in digests)
        digest = RawDigest()
        digest.add_json("messages", messages)
        digest.add_json("attributes", attributes)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=found.arrays,
            media=media,
            texts=found.texts,
            attributes=attributes,
        )


def _unusable(root: SourceRoot, bag: Bag) -> ScanProblem | None:
    """What can be seen without reading: a storage file that is missing or empty, a bag that declares no message."""
    try:
        for path in bag.files:
            if root.size(path) == 0:
                raise FormatError("empty_file", f"{path} is empty", where=path)
        if bag.declared == 0:
            raise FormatError("empty_episode", f"{bag.metadata} declares no message", where=bag.metadata)
    except BadInput as error:
        return ScanProblem("episode" if error.reason == "empty_episode" else "file", bag.name, error.reason, error.what)
    return None


class _Reader:
    """One episode while its storage files pass."""

    def __init__(self, options: Options, beside: Beside) -> None:
        self.options, self._beside = options, beside
        self._decoders = Decoders(options)
        self._streams: dict[str, Stream] = {}
        self._topics: dict[str, dict[str, Any]] = {}
        self._unread: dict[str, str] = {}
        self._recovered: list[str] = []
        self._inboxes: dict[Channel, Inbox] = {}

    def file(self, opened: Storage, path: str, *, compressed: bool) -> None:
        """Read one storage file, and compare its messages with its own counts."""
        before = self.counts()
        known: dict[int, tuple[Channel, Inbox]] = {}  # by identity: the storage gives one object a channel
        for channel, log, publish, stored in opened.messages():
            data = inflated(stored, path) if compressed else stored
            found = known.get(id(channel))
            if found is None:
                check_head(channel, data)
                found = known[id(channel)] = channel, self._inbox(channel)
            found[1].add(log, publish, data)
        for inbox in self._inboxes.values():
            inbox.flush()
        here = {topic: count - before.get(topic, 0) for topic, count in self.counts().items()}
        if opened.counted and not opened.recovered:
            compare({topic: count for topic, count in here.items() if count}, opened.declared, "its index", path)
        self._recovered += [f"{path}: {told}" for told in opened.recovered]

    def counts(self) -> dict[str, int]:
        """Messages a topic so far."""
        found: dict[str, int] = {}
        for inbox in self._inboxes.values():
            found[inbox.topic] = found.get(inbox.topic, 0) + inbox.count
        return found

    def digests(self) -> list[tuple[str, str]]:
        """Topics with the digests of their channels, sorted."""
        return sorted((inbox.topic, inbox.digest()) for inbox in self._inboxes.values())

    def check(self, told: Metadata | None, metadata: str = "") -> None:
        """Compare with the bag's metadata.yaml; an episode without messages is none."""
        if told is not None:
            if self._recovered:
                self._recovered.append(
                    f"{metadata} counts {sum(told.counts.values())} messages, {sum(self.counts().values())} are read"
                )
            else:
                compare(self.counts(), told.counts, "the bag", metadata)
        if not self._inboxes:
            raise EpisodeError("empty_episode", "the bag holds no message")

    def _inbox(self, channel: Channel) -> Inbox:
        if channel not in self._inboxes:
            self._inboxes[channel] = Inbox(channel.topic, *self._target(channel), self._beside)
        return self._inboxes[channel]

    def _target(self, channel: Channel) -> tuple[Stream | None, AnyDecoder | None]:
        """Where messages of a channel go: their stream and decoder, or nowhere, which `unread` tells."""
        known = self._topics.setdefault(channel.topic, {"type": channel.type, "encoding": channel.encoding})
        if (known["type"], known["encoding"]) != (channel.type, channel.encoding):
            what = f"{channel.topic} holds messages {known['type']} and {channel.type}"
            raise EpisodeError("mixed_types", what)
        entry = self.options.topic(channel.topic)
        if self.options.topics and entry is None:
            self._unread[channel.topic] = "not among the converter's topics"
            return None, None
        name = (entry.stream if entry is not None else None) or channel.topic.strip("/") or "topic"
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = Stream.of(name, channel, entry, self.options, self._beside)
        elif known.get("stream") != name and (entry is None or "*" not in entry.pattern):
            raise EpisodeError("duplicate_stream", f"two topics give {name}", fix="name `stream` in `topics`")
        known["stream"] = name
        try:
            return stream, self._decoders.of(channel)
        except DefinitionError as error:
            if entry is not None:
                raise EpisodeError("unknown_type", f"{channel.topic} ({channel.type}): {error}") from None
            stream.why = str(error)
            return stream, None

    def give(self) -> tuple[Found, dict[str, Media], dict[str, Any]]:
        """Streams and attributes of the episode. Raises `EpisodeError` for a topic the converter names in vain."""
        self._check_named()
        found, media = Found(), dict[str, Media]()
        streams: dict[str, Any] = {}
        for name, stream in sorted(self._streams.items()):
            given = [self._given(stream, found, media, entry) for entry in stream.entries]
            for entry, told in zip(stream.entries, given, strict=True):
                if told is not None:
                    streams[(entry.stream if entry is not None else None) or name] = told
            if None not in given:
                self._tell_left(stream, found)
                continue
            if stream.entry is not None:
                raise EpisodeError("unread_stream", f"{name}: {stream.why}", fix="leave the topic out of `topics`")
            for topic, described in self._topics.items():
                if described.get("stream") == name:
                    self._unread[topic] = str(stream.why)
                    del described["stream"]
        return found, media, self._attributes(found, streams)

    @staticmethod
    def _tell_left(stream: Stream, found: Found) -> None:
        if isinstance(stream.sink, Joints) and (left := stream.sink.left()):
            found.joints[stream.name] = left

    def _given(
        self, stream: Stream, found: Found, media: dict[str, Media], entry: Topic | None
    ) -> dict[str, Any] | None:
        """Put a stream into the episode, and say what there is to it; None for one that is not read."""
        if stream.why is not None:
            return None
        found.told = {}
        try:
            return {"clock": stream.give(found, media, entry), **told_of(found.told)}
        except EpisodeError as error:
            stream.excuse(error)
            return None

    def _attributes(self, found: Found, streams: Mapping[str, Any]) -> dict[str, Any]:
        counts = self.counts()
        topics = {topic: {**told, "messages": counts[topic]} for topic, told in sorted(self._topics.items())}
        for inbox in self._inboxes.values():
            if inbox.backwards:
                topics[inbox.topic]["backwards"] = topics[inbox.topic].get("backwards", 0) + inbox.backwards
        unread = [f"{topic}: {why}" for topic, why in self._unread.items()]
        unread += [f"{name}: the joints {', '.join(left)}" for name, left in found.joints.items()]
        unread += [f"{name}: bytes, a list of texts, or of changing size" for name in found.unread]
        attributes: dict[str, Any] = {"topics": topics, "streams": dict(streams), "unread": sorted(unread)}
        if self._recovered:
            attributes["recovered"] = {"messages": sum(counts.values()), "lost": self._recovered}
        return attributes

    def _check_named(self) -> None:
        for entry in self.options.topics:
            if not any(self.options.topic(topic) is entry for topic in self._topics):
                held = ", ".join(sorted(self._topics)[:20])
                raise EpisodeError("missing_stream", f"the bag has no topic {entry.pattern}", fix=f"it holds: {held}")
        gone = sorted(set(self.options.images or ()) - set(self._topics))
        if gone:
            raise EpisodeError("missing_stream", f"the bag has no topic {', '.join(gone)}")
