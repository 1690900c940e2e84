"""COCO's JSON as tables: images, annotations by image, categories by their sparse ids; boxes, polygons and RLE checked.

The layout is that of COCO's format page (cocodataset.org/#format-data): boxes are x, y, width, height in pixels from
the top left corner, 0-indexed; a segmentation is a list of polygons x, y, x, y, ... or, of a crowd, run lengths down
the columns, the first run being background. `counts` is a list, or the compressed text of COCO's own API: run lengths
in base 32 with a continuation and a sign bit a character, from the fourth on as differences to the one two before
(cocodataset/cocoapi, common/maskApi.c, rleFrString).

A helper of formats, not a format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import fields

Kind = Literal["captions", "instances", "keypoints"]
KINDS: tuple[Kind, ...] = ("captions", "instances", "keypoints")
MAX_SIDE = 1 << 16
_OFFSET, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10


@dataclass(frozen=True)
class Tables:
    """One file. `problems` are (name, reason, what) of rows that cannot be used; they are in none of the tables."""

    kind: Kind
    images: Mapping[int, Mapping[str, Any]]
    annotations: Mapping[int, tuple[Mapping[str, Any], ...]]
    categories: Mapping[int, Mapping[str, Any]]
    problems: tuple[tuple[str, str, str], ...]


def parse_tables(data: bytes, where: str) -> Tables:
    """The tables of a file (for `files.cached`).

    Raises `FormatError` `unknown_layout` for JSON without images and annotations, and those of `load_json`.
    """
    value = load_json(data, where)
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("images", "annotations")):
        raise FormatError("unknown_layout", f"{where} has no lists `images` and `annotations`", where=where)
    problems: list[tuple[str, str, str]] = []
    images = _by_id(value["images"], "image", problems)
    categories = _by_id(value.get("categories") or [], "category", problems)
    annotations: dict[int, list[Mapping[str, Any]]] = {key: [] for key in images}
    for key, row in _by_id(value["annotations"], "annotation", problems).items():
        image = row.get("image_id")
        if isinstance(image, bool) or not isinstance(image, int) or image not in images:
            problems.append((f"annotation-{key}", "missing_image", f"no image has its image_id {repr(image)[:40]}"))
        else:
            annotations[image].append(row)
    kind = _kind([row for row in value["annotations"] if isinstance(row, dict)][:32], where)
    held = {key: tuple(rows) for key, rows in annotations.items()}
    return Tables(kind, images, held, categories, tuple(problems))


def _kind(rows: Sequence[Mapping[str, Any]], where: str) -> Kind:
    keys = Counter(key for row in rows for key in row.keys() & {"caption", "bbox", "keypoints"})
    if keys["caption"]:
        return "captions"
    if keys["keypoints"]:
        return "keypoints"
    if keys["bbox"]:
        return "instances"
    raise FormatError("unknown_layout", f"{where}: its annotations are neither captions nor boxes", where=where)


def _by_id(rows: Any, what: str, problems: list[tuple[str, str, str]]) -> dict[int, Mapping[str, Any]]:
    """Rows by their whole number `id`, in their order; an id that stands twice belongs to none of its rows."""
    if not isinstance(rows, list):
        return {}
    found: dict[int, Mapping[str, Any]] = {}
    twice: set[int] = set()
    for number, row in enumerate(rows):
        key = row.get("id") if isinstance(row, dict) else None
        if isinstance(key, bool) or not isinstance(key, int) or not isinstance(row, dict):
            problems.append((f"{what} row {number}", "bad_row", f"the {what} has no whole number `id`"))
        elif key in found:
            twice.add(key)
        else:
            found[key] = row
    for key in sorted(twice):
        del found[key]
        problems.append((f"{what}-{key}", "duplicate_episode", f"the {what} id {key} stands more than once"))
    return found


def size_of(image: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height in pixels that an image's row states."""
    width, height = (fields.as_whole(fields.member(image, key, "the image"), key) for key in ("width", "height"))
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise EpisodeError("bad_value", f"the image is {width} x {height} pixels")
    return width, height


def box_of(row: Mapping[str, Any], size: tuple[int, int], where: str) -> list[float]:
    """The box of an annotation as x, y, x, y in pixels (the largest corner is x + width, y + height).

    It may leave the picture of `size` (width, height), as published ones do by a rounding, but not lie beside it.
    """
    x, y, width, height = fields.as_array(fields.member(row, "bbox", where), f"{where}.bbox", (4,)).tolist()
    if width < 0 or height < 0:
        raise EpisodeError("bad_value", f"{where}: its box is {width} x {height}")
    if x > size[0] or y > size[1] or x + width < 0 or y + height < 0:
        what = f"its box from {x:g}, {y:g} of {width:g} x {height:g} lies beside the picture of {size[0]} x {size[1]}"
        raise EpisodeError("bad_value", f"{where}: {what}")
    return [x, y, x + width, y + height]


def category_of(row: Mapping[str, Any], tables: Tables, where: str) -> str:
    """The name of an annotation's category."""
    key = fields.as_whole(fields.member(row, "category_id", where), f"{where}.category_id")
    if key not in tables.categories:
        raise EpisodeError("unknown_category", f"{where}: no category has the id {key}")
    return fields.as_text(fields.member(tables.categories[key], "name", f"category {key}"), f"category {key}: name")


def segment_of(row: Mapping[str, Any], size: tuple[int, int], where: str) -> dict[str, Any] | None:
    """An annotation's segmentation, checked: `{polygons}` in pixels, or `{runs}` down the columns; None for none."""
    found = row.get("segmentation")
    if found is None or found == []:
        return None
    if isinstance(found, dict):
        return {"runs": runs_of(found, size, where)}
    polygons = []
    for polygon in fields.as_list(found, f"{where}.segmentation"):
        numbers = fields.as_array(polygon, f"{where}.segmentation", (-1,)).tolist()
        if len(numbers) < 6 or len(numbers) % 2:
            raise EpisodeError("bad_shape", f"{where}: a polygon of {len(numbers)} numbers")
        polygons.append(numbers)
    return {"polygons": polygons}


def runs_of(rle: Mapping[str, Any], size: tuple[int, int], where: str) -> list[int]:
    """The run lengths of an RLE, background first; they fill the picture of `size` (width, height) exactly.

    Raises `EpisodeError` `bad_shape` for another size (an RLE states height, width), `bad_value`.
    """
    stated = fields.as_whole_array(fields.member(rle, "size", where), f"{where}.size").tolist()
    if stated != [size[1], size[0]]:
        raise EpisodeError("bad_shape", f"{where}: an RLE of {stated}, the image is {size[1]} high, {size[0]} wide")
    counts = fields.member(rle, "counts", where)
    if isinstance(counts, str):
        runs = _decompressed(counts, where)
    else:
        runs = fields.as_whole_array(counts, f"{where}.counts").tolist()
    if any(run < 0 for run in runs):
        raise EpisodeError("bad_value", f"{where}: a run of {min(runs)} pixels")
    if sum(runs) != size[0] * size[1]:
        raise EpisodeError("bad_value", f"{where}: the runs cover {sum(runs)} pixels of {size[0] * size[1]}")
    return runs


def _decompressed(text: str, where: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - _OFFSET
        if not 0 <= code < 64 or shift > 40:
            raise EpisodeError("bad_value", f"{where}: its counts hold {character!r}")
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise EpisodeError("bad_value", f"{where}: its counts end within a number")
    return runs


def mask_of(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [height, width] of run lengths that go down the columns."""
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size[0], size[1]).T
