"""Plain rows with boxes, points and traces under keys that the converter names, in a unit that it says.

A helper of formats, not a format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataengine.errors import EpisodeError
from dataengine.formats import fields

Unit = Literal["frac", "px", "0-1000"]
UNITS: tuple[Unit, ...] = ("frac", "px", "0-1000")
CORNERS = ("xyxy", "xywh")
SLACK = 0.02
"""How much of a side a region may lie outside of the picture (and two pixels): boxes are rounded."""


@dataclass(frozen=True)
class Plain:
    """How plain rows are read: the keys of what they hold, the unit of all coordinates, and a box's form."""

    image: str
    text: str | None
    answer: str | None
    label: str | None
    boxes: str | None
    points: str | None
    traces: str | None
    unit: Unit
    corners: str


def plain(row: Mapping[str, Any], how: Plain) -> tuple[list[str], str | None, str, dict[str, Any]]:
    """A plain row as its pictures, its question, its answer and its attributes.

    The answer is the key's that `answer` names, else the regions as lists, one a line, behind their label.
    Raises `EpisodeError`: `missing_key`, `bad_type`, `bad_shape`, `bad_region`, `no_annotation`.
    """
    listed = fields.member(row, how.image, "the row")
    pictures = [fields.as_text(path, how.image) for path in (listed if isinstance(listed, list) else [listed])]
    asked = None if how.text is None else fields.as_text(fields.member(row, how.text, "the row"), how.text)
    labels = _labels(row, how)
    found: dict[str, list[dict[str, Any]]] = {}
    if how.boxes is not None and row.get(how.boxes) is not None:
        found["boxes"] = _listed(row[how.boxes], how.boxes, 4, "xyxy", labels)
        for item in found["boxes"]:
            item["xyxy"] = _corners(item["xyxy"], how.corners)
    if how.points is not None and row.get(how.points) is not None:
        found["points"] = _listed(row[how.points], how.points, 2, "xy", labels)
    if how.traces is not None and row.get(how.traces) is not None:
        found["traces"] = _traces(row[how.traces], how.traces, labels)
    if not any(found.values()):
        raise EpisodeError("no_annotation", "the row holds neither a box, a point nor a trace")
    used = {how.image, how.text, how.answer, how.boxes, how.points, how.traces}
    attributes: dict[str, Any] = {key: value for key, value in row.items() if key not in used}
    for kind, items in found.items():
        if items:
            attributes[kind] = {"unit": how.unit, "items": items, **_size(row, how.unit)}
    if how.answer is not None:
        return pictures, asked, fields.as_text(fields.member(row, how.answer, "the row"), how.answer), attributes
    return pictures, asked, "\n".join(_written(item) for items in found.values() for item in items), attributes


def check_within(attributes: Mapping[str, Any], unit: Unit, sizes: Sequence[tuple[int, int]]) -> None:
    """Regions lie within the pictures of `sizes` (width, height), but for a rounding; else `bad_region`.

    A region far outside is one of another unit, or of another picture. Pixels without a picture are not checked.
    """
    if unit == "px" and not sizes:
        return
    across, down = {"frac": (1.0, 1.0), "0-1000": (1000.0, 1000.0)}.get(unit) or (
        float(max(width for width, _ in sizes)),
        float(max(height for _, height in sizes)),
    )
    for key, name in (("boxes", "xyxy"), ("points", "xy"), ("traces", "points")):
        for item in attributes.get(key, {}).get("items", ()):
            numbers = [number for pair in item[name] for number in pair] if key == "traces" else item[name]
            for at, limit in ((numbers[0::2], across), (numbers[1::2], down)):
                slack = max(limit * SLACK, 2.0 if unit == "px" else 0.0)
                if min(at) < -slack or max(at) > limit + slack:
                    told = f"{numbers[:8]} leave {across:g} x {down:g} ({unit})"
                    raise EpisodeError("bad_region", f"{key}: {told}")


def _size(row: Mapping[str, Any], unit: Unit) -> dict[str, Any]:
    """The size that a row states for its pixels; without one they are those of the picture."""
    if unit != "px" or not {"width", "height"} <= row.keys():
        return {}
    return {"size_wh": [fields.as_whole(row["width"], "width"), fields.as_whole(row["height"], "height")]}


def _labels(row: Mapping[str, Any], how: Plain) -> list[str]:
    if how.label is None or row.get(how.label) is None:
        return []
    value = row[how.label]
    return [fields.as_text(label, how.label) for label in (value if isinstance(value, list) else [value])]


def _listed(value: Any, name: str, width: int, key: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One group of numbers or a list of them, each with its label; one label alone is that of all."""
    items = fields.as_list(value, name)
    rows = [items] if items and not isinstance(items[0], list) else items
    return [
        {"label": _label(labels, number, len(rows)), key: fields.as_array(row, name, (width,)).tolist()}
        for number, row in enumerate(rows)
    ]


def _traces(value: Any, name: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    items = fields.as_list(value, name)
    nested = bool(items and isinstance(items[0], list) and items[0] and isinstance(items[0][0], list))
    rows = items if nested else [items] if items else []
    return [
        {"label": _label(labels, number, len(rows)), "points": fields.as_array(row, name, (-1, 2)).tolist()}
        for number, row in enumerate(rows)
    ]


def _label(labels: Sequence[str], number: int, count: int) -> str | None:
    if len(labels) not in (0, 1, count):
        raise EpisodeError("length_mismatch", f"{len(labels)} labels for {count} regions")
    return None if not labels else labels[number if len(labels) == count else 0]


def _corners(numbers: Sequence[float], form: str) -> list[float]:
    x, y, right, bottom = numbers
    if form == "xywh":
        right, bottom = x + right, y + bottom
    if right < x or bottom < y:
        raise EpisodeError("bad_region", f"the corners of the box {list(numbers)} are swapped")
    return [x, y, right, bottom]


def _written(item: Mapping[str, Any]) -> str:
    numbers = item.get("xyxy") or item.get("xy")
    if numbers is not None:
        told = f"[{', '.join(_number(value) for value in numbers)}]"
    else:
        told = f"[{', '.join(f'[{_number(x)}, {_number(y)}]' for x, y in item['points'])}]"
    return told if item["label"] is None else f"{item['label']} {told}"


def _number(value: float) -> str:
    """A coordinate with at most four digits behind the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".")
