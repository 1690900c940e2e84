"""What values a training population can hold: the least and the greatest that its statistics saw, by channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.schema import WIDTH, unified

SLACK = 1e-6
"""Of the largest magnitude: values are float32."""
_Range = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass
class Bounds:
    """Ranges of a `normalization.json`, looked up by a sample's facts."""

    groups: Mapping[str, Any]
    per_dataset: bool
    _known: dict[tuple[str, ...], _Range] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Bounds:
        return cls(document["groups"], document.get("per") == "dataset")

    def outside(
        self, side: str, facts: Mapping[str, Any], values: NDArray[Any], mask: NDArray[np.bool_]
    ) -> Iterator[str]:
        """Which of the values [256] at a step that the statistics count they never saw."""
        key = (facts["embodiment"], facts["control_mode"], facts["converter"])
        low, high = self._range(side, key)
        with np.errstate(invalid="ignore"):
            slack = SLACK * np.maximum(np.abs(low), np.abs(high)) + SLACK
            inside = (values >= low - slack) & (values <= high + slack)
        for channel in np.flatnonzero(mask & ~inside)[:1].tolist():
            slot, value = unified().slot_at(channel).key, float(values[channel])
            span = f"[{low[channel]:.6g}, {high[channel]:.6g}]"
            yield f"{side} {slot} (channel {channel}) is {value:.6g}, and the statistics saw {span}"

    def _range(self, side: str, key: tuple[str, str, str]) -> _Range:
        """(least, greatest) [256]; NaN where the statistics saw nothing."""
        found = self._known.get((side, *key))
        if found is None:
            found = np.full(WIDTH, np.nan), np.full(WIDTH, np.nan)
            native = unified().slot("native")
            for name, own in (("/".join(key[:2]), False), ("/".join(key), True)):
                for entry in self.groups.get(name, {}).get(side, {}).get("absolute", ()):
                    channel = entry["channel"]
                    if entry["n"] and own == (self.per_dataset or native.start <= channel < native.stop):
                        found[0][channel], found[1][channel] = entry["min"], entry["max"]
            self._known[(side, *key)] = found
        return found
