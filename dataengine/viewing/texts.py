"""What is said: instructions with their spans, conversations, and the facts of an episode on one page.

Texts come from data: they are shown as plain text, and what does not print is written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from dataengine.camera import Camera
from dataengine.episode import Episode, Language, Media
from dataengine.lake_rows import Head
from dataengine.transforms.language import printable
from dataengine.viewing.recording import Clock, Recording

MAX_TEXT = 20_000
LANGUAGE, EVENTS, FACTS, CONVERSATION = "language", "language/events", "facts", "conversation"
_CONTENT = {"text": "text", "image": "media", "video": "media"}


def language(recording: Recording, episode: Episode, clock: Clock) -> None:
    """The texts that hold at each step, from where they change; and a line for the beginning of each."""
    told = [text for text in episode.language if text.span[0] < episode.steps]
    if not told or not len(clock.times_ns):
        return
    edges = sorted({edge for text in told for edge in text.span if edge < episode.steps} | {0})
    at = np.array(edges, np.int64)
    shown = ["\n".join(_line(t) for t in told if t.span[0] <= edge < t.span[1]) or "-" for edge in edges]
    recording.texts(LANGUAGE, clock.at(at), shown)
    ordered = sorted(told, key=lambda text: text.span)
    recording.events(EVENTS, clock.at(np.array([text.span[0] for text in ordered])), [_line(text) for text in ordered])


def _line(text: Language) -> str:
    sure = "" if text.confidence is None else f", confidence {text.confidence:g}"
    said = printable(text.text, MAX_TEXT)
    return f"{said}   ({text.level}, {text.source}, steps {text.span[0]} to {text.span[1] - 1}{sure})"


def conversation(recording: Recording, episode: Episode) -> None:
    """Turns in order; a picture or video stands there by its name, as `media/NAME` shows it."""
    turns = []
    for message in episode.messages:
        parts = [str(piece.get("text", f"<{piece.get('media', '')}>")) for piece in message.content]
        said = "\n".join(printable(line, MAX_TEXT) for piece in parts for line in piece.split("\n"))
        turns.append(f"{message.role}{' (trained on)' if message.loss else ''}:\n{said}")
    recording.document(CONVERSATION, "\n\n".join(turns))


def facts(episode: Episode, head: Head, shown: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Everything of an episode that is no curve and no picture."""
    source = head.source
    return {
        "uid": episode.uid,
        "source": episode.source_id,
        "episode": episode.upstream_id,
        "converter": episode.converter,
        "conversion": episode.conversion_digest,
        "licence": source.license,
        "url": source.url,
        "revision": source.revision,
        "family": episode.family,
        "embodiment": episode.embodiment,
        "control mode": episode.control_mode,
        "steps": episode.steps,
        "hz": episode.hz,
        "files": {file.path: file.sha256 for file in episode.files},
        "frames": dict(episode.frames),
        "labels": dict(episode.labels),
        "native units": dict(episode.native_units),
        "views": {
            view.name: _view(episode.media[view.media], view.camera, shown[view.name][1])
            | {"channel order": view.channel_order, "turned by": view.rotate}
            for view in episode.views
        },
        "media": {
            name: _view(media, None, shown[name][1]) for name, media in episode.media.items() if episode.messages
        },
        "action names": episode.native_action.get("params") if episode.native_action else None,
        "outcome and attributes": dict(episode.attributes),
        "notes": dict(episode.notes),
    }


def _view(media: Media, camera: Camera | None, told: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stream": media.name,
        "codec": media.codec,
        "size": [media.height, media.width],
        "frames": media.frames,
        "shown": told,
    }
    if camera is not None:
        found["lens"] = camera.distortion if camera.distortion == "none" else f"{camera.distortion}, not shown in space"
    return found


def write_facts(recording: Recording, document: Mapping[str, Any]) -> None:
    """The facts as a page of plain text; what is empty is left out."""
    lines: list[str] = []
    for name, value in document.items():
        if value in (None, {}, [], ""):
            continue
        if isinstance(value, Mapping):
            lines.append(f"{name}:")
            lines += [f"    {printable(f'{key}: {_plain(one)}', MAX_TEXT)}" for key, one in value.items()]
        else:
            lines.append(printable(f"{name}: {_plain(value)}", MAX_TEXT))
    recording.document(FACTS, "\n".join(lines))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
