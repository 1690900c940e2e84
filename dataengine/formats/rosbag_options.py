"""What a converter may say about a bag: which topics, their names, clocks and fields.

A helper of the format `rosbag`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from dataengine.errors import SpecError
from dataengine.formats.base import check_options, option_names
from dataengine.formats.pictures import PictureCodec, picture_codec

Clock = Literal["log", "publish", "header"]
Payload = Literal["json", "text"]
NAMES = ("topics", "images", "clock", "pictures", "distro", "definitions", "recover")
_ENTRY = ("stream", "clock", "joints", "field", "payload", "where")
_STREAM = re.compile(r"[A-Za-z0-9_][\w.~-]*(/[A-Za-z0-9_][\w.~-]*)*")


@dataclass(frozen=True)
class Topic:
    """What a converter says of one topic, or of all that match a pattern with `*`, which become one stream."""

    pattern: str
    stream: str | None = None
    clock: Clock | None = None
    joints: tuple[str, ...] = ()
    inside: str | None = None
    payload: Payload | None = None
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    beside: tuple[Topic, ...] = ()
    """Further streams of the same topic: the joints of its other publishers."""


@dataclass(frozen=True)
class Options:
    """A converter's `format.options` for bags, checked."""

    topics: tuple[Topic, ...] = ()
    images: tuple[str, ...] | None = None
    clock: Clock = "log"
    pictures: PictureCodec = "png"
    distro: str | None = None
    definitions: Mapping[str, str] = field(default_factory=dict)
    recover: bool = False

    def topic(self, name: str) -> Topic | None:
        """What the converter says of a topic: under its own name, else under the first pattern that fits."""
        own = next((entry for entry in self.topics if entry.pattern == name), None)
        return own or next((entry for entry in self.topics if fnmatchcase(name, entry.pattern)), None)


def parse(options: Mapping[str, Any]) -> Options:
    """Check a converter's options; every mistake is a `SpecError`."""
    check_options(options, NAMES, "rosbag")
    entries = options.get("topics", {})
    if not isinstance(entries, Mapping):
        raise _wrong("topics", "a mapping of topics", entries)
    definitions = options.get("definitions", {})
    if not isinstance(definitions, Mapping) or not all(isinstance(text, str) for text in definitions.values()):
        raise _wrong("definitions", "a mapping of types to texts", definitions)
    distro, recover = options.get("distro"), options.get("recover", False)
    if distro is not None and not isinstance(distro, str):
        raise _wrong("distro", "a name", distro)
    if not isinstance(recover, bool):
        raise _wrong("recover", "true or false", recover)
    return Options(
        topics=tuple(_topics(str(name), entry) for name, entry in entries.items()),
        images=option_names(options, "images", ()) if "images" in options else None,
        clock=_clock(options.get("clock", "log")),
        pictures=picture_codec(options),
        distro=distro,
        definitions=dict(definitions),
        recover=recover,
    )


def _topics(name: str, told: Any) -> Topic:
    """One entry, or a list of them where several nodes publish their joints on one topic."""
    if not isinstance(told, list):
        return _topic(name, told)
    entries = [_topic(name, entry) for entry in told]
    streams = {entry.stream for entry in entries}
    if len(entries) < 2 or None in streams or len(streams) < len(entries) or not all(one.joints for one in entries):
        raise _wrong(f"topics.{name}", "a list of streams with a `stream` and `joints` each", told)
    return replace(entries[0], beside=tuple(entries[1:]))


def _topic(name: str, told: Any) -> Topic:
    told = {} if told is None else told
    if not isinstance(told, Mapping):
        raise _wrong(f"topics.{name}", "a mapping", told)
    check_options(told, _ENTRY, f"rosbag (topic {name})")
    stream, place, payload = told.get("stream"), told.get("field"), told.get("payload")
    if stream is not None and (not isinstance(stream, str) or not _STREAM.fullmatch(stream)):
        raise _wrong(f"topics.{name}.stream", "a name of letters, digits, `_` and `/`", stream)
    if place is not None and not isinstance(place, str):
        raise _wrong(f"topics.{name}.field", "a field's path", place)
    if payload not in (None, *get_args(Payload)) or (payload is not None) != (place is not None):
        raise _wrong(f"topics.{name}.payload", "json or text, and goes with `field`", payload)
    if "*" in name and stream is None:
        raise SpecError(f"the pattern {name!r} needs `stream`", fix="name the one stream that its topics become")
    where = told.get("where", {})
    if not isinstance(where, Mapping) or not all(isinstance(values, list | tuple) for values in where.values()):
        raise _wrong(f"topics.{name}.where", "lists of values by key", where)
    if where and payload != "json":
        raise _wrong(f"topics.{name}.where", "given with `payload: json`", where)
    return Topic(
        pattern=name,
        stream=stream,
        clock=_clock(told["clock"]) if "clock" in told else None,
        joints=option_names(told, "joints", ()),
        inside=place,
        payload=payload,
        where={str(key): tuple(values) for key, values in where.items()},
    )


def _clock(value: Any) -> Clock:
    if value not in get_args(Clock):
        raise _wrong("clock", "log, publish or header", value)
    found: Clock = value
    return found


def _wrong(option: str, wanted: str, found: Any) -> SpecError:
    return SpecError(f"the option `{option}` is {wanted}, not {found!r}", fix="correct `format.options`")
