"""A converter to edit, drafted from what was found: structure filled in, every unknown convention marked `UNKNOWN`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import canonical_json
from dataengine.episode import RawEpisode
from dataengine.errors import SpecError
from dataengine.evidence.raw import is_clock
from dataengine.formats.base import layouts_of
from dataengine.inspection.draft_shape import (
    Shape,
    apart,
    at_path,
    commands,
    own_clock,
    quoted,
    shape_of,
    shown,
    unit_of,
)
from dataengine.inspection.draft_views import language_of, views_of
from dataengine.inspection.found import Inspection, Stream

MAX_WIDTH = 64
_RATES = ("info/fps", "fps", "video/fps", "rate_hz", "control_hz", "hz")
_FIELDS = ("seq", "data_offset")
"""Fields of ROS messages that count messages, or places in them."""
_BODIES = ("info/robot_type", "robot_type", "env_args/env_name", "env_name", "robot")
_SOURCE = (
    ("url", "where it comes from"),
    ("revision", "commit, version or date"),
    ("license", "an SPDX identifier, LicenseRef-NAME, or `unknown` where nobody tells"),
    ("license_evidence", "the words that state it, and where they stand"),
    ("terms_url", "or `unknown`"),
    ("creator", "or `unknown`"),
    ("consent", "what recorded people agreed to, or that no person is recorded"),
    ("deidentification", "what was done to faces, plates and voices, or that no person is recorded"),
    ("synthetic", "true | false"),
)


def draft(raws: Sequence[RawEpisode], found: Inspection, data: Path, path: Path) -> str:
    """Write the draft to `path`, which must not exist yet; returns the path as text.

    Raises `SpecError` where nothing was read, or where the file is there.
    """
    if not raws:
        told = [f"{problem['at']}: {problem['reason']}: {problem['what']}" for problem in found.problems[:1]]
        raise SpecError(
            "; ".join(["no episode could be read, so there is nothing to draft from", *told]),
            where=str(data),
            fix="mend that, or see all with `dataengine inspect` without --spec",
        )
    if path.exists():
        raise SpecError(f"{path} is there already", fix="name another file for the draft, or delete this one")
    name = re.sub(r"[^a-z0-9_]+", "_", path.stem.lower()).strip("_") or "my_source"
    name = name if name[0].isalpha() else f"source_{name}"
    lines = [*_head(raws[0], found, data, name), *_body(raws[0], found)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _head(raw: RawEpisode, found: Inspection, data: Path, name: str) -> Iterator[str]:
    yield f"# Drafted by `dataengine inspect --spec` from {data.name}: {found.read} of {found.found} episodes read."
    yield "# Replace every UNKNOWN by what you know, and say in `evidence` how you know it. Nothing is guessed: a"
    yield "# converter that still says UNKNOWN is refused, and tells what is left. Then `dataengine inspect PATH"
    yield "# --converter THIS.yaml` holds your answers against the data. Fields: docs/writing-a-format.md."
    if found.fitting:
        yield f"# Shipped converters that convert the first episode as they are: {', '.join(found.fitting)}"
    yield f"name: {name}"
    yield "version: 1"
    yield f"family: {_family(raw, found)}"
    yield "source:"
    yield f"  name: {name}"
    for key, told in _SOURCE:
        yield f"  {key}: UNKNOWN  # {told}"
    yield "format:"
    yield f"  name: {found.format}"
    if found.options:
        yield f"  options: {canonical_json(found.options).decode()}"


def _family(raw: RawEpisode, found: Inspection) -> str:
    if raw.messages:
        return "vision_language"
    layouts = layouts_of(str(found.format))
    families = {layout.family for layout in layouts if found.layout in (None, layout.name)}
    told = "  # robot | simulation | egocentric | navigation"
    return (families.pop() if len(families) == 1 else "UNKNOWN") + told


def _body(raw: RawEpisode, found: Inspection) -> Iterator[str]:
    if raw.messages:
        yield "embodiment: none"
        yield "control_mode: none"
        yield 'time: {base: none, evidence: "items have no time"}'
        yield "items: true"
        return
    streams = {stream.name: stream for stream in found.streams}
    shape = shape_of(raw, streams)
    yield "embodiment: UNKNOWN  # a shipped card, or ./my_robot.yaml beside this file (docs/embodiments.md)"
    yield "control_mode: UNKNOWN  # a control mode of that card"
    yield from _requires(raw)
    if raw.told and not any(v["check"] == "own_statistics" and v["status"] == "warning" for v in found.verdicts):
        yield "own_statistics: check  # an episode whose numbers are not those of its own statistics is refused"
    yield from _time(raw, shape, streams)
    sides = {"state": [], "action": []}  # type: dict[str, list[str]]
    left = []
    for name, array in sorted(raw.arrays.items()):
        entry = list(_mapping(name, array, shape, raw, streams, found))
        if not entry:
            left.append(f"#   {shown(name)}: {array.dtype} {list(array.shape)}")
        else:
            sides["action" if commands(name) else "state"] += entry
    for side, entries in sides.items():
        if entries:
            yield f"{side}:  # delete what is not needed: it stays in the lake as native arrays"
            yield from entries
    if sides["state"] and not sides["action"]:
        yield "# action: nothing is named like one. Move here what was commanded, with a `label`:"
        yield "#   label: UNKNOWN  # commanded | reached | next_state | pseudo | annotated"
    if left:
        yield "# Native arrays that are not mapped here (clocks, counters, flags, wide or single values, other counts):"
        yield from left
    yield from views_of(raw, shape, found)
    yield from language_of(raw)


def _requires(raw: RawEpisode) -> Iterator[str]:
    """What the source says of its robot and columns: by another word columns by number are other quantities."""
    paths = [path for path in _BODIES if isinstance(at_path(raw.attributes, path), str)]
    paths += [path for name in sorted(raw.arrays) if at_path(raw.attributes, path := f"info/features/{name}/names")]
    if paths:
        yield "requires:  # as this source says it; an episode that says otherwise is refused"
    for path in paths:
        told = canonical_json(at_path(raw.attributes, path)).decode()
        yield f"  - {{attribute: {json.dumps(path, ensure_ascii=False)}, equals: {told}}}"


def _time(raw: RawEpisode, shape: Shape, streams: Mapping[str, Stream]) -> Iterator[str]:
    yield "time:"
    rate = next((path for path in _RATES if _is_rate(raw.attributes, path)), None)
    if shape.clock is not None:
        unit, sure = unit_of(shape.clock, raw.arrays[shape.clock])
        yield "  base: timestamps"
        yield f"  array: {quoted(shape.clock)}"
        yield f"  unit: {unit}" if sure else f"  unit: UNKNOWN  # s | ms | us | ns; by its steps {unit}"
        yield f"  evidence: UNKNOWN  # {_clock_told(streams[shape.clock])}"
    elif rate is not None:
        yield "  base: attribute_rate"
        yield f"  hz_attribute: {rate}"
        yield "  evidence: UNKNOWN  # the source says so itself; does a clock or the pictures agree?"
    else:
        yield "  base: UNKNOWN  # declared_rate (a known rate) | pseudo_rate (the source has no clock)"
        yield "  hz: UNKNOWN"
        yield "  evidence: UNKNOWN"
    if shape.observed != shape.steps:
        yield f"  pair: drop_last_observation  # {shape.observed} observations, {shape.steps} actions at first"


def _is_rate(attributes: Mapping[str, Any], path: str) -> bool:
    value = at_path(attributes, path)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def _clock_told(stream: Stream) -> str:
    rate = "no steady rate" if stream.rate_hz is None else f"{stream.rate_hz:g} Hz"
    return f"{rate}, {stream.gaps} gaps over 1.5 steps, {stream.backwards} steps backwards or of 0"


def _mapping(
    name: str,
    array: NDArray[Any],
    shape: Shape,
    raw: RawEpisode,
    streams: Mapping[str, Stream],
    found: Inspection,
) -> Iterator[str]:
    """One mapping to edit; nothing for an array that is no stream of numbers with a clock."""
    width = int(np.prod(array.shape[1:], dtype=np.int64)) if array.ndim else 0
    if is_clock(name) or array.dtype.kind not in "fiu" or not 1 <= width <= MAX_WIDTH or _counts(name, array):
        return
    own = own_clock(name, array, raw, shape)
    if len(array) in (shape.steps, shape.observed):
        own = own if own is not None and apart(name, own, raw, shape) else None
    elif own is None:
        return
    stream = streams[name]
    told = "" if stream.low is None else f", {stream.low:.6g} .. {stream.high:.6g}"
    yield f"  # {shown(name)}: {array.dtype} {list(array.shape[1:])}{told}"
    for verdict in found.verdicts:
        if verdict["where"] == name:
            yield f"  #   {verdict['check']}: {verdict['says']}"
    named = _names(name, raw.attributes)
    if named:
        yield f"  #   columns named by the source: {', '.join(named)}"
    for part, columns in _parts(name, width, raw.attributes):
        yield from _entry(name, part, columns, own, raw)


def _names(name: str, attributes: Mapping[str, Any]) -> list[str]:
    """Column names as LeRobot's features give them: flat, nested, or by kind."""
    feature = at_path(attributes, f"info/features/{name}/names")
    while isinstance(feature, Mapping) and len(feature) == 1:
        feature = next(iter(feature.values()))
    while isinstance(feature, list) and len(feature) == 1 and isinstance(feature[0], list):
        feature = feature[0]
    return [str(each) for each in feature] if isinstance(feature, list) else []


