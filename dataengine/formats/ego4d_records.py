"""Ego4D's annotations as records of videos: Goal-Step's nested steps, and narrations of two passes or of one list.

Goal-Step: facebookresearch/ego4d-goalstep @ b4fe5768, data/goalstep_*.json. Narrations: EGO4D/docs @ fb273bfa,
docs/data/annotations-schemas.md ("Narrations"); facebookresearch/Ego4d @ a44f40b3, clep/preprocess/ego4d_data.py.
all_narrations_redacted.json of version 2 (`videos`, by uid `narrations` with `time` and `text`, `summaries` with
`start_time`, `end_time` and `text`): as showlab/videollm-online's data/ego4d/narration.py reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dataengine.errors import EpisodeError
from dataengine.formats import fields
from dataengine.formats.segments_text import Span

PASSES = ("narration_pass_1", "narration_pass_2")
ALL = "all"
"""Where the narrations of all annotators stand in one list."""
_TAG = re.compile(r"\s*#\s?([A-Za-z]+)\b\s*")
_SPEAKERS = {"c": "camera_wearer", "o": "other"}


@dataclass(frozen=True)
class Step:
    """A step of a video with its substeps."""

    span: Span
    record: Mapping[str, Any]
    substeps: tuple[Span, ...]
    outside: int


@dataclass(frozen=True)
class Narration:
    """A sentence said about one moment (s): verbatim, and without its tags; `who` acts, where a tag says so."""

    name: str
    at: float
    text: str
    plain: str
    who: str | None
    record: Mapping[str, Any]


def span_of(
    record: Mapping[str, Any], name: str, text: str, keys: tuple[str, str] = ("start_time", "end_time")
) -> Span:
    """A record's span in s; `bad_span` where it does not go forward."""
    start, stop = (fields.as_number(fields.member(record, key, name), f"{name}.{key}") for key in keys)
    if not 0 <= start < stop:
        raise EpisodeError("bad_span", f"{name} goes from {start} to {stop} s")
    return Span(name, start, stop, fields.as_text(fields.member(record, text, name), f"{name}.{text}"))


def steps_of(video: Mapping[str, Any], wanted: str | None = None) -> list[Step]:
    """The steps of a Goal-Step video in their order, none left out: outside their parent, overlapping, irrelevant.

    Only the one called `wanted` where it is given: what is wrong with another one is that one's affair.
    """
    found = []
    for number, value in enumerate(fields.as_list(fields.member(video, "segments", "the video"), "segments")):
        name = f"step_{number:03d}"
        if wanted not in (None, name):
            continue
        record = fields.as_object(value, name)
        span = span_of(record, name, "step_description")
        inner = []
        for place, entry in enumerate(fields.as_list(record.get("segments", []), f"{name}.segments")):
            told = f"{name}/substep_{place:03d}"
            inner.append(span_of(fields.as_object(entry, told), told, "step_description"))
        outside = sum(sub.start < span.start or sub.stop > span.stop for sub in inner)
        found.append(Step(span, record, tuple(inner), outside))
    return found


def counts(steps: list[Step], whole: Span | None = None) -> dict[str, Any]:
    """What is odd about steps and substeps, counted: nothing of it is corrected, nothing left out."""
    subs = [record for step in steps for record in step.record.get("segments", [])]
    neighbours = pairwise(steps)
    told: dict[str, Any] = {
        "steps": len(steps),
        "substeps": len(subs),
        "substeps_outside_their_step": sum(step.outside for step in steps),
        "steps_that_overlap_the_next": sum(after.span.start < step.span.stop for step, after in neighbours),
        "step_relevance": _tally([step.record.get("is_relevant") for step in steps]),
        "substep_relevance": _tally([record.get("is_relevant") for record in subs]),
    }
    if whole is not None:
        outside = (step.span.start < whole.start or step.span.stop > whole.stop for step in steps)
        told["steps_outside_the_video"] = sum(outside)
    return told


def _tally(values: list[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        name = "not said" if value is None else fields.as_text(value, "is_relevant")
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def narrations_of(record: Mapping[str, Any], wanted: str | None = None) -> Iterator[Narration]:
    """The narrations of both passes in their order, with what their tags say; only the `wanted` one if it is given."""
    for named in passes(record):
        for number, entry in enumerate(_entries(record, named, "narrations")):
            name = f"{named}/{number:05d}"
            if wanted not in (None, name):
                continue
            told = fields.as_object(entry, name)
            when, what = ("time", "text") if named == ALL else ("timestamp_sec", "narration_text")
            at = fields.as_number(fields.member(told, when, name), f"{name}.{when}")
            text = fields.as_text(fields.member(told, what, name), f"{name}.{what}")
            yield Narration(name, at, text, *_untagged(text), told)


def summaries_of(record: Mapping[str, Any]) -> Iterator[Span]:
    """The summaries of both passes, each of some minutes."""
    for named in passes(record):
        text, *keys = _SPOKEN_OF if named == ALL else _SUMMARY
        for number, entry in enumerate(_entries(record, named, "summaries")):
            name = f"{named}/summary_{number:03d}"
            yield span_of(fields.as_object(entry, name), name, text, (keys[0], keys[1]))


_SUMMARY = ("summary_text", "start_sec", "end_sec")
_SPOKEN_OF = ("text", "start_time", "end_time")


def passes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the passes that a video has; `all` where its narrations stand in one list."""
    found = tuple(named for named in PASSES if record.get(named) is not None)
    return (*found, ALL) if "narrations" in record else found


def entries_of(record: Mapping[str, Any], named: str) -> list[Any]:
    """The narrations of a pass as they stand."""
    return _entries(record, named, "narrations")


def _entries(record: Mapping[str, Any], named: str, key: str) -> list[Any]:
    if named == ALL:
        return fields.as_list(record.get(key, []), key)
    return fields.as_list(fields.as_object(record[named], named).get(key, []), f"{named}.{key}")


def _untagged(text: str) -> tuple[str, str | None]:
    """The sentence without the tag at its front (`#C C opens a tap`), and who acts by that tag."""
    tag = _TAG.match(text)
    if tag is None or tag[1].lower() not in _SPEAKERS:
        return text.strip(), None
    return text[tag.end() :].strip(), _SPEAKERS[tag[1].lower()]
