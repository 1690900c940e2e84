"""What a plan checks over many episodes at once: no task erased by a step, no episode twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dataengine.documents import canonical_json
from dataengine.errors import GuardError
from dataengine.mixture.judge import Verdict
from dataengine.mixture.roster import Roster
from dataengine.mixture.verdicts import Task
from dataengine.specs.recipe import Guard, Recipe
from dataengine.transforms.steps import Drop, Step, Unique, describe

MAX_NAMED = 10
NOT_COUNTED = frozenset({"require", "engine", "ingest"})
"""Steps whose drops say that data are unusable or not what training needs: no filter's doing."""


@dataclass(frozen=True)
class TaskLoss:
    """One task of a source: its episodes and steps, how many steps are kept, and what took most of them."""

    source: str
    task: str
    episodes: int
    steps: int
    kept: int
    by: str

    @property
    def loss(self) -> float:
        return (self.steps - self.kept) / self.steps if self.steps else 0.0


def task_losses(found: Iterable[Task]) -> list[TaskLoss]:
    """What the recipe's filters and steps take from each task, the greatest loss first; VL items have no task."""
    sums: dict[tuple[str, str], list[int]] = {}
    taken: dict[tuple[str, str], dict[str, int]] = {}
    for entry in found:
        key = (entry.entry, entry.task)
        counts = sums.setdefault(key, [0, 0, 0])
        for place, count in enumerate((1, entry.total, entry.kept)):
            counts[place] += count
        own = taken.setdefault(key, {})
        for name, lost in entry.lost.items():
            own[name] = own.get(name, 0) + lost
    losses = [
        TaskLoss(*key, episodes, steps, kept, by=min(own, key=lambda name: (-own[name], name)) if own else "")
        for key, (episodes, steps, kept) in sums.items()
        for own in (taken[key],)
    ]
    return sorted(losses, key=lambda entry: (-entry.loss, entry.source, entry.task))


def check_tasks(guard: Guard, losses: Sequence[TaskLoss]) -> None:
    """A `GuardError` naming the tasks that lose the guard's share of their steps or more."""
    over = [entry for entry in losses if entry.episodes >= guard.min_episodes and entry.loss >= guard.task_loss]
    if not over:
        return
    told = [
        f"{entry.source}, {entry.task!r}: {entry.steps - entry.kept:,} of {entry.steps:,} steps in"
        f" {entry.episodes} episodes, most by {entry.by}"
        for entry in over[:MAX_NAMED]
    ]
    if len(over) > MAX_NAMED:
        told.append(f"and {len(over) - MAX_NAMED} more")
    share = "everything" if guard.task_loss == 1 else f"{guard.task_loss:.0%} or more"
    tasks = "a task" if len(over) == 1 else f"{len(over)} tasks"
    raise GuardError(
        f"the recipe's steps take {share} of {tasks}: {'; '.join(told)}",
        fix=f"look with `dataengine try RECIPE --step {over[0].by}`; loosen the step, or set the recipe's"
        " `guard: {task_loss: ..., min_episodes: ...}` (null: no guard)",
    )


def duplicates(
    recipe: Recipe, heads: Roster, steps: Mapping[str, Sequence[Step]], prints: Mapping[str, Sequence[str]]
) -> dict[str, Verdict]:
    """Verdicts of episodes that equal another by a `Unique` step: the first source's, then the least uid, is kept.

    `prints` holds for each uid one fingerprint a `Unique` step of its source, empty where there is none.
    """
    order = {source.entry: number for number, source in enumerate(recipe.sources)}
    seen: dict[tuple[bytes, str], str] = {}
    found: dict[str, Verdict] = {}
    for uid in sorted(prints, key=lambda uid: (order[heads[uid].entry], uid)):
        head = heads[uid]
        for step, fingerprint in zip(uniques(steps[head.entry]), prints[uid], strict=True):
            if not fingerprint or uid in found:
                continue
            first = seen.setdefault((canonical_json(describe(step)), fingerprint), uid)
            if first != uid:
                same = f"{heads[first].source_id} {heads[first].upstream_id} ({first[:12]})"
                drop = Drop("duplicate_episode", f"the same as {same} by {step.name}")
                found[uid] = Verdict(uid, head.split, 0, 0, drop, step.name)
    return found


def uniques(steps: Sequence[Step]) -> list[Unique]:
    """The `Unique` steps of a list."""
    return [step for step in steps if isinstance(step, Unique)]
