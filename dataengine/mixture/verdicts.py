"""Verdicts in columns: what the survey found of every row of a roster."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.mixture.judge import Verdict
from dataengine.mixture.roster import Roster
from dataengine.plan import SPLITS, Candidates, Run
from dataengine.transforms.steps import Drop

_FIELDS = np.dtype(
    [
        ("there", "?"),
        ("dropped", "?"),
        ("bad_input", "?"),
        ("relabelled", "?"),
        ("whole", "?"),
        ("split", "i1"),
        ("step", "<i2"),
        ("reason", "<i2"),
        ("relaxed", "<i2"),
        ("windows", "<i4"),
        ("total", "<i4"),
        ("kept", "<i4"),
        ("task", "<i4"),
        ("sample_bytes", "<i8"),
        ("seconds", "<f8"),
        ("content", "V32"),
    ]
)


class _Names:
    """Strings by number."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        found = self._numbers.setdefault(name, len(self.listed))
        if found == len(self.listed):
            self.listed.append(name)
        return found


class _Ragged:
    """For each row some tuples of integers."""

    def __init__(self, rows: int, width: int) -> None:
        self._start, self._count = np.zeros(rows, np.int64), np.zeros(rows, np.int32)
        self._values, self._width = array("i"), width

    def put(self, row: int, values: Sequence[Sequence[int]]) -> None:
        self._start[row], self._count[row] = len(self._values), len(values)
        for value in values:
            self._values.extend(value)

    def get(self, row: int) -> tuple[tuple[int, ...], ...]:
        start, width = int(self._start[row]), self._width
        stops = range(start, start + int(self._count[row]) * width, width)
        return tuple(tuple(self._values[at : at + width]) for at in stops)

    def flat(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(stops, values): the tuples of these rows one behind the other."""
        stops = np.cumsum(self._count[rows], dtype=np.int64)
        total = int(stops[-1]) if len(stops) else 0
        own = np.arange(total) - np.repeat(stops - self._count[rows], self._count[rows])
        at = np.repeat(self._start[rows], self._count[rows]) + own * self._width
        values = np.frombuffer(self._values, np.int32) if len(self._values) else np.zeros(0, np.int32)
        return stops, values[at[:, None] + np.arange(self._width)].reshape(-1, self._width)


@dataclass(frozen=True)
class Task:
    """What a verdict says of its episode's task: `lost` is what each step took."""

    entry: str
    task: str
    total: int
    kept: int
    lost: Mapping[str, int]


class Verdicts(Mapping[str, Verdict]):
    """Verdicts by uid; `put` takes them row by row in any order."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.table = np.zeros(len(roster), _FIELDS)
        self._runs, self._bounds, self._lost = (_Ragged(len(roster), width) for width in (3, 2, 2))
        self._steps, self._reasons, self._tasks, self._relaxed = _Names(), _Names(), _Names(), _Names()
        self._evidence: dict[int, str] = {}

    def __len__(self) -> int:
        return int(self.table["there"].sum())

    def __iter__(self) -> Iterator[str]:
        return (self._roster.uid(row) for row in np.flatnonzero(self.table["there"]).tolist())

    def __getitem__(self, uid: str) -> Verdict:
        row = self._roster.index(uid)
        if not self.table["there"][row]:
            raise KeyError(uid)
        return self.row(row)

    def put(self, row: int, verdict: Verdict) -> None:
        """The verdict of the roster's row."""
        drop = verdict.drop
        self.table[row] = (
            True,
            drop is not None,
            verdict.bad_input,
            bool(verdict.content),
            verdict.runs is None,
            SPLITS.index(verdict.split),
            self._steps.number(verdict.step),
            self._reasons.number("" if drop is None else drop.reason),
            self._relaxed.number(verdict.relaxed),
            verdict.windows,
            verdict.total,
            verdict.kept,
            self._tasks.number(verdict.task),
            verdict.sample_bytes,
            verdict.seconds,
            bytes.fromhex(verdict.content) if verdict.content else bytes(32),
        )
        if drop is not None:
            self._evidence[row] = drop.evidence
        if verdict.runs is not None:
            self._runs.put(row, verdict.runs)
        if verdict.bounds:
            self._bounds.put(row, verdict.bounds)
        if verdict.lost:
            self._lost.put(row, [(self._steps.number(name), lost) for name, lost in verdict.lost.items()])

    def row(self, row: int) -> Verdict:
        """The verdict of a row."""
        found = self.table[row]
        reason = self._reasons.listed[found["reason"]]
        drop = Drop(reason, self._evidence.get(row, "")) if found["dropped"] else None
        runs: tuple[Run, ...] | None = None
        if not found["whole"]:
            runs = tuple((start, stop, weight) for start, stop, weight in self._runs.get(row))
        return Verdict(
            uid=self._roster.uid(row),
            split=SPLITS[found["split"]],
            windows=int(found["windows"]),
            sample_bytes=int(found["sample_bytes"]),
            drop=drop,
            step=self._steps.listed[found["step"]],
            bad_input=bool(found["bad_input"]),
            relaxed=self._relaxed.listed[found["relaxed"]],
            runs=runs,
            bounds=tuple((low, high) for low, high in self._bounds.get(row)),
            content=self.content(row),
            task=self._tasks.listed[found["task"]],
            total=int(found["total"]),
            kept=int(found["kept"]),
            seconds=float(found["seconds"]),
            lost={self._steps.listed[step]: lost for step, lost in self._lost.get(row)},
        )

    @property
    def kept(self) -> NDArray[np.int64]:
        """The rows of kept episodes."""
        return np.flatnonzero(self.table["there"] & ~self.table["dropped"])

    def candidates(self) -> Candidates:
        """The kept episodes as a plan takes them; in the order of `kept`."""
        rows = self.kept
        found = self.table[rows]
        stops, runs = self._runs.flat(rows)
        # kept steps that all fall between the windows' starts leave an episode that offers nothing
        nothing = ~found["whole"] & (np.diff(stops, prepend=0) == 0)
        return Candidates(
            uids=self._roster.uids[rows],
            source=self._roster.entry[rows],
            split=found["split"],
            windows=np.where(nothing, 0, found["windows"]).astype(np.int32),
            sample_bytes=found["sample_bytes"],
            run_stops=stops,
            runs=runs,
            names=self._roster.entries,
        )

    def tasks(self, without: frozenset[str]) -> Iterator[Task]:
        """The verdicts that count for their tasks: not those of bad input, nor drops by the steps `without`."""
        for row in np.flatnonzero(self.table["there"] & ~self.table["bad_input"]).tolist():
            found = self.table[row]
            task, step = self._tasks.listed[found["task"]], self._steps.listed[found["step"]]
            if not task or (found["dropped"] and step in without):
                continue
            total = int(found["total"])
            lost = {step: total} if found["dropped"] else {self._steps.listed[s]: n for s, n in self._lost.get(row)}
            yield Task(self._roster.entries[self._roster.entry[row]], task, total, int(found["kept"]), lost)

    def words(self, name: str) -> list[str]:
        """The strings that the numbers of a column (`step`, `reason`, `task`, `relaxed`) stand for."""
        names = {"step": self._steps, "reason": self._reasons, "task": self._tasks, "relaxed": self._relaxed}[name]
        return names.listed

    def bounds(self, row: int) -> tuple[tuple[int, ...], ...]:
        """The row ranges that samples of an episode must not leave."""
        return self._bounds.get(row)

    def content(self, row: int) -> str:
        """The digest of a relabelled episode; empty for one as the lake holds it."""
        found = self.table[row]
        return found["content"].tobytes().hex() if found["relabelled"] else ""

    def evidence(self, row: int) -> str:
        """The evidence of a drop; empty for a kept episode."""
        return self._evidence.get(row, "")
