"""What a draft of a converter goes by: the rows of the first episode, its clocks, and names as YAML takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import RawEpisode
from dataengine.evidence.raw import is_clock
from dataengine.inspection.found import Stream
from dataengine.inspection.streams import clock_scale
from dataengine.transforms.language import MAX_NAME, printable

_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
_UNIT_NAMES = {1.0: "s", 1e-3: "ms", 1e-6: "us", 1e-9: "ns"}


@dataclass(frozen=True)
class Shape:
    """Rows of the first episode: `steps` of its actions, `observed` (steps or one more), and its row clock."""

    steps: int
    observed: int
    clock: str | None


def shape_of(raw: RawEpisode, streams: Mapping[str, Stream]) -> Shape:
    """The rows of an episode: those of what is named like an action, else the most common number."""
    lengths = [len(array) for array in raw.arrays.values() if array.ndim and len(array) > 1]
    lengths += [media.frames for media in raw.media.values()]
    common = max(set(lengths), key=lambda length: (lengths.count(length), length)) if lengths else 0
    acted = {len(a) for name, a in raw.arrays.items() if commands(name) and a.ndim and len(a) > 1}
    steps = acted.pop() if len(acted) == 1 else common
    observed = steps + 1 if steps + 1 in lengths else steps
    clocks = [
        name
        for name, array in sorted(raw.arrays.items())
        if is_clock(name) and array.ndim and len(array) in (steps, observed) and array.size == len(array)
        and not streams[name].backwards
    ]  # fmt: skip
    return Shape(steps, observed, min(clocks, key=lambda name: ("time" not in name.lower(), name), default=None))


def own_clock(name: str, array: NDArray[Any], raw: RawEpisode, shape: Shape) -> str | None:
    """The clock of an array: of its length, nearest by name; of two the one that is called like the episode's."""
    rows = len(array)
    fitting = [n for n, other in raw.arrays.items() if is_clock(n) and other.ndim and len(other) == other.size == rows]
    called = (shape.clock or "").rpartition("/")[2]

    def near(other: str) -> tuple[int, bool]:
        pairs = enumerate(zip(name, other, strict=False))
        shared = next((at for at, (one, two) in pairs if one != two), min(len(name), len(other)))
        return shared, other.rpartition("/")[2] == called

    return max(sorted(fitting), key=near, default=None)


def apart(name: str, clock: str, raw: RawEpisode, shape: Shape) -> bool:
    """Whether an array with a row a step has a clock beside it whose times are others than the episode's."""
    beside = clock.rpartition("/")[0]
    if shape.clock in (None, clock) or not beside or not name.startswith(f"{beside}/"):
        return False
    return not np.array_equal(raw.arrays[clock].ravel(), raw.arrays[str(shape.clock)].ravel())


def unit_of(name: str, array: NDArray[Any]) -> tuple[str, bool]:
    """The unit of a clock, and whether its name tells it."""
    flat = array.reshape(len(array)).astype(np.float64)
    unit = _UNIT_NAMES[clock_scale(name, array.dtype, flat - flat[0])]
    return unit, name.lower().endswith(f"_{unit}")


def commands(name: str) -> bool:
    """Whether an array is named like what was commanded: where it is drafted, not what it is."""
    return re.search(r"action|command|cmd|target|desired|setpoint", name.lower()) is not None


def quoted(name: str) -> str:
    """A name as YAML reads it back."""
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]*", name, re.ASCII)
    return name if plain and name.lower() not in _WORDS else json.dumps(name, ensure_ascii=False)


def shown(name: str) -> str:
    """A name in a comment: one line."""
    return printable(name, MAX_NAME)


def at_path(attributes: Mapping[str, Any], path: str) -> Any:
    """The attribute at a path with slashes, or None."""
    value: Any = attributes
    for part in path.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
