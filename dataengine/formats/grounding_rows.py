"""Rows of RynnBrain's conversations, with boxes, points and traces.

Layout (alibaba-damo-academy/RynnBrain at 24d35c04): `conversation` [{role, content}], content a list of typed parts
whose unused keys are empty (reasoning/data/format_data.py; a `video` may be a JSON list of its frames); a role
`Thinking`, and answers `{"frame3": [[x, y], ...]}`, coordinates 0 to 1000, frames counted from 1 (reasoning/README.md).
Tags in texts are kept as they are: the step `render_grounding` reads every spelling of them.

A helper of formats, not a format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.documents import load_json
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.jsonrows import json_rows

Role = Literal["system", "user", "assistant"]
MAX_POINTS = 4096
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_FRAME = re.compile(r"frame ?(\d{1,6})")
_TASKS = {
    "trajectory": "trajectory",
    "affordance": "affordance",
    "area": "area",
    "segment": "object",
    "segmentation": "object",
    "object": "object",
}


@dataclass(frozen=True)
class Row:
    """One row with its name in the file; `problem` (reason, what) where it cannot be used."""

    key: str
    value: Mapping[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Shown:
    """A picture or video that a message shows where it stands."""

    kind: Literal["image", "video"]
    path: str


@dataclass(frozen=True)
class Turn:
    """One message before its media are fetched."""

    role: Role
    parts: tuple[str | Shown, ...]


@dataclass(frozen=True)
class Talk:
    """A row as turns, and what else it holds."""

    turns: tuple[Turn, ...]
    attributes: Mapping[str, Any]


def parse_rows(data: bytes, where: str) -> tuple[Row, ...]:
    """The rows of a JSON list or of JSON Lines, parsed strictly (for `files.cached`); named by `id` where it is unique.

    Raises `FormatError` where a list is damaged; a damaged line is a problem of its own.
    """
    rows, ids = [], list[str | None]()
    for number, found in enumerate(json_rows(data, where)):
        problem, value = found.problem, None
        if problem is None:
            try:
                value = load_json(data[found.start : found.stop], where)
            except FormatError as error:
                problem = error.reason, error.what
        if problem is None and not isinstance(value, dict):
            problem = "bad_row", "the row is no object"
        key = value.get("id") if isinstance(value, dict) else None
        ids.append(str(key) if isinstance(key, int | str) and not isinstance(key, bool) and str(key) else None)
        rows.append(Row(str(number), value if isinstance(value, dict) else {}, problem))
    named = _once(ids)
    return tuple(
        Row(key, row.value, row.problem) if key in named and key is not None else row
        for key, row in zip(ids, rows, strict=True)
    )


def _once(ids: Sequence[str | None]) -> set[str | None]:
    times: dict[str | None, int] = {}
    for key in ids:
        times[key] = times.get(key, 0) + 1
    return {key for key, count in times.items() if count == 1 and key is not None}


def is_talk(row: Any) -> bool:
    """Whether a row is one of RynnBrain's."""
    found = row.get("conversation") if isinstance(row, dict) else None
    return bool(
        isinstance(found, list) and found and isinstance(found[0], dict) and {"role", "content"} <= found[0].keys()
    )


def talk(row: Mapping[str, Any], *, thinking: bool) -> Talk:
    """One of RynnBrain's rows. `thinking`: what it thought stands before the answer as `<think>...</think>`; otherwise
    it is the attribute `thinking`.

    Raises `EpisodeError`: `empty_episode`, `bad_role`, `missing_key`, `bad_type`, `bad_region`, `unknown_task`,
    `unsupported_media`.
    """
    turns: list[Turn] = []
    thought: list[str | Shown] = []
    attributes: dict[str, Any] = {key: value for key, value in row.items() if key not in ("conversation", "id")}
    regions: dict[str, list[dict[str, Any]]] = {}
    for number, value in enumerate(fields.as_list(fields.member(row, "conversation", "the row"), "conversation")):
        turn = fields.as_object(value, f"turn {number}")
        name = fields.as_text(fields.member(turn, "role", f"turn {number}"), "role")
        parts = _parts(fields.member(turn, "content", f"turn {number}"), row, _pictures(turns), regions)
        if name.lower() == "thinking":
            thought += parts
            continue
        if name not in _ROLES:
            raise EpisodeError("bad_role", f"turn {number}: {name[:40]!r} is none of {', '.join(_ROLES)}, Thinking")
        if name == "assistant" and thought and thinking:
            parts, thought = ["<think>", *thought, "</think>", *parts], []
        turns.append(Turn(_ROLES[name], tuple(parts)))
    if not turns:
        raise EpisodeError("empty_episode", "`conversation` is empty")
    if thought:
        if any(isinstance(part, Shown) for part in thought):
            raise EpisodeError("unsupported_media", "the thoughts show pictures: set `thinking: tags` to keep them")
        attributes["thinking"] = "".join(part for part in thought if isinstance(part, str))
    for key, items in regions.items():
        attributes[key] = {"unit": "0-1000", "items": items}
    return Talk(tuple(turns), attributes)


