"""Evidence in raw streams, before any converter: what the numbers look like. Nothing is known of units or frames here.

Bounded: at most `MAX_EPISODES` episodes, `MAX_ROWS` rows of an array in each, and a few pictures of each camera.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media, RawEpisode
from dataengine.evidence.declared import DeclaredEvidence
from dataengine.evidence.pictures import Gallery, black, swapped
from dataengine.evidence.signals import Floats
from dataengine.evidence.values import TURN, copied_rows, typical
from dataengine.evidence.verdict import Verdict, most_serious
from dataengine.transforms.own_statistics import contradictions

MAX_EPISODES = 20
MAX_ROWS = 5000
MAX_COLUMNS = 512
PICTURE_EPISODES = 4
BEYOND = 1e100
NEAR_FRAMES = 60
"""Of a video only the beginning is decoded, so that looking stays quick."""


class RawEvidence:
    """Collects the streams of raw episodes one after the other; `verdicts` judges what was seen."""

    def __init__(self) -> None:
        self.episodes = 0
        self._arrays: dict[str, list[NDArray[Any]]] = {}
        self._copies = 0
        self._rows = 0
        self._pictures: dict[str, list[NDArray[np.uint8]]] = {}
        self._gallery = Gallery()
        self._told: dict[str, int] = {}
        self._contradicted: dict[str, list[str]] = {}
        self._declared = DeclaredEvidence()

    def add(self, raw: RawEpisode) -> None:
        """Look at one episode; beyond the bound it is passed over. Broken media raise an `EpisodeError`."""
        if self.episodes >= MAX_EPISODES or raw.messages:
            return
        self.episodes += 1
        kept = {name: array[:MAX_ROWS] for name, array in raw.arrays.items() if _usable(array)}
        for name, array in kept.items():
            self._arrays.setdefault(name, []).append(array)
        self._count_copies(kept)
        different = contradictions(raw.arrays, raw.told)
        for name in raw.told.keys() & raw.arrays.keys():
            self._told[name] = self._told.get(name, 0) + 1
            if name in different:
                self._contradicted.setdefault(name, []).append(f"{raw.upstream_id}: {different[name]}")
        self._declared.add(raw)
        if self.episodes <= PICTURE_EPISODES:
            for name, media in raw.media.items():
                self._pictures.setdefault(name, []).append(self._look(media))

    def _count_copies(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copied rows among the arrays that have the episode's most common length; counters do not count."""
        lengths = [len(array) for array in arrays.values()]
        if not lengths:
            return
        common = max(set(lengths), key=lambda length: (lengths.count(length), length))
        parts = [_flat(array) for array in arrays.values() if len(array) == common and array.dtype.kind == "f"]
        self._rows += common
        if parts:
            values = np.concatenate(parts, axis=1)
            steps = np.diff(values, axis=0)
            clock = np.all(steps >= 0, axis=0) & (np.mean(steps > 0, axis=0) > 0.5)
            # Where even a clock stands still, rows are copies however many there are.
            still = int(np.all(steps == 0, axis=1).sum()) if clock.any() else 0
            self._copies += max(still, copied_rows(values[:, ~np.all(steps > 0, axis=0)]))

    def _look(self, media: Media) -> NDArray[np.uint8]:
        reach = media.frames if media.kind == "images" else min(media.frames, NEAR_FRAMES)
        wanted = sorted({int(frame) for frame in np.linspace(0, reach - 1, 8)})
        found = self._gallery.media(media, wanted)
        return np.stack([found[frame] for frame in wanted])

    def verdicts(self) -> list[Verdict]:
        """Verdicts on all streams, warnings first."""
        found: list[Verdict] = []
        for name in sorted(self._arrays):
            parts = self._arrays[name]
            if is_clock(name) and parts[0].size == len(parts[0]):
                found += _clock(name, parts)
            elif parts[0].dtype.kind == "f":
                found += _numbers(name, [_flat(part) for part in parts], self._masked(name))
        sound = sum(verdict.check == "finite" and verdict.status == "ok" and not verdict.fix for verdict in found)
        found = [v for v in found if v.check != "finite" or v.status != "ok" or v.fix]
        if sound:
            says = f"{sound} arrays of numbers hold neither NaN nor infinity"
            found.append(Verdict("finite", "all other arrays", "ok", says, "", ("nan_island",)))
        if self._rows:
            found.append(_copied(self._copies, self._rows))
        found += _as_told(self._told, self._contradicted)
        found += self._declared.verdicts()
        for name in sorted(self._pictures):
            found += _pictured(name, self._pictures[name])
        return most_serious(found)

    def _masked(self, name: str) -> bool:
        """Whether a boolean stream beside this one can say where it is absent."""
        folder = name.rpartition("/")[0]
        return any(
            other.rpartition("/")[0] == folder and parts[0].dtype.kind == "b" for other, parts in self._arrays.items()
        )