def _parts(name: str, width: int, attributes: Mapping[str, Any]) -> list[tuple[str, tuple[int, int] | None]]:
    """The pieces of an array that the source names (GR00T's modality.json), else the whole."""
    modality = attributes.get("modality", {})
    sides = [modality.get(side, {}) for side in ("state", "action")] if isinstance(modality, Mapping) else []
    named: list[tuple[str, tuple[int, int] | None]] = [
        (part, (int(place["columns"][0]), int(place["columns"][1])))
        for side in sides
        for part, place in side.items()
        if place["array"] == name
    ]
    whole = (0, width) if width > 1 else None
    return sorted(named, key=lambda part: part[1] or (0, 0)) if named else [("", whole)]


def _entry(name: str, part: str, columns: tuple[int, int] | None, own: str | None, raw: RawEpisode) -> Iterator[str]:
    told = f"{part}: " if part else ""
    yield f"  - slot: UNKNOWN  # {told}docs/embodiments.md lists the slots; `native` keeps the numbers as they are"
    yield f"    array: {quoted(name)}"
    if columns is not None:
        yield f"    columns: [{columns[0]}, {columns[1]}]"
    yield "    unit: UNKNOWN  # such as rad, deg, m, mm, rad/s, norm"
    yield "    frame: UNKNOWN  # such as joint, robot_base, world, camera, gripper"
    yield "    # rotation: {form: ...}  # of rotations: matrix | quaternion_xyzw | quaternion_wxyz | euler | rotvec"
    yield "    # gripper: {open: ..., closed: ...}  # of grippers: the value when open and when closed"
    if own is not None:
        unit, sure = unit_of(own, raw.arrays[own])
        told = f"times: {quoted(own)}, unit: {unit if sure else 'UNKNOWN'}"
        yield f"    align: {{{told}, rule: UNKNOWN, within_s: UNKNOWN}}"
    if commands(name):
        yield "    label: UNKNOWN  # commanded | reached | next_state | pseudo | annotated"
    yield "    evidence: UNKNOWN"
    yield "    status: UNKNOWN  # verified_on_data | from_code | recalled"


def _counts(name: str, array: NDArray[Any]) -> bool:
    """Whether whole numbers only count rows, or name the episode or task: bookkeeping."""
    last = name.lower().rpartition("/")[2]
    if array.dtype.kind not in "iu" or array.size != len(array) or not ("index" in name.lower() or last in _FIELDS):
        return False
    return bool((np.diff(array.reshape(len(array)).astype(np.int64)) <= 1).all())
