"""A scheduled mixture while it is read: which of a data set's samples the schedule draws, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import unknown_name
from dataengine.errors import SpecError
from dataengine.loader.order import Indices
from dataengine.schedule import MixSchedule, apportion

_BAKED = "the shards of this split hold one mixture each"
Stages = tuple[tuple[str, int, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Spans:
    """Where the samples of each source stand among a data set's places.

    `sources` are (name, samples), by name. Sample k of them all, source after source, stands in the span r with
    `k < stops[r]`, `shifts[r]` further on.
    """

    sources: tuple[tuple[str, int], ...]
    stops: Indices
    shifts: Indices

    @classmethod
    def of(cls, sources: Sequence[str], stops: NDArray[np.integer]) -> Spans:
        """Of shards in their order: the source of each, and the place behind its last sample."""
        by_source: dict[str, list[tuple[int, int]]] = {name: [] for name in sorted(set(sources))}
        first = 0
        for source, stop in zip(sources, stops.tolist(), strict=True):
            by_source[source].append((first, stop))
            first = stop
        spans = np.array([span for own in by_source.values() for span in own], np.int64).reshape(-1, 2)
        ends = np.cumsum(spans[:, 1] - spans[:, 0])
        sizes = {name: sum(stop - first for first, stop in own) for name, own in by_source.items()}
        return cls(tuple(sizes.items()), ends, spans[:, 1] - ends)

    @cached_property
    def _before(self) -> Indices:
        sizes = [size for _, size in self.sources]
        return np.cumsum([0, *sizes[:-1]]).astype(np.int64)

    def places(self, sources: NDArray[np.integer], samples: Indices) -> Indices:
        """Places of samples by source and number."""
        number: Indices = self._before[sources] + samples
        return number + self.shifts[np.searchsorted(self.stops, number, side="right")]


@dataclass(frozen=True)
class Mix:
    """How a scheduled split is drawn; picklable. `stages` name a share of every source of `spans`."""

    spans: Spans
    stages: Stages

    @classmethod
    def of(
        cls,
        document: Mapping[str, Any] | None,
        spans: Spans,
        *,
        weights: Mapping[str, float] | None = None,
        stage: str | None = None,
        partly: bool = False,
    ) -> Mix | None:
        """The mix that a manifest's `schedule` describes; None where there is none, and nothing is asked of it.

        Args:
            document: `{"stages": [{"name", "draws", "shares": {source: share}}]}`.
            spans: where the samples stand.
            weights: of all sources, instead of the shares of every stage; draws stay.
            stage: draw this one alone.
            partly: some kinds of samples are left out. Sources without any sample then leave the schedule with their
                draws, so that the others are drawn as often as before.

        Raises:
            SpecError: `weights` or `stage` of a split without a schedule, or not of its sources and stages.
        """
        if document is None:
            if weights is not None or stage is not None:
                asked = "weights" if stage is None else "stage"
                raise SpecError(f"{asked}: {_BAKED}", fix="build it with `mix: {mode: scheduled}`; open split `train`")
            return None
        listed = [entry["name"] for entry in document["stages"]]
        if stage is not None and stage not in listed:
            raise unknown_name("stage", stage, listed)
        names = [name for name, _ in spans.sources]
        if weights is not None:
            _check_weights(weights, names)
        schedule = MixSchedule.of(document, {name: max(1, size) for name, size in spans.sources}, 0)
        chosen = tuple(entry for entry in schedule.stages if stage in (None, entry[0]))
        if weights is not None:
            chosen = tuple((name, draws, tuple(float(weights[n]) for n in names)) for name, draws, _ in chosen)
        if partly:
            chosen = _left([size for _, size in spans.sources], chosen)
        found = cls(spans, chosen)
        found.order(0, 0)  # tells what is wrong
        return found

    def order(self, seed: int, epoch: int) -> MixOrder:
        """The order of an epoch."""
        return MixOrder(self.spans, MixSchedule(seed, self.spans.sources, self.stages), epoch)


def _check_weights(weights: Mapping[str, float], names: Sequence[str]) -> None:
    for name in weights:
        if name not in names:
            raise unknown_name("source", name, names)
    missing = [name for name in names if name not in weights]
    if missing:
        raise SpecError(f"weights leave out {missing[0]!r}", fix="name every source; 0 leaves one out")


def _left(sizes: Sequence[int], stages: Stages) -> Stages:
    """The stages without the sources that have nothing left: the others keep their exact draws."""
    found = []
    for name, draws, shares in stages:
        counts = [count if size else 0 for count, size in zip(apportion(draws, shares), sizes, strict=True)]
        if any(counts):
            found.append((name, sum(counts), tuple(map(float, counts))))
    if not found:
        raise SpecError("the schedule draws no samples of these kinds", fix="open with other `kinds`")
    return tuple(found)


@dataclass(frozen=True)
class MixOrder:
    """The places that an epoch of a schedule draws, by draw; as `Permutation`, but places may repeat or be absent."""

    spans: Spans
    schedule: MixSchedule
    epoch: int

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, place: int) -> int:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return int(self.take(np.array([place % len(self)]))[0])

    def __iter__(self) -> Iterator[int]:
        for drawn in self.schedule.blocks(self.epoch):
            yield from self.spans.places(drawn.sources, drawn.samples).tolist()

    def take(self, places: NDArray[np.integer]) -> Indices:
        """The data set's places at draws [n], each in `0 .. len - 1`; [n] int64."""
        drawn = self.schedule.take(places, self.epoch)
        return self.spans.places(drawn.sources, drawn.samples)