def _as_told(told: Mapping[str, int], contradicted: Mapping[str, list[str]]) -> Iterator[Verdict]:
    """Arrays against the statistics that the source keeps of each episode."""
    for name, different in sorted(contradicted.items()):
        says = f"{len(different)} of {told[name]} episodes are not what the source's own statistics say; {different[0]}"
        fix = "the numbers or their statistics changed since: look at the rows, or take the statistics anew"
        yield Verdict("own_statistics", name, "warning", says, fix, ("changed_numbers",))
    sound = told.keys() - contradicted.keys()
    if sound:
        says = f"{len(sound)} arrays are what the source's own statistics of each episode say (extremes, means, rows)"
        yield Verdict("own_statistics", "all other arrays" if contradicted else "all arrays", "ok", says, "")


def is_clock(name: str) -> bool:
    """Whether a stream's name says that it holds times."""
    words = re.split(r"[/._ ]", name.lower())
    return "time" in name.lower() or words[-1] in ("t", "clock") or "stamp" in words


def _usable(array: NDArray[Any]) -> bool:
    return array.ndim >= 1 and len(array) >= 3 and array.dtype.kind in "fiub" and 1 <= array[0].size <= MAX_COLUMNS


def _flat(array: NDArray[Any]) -> Floats:
    """As columns [T, k]; what is not finite, or beyond any number that is measured, is NaN."""
    values = array.reshape(len(array), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(values) < BEYOND, values, np.nan)


def _clock(name: str, parts: Sequence[NDArray[Any]]) -> list[Verdict]:
    """Steps of a clock: backwards or twice the same, and gaps."""
    steps = np.concatenate([np.diff(_flat(part)[:, 0]) for part in parts])
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return []
    usual = float(np.median(steps))
    back, gaps = int((steps <= 0).sum()), int((steps > 1.5 * usual).sum())
    says = f"{len(steps):,} steps, usually {usual:.6g}; {back} of 0 or backwards, {gaps} longer than 1.5 times that"
    figures = {"backwards": float(back), "gaps": float(gaps)}
    if back:
        fix = "declare `time.merge_within_s` for rows that repeat"
        return [Verdict("time_steps", name, "warning", says, fix, ("duplicated_rows",), figures)]
    if gaps > 0.01 * len(steps) and usual > 0:
        fix = "rows in bursts: `time.merge_within_s`; real gaps: map the timestamps and split there"
        return [Verdict("time_steps", name, "warning", says, fix, ("time_gap",), figures)]
    return [Verdict("time_steps", name, "ok", says, "", (), figures)]


def _numbers(name: str, parts: Sequence[Floats], masked: bool) -> list[Verdict]:
    values = np.concatenate([part for part in parts if part.shape[1] == parts[0].shape[1]])
    found = [_finite(name, values, masked)]
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return found
    if np.ptp(values, axis=0).max() == 0.0:
        says = f"the same numbers in all {len(values):,} rows"
        return [*found, Verdict("frozen_stream", name, "unknown", says, "leave it out, or see why it never changes")]
    norm = np.linalg.norm(values, axis=1)
    if values.shape[1] == 4 and float((np.abs(norm - 1) < 0.02).mean()) > 0.9:
        return [*found, *_quaternion(name, parts, values, norm)]
    wraps = sum(_wraps(part) for part in parts)
    if wraps:
        says = f"{wraps} jumps by a full turn (6.28 or 360) between rows that otherwise go on smoothly"
        fix = "declare it as a rotation (`rotation: {form: euler, ...}`); never subtract such angles"
        found.append(Verdict("angle_wrap", name, "warning", says, fix, ("euler_wrap",), {"wraps": float(wraps)}))
    return [*found, _unit(name, values)] if values.shape[1] <= 64 else found


def _finite(name: str, values: Floats, masked: bool) -> Verdict:
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    figures = {"bad": float(bad)}
    says = f"{bad:,} of {len(values):,} rows hold NaN or infinity"
    if not bad:
        return Verdict("finite", name, "ok", says, "", ("nan_island",), figures)
    if masked:
        says += "; a stream beside it says where values are absent"
        return Verdict("finite", name, "ok", says, "map that stream as `mask`", ("nan_island",), figures)
    return Verdict("finite", name, "warning", says, "filter with `no_nan`, or map a mask", ("nan_island",), figures)


