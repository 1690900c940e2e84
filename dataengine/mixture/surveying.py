"""The survey of a build: the recipe's steps over every selected episode, on an engine; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dataengine.engine.base import Engine
from dataengine.errors import StorageError
from dataengine.mixture.guard import duplicates, uniques
from dataengine.mixture.judge import Verdict
from dataengine.mixture.roster import Listed, Roster
from dataengine.mixture.select import Inputs
from dataengine.mixture.statistics import gathering
from dataengine.mixture.tasks import fingerprint, survey
from dataengine.mixture.verdicts import Verdicts
from dataengine.normalization.statistics import Statistics
from dataengine.specs.recipe import Recipe
from dataengine.transforms.quality import recipe_steps
from dataengine.transforms.steps import Drop

SURVEY_EPISODES = 256
Progress = Callable[[str, int, int], None]
Rows = NDArray[np.int64]


def surveyed(recipe: Recipe, inputs: Inputs, engine: Engine, tell: Progress) -> tuple[Verdicts, Statistics]:
    """The verdict of every row, and the statistics of the kept episodes of the train split."""
    roster = inputs.heads
    verdicts = Verdicts(roster)
    open_rows = roster.usable.copy()
    for row, verdict in (*_unusable(roster), *_conflicts(roster)):
        verdicts.put(row, verdict)
        open_rows[row] = False
    for row, verdict in _duplicates(recipe, inputs, engine, tell, np.flatnonzero(open_rows)):
        verdicts.put(row, verdict)
        open_rows[row] = False
    statistics = gathering(recipe)
    for rows, result in _over(survey, recipe, inputs, engine, tell, np.flatnonzero(open_rows)):
        if result is None:
            verdicts.put(int(rows[0]), _killed(roster.row(int(rows[0]))))
            continue
        for row, verdict in zip(rows.tolist(), result["verdicts"], strict=True):
            verdicts.put(row, verdict)
        statistics.merge(Statistics.from_bytes(result["statistics"]))
    return verdicts, statistics


def _duplicates(
    recipe: Recipe, inputs: Inputs, engine: Engine, tell: Progress, rows: Rows
) -> Iterator[tuple[int, Verdict]]:
    """Episodes that equal another by a `Unique` step; without such a step nothing is read."""
    steps = {source.entry: recipe_steps(recipe, source) for source in recipe.sources}
    asking = [number for number, entry in enumerate(inputs.heads.entries) if uniques(steps[entry])]
    asked = rows[np.isin(inputs.heads.entry[rows], asking)]
    prints: dict[str, Sequence[str]] = {}
    for _, result in _over(fingerprint, recipe, inputs, engine, tell, asked):
        prints |= result["prints"] if result is not None else {}  # one that kills its worker is the survey's to tell
    for uid, verdict in duplicates(recipe, inputs.heads, steps, prints).items():
        yield inputs.heads.index(uid), verdict


class _Ranges(Sequence[dict[str, Any]]):
    """The tasks over ranges of episodes, each made when it is asked for."""

    def __init__(self, recipe: Recipe, inputs: Inputs, ranges: Sequence[Rows]) -> None:
        self._recipe, self._inputs, self._ranges = recipe, inputs, ranges

    def __len__(self) -> int:
        return len(self._ranges)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        inputs = self._inputs
        found = [inputs.heads.row(row) for row in self._ranges[index].tolist()]
        uids = [head.uid for head in found]
        return {
            "recipe": self._recipe,
            "lake": inputs.lake.path,
            "snapshot": inputs.snapshot,
            "uids": uids,
            "entries": [head.entry for head in found],
            "splits": [head.split for head in found],
            "answers": inputs.answers.of(uids),
        }


def _over(
    function: Callable[[dict[str, Any]], dict[str, Any]],
    recipe: Recipe,
    inputs: Inputs,
    engine: Engine,
    tell: Progress,
    rows: Rows,
) -> Iterator[tuple[Rows, dict[str, Any] | None]]:
    """Run a task over ranges of episodes, in whatever order they finish: (rows, result).

    A range that kills its worker is run again episode by episode; one that does so alone gives None.
    """
    ranges = [rows[start : start + SURVEY_EPISODES] for start in range(0, len(rows), SURVEY_EPISODES)]
    total, done = len(rows), 0
    while ranges:
        again: list[Rows] = []
        for index, result in engine.run(function, _Ranges(recipe, inputs, ranges)):
            chosen = ranges[index]
            if result is None and len(chosen) > 1:
                again += np.split(chosen, len(chosen))
                continue
            yield chosen, result
            done += len(chosen)
            tell(function.__name__, done, total)
        ranges = again


def result_of(result: dict[str, Any] | None, doing: str) -> dict[str, Any]:
    """A task's result; None, from a task that killed its worker each time, is a `StorageError`."""
    if result is None:
        raise StorageError(f"{doing} killed its worker three times", fix="give the workers more memory")
    return result


def _unusable(roster: Roster) -> Iterator[tuple[int, Verdict]]:
    for row in np.flatnonzero(~roster.usable).tolist():
        head = roster.row(row)
        drop = Drop(head.reason or "unknown", head.what or "")
        yield row, Verdict(head.uid, head.split, 0, 0, drop, "ingest", bad_input=True)


def _killed(head: Listed) -> Verdict:
    """An episode that killed its worker each time it was tried."""
    drop = Drop("worker_killed", "a step of the recipe killed its worker on this episode three times")
    return Verdict(head.uid, head.split, 0, 0, drop, "engine", bad_input=True)


def _conflicts(roster: Roster) -> Iterator[tuple[int, Verdict]]:
    """Episodes of one source with the same upstream id but other content: all of them drop."""
    for rivals in _namesakes(roster):
        for row in rivals:
            head = roster.row(row)
            others = ", ".join(roster.uid(rival)[:12] for rival in rivals if rival != row)
            drop = Drop(
                "upstream_conflict",
                f"the lake holds other content under the same upstream id ({others}); remove the outdated one"
                " with `dataengine lake rm`",
            )
            yield row, Verdict(head.uid, head.split, 0, 0, drop, "engine", bad_input=True)


def _namesakes(roster: Roster) -> list[list[int]]:
    """Rows of usable episodes that share source and upstream id with another."""
    rows = np.flatnonzero(roster.usable)
    sources = [kind.source_id for kind in roster.kinds]
    marks = np.fromiter(
        (hash((sources[roster.kind[row]], roster.upstream[row].as_py())) for row in rows.tolist()), np.int64, len(rows)
    )
    order = np.argsort(marks, kind="stable")
    equal = np.flatnonzero(marks[order][1:] == marks[order][:-1])
    named: dict[tuple[str, str], list[int]] = {}
    for row in sorted({int(rows[order[place]]) for at in equal.tolist() for place in (at, at + 1)}):
        named.setdefault((sources[roster.kind[row]], roster.upstream[row].as_py()), []).append(row)
    return [found for found in named.values() if len(found) > 1]
