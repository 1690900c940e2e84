"""Whole shards, repeated so that a stock reader that knows no schedule meets the sources about as often as drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dataengine.schedule import MixSchedule
from dataengine.shuffle import Integers, key_of, keys_at


class Repeats(NamedTuple):
    """The shards of an epoch in their order as (source, its n-th shard); and by source its share, wanted and met."""

    shards: list[tuple[str, int]]
    shares: dict[str, tuple[float, float]]


def repeats(schedule: MixSchedule, shards: Mapping[str, Sequence[int]], epoch: int = 0) -> Repeats:
    """An epoch of a schedule in whole shards, stage after stage, each stage in a keyed order of its own.

    A source's shards follow each other in an endless row, and one is read in the stage and epoch in which the middle
    of its samples would be drawn. So in any stage a source is off its draws by less than its largest shard, over many
    epochs no more, and each shard is read once before any is read again.

    Args:
        schedule: of sources that have the samples of `shards`.
        shards: how many samples each shard of a source has.
        epoch: another one takes other shards of a source that is drawn less than once.
    """
    totals = schedule.counts.sum(axis=0)
    done = totals * epoch
    order: list[tuple[str, int]] = []
    met = dict.fromkeys((name for name, _ in schedule.sources), 0)
    for (stage, _, _), counts in zip(schedule.stages, schedule.counts, strict=True):
        found: list[tuple[str, int]] = []
        for number, (name, _) in enumerate(schedule.sources):
            begin = int(done[number])
            read = _between(np.array(shards.get(name, ()), np.int64), begin, begin + int(counts[number]))
            found += [(name, int(at)) for at in read]
            met[name] += sum(shards[name][at] for at in read.tolist())
        done = done + counts
        keys = keys_at(key_of(schedule.seed, "shards", epoch, stage), np.arange(len(found)))
        order += [found[at] for at in np.argsort(keys, kind="stable").tolist()]
    whole = sum(met.values()) or 1
    names = enumerate(schedule.sources)
    shares = {name: (int(totals[at]) / len(schedule), met[name] / whole) for at, (name, _) in names}
    return Repeats(order, shares)


def _between(sizes: Integers, begin: int, end: int) -> Integers:
    """Numbers of the shards, endlessly repeated, whose middle sample lies in `begin <= sample < end`."""
    if begin == end:
        return np.empty(0, np.int64)
    whole = int(sizes.sum())
    middles = 2 * (np.cumsum(sizes) - sizes) + sizes  # twice the place, to stay whole
    passes = np.arange(begin // whole, (end - 1) // whole + 1)
    places = 2 * whole * passes[:, None] + middles
    inside = (places >= 2 * begin) & (places < 2 * end)
    return np.asarray(np.nonzero(inside)[1], np.int64)
