"""The structure of an RLDS data set, as TFDS writes it to `features.json`, and records read by it.

TFDS flattens nested features to names joined by `/` and stores every feature of the step data set as the
concatenation over its T steps; `features.json` gives each one's type and per-step shape (dimensions are strings).
A helper of the `rlds` format, not a format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.episode import Media, images_media
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.tfrecord import Value

Kind = Literal["numbers", "image", "text", "other"]
Rows = Literal["step", "many", "one"]
STEPS = "steps"
_FLOATS = {"float16", "bfloat16", "float32", "float64"}
_INTEGERS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_TEXTS = {"string", "object"}


@dataclass(frozen=True)
class Leaf:
    """One stored feature. `shape` is that of one row; `rows` says whether it has one row a step, many, or one."""

    key: str
    kind: Kind
    rows: Rows
    dtype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Values per row."""
        return math.prod(self.shape)


@dataclass
class Content:
    """What a record says, under its own names: see `RawEpisode`."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    media: dict[str, Media] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def leaves(document: Any, where: str) -> tuple[Leaf, ...]:
    """The stored features of a `features.json`, sorted by name.

    `FormatError` `bad_features` when it is no such structure, `missing_key` when it has no step data set.
    """
    found = tuple(sorted(_walk(document, (), 0, where), key=lambda leaf: leaf.key))
    if not any(leaf.rows == "step" for leaf in found):
        raise FormatError("missing_key", f"{where} declares no `{STEPS}` data set, so it is not RLDS", where=where)
    return found


def _walk(feature: Any, path: tuple[str, ...], sequences: int, where: str) -> Iterator[Leaf]:
    if not isinstance(feature, dict):
        raise FormatError("bad_features", f"{'/'.join(path) or 'the top'} is no feature", where=where)
    inner = feature.get("featuresDict")
    if isinstance(inner, dict):
        members = inner.get("features")
        if not isinstance(members, dict):
            raise FormatError("bad_features", f"{'/'.join(path) or 'the top'} has no `features`", where=where)
        for name, member in members.items():
            yield from _walk(member, (*path, name), sequences, where)
    elif isinstance(feature.get("sequence"), dict):
        yield from _walk(feature["sequence"].get("feature"), path, sequences + 1, where)
    else:
        yield _leaf(feature, path, sequences, where)


def _leaf(feature: Mapping[str, Any], path: tuple[str, ...], sequences: int, where: str) -> Leaf:
    key = "/".join(path)
    kind, dtype, shape = _type(feature, key, where)
    rows: Rows = ("step" if path[:1] == (STEPS,) else "many") if sequences == 1 else "one"
    if sequences > 1 or any(length < 0 for length in shape):
        kind = "other"  # ragged: where one row ends is not in the structure, so it stays flat
    return Leaf(key, kind, rows, dtype, shape)


def _type(feature: Mapping[str, Any], key: str, where: str) -> tuple[Kind, str, tuple[int, ...]]:
    if "image" in feature:
        told = feature["image"]
        dtype = told.get("dtype", "uint8") if isinstance(told, dict) else "uint8"
        # uint16 is depth; TFDS packs float32 into the four channels of a PNG. Neither is a picture to look at.
        return ("image", "uint8", ()) if dtype == "uint8" else ("other", "", ())
    if "text" in feature:
        return "text", "string", ()
    if "classLabel" in feature:
        return "numbers", "int64", ()
    tensor = feature.get("tensor")
    if not isinstance(tensor, dict) or tensor.get("encoding", "none") != "none":
        return "other", "", ()
    dtype = str(tensor.get("dtype"))
    shape = _shape(tensor.get("shape"), key, where)
    if dtype in _TEXTS:
        return "text" if shape == () else "other", dtype, shape
    return "numbers" if dtype in _FLOATS | _INTEGERS else "other", dtype, shape


def _shape(shape: Any, key: str, where: str) -> tuple[int, ...]:
    dimensions = shape.get("dimensions", []) if isinstance(shape, dict) else None
    try:
        return tuple(int(length) for length in dimensions)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise FormatError("bad_features", f"{key} has the shape {shape!r}", where=where) from None


def assemble(values: Mapping[str, Value], structure: Sequence[Leaf]) -> Content:
    """A record's values by the declared structure.

    Features of the steps agree on T, else `EpisodeError` `length_mismatch`; T = 0 is `empty_episode`; a declared
    feature that is absent is `missing_key`. What the structure does not describe row by row (ragged features,
    undeclared names) stays a flat array under its own name; bytes of that kind are listed in `unread`.
    """
    content = Content()
    known = [leaf for leaf in structure if leaf.kind != "other"]
    absent = [leaf.key for leaf in known if leaf.key not in values]
    if absent:
        raise EpisodeError("missing_key", f"the record lacks {', '.join(absent)}, which features.json declares")
    steps = _steps([leaf for leaf in known if leaf.rows == "step"], values)
    for leaf in known:
        count = {"step": steps, "many": None, "one": 1}[leaf.rows]
        _place(content, leaf, values[leaf.key], count)
    for key in sorted(values.keys() - {leaf.key for leaf in known}):
        value = values[key]
        if isinstance(value, np.ndarray):
            content.arrays[key] = value
        else:
            content.unread.append(key)
    return content


def _steps(step_leaves: Sequence[Leaf], values: Mapping[str, Value]) -> int:
    counts: dict[str, int] = {}
    for leaf in step_leaves:
        if leaf.width == 0:
            continue
        size = len(values[leaf.key])
        if size % leaf.width:
            raise EpisodeError("length_mismatch", f"{leaf.key}: {size} values are no whole rows of {leaf.width}")
        counts[leaf.key] = size // leaf.width
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise EpisodeError("length_mismatch", f"the steps' features have unequal lengths: {told}")
    steps = next(iter(counts.values()), 0)
    if steps == 0:
        raise EpisodeError("empty_episode", "the record holds no steps")
    return steps


def _place(content: Content, leaf: Leaf, value: Value, count: int | None) -> None:
    if leaf.kind == "numbers":
        array = _numbers(leaf, value, count)
        if leaf.rows == "one" and leaf.shape == () and np.isfinite(array).all():
            _set_attribute(content.attributes, leaf.key, array.item())
        else:
            content.arrays[leaf.key] = array
        return
    if not isinstance(value, list):
        raise EpisodeError("bad_dtype", f"{leaf.key} is declared as {leaf.kind} and holds numbers")
    if count is not None and len(value) != count:
        raise EpisodeError("length_mismatch", f"{leaf.key}: {len(value)} values where {count} are declared")
    if leaf.kind == "image":
        content.media[leaf.key] = _images(leaf.key, value)
    elif leaf.rows == "one":
        _set_attribute(content.attributes, leaf.key, _text(leaf.key, value[0]))
    else:
        content.texts[leaf.key] = tuple(_text(leaf.key, item) for item in value)


def _numbers(leaf: Leaf, value: Value, count: int | None) -> NDArray[Any]:
    """Numbers as [rows, *shape] (or [*shape] for one row): float32 as stored, integers in their declared width."""
    stored = np.dtype(np.float32 if leaf.dtype in _FLOATS else np.int64)
    if isinstance(value, list):
        if value:
            raise EpisodeError("bad_dtype", f"{leaf.key} is declared as {leaf.dtype} and holds bytes")
        value = np.zeros(0, stored)
    if value.dtype != stored:
        raise EpisodeError("bad_dtype", f"{leaf.key} is declared as {leaf.dtype} and holds {value.dtype}")
    rows = count if count is not None else (len(value) // leaf.width if leaf.width else 0)
    if rows * leaf.width != len(value):
        raise EpisodeError("length_mismatch", f"{leaf.key}: {len(value)} values do not fill {rows} x {leaf.shape}")
    array = value if stored == np.float32 else _narrowed(leaf, value)
    return array.reshape(leaf.shape if leaf.rows == "one" else (rows, *leaf.shape))


def _narrowed(leaf: Leaf, value: NDArray[Any]) -> NDArray[Any]:
    dtype = np.dtype(leaf.dtype)
    low, high = (0, 1) if dtype == np.bool_ else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if value.size and not (low <= int(value.min()) and int(value.max()) <= high):
        raise EpisodeError("value_out_of_range", f"{leaf.key}: {value.min()}..{value.max()} is no {leaf.dtype}")
    return value.astype(dtype)


def _images(key: str, encoded: Sequence[memoryview]) -> Media:
    """Encoded images of one camera, bytes untouched; they share codec and size, else `mixed_image_size`."""
    data = [bytes(item) for item in encoded]
    headers = []
    for row, item in enumerate(data):
        try:
            headers.append(images.sniff(item))
        except BadInput as error:
            raise EpisodeError(error.reason, f"{key}, image {row}: {error.what}") from None
    if not headers:
        raise EpisodeError("empty_stream", f"{key} holds no image")
    if len(set(headers)) > 1:
        sizes = sorted({f"{header.codec} {header.width} x {header.height}" for header in headers})
        raise EpisodeError("mixed_image_size", f"{key} mixes {', '.join(sizes)}")
    return images_media(key, headers[0].codec, data, headers[0].height, headers[0].width)


def _text(key: str, item: memoryview) -> str:
    try:
        return fields.as_text(bytes(item).decode(), key)
    except UnicodeDecodeError:
        raise EpisodeError("invalid_utf8", f"{key} holds text that is not UTF-8") from None


def _set_attribute(attributes: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split("/")
    for group in groups:
        attributes = attributes.setdefault(group, {})
    attributes[name] = value
