"""Episodes, segments and shard tasks one by one; the keyed hashes that decide about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64

Run = tuple[int, int, int]
"""Windows `start <= w < stop` that count `weight` times each."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kept episode of `windows` windows; `sample_bytes` is an estimate of a sample's size.

    `source` is what the recipe calls its source. `runs` names the windows that may be taken, and how often each
    counts; None: all of them once.
    """

    uid: str
    source: str
    split: str
    windows: int
    sample_bytes: int
    runs: tuple[Run, ...] | None = None

    @property
    def offered(self) -> int:
        """How many samples it offers at rate 1."""
        return self.windows if self.runs is None else tickets(self.runs)


@dataclass(frozen=True, slots=True)
class Unit:
    """A segment: windows `start <= w < stop` of an episode, of which `count` samples are taken.

    `runs` are the windows that may be taken, where those are not all of them once.
    """

    uid: str
    source: str
    start: int
    stop: int
    count: int
    bytes: int
    runs: tuple[Run, ...] = ()


def tickets(runs: Iterable[Run]) -> int:
    """How many samples runs offer at rate 1."""
    return sum((stop - start) * weight for start, stop, weight in runs)


def runs_of(weights: NDArray[np.integer]) -> tuple[Run, ...]:
    """Weights by window [n] as runs of equal weight, without those of weight 0."""
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    found = [(start, stop, int(weights[start])) for start, stop in pairwise(edges) if stop > start]
    return tuple(run for run in found if run[2])


def clipped(runs: Iterable[Run], start: int, stop: int) -> tuple[Run, ...]:
    """The part of runs within `start <= w < stop`."""
    found = ((max(low, start), min(high, stop), weight) for low, high, weight in runs)
    return tuple(run for run in found if run[0] < run[1])


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The units of one shard, in uid order; `source` is the one they are all of, where the recipe wants it so."""

    split: str
    bucket: str
    units: tuple[Unit, ...]
    source: str = ""


def keyed_hash(seed: int, *parts: str | int) -> int:
    """A uniform 64-bit integer from a seed and names."""
    text = "\0".join([str(seed), *map(str, parts)]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def choose_split(group: str, valid: float, seed: int) -> str:
    """`valid` or `train` by hash of the group, so that a scene or an episode is never on both sides."""
    return "valid" if keyed_hash(seed, "split", group) < valid * (1 << HASH_BITS) else "train"


def chosen_windows(unit: Unit, seed: int) -> list[tuple[int, int]]:
    """The (window, repeat) pairs of a unit, sorted: all that it offers as often as fits, a keyed choice once more."""
    runs = unit.runs or ((unit.start, unit.stop, 1),)
    offered = np.concatenate([np.repeat(np.arange(low, high), weight) for low, high, weight in runs])
    every, extra = divmod(unit.count, len(offered))
    order = np.argsort(_mixed(keyed_hash(seed, "window", unit.uid, unit.start), len(offered)), kind="stable")
    times = np.full(len(offered), every)
    times[order[:extra]] += 1
    windows, place = np.unique(offered, return_inverse=True)
    totals = np.bincount(place, weights=times).astype(np.int64)
    return [
        (window, repeat)
        for window, total in zip(windows.tolist(), totals.tolist(), strict=True)
        for repeat in range(total)
    ]


def _mixed(key: int, count: int) -> NDArray[np.uint64]:
    """`count` keyed 64-bit values (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)
