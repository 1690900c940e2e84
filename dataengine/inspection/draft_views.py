"""The views and texts of a drafted converter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dataengine.episode import Media, RawEpisode
from dataengine.inspection.draft_shape import Shape, apart, quoted, shown
from dataengine.inspection.found import Inspection

_PICTURES = (
    "image",
    "images",
    "image_raw",
    "image_color",
    "image_rect",
    "image_rect_color",
    "compressed",
    "color",
    "rgb",
)
"""Parts of names that every camera's stream has."""


def views_of(raw: RawEpisode, shape: Shape, found: Inspection) -> Iterator[str]:
    """The lines of `views`, one view a stream of pictures."""
    named: set[str] = set()
    if raw.media:
        yield "views:"
    for number, (name, media) in enumerate(sorted(raw.media.items())):
        view = _view_name(name)
        view = f"view_{number}" if view is None or view in named else view
        named.add(view)
        yield f"  # {shown(name)}: {media.kind} {media.codec}, {media.width} x {media.height}, {media.frames} frames"
        for verdict in found.verdicts:
            if verdict["where"] == name:
                yield f"  #   {verdict['check']}: {verdict['says']}"
        yield f"  - view: {view}  # how recipes and prompts will call it"
        yield f"    media: {quoted(name)}"
        yield "    channel_order: UNKNOWN  # rgb | bgr: what a standard decoder gives; look at the strip"
        yield "    rotate: UNKNOWN  # 0 | 90 | 180 | 270 degrees counterclockwise, so that it stands upright"
        yield from _view_clock(media, raw, shape)
        yield "    evidence: UNKNOWN"


def _view_name(name: str) -> str | None:
    """What a view may be called: the last part of the stream's name that says which camera it is."""
    parts = [part for part in re.split(r"[/.]", name.lower()) if part]
    told = [part for part in parts if part not in _PICTURES] or parts[-1:]
    view = re.sub(r"[^a-z0-9]+", "_", told[-1]).strip("_") if told else ""
    return view if re.fullmatch(r"[a-z][a-z0-9_]{0,30}", view) else None


def _view_clock(media: Media, raw: RawEpisode, shape: Shape) -> Iterator[str]:
    own = f"{media.name}/time_ns"
    otherwise = own in raw.arrays and apart(own, own, raw, shape)
    if media.frames in (shape.steps, shape.observed) and not otherwise:
        yield "    clock: rows"
    elif len(media.times_ns) == media.frames:
        yield "    clock: times"
        yield "    within_s: UNKNOWN  # every row must have a frame as near as this"
    else:
        yield f"    clock: UNKNOWN  # {media.frames} frames for {shape.steps} rows, and no frame times"


def language_of(raw: RawEpisode) -> Iterator[str]:
    """The lines of `language`, one entry a stream of texts."""
    if raw.texts:
        yield "language:"
    for name, texts in sorted(raw.texts.items()):
        yield f"  # {shown(name)}: {texts[0][:100]!r}" + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")
        yield f"  - stream: {quoted(name)}"
        yield "    level: UNKNOWN  # episode | task | subtask | step"
        yield "    evidence: UNKNOWN"
    if not raw.texts:
        yield "# No text was found. A constant one is declared as"
        yield '# language: [{text: "...", level: task, evidence: "..."}]'
