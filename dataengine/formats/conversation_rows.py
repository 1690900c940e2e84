"""Rows of vision-language files in their published dialects, as messages with media references.

Dialects, told apart by a row's keys:
`conversations` (LLaVA, Qwen-VL): turns `from`/`value`, media under `image` and `video` (a path or a list), an
optional `system_prompt`; `messages`: turns `role`/`content`, media under `images` and `videos`, content a text or
typed parts; and the layouts of LLaVA's evaluation files, which have no placeholders: `captions` with `instances`,
`instruction` with `output`, and a question that is joined with the answer of the same `question_id`.

In a text, `<image>` and `<video>` stand for the next listed image or video. Texts between placeholders are kept
verbatim, newlines included; empty pieces are left out. Nothing is written that the row does not say.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.episode import Message
from dataengine.errors import EpisodeError
from dataengine.formats import fields

Kind = Literal["image", "video"]
Dialect = Literal["conversations", "messages", "captions", "instruction", "question", "answer"]
Role = Literal["system", "user", "assistant"]
MAX_DATA_URL = 1 << 27
_PLACEHOLDER = re.compile(r"<(image|video)>")
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MEDIA_KEYS: tuple[tuple[Kind, str], ...] = (
    ("image", "image"),
    ("image", "images"),
    ("video", "video"),
    ("video", "videos"),
)
_AUDIO_KEYS = ("audio", "audios")
_CONSUMED = {"conversations", "messages", "system_prompt", *(key for _, key in _MEDIA_KEYS)}


@dataclass(frozen=True)
class MediaRef:
    """A medium as the row names it; `name` (`image0`, `video0`) is what messages point to."""

    name: str
    kind: Kind
    path: str


@dataclass(frozen=True)
class Dialogue:
    """What a row says: messages, their media in the order they are referenced, and what else the row holds."""

    messages: tuple[Message, ...]
    media: tuple[MediaRef, ...]
    attributes: Mapping[str, Any]


def layout_of(row: Any) -> Dialect | None:
    """The dialect of a row by its keys, or None."""
    if not isinstance(row, dict):
        return None
    keys = row.keys()
    if "conversations" in keys:
        return "conversations"
    if "messages" in keys:
        return "messages"
    if {"image", "captions", "instances"} <= keys:
        return "captions"
    if {"image", "instruction", "output"} <= keys:
        return "instruction"
    if {"question_id", "text"} <= keys:
        return "question" if "image" in keys else "answer"
    return None


def parse(row: Mapping[str, Any], answer: Mapping[str, Any] | None = None, *, same: bool = False) -> Dialogue:
    """Read one row (and, for a question, the row of its answer).

    `same`: where a row lists one medium of a kind, every placeholder of that kind shows it.

    Raises `EpisodeError`: `unknown_layout`, `empty_episode`, `empty_message`, `bad_role`, `placeholder_mismatch`
    (not exactly one placeholder a medium), `missing_answer`, `unsupported_media`, `missing_key`, `bad_type`,
    `bad_text`.
    """
    for key in _AUDIO_KEYS:
        if row.get(key):
            raise EpisodeError("unsupported_media", f"the row lists {key}, which no sample holds")
    layout = layout_of(row)
    if layout == "conversations":
        return _turns(row, "conversations", "from", "value", same=same)
    if layout == "messages":
        return _turns(row, "messages", "role", "content", same=same)
    if layout == "captions":
        return _captions(row)
    if layout == "instruction":
        return _question(row, row["instruction"], row["output"], {"instruction", "output"})
    if layout == "question" and answer is not None:
        found = _question(row, row["text"], fields.member(answer, "text", "the answer"), {"text"})
        rest = {key: value for key, value in answer.items() if key not in ("text", "question_id")}
        return Dialogue(found.messages, found.media, {**found.attributes, "answer": rest})
    raise EpisodeError("unknown_layout", f"a row with the keys {', '.join(sorted(row)[:12])} is of no known layout")


@dataclass
class _Builder:
    """Hands out the listed media in order and collects messages."""

    waiting: dict[Kind, list[str]]
    same: dict[Kind, str] = field(default_factory=dict)
    refs: list[MediaRef] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def take(self, kind: Kind, path: str | None = None) -> dict[str, str]:
        """The content part of the next medium, or of one that is named on the spot."""
        if path is None and not self.waiting[kind] and kind in self.same:
            path = self.same[kind]
        if path is None:
            if not self.waiting[kind]:
                raise EpisodeError("placeholder_mismatch", f"there are more <{kind}> placeholders than listed {kind}s")
            path = self.waiting[kind].pop(0)
        name = f"{kind}{sum(ref.kind == kind for ref in self.refs)}"
        self.refs.append(MediaRef(name, kind, path))
        return {"type": kind, "media": name}

    def add(self, role: Role, content: list[dict[str, str]]) -> None:
        if not content:
            raise EpisodeError("empty_message", f"message {len(self.messages)} ({role}) says nothing")
        self.messages.append(Message(role, tuple(content), role == "assistant"))

    def finish(self, attributes: Mapping[str, Any]) -> Dialogue:
        for kind, paths in self.waiting.items():
            if paths:
                raise EpisodeError("placeholder_mismatch", f"{len(paths)} listed {kind}s have no <{kind}> placeholder")
        return Dialogue(tuple(self.messages), tuple(self.refs), attributes)

    def split(self, text: str) -> list[dict[str, str]]:
        """A text as parts: its pieces verbatim, and the media where their placeholders stand."""
        parts: list[dict[str, str]] = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            if match.start() > end:
                parts.append({"type": "text", "text": text[end : match.start()]})
            parts.append(self.take("image" if match.group(1) == "image" else "video"))
            end = match.end()
        if end < len(text):
            parts.append({"type": "text", "text": text[end:]})
        return parts


def _builder(row: Mapping[str, Any]) -> _Builder:
    waiting: dict[Kind, list[str]] = {"image": [], "video": []}
    for kind, key in _MEDIA_KEYS:
        value = row.get(key)
        if value is not None:
            paths = value if isinstance(value, list) else [value]
            waiting[kind] += [fields.as_text(path, key) for path in paths]
    return _Builder(waiting)


def _turns(row: Mapping[str, Any], key: str, role_key: str, text_key: str, *, same: bool) -> Dialogue:
    builder = _builder(row)
    builder.same = {kind: paths[0] for kind, paths in builder.waiting.items() if same and len(paths) == 1}
    turns = fields.as_list(row[key], key)
    if not turns:
        raise EpisodeError("empty_episode", f"`{key}` is empty")
    prompt = row.get("system_prompt")
    if prompt is not None and fields.as_text(prompt, "system_prompt"):
        builder.add("system", builder.split(prompt))
    for number, value in enumerate(turns):
        where = f"{key}[{number}]"
        turn = fields.as_object(value, where)
        role = _ROLES.get(fields.as_text(fields.member(turn, role_key, where), f"{where}.{role_key}"))
        if role is None:
            raise EpisodeError("bad_role", f"{where}: {turn[role_key][:40]!r} is none of {', '.join(_ROLES)}")
        content = fields.member(turn, text_key, where)
        if key == "messages" and isinstance(content, list):
            builder.add(role, [part for item in content for part in _typed(builder, item, where)])
        else:
            builder.add(role, builder.split(fields.as_text(content, f"{where}.{text_key}")))
    _check_answers(builder.messages, key)
    return builder.finish({name: value for name, value in row.items() if name not in _CONSUMED})


def _check_answers(messages: Sequence[Message], key: str) -> None:
    """There is an answer to learn, and answers are texts: a picture in one tells of roles the wrong way round."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise EpisodeError("missing_answer", f"`{key}` holds no turn of the assistant: nothing to learn from")
    for message in answers:
        if any(part["type"] != "text" for part in message.content):
            raise EpisodeError("unsupported_media", f"`{key}` shows a picture in an answer: answers are texts")


