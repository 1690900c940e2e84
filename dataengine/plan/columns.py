"""The episodes and the shard tasks of a plan in columns: ten million take less than a gigabyte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dataengine.plan.units import Candidate, Run, ShardTask, Unit, clipped

SPLITS = ("train", "valid")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Kept episodes in columns [n], sorted by uid.

    Attributes:
        uids: [n, 32] the uids' bytes.
        source: place in `names`.
        split: place in `SPLITS`.
        windows: how many the episode has.
        sample_bytes: of one sample, estimated.
        run_stops: [n]; the runs of episode i are the rows `run_stops[i - 1] .. run_stops[i]` of `runs`; an episode
            without runs offers all its windows once.
        runs: [k, 3].
        names: of the sources.
    """

    uids: NDArray[np.uint8]
    source: NDArray[np.int16]
    split: NDArray[np.int8]
    windows: NDArray[np.int32]
    sample_bytes: Ints
    run_stops: Ints
    runs: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.windows)

    @classmethod
    def of(cls, episodes: Iterable[Candidate]) -> Candidates:
        """Out of episodes in any order."""
        listed = sorted(episodes, key=lambda episode: episode.uid)
        names = tuple(sorted({episode.source for episode in listed}))
        runs = [episode.runs or () for episode in listed]
        stops = np.cumsum([len(found) for found in runs], dtype=np.int64)
        flat = np.array([run for found in runs for run in found], np.int32).reshape(-1, 3)
        return cls(
            np.frombuffer(bytes.fromhex("".join(e.uid for e in listed)), np.uint8).reshape(-1, 32),
            np.array([names.index(episode.source) for episode in listed], np.int16),
            np.array([SPLITS.index(episode.split) for episode in listed], np.int8),
            # kept steps that all fall between the windows' starts leave an episode that offers nothing
            np.array([0 if episode.runs == () else episode.windows for episode in listed], np.int32),
            np.array([episode.sample_bytes for episode in listed], np.int64),
            stops,
            flat,
            names,
        )

    def uid(self, row: int) -> str:
        """The uid of an episode."""
        text: str = self.uids[row].tobytes().hex()
        return text

    def runs_of(self, row: int) -> tuple[Run, ...]:
        """The runs of an episode; empty where it offers all its windows once."""
        start = int(self.run_stops[row - 1]) if row else 0
        return tuple((int(a), int(b), int(c)) for a, b, c in self.runs[start : self.run_stops[row]])

    @cached_property
    def narrowed(self) -> NDArray[np.bool_]:
        """Which episodes have runs."""
        return np.diff(self.run_stops, prepend=0) > 0

    @cached_property
    def offered(self) -> Ints:
        """How many samples each episode offers at rate 1."""
        offered = self.windows.astype(np.int64)
        if len(self.runs):
            length, weight = (self.runs[:, 1] - self.runs[:, 0]).astype(np.int64), self.runs[:, 2]
            sums = np.concatenate([[0], np.cumsum(length * weight)])
            stops = sums[self.run_stops]
            given = np.diff(stops, prepend=0)
            offered[self.narrowed] = given[self.narrowed]
        return offered


class Tasks(Sequence[ShardTask]):
    """The shard tasks of a plan, held in columns: a task is made when it is asked for.

    Attributes:
        candidates: the episodes.
        row: [u] the episode of each unit, the units of a task side by side, sorted by uid and start.
        start: [u] the unit's first window.
        stop: [u]
        counts: [u] samples that it gives, at least one.
        edges: [tasks + 1] where the units of each task begin.
        places: (split, bucket, source) of each task; the source is empty where a shard holds the whole mixture.
    """

    def __init__(
        self,
        candidates: Candidates,
        columns: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
        edges: Ints,
        places: Sequence[tuple[str, str, str]],
    ) -> None:
        self.candidates = candidates
        self.row, self.start, self.stop, self.counts = columns
        self.edges = edges
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> ShardTask: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardTask]: ...
    def __getitem__(self, index: int | slice) -> ShardTask | Sequence[ShardTask]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        number = index % len(self)
        units = range(int(self.edges[number]), int(self.edges[number + 1]))
        split, bucket, source = self.places[number]
        return ShardTask(split, bucket, tuple(map(self._unit, units)), source)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tasks) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _unit(self, number: int) -> Unit:
        found, row = self.candidates, int(self.row[number])
        start, stop, count = int(self.start[number]), int(self.stop[number]), int(self.counts[number])
        runs = clipped(found.runs_of(row), start, stop) if found.narrowed[row] else ()
        listed = () if runs == ((start, stop, 1),) else runs
        size = count * int(found.sample_bytes[row])
        return Unit(found.uid(row), found.names[found.source[row]], start, stop, count, size, listed)

    @cached_property
    def bytes(self) -> int:
        """What all samples come to, estimated."""
        return int((self.candidates.sample_bytes[self.row] * self.counts).sum())

    def samples(self, split: str | None = None) -> dict[str, int]:
        """Samples by source, of one split or of both."""
        found = self.candidates
        counts = self.counts if split is None else self.counts * (found.split[self.row] == SPLITS.index(split))
        sums = np.bincount(found.source[self.row], weights=counts, minlength=len(found.names))
        return {name: int(total) for name, total in zip(found.names, sums.tolist(), strict=True)}
