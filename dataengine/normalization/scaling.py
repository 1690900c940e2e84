"""How a channel is normalized: its method, and the `low` and `high` that are mapped to -1 and 1.

Every method is one affine map, `2 (a - low) / (high - low) - 1`, clipped to +-1.5, so that a reader of the document
needs no rules: `quantile` takes q01 and q99; `binary` takes 0 and 1 (grippers, flags); `identity` takes -1 and 1
(rot6d). Where low = high the channel is constant: forward gives 0, the inverse gives the constant.

Channels that hardly move are classified and never divided by an epsilon: `constant` when the whole range is within
the unit's floor; `sparse` when q01..q99 is but the range is not: then q001..q999, mean +- 4 std, or mean +- the
unit's fixed scale, whichever is the first to exceed the floor.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from dataengine.normalization.channel import ChannelStatistics
from dataengine.schema import Slot
from dataengine.transforms.representation import Representation

CLIP = 1.5
DOCUMENT_VERSION = 1
Method = Literal["quantile", "binary", "identity"]
Kind = Literal["regular", "constant", "sparse", "empty"]
_QUANTILES = (0.001, 0.01, 0.99, 0.999)

# (floor, fixed scale) in the unit: what is no motion, and half of a range that any body stays within.
UNITS: dict[str, tuple[float, float]] = {
    "m": (1e-4, 1.0),
    "rad": (1e-3, math.pi),
    "rot6d": (1e-3, 1.0),
    "rotvec": (1e-3, math.pi),
    "m/s": (1e-3, 1.0),
    "rad/s": (1e-3, math.pi),
    "N": (1e-2, 100.0),
    "N m": (1e-2, 100.0),
    "open01": (1e-3, 1.0),
    "flag": (1e-3, 1.0),
    "frac": (1e-4, 1.0),
    "mano_pca": (1e-3, 3.0),
}
PER_STEP_SHARE = 0.1  # steps accumulate: what is no motion in a pose is motion ten steps later
NATIVE_SHARE = 1e-6  # a native unit has no table: its floor is this share of the largest magnitude
PER_STEP = frozenset({"eef_step_pos", "eef_step_rot"})
_BINARY = frozenset({"gripper", "nav_stop", "terminate"})


def method_of(slot: Slot, channel: int) -> Method:
    """The method of a channel, by its slot."""
    flag = slot.group == "pixel_trace" and slot.names[channel - slot.start] == "visible"
    if slot.group in _BINARY or slot.action == "label" or flag:
        return "binary"
    return "identity" if slot.unit == "rot6d" else "quantile"


def floor_and_scale(slot: Slot, representation: Representation, low: float, high: float) -> tuple[float, float]:
    """The floor and the fixed scale of a slot whose values span `low..high`."""
    if slot.unit in UNITS:
        floor, scale = UNITS[slot.unit]
    else:
        floor, scale = NATIVE_SHARE * max(abs(low), abs(high)), (high - low) / 2
    if representation == "delta" or slot.group in PER_STEP:
        floor *= PER_STEP_SHARE
    return floor, scale


def entry(statistics: ChannelStatistics, slot: Slot, channel: int, representation: Representation) -> dict[str, Any]:
    """One channel's entry in `normalization.json`. Numbers that do not exist (no values at all) are null."""
    pool, moments, bins = statistics.pool, statistics.moments, statistics.bins
    method = method_of(slot, channel)
    result: dict[str, Any] = {
        "slot": slot.key,
        "channel": channel,
        "unit": pool.unit,
        "frame": pool.frame,
        "hz": None if pool.hz is None else list(pool.hz),
        "horizon": pool.horizon,
        "n": moments.count,
        "excluded": moments.excluded,
        "bin_level": bins.level,
        "method": method,
        "clip": CLIP,
    }
    names = ("min", "max", "mean", "std", "q001", "q01", "q99", "q999", "low", "high", "range", "clip_rate")
    if moments.count == 0:
        return result | {"class": "empty"} | dict.fromkeys(names)
    quantiles = bins.quantiles(_QUANTILES)
    found = dict(zip(names, (moments.low, moments.high, moments.mean, moments.std, *quantiles), strict=False))
    kind, span, low, high = _range(found, *floor_and_scale(slot, representation, moments.low, moments.high))
    if method != "quantile":
        span, (low, high) = method, (0.0, 1.0) if method == "binary" else (-1.0, 1.0)
    centre, reach = (low + high) / 2, CLIP * (high - low) / 2
    outside = bins.outside(centre - reach, centre + reach) if high > low else 0
    return (
        result
        | found
        | {
            "class": kind,
            "range": span,
            "low": low,
            "high": high,
            "clip_rate": outside / moments.count,
        }
    )


def _range(found: dict[str, float], floor: float, scale: float) -> tuple[Kind, str, float, float]:
    """The class of a channel, the name of the range taken, and the range."""
    if found["max"] - found["min"] <= floor:
        middle = found["min"] + (found["max"] - found["min"]) / 2
        return "constant", "constant", middle, middle
    if found["q99"] - found["q01"] > floor:
        return "regular", "q01_q99", found["q01"], found["q99"]
    mean, std = found["mean"], found["std"]
    for span, low, high in (
        ("q001_q999", found["q001"], found["q999"]),
        ("mean_4std", mean - 4 * std, mean + 4 * std),
    ):
        if high - low > floor:
            return "sparse", span, low, high
    return "sparse", "fixed", mean - scale, mean + scale