def _pictures(turns: Sequence[Turn]) -> int:
    return sum(isinstance(part, Shown) for turn in turns for part in turn.parts)


def _parts(
    content: Any, row: Mapping[str, Any], pictures: int, regions: dict[str, list[dict[str, Any]]]
) -> list[str | Shown]:
    """Parts of a message: texts, media, and frames' points, which are also written as one of RynnBrain's tags."""
    if isinstance(content, str):
        return [fields.as_text(content, "content")]
    made: list[str | Shown] = []
    for number, value in enumerate(fields.as_list(content, "content")):
        part = fields.as_object(value, f"part {number}")
        if "type" not in part and part and all(_FRAME.fullmatch(key) for key in part):
            made += [_answer(key, points, row, pictures, regions) for key, points in part.items()]
            continue
        kind = fields.as_text(fields.member(part, "type", f"part {number}"), "type")
        if kind not in ("text", "image", "video"):
            raise EpisodeError("unsupported_media", f"part {number} is of the type {kind[:40]!r}")
        told = fields.as_text(fields.member(part, kind, f"part {number}"), kind)
        if kind == "text":
            made.append(told)
        elif kind == "image":
            made.append(Shown("image", told))
        else:
            made += _video(told)
    return made


def _video(told: str) -> list[str | Shown]:
    """A video by its path, or its frames as a JSON list of pictures."""
    if not told.lstrip().startswith("["):
        return [Shown("video", told)]
    try:
        frames = json.loads(told)
    except (ValueError, RecursionError):
        raise EpisodeError("bad_type", f"the video {told[:60]!r} is neither a path nor a list of pictures") from None
    return [Shown("image", fields.as_text(frame, "a frame")) for frame in fields.as_list(frames, "the frames")]


def _answer(
    key: str, value: Any, row: Mapping[str, Any], pictures: int, regions: dict[str, list[dict[str, Any]]]
) -> str:
    """A frame's points as text in RynnBrain's tags, and as regions; `<frame n>` counts from 0, as its prompts do."""
    match = _FRAME.fullmatch(key)
    frame = int(match[1]) - 1 if match is not None else -1
    if not 0 <= frame < pictures:
        raise EpisodeError("bad_region", f"{key!r} is none of the {pictures} pictures, which are counted from 1")
    points = fields.as_array(value, key, (-1, 2)).tolist()
    if not 0 < len(points) <= MAX_POINTS or any(not 0 <= number <= 1000 for point in points for number in point):
        raise EpisodeError("bad_region", f"{key}: {str(value)[:80]} are no points from 0 to 1000")
    tag = _task(row, len(points))
    if (tag == "object" and len(points) != 2) or (tag == "affordance" and len(points) != 1):
        raise EpisodeError("bad_region", f"{key}: {len(points)} points make no <{tag}>")
    if tag == "object":
        if points[0][0] > points[1][0] or points[0][1] > points[1][1]:
            raise EpisodeError("bad_region", f"{key}: the corners of the box {points} are swapped")
        entry: dict[str, Any] = {"label": None, "xyxy": [*points[0], *points[1]], "frame": frame}
        regions.setdefault("boxes", []).append(entry)
    elif tag == "trajectory":
        regions.setdefault("traces", []).append({"label": None, "points": points, "frame": frame})
    else:
        regions.setdefault("points", []).extend({"label": None, "xy": point, "frame": frame} for point in points)
    pairs = ", ".join(f"({round(x)}, {round(y)})" for x, y in points)
    return f"<{tag}> <frame {frame}>: {pairs} </{tag}>"


def _task(row: Mapping[str, Any], points: int) -> str:
    """The tag of a row's task; without a known task one point is an affordance, and several are not guessed at."""
    for key in ("task_type", "data_source"):
        told = row.get(key)
        if isinstance(told, str) and told.lower() in _TASKS:
            return _TASKS[told.lower()]
    if points == 1:
        return "affordance"
    raise EpisodeError("unknown_task", f"{points} points, and neither task_type nor data_source tells what they are")