def _wraps(part: Floats) -> int:
    """Jumps of [T, k] from one end of a turn to the other (-pi to pi, 0 to 2 pi, or degrees), in smooth columns."""
    if len(part) < 10:
        return 0
    before, after = part[:-1], part[1:]
    change = np.abs(after - before)
    # How much the rows before and behind a jump change: an angle goes on smoothly.
    near = np.maximum(np.roll(change, 1, axis=0), np.roll(change, -1, axis=0))
    total = 0
    with np.errstate(invalid="ignore"):
        usual = typical(change)
        for turn in (TURN, 360.0):
            about_zero = (before * after < 0) & (np.minimum(np.abs(before), np.abs(after)) > 0.4 * turn)
            from_zero = (np.minimum(before, after) >= 0) & (np.minimum(before, after) < 0.1 * turn)
            full = (np.abs(change - turn) < 0.02 * turn + 3 * near) & (near < 0.03 * turn)
            total += int((full & (about_zero | from_zero) & (usual < 0.02 * turn)).sum())
    return total


def _quaternion(name: str, parts: Sequence[Floats], values: Floats, norm: Floats) -> list[Verdict]:
    worst = float(np.abs(norm - 1).max())
    flips = sum(int(((part[1:] * part[:-1]).sum(axis=1) < 0).sum()) for part in parts)
    says = f"four numbers of norm 1 within {worst:.2g} in {len(values):,} rows; the sign turns {flips} times"
    status, fix = ("warning", "normalise at the source") if worst > 0.01 else ("ok", "")
    first = Verdict("quaternion_norm", name, status, says, fix, (), {"error": worst, "flips": float(flips)})  # type: ignore[arg-type]
    told = next((order for order in ("wxyz", "xyzw") if order in name.lower()), None)
    size = np.abs(values).mean(axis=0)
    if told is not None:
        return [first, Verdict("quaternion_order", name, "ok", f"named {told}", "", ())]
    says = f"mean sizes {', '.join(f'{part:.2f}' for part in size)}: numbers alone do not tell wxyz from xyzw"
    fix = "find it in the producer's code, or give a converter: motion tells (see docs/inspect.md)"
    return [first, Verdict("quaternion_order", name, "unknown", says, fix, ("quaternion_order",))]


def _unit(name: str, values: Floats) -> Verdict:
    """What the range allows; a range never proves a unit."""
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    if low >= -0.01 and high <= 1.01:
        guess = "normalized 0..1, or a flag"
    elif largest <= 1.01:
        guess = "normalized -1..1, m or rad"
    elif largest <= np.pi + 0.01:
        guess = "rad or m"
    elif largest <= TURN + 0.01:
        guess = "rad (0..2 pi) or m"
    elif largest <= 361:
        guess = "degrees, cm, mm or pixels; too large for rad"
    else:
        guess = "mm, pixels or counts"
    says = f"{low:.4g} .. {high:.4g}: could be {guess}"
    return Verdict("unit_guess", name, "unknown", says, "declare `unit` with its evidence", ("degrees", "wrong_scale"))


def _copied(copies: int, rows: int) -> Verdict:
    says = f"{copies:,} of {rows:,} rows repeat the row before them while the rows around them move"
    bad = copies >= 3 and copies > 0.01 * rows
    fix = "declare `time.merge_within_s` if their times repeat too" if bad else ""
    figures = {"copies": float(copies)}
    return Verdict("repeated_rows", "all arrays", "warning" if bad else "ok", says, fix, ("duplicated_rows",), figures)


def _pictured(name: str, found: Sequence[NDArray[np.uint8]]) -> list[Verdict]:
    total = sum(map(len, found))
    dark = sum(int(black(pictures).sum()) for pictures in found)
    frozen = sum(int(np.ptp(pictures.astype(np.int16), axis=0).max() <= 2) for pictures in found if len(pictures) > 2)
    says = f"{total} pictures of {len(found)} episodes: {dark} black, {frozen} episodes without any change"
    figures = {"black": float(dark), "frozen": float(frozen), "pictures": float(total)}
    if dark > 0.5 * total or frozen == len(found):
        fix = "leave the view out of the converter"
        return [Verdict("blank_pictures", name, "warning", says, fix, ("black_view", "frozen_view"), figures)]
    return [Verdict("blank_pictures", name, "ok", says, "", (), figures), swapped(name, found, None)]
