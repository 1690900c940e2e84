"""What the values of every channel are like, before and after normalization, and how many leave the range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.mixture.statistics import BARS, Stored
from dataengine.normalization.bins import Bins
from dataengine.normalization.channel import ChannelStatistics
from dataengine.normalization.document import counted
from dataengine.normalization.group import Group, joined
from dataengine.normalization.population import Side
from dataengine.report.version import rounded
from dataengine.schema import unified
from dataengine.transforms.representation import Representation

_NUMBERS = ("low", "high", "min", "max", "mean", "std", "q01", "q99", "clip")
Floats = NDArray[np.float64]
Key = tuple[str, str, str, int]  # group, side, representation, channel


def channels(found: Stored) -> list[dict[str, Any]]:
    """One row a channel, side and representation: range, method, numbers, histograms and shares outside.

    `outside` is the share of values outside `low..high`, which normalize to beyond +-1; `cut` the share that the clip
    changes. `before` and `after` are histograms of `BARS` bars, of physical and of normalized values; None in versions
    without their statistics.
    """
    statistics = _by_channel(found)
    rows = []
    for group, entries in found.document["groups"].items():
        for side in ("state", "action"):
            for form, items in entries[side].items():
                for item in items:
                    own = statistics.get((group, side, form, item["channel"]))
                    rows.append({"group": group, "side": side, "form": form, **_row(item, own)})
    return rows


def _by_channel(found: Stored) -> dict[Key, ChannelStatistics]:
    groups = {} if found.statistics is None else found.statistics.groups
    return {
        (joined(key), side, form, channel): entry
        for key, group in groups.items()
        for side, form in _forms(group)
        for channel, _, entry, _ in counted(group, side, form)
    }


def _forms(group: Group) -> list[tuple[Side, Representation]]:
    return [("state", "absolute"), *(("action", form) for form in group.representations)]


def _row(item: Mapping[str, Any], own: ChannelStatistics | None) -> dict[str, Any]:
    slot = unified().slot_at(item["channel"])
    names = slot.names[item["channel"] - slot.start] if slot.names else str(item["channel"] - slot.start)
    seen = item.get("seen", {})
    bins = own.bins if own is not None and own.moments.count else None
    return {
        "slot": item["slot"],
        "channel": item["channel"],
        "name": names,
        **{name: item[name] for name in ("unit", "frame", "method", "class")},
        "n": seen.get("n", item["n"]),
        "excluded": seen.get("excluded", item["excluded"]),
        **{name: rounded(item[name]) for name in _NUMBERS},
        "cut": rounded(seen.get("clip_rate", item["clip_rate"]), 4),
        "outside": None if bins is None else rounded(_outside(item, bins), 4),
        "before": None if bins is None else _before(bins),
        "after": None if bins is None else _after(item, bins),
    }


def _outside(item: Mapping[str, Any], bins: Bins) -> float | None:
    if item["low"] is None or item["method"] in ("identity", "sincos"):
        return None
    return bins.outside(item["low"], item["high"]) / bins.n if item["high"] > item["low"] else 0.0


def _before(bins: Bins) -> dict[str, Any]:
    low, high = bins.quantiles((0.001, 0.999))
    return {"low": rounded(low), "high": rounded(high), "counts": bins.histogram(low, high, BARS).tolist()}


def _after(item: Mapping[str, Any], bins: Bins) -> dict[str, Any] | None:
    """The values as the loader gives them, over the range that the clip leaves."""
    values = normalized(item, bins.representatives())
    if values is None:
        return None
    reach = item["clip"] or max(1.0, float(np.abs(values).max()))
    place = np.clip(np.floor((values + reach) / (2 * reach) * BARS), 0, BARS - 1).astype(np.intp)
    counts = np.bincount(place, weights=bins.counts, minlength=BARS).astype(np.int64)
    return {"low": rounded(-reach), "high": rounded(reach), "counts": counts.tolist()}


def normalized(item: Mapping[str, Any], values: Floats) -> Floats | None:
    """What `Normalizer.forward` makes of values [n] by a channel's entry; None where it has no range.

    With statistics per step this is the scaling of the whole channel, which no single step has.
    """
    if item["low"] is None:
        return None
    if item["method"] == "sincos":
        return np.sin(values)
    low, high, clip = item["low"], item["high"], item["clip"]
    half = (high - low) / 2
    scaled: Floats = (values - (low + half)) / (half if half > 0 else np.inf)
    return scaled if clip is None else np.clip(scaled, -clip, clip)