def _typed(builder: _Builder, item: Any, where: str) -> list[dict[str, str]]:
    """A typed part: `text`, or a medium that names its path itself or takes the next listed one."""
    part = fields.as_object(item, where)
    kind = fields.as_text(fields.member(part, "type", where), f"{where}: type")
    if kind == "text":
        text = fields.as_text(fields.member(part, "text", where), f"{where}: text")
        return [{"type": "text", "text": text}] if text else []
    base = kind.removesuffix("_url")
    if base not in ("image", "video"):
        raise EpisodeError("unsupported_media", f"{where}: a part of type {kind[:40]!r}")
    named = part.get(kind)
    if isinstance(named, dict):
        named = fields.member(named, "url", where)
    path = None if named is None else _path(named, f"{where}: {kind}")
    return [builder.take("image" if base == "image" else "video", path)]


def _path(value: Any, name: str) -> str:
    """A path, or a data URL, which may be longer than any other text."""
    if isinstance(value, str) and value.startswith("data:") and len(value) <= MAX_DATA_URL:
        return value
    return fields.as_text(value, name)


def data_url(medium: MediaRef) -> bytes | None:
    """The picture in a data URL in base64 (`bad_value` for another one), None for a path."""
    if not medium.path.startswith("data:"):
        return None
    head, comma, body = medium.path.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise EpisodeError("bad_value", f"{medium.name} is a data URL that holds no picture in base64")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EpisodeError("bad_value", f"{medium.name} is no base64: {error}") from None


def _question(row: Mapping[str, Any], question: Any, answer: Any, consumed: set[str]) -> Dialogue:
    """A question about one image: the image first, for these layouts have no placeholder."""
    builder = _builder({"image": row["image"]})
    asked = fields.as_text(question, "the question")
    said = fields.as_text(answer, "the answer")
    content = [builder.take("image")] + ([{"type": "text", "text": asked}] if asked else [])
    builder.add("user", content)
    builder.add("assistant", [{"type": "text", "text": said}] if said else [])
    return builder.finish({key: value for key, value in row.items() if key not in consumed | {"image"}})


def _captions(row: Mapping[str, Any]) -> Dialogue:
    """An image with captions and boxes. The first caption answers; all stand in the attributes."""
    captions = [fields.as_text(text, "a caption") for text in fields.as_list(row["captions"], "captions")]
    if not captions:
        raise EpisodeError("empty_episode", "`captions` is empty")
    found = _question(row, "", captions[0], {"captions", "instances"})
    boxes = []
    for number, item in enumerate(fields.as_list(row["instances"], "instances")):
        where = f"instances[{number}]"
        instance = fields.as_object(item, where)
        corners = fields.as_array(fields.member(instance, "bbox", where), f"{where}.bbox", (4,)).tolist()
        label = fields.as_text(fields.member(instance, "category", where), f"{where}.category")
        boxes.append({"label": label, "xyxy": corners})
    more = {"captions": captions, "boxes": {"unit": "frac", "items": boxes}}
    return Dialogue(found.messages, found.media, {**found.attributes, **more})
