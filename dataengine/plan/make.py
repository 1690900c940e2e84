"""From kept episodes to shard tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import sha256_json
from dataengine.plan.columns import SPLITS, Candidates, Ints, Tasks
from dataengine.plan.units import HASH_BITS, Candidate, clipped, keyed_hash, tickets
from dataengine.specs.recipe import Recipe, RecipeSource
from dataengine.specs.records import Pins

_MAX_SPLIT_DEPTH = 24
_POINT = 20
"""Bits behind the point of an expected number of samples."""


@dataclass(frozen=True)
class _Units:
    """Segments in columns [u], by episode and start: `expected` is the number of samples times 2^_POINT."""

    row: NDArray[np.int32]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    expected: Ints


def _segments(candidates: Candidates, rates: NDArray[np.float64], segment: int) -> _Units:
    """Every segment that offers something, with what its source's rate makes of that."""
    pieces = -(-candidates.windows // segment)
    row = np.repeat(np.arange(len(candidates), dtype=np.int32), pieces)
    firsts = np.repeat((np.cumsum(pieces, dtype=np.int64) - pieces).astype(np.int64), pieces)
    start = ((np.arange(len(row)) - firsts) * segment).astype(np.int32)
    stop = np.minimum(start + segment, candidates.windows[row]).astype(np.int32)
    offered = (stop - start).astype(np.int64)
    for unit in np.flatnonzero(candidates.narrowed[row]).tolist():
        runs = candidates.runs_of(int(row[unit]))
        offered[unit] = tickets(clipped(runs, int(start[unit]), int(stop[unit])))
    expected = np.rint(offered * rates[candidates.source[row]] * (1 << _POINT)).astype(np.int64)
    some = np.flatnonzero(expected)
    return _Units(row[some], start[some], stop[some], expected[some])


def make_tasks(recipe: Recipe, candidates: Iterable[Candidate] | Candidates, pins: Pins) -> Tasks:
    """Assign every unit to a bucket by its hash, split overfull buckets, and decide how many samples each unit gives.

    Where the recipe's mix is `scheduled` every source has buckets of its own, and every window is taken once.
    """
    found = candidates if isinstance(candidates, Candidates) else Candidates.of(candidates)
    once = bool(pins.sources)
    rates = np.array([1.0 if once else pins.rates[name] for name in found.names], np.float64)
    units = _segments(found, rates, recipe.shards.segment)
    group, rest, groups = _buckets(recipe.seed, found, units, pins)
    order = np.lexsort((rest, group))
    sizes = (units.expected * found.sample_bytes[units.row]) >> _POINT
    sums = np.concatenate([[0], np.cumsum(sizes[order])])
    leaves: list[tuple[int, int]] = []
    places: list[tuple[str, str, str]] = []
    edges = np.searchsorted(group[order], np.arange(len(groups) + 1))
    for number, (split, source, bucket) in enumerate(groups):
        for name, low, high in _leaves(rest, order, sums, (int(edges[number]), int(edges[number + 1])), recipe):
            leaves.append((low, high))
            places.append((split, f"{bucket:05d}{name}", source))
    del sizes, sums, group, rest  # of ten million episodes they are half a gigabyte
    return _counted(recipe.seed, found, units, order, leaves, places)


def _buckets(
    seed: int, candidates: Candidates, units: _Units, pins: Pins
) -> tuple[Ints, NDArray[np.uint64], list[tuple[str, str, int]]]:
    """Of each unit the number of its bucket and its place within; and what the buckets are called, in order."""
    uids, rows = candidates.uids, zip(units.row.tolist(), units.start.tolist(), strict=True)
    hashes = (keyed_hash(seed, "bucket", uids[row].tobytes().hex(), start) for row, start in rows)
    place = np.fromiter(hashes, np.uint64, len(units.row))
    sources = pins.sources or ("",)
    counts = np.array([[_bucket_count(pins, split, source) for source in sources] for split in SPLITS], np.int64)
    own = np.zeros(len(units.row), np.int64)
    if pins.sources:
        own = np.array([sources.index(name) for name in candidates.names], np.int64)[candidates.source[units.row]]
    split = candidates.split[units.row].astype(np.int64)
    number = counts[split, own].astype(np.uint64)
    high, low = place >> np.uint64(32), place & np.uint64(0xFFFFFFFF)
    bucket = (high * number + (low * number >> np.uint64(32))) >> np.uint64(32)
    firsts = np.concatenate([[0], np.cumsum(counts.ravel())])[:-1].reshape(counts.shape)
    names = [
        (SPLITS[s], source, bucket)
        for s in range(len(SPLITS))
        for n, source in enumerate(sources)
        for bucket in range(int(counts[s, n]))
    ]
    with np.errstate(over="ignore"):
        return firsts[split, own] + bucket.astype(np.int64), place * number, names


def _bucket_count(pins: Pins, split: str, source: str) -> int:
    return pins.buckets.get(f"{split}/{source}" if source else split, 1)


def _leaves(
    rest: NDArray[np.uint64], order: Ints, sums: Ints, span: tuple[int, int], recipe: Recipe
) -> Iterator[tuple[str, int, int]]:
    """Parts of a bucket that are not overfull: (what is added to its name, first, stop) in `order`."""
    waiting = [("", *span)]
    while waiting:
        name, low, high = waiting.pop()
        depth = len(name) - 1 if name else 0
        small = sums[high] - sums[low] <= recipe.shards.max_bytes
        if low == high:
            continue
        if small or high - low == 1 or depth == _MAX_SPLIT_DEPTH:
            yield name, low, high
            continue
        bits = rest[order[low:high]] >> np.uint64(HASH_BITS - 1 - depth) & np.uint64(1)
        middle = low + int(np.searchsorted(bits, 1))
        joint = name or "."
        waiting += [(f"{joint}1", middle, high), (f"{joint}0", low, middle)]


def _counted(
    seed: int,
    candidates: Candidates,
    units: _Units,
    order: Ints,
    leaves: Sequence[tuple[int, int]],
    places: Sequence[tuple[str, str, str]],
) -> Tasks:
    """Samples of every unit: in each leaf the units of a source, by uid, share out what they amount to together."""
    spans = np.array(leaves, np.int64).reshape(-1, 2)
    leaf = np.repeat(np.arange(len(spans)), spans[:, 1] - spans[:, 0])
    source = candidates.source[units.row[order]].astype(np.int64)
    by_source = np.lexsort((order, source, leaf))
    chosen = order[by_source]
    key = leaf[by_source] * len(candidates.names) + source[by_source]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    phases = np.array(
        [_phase(seed, places[k // len(candidates.names)], candidates.names[k % len(candidates.names)])
         for k in key[first].tolist()], np.int64,
    )  # fmt: skip
    sums = np.concatenate([[0], np.cumsum(units.expected[chosen])])
    lengths = np.diff(np.append(first, len(chosen)))
    offset = np.repeat(phases - sums[first], lengths)
    counts = ((sums[1:] + offset) >> _POINT) - ((sums[:-1] + offset) >> _POINT)
    back = np.lexsort((chosen, leaf[by_source]))
    back = back[counts[back] > 0]
    final = chosen[back]
    edges = np.searchsorted(leaf[by_source][back], np.arange(len(spans) + 1))
    some = np.flatnonzero(np.diff(edges))
    columns = (units.row[final], units.start[final], units.stop[final], counts[back].astype(np.int32))
    return Tasks(candidates, columns, np.append(edges[some], len(final)), [places[n] for n in some.tolist()])


def _phase(seed: int, place: tuple[str, str, str], source: str) -> int:
    """Where in the first sample a source begins to count: a keyed draw in 0..2^_POINT - 1."""
    return keyed_hash(seed, "count", *place, source) >> (HASH_BITS - _POINT)


def plan_id(recipe: Recipe, digest: str, pins: Pins, answers: str | None = None) -> str:
    """sha256 of the resolved recipe, its pins and the lake's content: no path, commit, clock or host.

    `answers` is the digest of what models said, for a recipe that asks them.
    """
    told = {} if answers is None else {"answers": answers}
    return sha256_json({"recipe": recipe.resolved(), "pins": pins.canonical(), "lake": digest, **told})


def source_of(recipe: Recipe, name: str) -> RecipeSource:
    """The recipe's source of this name."""
    return next(source for source in recipe.sources if source.entry == name)
