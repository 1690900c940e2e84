"""The sampling schedule of a scheduled mixture: which sample of which source is drawn at which place of an epoch.

Shards hold one source each, and the mixture is made while it is read. An epoch is a sequence of stages, a stage a
sequence of draws, and every draw is found by arithmetic from (seed, epoch, place): nothing is stored, and nothing
before it is computed.

- Within a stage every source has exactly the number of draws that largest remainders give it (`apportion`).
- A stage is cut into blocks of 256 draws or more (four times the number of sources, as a power of two, if that is
  more; less than twice that). After k of m blocks a source has had k/m of its draws, off by less than one, so that
  at any place p of a stage it is off its exact share of p by less than 1 + share * (size of a block + sources) draws
  (`bound`). Within a block the order of the sources is a keyed shuffle.
- A source's samples are drawn in passes, each a keyed order of all of them. The next pass begins where the one before
  ends, across stages and epochs: no sample is drawn a second time before each was drawn once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import SpecError
from dataengine.shuffle import Integers, Orders, key_of, keys_at, shuffled_rows

MAX_SOURCES = 4096
MAX_DRAWS = 1 << 39  # a stage: what its arithmetic holds in 64 bits
_LEAST_BLOCK = 256
_SPAN = 1 << 15  # draws that are made together: their arrays stay in the cache
_PIECE = 1 << 16  # places looked up together


class Draws(NamedTuple):
    """Draws in their order: `sources` [n] the number of the source, `samples` [n] the number of the sample in it."""

    sources: NDArray[np.int32]
    samples: Integers


def apportion(total: int, parts: Sequence[float]) -> list[int]:
    """`total` shared out in whole numbers by largest remainders, exactly; on a tie the earlier part comes first.

    Raises:
        SpecError: a part is negative or not finite, or all are 0.
    """
    if not all(0 <= part < float("inf") for part in parts) or not any(parts):
        raise SpecError(f"the shares {list(parts)[:8]} share out nothing", fix="give shares >= 0, one of them above 0")
    exact = [Fraction(part) for part in parts]
    whole = sum(exact)
    quotas = [total * part / whole for part in exact]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(parts)), key=lambda at: (counts[at] - quotas[at], at))
    for at in order[: total - sum(counts)]:
        counts[at] += 1
    return counts


@dataclass(frozen=True)
class MixSchedule:
    """Draws by number; see the module for what holds of them.

    Args:
        seed: another seed gives other orders and the same counts.
        sources: (name, number of samples) of each. Names and numbers key the orders of passes.
        stages: (name, draws per epoch, share of each source); shares count beside each other and need not sum to 1.

    Raises:
        SpecError: no source, no stage, a stage of no draws, a share for a source without samples.
    """

    seed: int
    sources: tuple[tuple[str, int], ...]
    stages: tuple[tuple[str, int, tuple[float, ...]], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.sources) <= MAX_SOURCES or not self.stages:
            what = f"a schedule of {len(self.sources)} sources and {len(self.stages)} stages"
            raise SpecError(what, fix=f"give 1 to {MAX_SOURCES} sources and a stage")
        for name, draws, shares in self.stages:
            if not 0 < draws <= MAX_DRAWS or len(shares) != len(self.sources):
                raise SpecError(f"stage {name!r} has {draws} draws and {len(shares)} shares, one is due per source")
            empty = [source for (source, size), share in zip(self.sources, shares, strict=True) if share and size < 1]
            if empty:
                raise SpecError(f"stage {name!r} draws from {empty[0]!r}, which has no samples", fix="share 0")
        self._cut  # noqa: B018 - wrong shares are told here

    @classmethod
    def of(cls, document: Mapping[str, Any], samples: Mapping[str, int], seed: int) -> MixSchedule:
        """The schedule a manifest describes: `{"stages": [{"name", "draws", "shares": {source: share}}]}`.

        `samples` says how many each source has; its order is that of `sources`.
        """
        unknown = sorted({name for stage in document["stages"] for name in stage["shares"]} - samples.keys())
        if unknown:
            raise SpecError(f"the schedule draws from {unknown[0]!r}, of which there are no shards")
        stages = (
            (stage["name"], stage["draws"], tuple(stage["shares"].get(name, 0.0) for name in samples))
            for stage in document["stages"]
        )
        return cls(seed, tuple(samples.items()), tuple(stages))

    def __len__(self) -> int:
        """Draws in an epoch."""
        return sum(draws for _, draws, _ in self.stages)

    @property
    def counts(self) -> Integers:
        """[stages, sources] draws in an epoch, exact."""
        return np.array([stage.counts for stage in self._cut])

    def bound(self, stage: int) -> NDArray[np.float64]:
        """[sources]: within a stage, what a source's draws up to any place are less than off its exact part of them."""
        cut = self._cut[stage]
        spread = len(self.sources) if cut.blocks > 1 else 0
        return 1.0 + cut.counts / cut.draws * (cut.draws / cut.blocks + spread)

    def take(self, places: NDArray[np.integer], epoch: int = 0) -> Draws:
        """The draws at `places` [n] of an epoch, each in `0 .. len - 1`, in any order.

        The time for a place is bounded by the size of a block and does not grow with the epoch; places beside each
        other share it.
        """
        wanted: Integers = places.astype(np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"places {wanted.min()} to {wanted.max()} of {len(self)} draws")
        found = Draws(np.empty(len(wanted), np.int32), np.empty(len(wanted), np.int64))
        for start in range(0, len(wanted), _PIECE):
            self._look_up(wanted[start : start + _PIECE], epoch, found, start)
        return found

    def blocks(self, epoch: int = 0, start: int = 0) -> Iterator[Draws]:
        """All draws of an epoch from place `start` on, some tens of thousands at a time."""
        for cut in self._cut:
            if start >= cut.first + cut.draws:
                continue
            maker = self._maker(cut, epoch)
            skip = max(0, start - cut.first)
            block = int(maker.blocks_of(np.array([skip]))[0]) if skip else 0
            skip -= int(maker.starts(np.array([block]))[0])
            for first in range(block, cut.blocks, cut.span):
                made = maker.make(np.arange(first, min(first + cut.span, cut.blocks)))
                yield Draws(made.sources[skip:], made.samples[skip:]) if skip else made
                skip = 0

    def _look_up(self, places: Integers, epoch: int, found: Draws, at: int) -> None:
        for cut in self._cut:
            chosen = np.flatnonzero((places >= cut.first) & (places < cut.first + cut.draws))
            if not chosen.size:
                continue
            maker = self._maker(cut, epoch)
            wanted = places[chosen] - cut.first
            blocks, owner = np.unique(maker.blocks_of(wanted), return_inverse=True)
            by_block = np.argsort(owner, kind="stable")
            edges = np.searchsorted(owner[by_block], np.arange(0, len(blocks) + cut.span, cut.span))
            for number, first in enumerate(range(0, len(blocks), cut.span)):
                ours = by_block[edges[number] : edges[number + 1]]
                group = blocks[first : first + cut.span]
                starts, sizes = maker.starts(group), maker.sizes(group)
                shift = np.cumsum(sizes) - sizes - starts
                made = maker.make(group)
                inside = wanted[ours] + shift[owner[ours] - first]
                found.sources[at + chosen[ours]] = made.sources[inside]
                found.samples[at + chosen[ours]] = made.samples[inside]

    def _maker(self, cut: _Cut, epoch: int) -> _Maker:
        if epoch < 0:
            raise SpecError(f"epoch {epoch} is none", fix="give 0 or more")
        key = key_of(self.seed, "stage", epoch, cut.name, cut.first)
        sizes = np.maximum(1, np.array([size for _, size in self.sources], np.int64))
        return _Maker(cut, key, self._source_keys, sizes, self.counts.sum(axis=0) * epoch + cut.before)

    @cached_property
    def _cut(self) -> tuple[_Cut, ...]:
        found, first, before = [], 0, np.zeros(len(self.sources), np.int64)
        least = max(_LEAST_BLOCK, 1 << (4 * len(self.sources) - 1).bit_length())
        for name, draws, shares in self.stages:
            counts = np.array(apportion(draws, shares), np.int64)
            found.append(_Cut(name, first, draws, max(1, draws // least), max(1, _SPAN // least), counts, before))
            first, before = first + draws, before + counts
        return tuple(found)

    @cached_property
    def _source_keys(self) -> NDArray[np.uint64]:
        return np.array([key_of(self.seed, "source", name, size) for name, size in self.sources], np.uint64)


class _Cut(NamedTuple):
    """A stage in blocks: its first place, its draws, blocks in all and made together, draws by source here, before."""

    name: str
    first: int
    draws: int
    blocks: int
    span: int
    counts: Integers
    before: Integers


class _Maker:
    """One stage in one epoch.

    Block k ends where source i has had `(counts[i] * (k + 1) + phase[i]) // blocks` draws, the phases keyed numbers in
    `0 .. blocks - 1`: each source stays within one draw of an even spread, counts never fall, and the last block ends
    at `counts`. Blocks differ in size by up to the number of sources.
    """

    def __init__(
        self, cut: _Cut, key: np.uint64, source_keys: NDArray[np.uint64], sizes: Integers, drawn: Integers
    ) -> None:
        self._cut = cut
        self._key = key
        self._source_keys = source_keys
        self._sizes = sizes
        self._drawn = drawn  # by source, before this stage of this epoch
        phases = keys_at(key, np.arange(len(sizes))) % np.uint64(cut.blocks)
        self._phases = phases.astype(np.int64)
        self._whole, self._rest = np.divmod(cut.counts, cut.blocks)

    def _had(self, blocks: Integers) -> Integers:
        """[K, sources] draws before each block; exact in 64 bits, as `rest` and `blocks` are below 2^31."""
        number = blocks[:, None]
        return self._whole * number + (self._rest * number + self._phases) // self._cut.blocks

    def starts(self, blocks: Integers) -> Integers:
        """[K] the place in the stage where each block begins."""
        return np.asarray(self._had(blocks).sum(axis=1))

    def sizes(self, blocks: Integers) -> Integers:
        return self.starts(blocks + 1) - self.starts(blocks)

    def blocks_of(self, places: Integers) -> Integers:
        """[n] the block that each place of the stage lies in: that of an even cut, or one beside it."""
        count = self._cut.blocks
        even = np.unique((places * (count / self._cut.draws)).astype(np.int64))
        near = np.unique(np.clip(even[:, None] + np.arange(-2, 3), 0, count - 1))
        return np.asarray(near[np.searchsorted(self.starts(near), places, side="right") - 1])

    def make(self, blocks: Integers) -> Draws:
        """The draws of blocks, one block after the other."""
        had, then = self._had(blocks), self._had(blocks + 1)
        counts = then - had
        sizes = counts.sum(axis=1)
        sources, times = self._shuffled(blocks, counts, sizes)
        samples = np.empty(len(sources), np.int64)
        samples[times] = self._samples(had.ravel(), counts.ravel())
        return Draws(sources, samples)

    def _shuffled(self, blocks: Integers, counts: Integers, sizes: Integers) -> tuple[NDArray[np.int32], Integers]:
        """The source at each place; and the places, by block, source and time."""
        rows, width, number = len(blocks), int(sizes.max()), counts.shape[1]
        order, bits = shuffled_rows(keys_at(self._key ^ np.uint64(1), blocks), sizes, width)
        order &= np.uint32((1 << bits) - 1)
        order += (np.arange(rows, dtype=np.uint32) * np.uint32(width))[:, None]
        padded = np.column_stack([counts, width - sizes]).ravel()
        owner = np.repeat(np.tile(np.arange(number + 1, dtype=np.uint32), rows), padded)
        source = owner[order.ravel()].reshape(rows, width)  # by time; what fills a row up comes last
        by_source = (source << bits) | np.arange(width, dtype=np.uint32)
        by_source.sort(axis=1)
        by_source &= np.uint32((1 << bits) - 1)
        begin = np.cumsum(sizes) - sizes
        times = by_source + begin[:, None]
        if int(sizes.min()) < width:
            inside = np.arange(width) < sizes[:, None]
            return source[inside].astype(np.int32), times[inside]
        return source.ravel().astype(np.int32), times.ravel()

    def _samples(self, had: Integers, counts: Integers) -> Integers:
        """The samples of each (block, source), one after the other; where a pass ends, the next one begins."""
        cells = np.flatnonzero(counts)
        source = cells % len(self._sizes)
        size = self._sizes[source]
        begin = self._drawn[source] + had[cells]
        end = begin + counts[cells]
        first = begin // size
        passes = (end - 1) // size - first + 1
        if int(passes.max()) > 1:
            first = np.repeat(first - np.cumsum(passes) + passes, passes) + np.arange(int(passes.sum()))
            source, size, begin, end = (np.repeat(values, passes) for values in (source, size, begin, end))
            begin, end = np.maximum(begin, first * size), np.minimum(end, (first + 1) * size)
        orders = Orders(size, keys_at(self._source_keys[source], first))
        return orders.at(begin - first * size, end - begin)
