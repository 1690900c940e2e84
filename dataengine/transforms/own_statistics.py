"""A source's numbers against the statistics that it keeps of each episode: what changed since they were taken shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Told

EXACT = 1e-6
MEAN, MEAN_ROW = 1e-5, 6e-8
"""Of the largest magnitude. Extremes are numbers of the data, at most rounded to float32. A mean may have been summed
row by row in float32, which loses up to half a unit in the last place (6e-8) a row."""


def contradictions(arrays: Mapping[str, NDArray[Any]], told: Mapping[str, Told]) -> dict[str, str]:
    """How arrays [T, ...] differ from what is told of them, by name; those that agree are left out."""
    found = {}
    for name, says in told.items():
        if name in arrays and (different := _differs(arrays[name], says)) is not None:
            found[name] = different
    return found


def _differs(array: NDArray[Any], told: Told) -> str | None:
    if array.dtype.kind not in "fiu" or array.ndim < 1:
        return None
    if len(array) != told.count:
        return f"{len(array)} rows, told of {told.count}"
    values = array.reshape(len(array), -1).astype(np.float64)
    if values.shape[1] != len(told.low):
        return f"{values.shape[1]} columns, told of {len(told.low)}"
    low, high, mean = (np.asarray(part, np.float64) for part in (told.low, told.high, told.mean))
    if not np.isfinite(np.concatenate([low, high, mean])).all():
        return None
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        return (
            f"row {bad[0][0]}, column {bad[0][1]} is not finite, told of {low[bad[0][1]]:.6g} to {high[bad[0][1]]:.6g}"
        )
    scale = np.maximum(np.abs(low), np.abs(high))
    outside = np.argwhere((values < low - EXACT * scale) | (values > high + EXACT * scale))
    if len(outside):
        row, column = outside[0]
        return (
            f"row {row}, column {column} is {values[row, column]:.6g}, told of {low[column]:.6g} to {high[column]:.6g}"
        )
    off = np.maximum(np.abs(values.min(0) - low), np.abs(values.max(0) - high)) > EXACT * scale
    if off.any():
        column = np.argmax(off)
        span = f"{values[:, column].min():.6g} to {values[:, column].max():.6g}"
        return f"column {column} goes from {span}, told of {low[column]:.6g} to {high[column]:.6g}"
    far = np.abs(values.mean(0) - mean) > (MEAN + MEAN_ROW * len(values)) * scale
    if far.any():
        column = np.argmax(far)
        return f"the mean of column {column} is {values[:, column].mean():.9g}, told of {mean[column]:.9g}"
    return None
