"""Trial of one step of a recipe: what it would change, in counts, examples and strips of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dataengine.engine.base import Engine
from dataengine.episode import Episode
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.mixture.changes import told_changes
from dataengine.mixture.guard import TaskLoss, task_losses, uniques
from dataengine.mixture.select import Inputs
from dataengine.mixture.strips import strip
from dataengine.mixture.surveying import Progress, result_of
from dataengine.mixture.verdicts import Task
from dataengine.plan import source_of
from dataengine.relabel.recipes import Relabelled
from dataengine.specs.recipe import Recipe
from dataengine.transforms.quality import recipe_steps
from dataengine.transforms.steps import Outcome, Relabel, Step, describe, kind_of, run_steps

Effect = Literal["dropped", "narrowed", "relabelled", "weighted", "unchanged"]
CHUNK = 64
EFFECTS: tuple[Effect, ...] = ("dropped", "narrowed", "relabelled", "weighted", "unchanged")


@dataclass(frozen=True)
class Example:
    """One episode that the step changes: `what` says how, `kept` the step ranges that stay."""

    uid: str
    source_id: str
    upstream_id: str
    effect: Effect
    what: tuple[str, ...]
    steps: int
    kept: tuple[tuple[int, int], ...]
    picture: str = ""


@dataclass
class Trial:
    """What a step would do to the episodes that reach it.

    `missed` episodes were dropped by a step before it. `steps_in` and `steps_out` count the steps that samples may
    start at. `tasks` are the tasks that lose most.
    """

    recipe: str
    step: dict[str, Any]
    kind: str
    episodes: int = 0
    missed: int = 0
    steps_in: int = 0
    steps_out: int = 0
    effects: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    tasks: list[TaskLoss] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


def chosen_step(recipe: Recipe, name: str) -> dict[str, tuple[int, Step]]:
    """Where the step called `name` (`name#2`: the second of that name) stands in each source's list, and the step."""
    plain, _, number = name.partition("#")
    if number and (not number.isdigit() or int(number) < 1):
        raise SpecError(f"{name!r} names no step", fix="NAME, or NAME#2 for the second of that name")
    found, known = {}, set()
    for source in recipe.sources:
        listed = list(enumerate(recipe_steps(recipe, source)))
        known |= {step.name for _, step in listed}
        places = [(place, step) for place, step in listed if step.name == plain]
        if len(places) >= int(number or 1):
            found[source.entry] = places[int(number or 1) - 1]
    if not found:
        raise SpecError(
            f"the recipe has no step {name!r}", where=recipe.name, fix=f"it has: {', '.join(sorted(known))}"
        )
    return found


def try_step(recipe: Recipe, name: str, inputs: Inputs, engine: Engine, limit: int, tell: Progress) -> Trial:
    """Run the steps before it and the step itself over every selected episode; `limit` examples are kept."""
    places = chosen_step(recipe, name)
    _, step = next(iter(places.values()))
    result = Trial(recipe.name, describe(step), kind_of(step))
    named = [head for head in inputs.heads.values() if head.status == "ok" and head.entry in places]
    ranges = [named[start : start + CHUNK] for start in range(0, len(named), CHUNK)]
    tasks = [
        {
            "recipe": recipe,
            "name": name,
            "lake": inputs.lake.path,
            "snapshot": inputs.snapshot,
            "entries": {head.uid: head.entry for head in chosen},
            "answers": inputs.answers.of([head.uid for head in chosen]),
        }
        for chosen in ranges
    ]
    rows: dict[str, dict[str, Any]] = {}
    for done, (_, found) in enumerate(engine.run(trial, tasks), start=1):
        rows |= result_of(found, f"the trial of {name}")["rows"]
        tell(f"try {name}", done, len(tasks))
    _mark_twins(rows)
    _sum(result, rows, inputs)
    result.examples = _examples(rows, limit)
    return result


def trial(task: dict[str, Any]) -> dict[str, Any]:
    """What the step does to each of a range of episodes."""
    recipe: Recipe = task["recipe"]
    places = chosen_step(recipe, task["name"])
    answers: Relabelled = task["answers"]
    steps = {name: answers.steps(recipe, source_of(recipe, name))[: place + 1] for name, (place, _) in places.items()}
    native = any(step.needs_native for listed in steps.values() for step in listed)
    reader = Lake(task["lake"]).reader(list(task["entries"]), task["snapshot"], native=native)
    rows = {}
    for uid, entry in task["entries"].items():
        listed = steps[entry]
        episode = reader.episode(uid, media=any(step.needs_media for step in listed))
        before = run_steps(episode, listed[:-1])
        task_name = episode.language[0].text if episode.language else ""
        row: dict[str, Any] = {"source_id": episode.source_id, "upstream_id": episode.upstream_id, "task": task_name}
        rows[uid] = row | ({"missed": True} if before.drop else _compared(before, run_steps(episode, listed), listed))
    return {"rows": rows}


def _compared(before: Outcome, after: Outcome, listed: Sequence[Step]) -> dict[str, Any]:
    steps = int((before.weights > 0).sum())
    row: dict[str, Any] = {"missed": False, "before": steps, "after": int((after.weights > 0).sum()), "reason": ""}
    row |= {"steps": before.episode.steps, "kept": (), "twin": _print(before, listed)}
    if after.drop is not None:
        return row | {"effect": "dropped", "what": (after.drop.evidence,), "after": 0, "reason": after.drop.reason}
    row["kept"] = tuple(_ranges(after))
    changes = told_changes(before.episode, after.episode)
    if changes:
        return row | {"effect": "relabelled", "what": tuple(changes)}
    if row["after"] < row["before"]:
        return row | {
            "effect": "narrowed",
            "what": (f"{row['before'] - row['after']:,} of {row['before']:,} steps go",),
        }
    if int(after.weights.sum()) != int(before.weights.sum()):
        told = f"{int(before.weights.sum()):,} windows count as {int(after.weights.sum()):,}"
        return row | {"effect": "weighted", "what": (told,)}
    return row | {"effect": "unchanged", "what": ()}


def _print(before: Outcome, listed: Sequence[Step]) -> str:
    found = uniques(listed[-1:])
    return found[0].fingerprint(before.episode) or "" if found else ""


def _ranges(outcome: Outcome) -> Iterator[tuple[int, int]]:
    start = None
    for row, weight in enumerate([*outcome.weights.tolist(), 0]):
        if weight and start is None:
            start = row
        elif not weight and start is not None:
            yield start, row
            start = None


def draw(
    recipe: Recipe, name: str, inputs: Inputs, examples: Sequence[Example], folder: Path, tell: Progress
) -> list[Example]:
    """The examples with a strip of pictures each, written below `folder`; one without pictures stays as it is."""
    if not examples:
        return []
    places = chosen_step(recipe, name)
    reader = inputs.lake.reader(sorted(example.uid for example in examples), inputs.snapshot, native=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, example in enumerate(examples, start=1):
        entry = inputs.heads[example.uid].entry
        place, _ = places[entry]
        listed = inputs.answers.steps(recipe, source_of(recipe, entry))
        episode = run_steps(reader.episode(example.uid), listed[:place]).episode
        step = listed[place]
        edited = step.relabel(episode) if isinstance(step, Relabel) else None
        after = edited if isinstance(edited, Episode) else None
        data = strip(episode, example.kept, after)
        file = f"{number:02d}-{example.effect}-{example.uid[:12]}.jpg"
        if data is not None:
            (folder / file).write_bytes(data)
        found.append(replace(example, picture="" if data is None else str(folder / file)))
        tell("pictures", number, len(examples))
    return found


def _mark_twins(rows: dict[str, dict[str, Any]]) -> None:
    """Episodes whose fingerprint another had before become drops."""
    seen: dict[str, str] = {}
    for uid, row in sorted(rows.items()):
        if row.get("twin"):
            first = seen.setdefault(row["twin"], uid)
            if first != uid:
                told = f"the same as {rows[first]['source_id']} {rows[first]['upstream_id']} ({first[:12]})"
                row |= {"effect": "dropped", "what": (told,), "after": 0, "reason": "duplicate_episode", "kept": ()}


def _sum(result: Trial, rows: Mapping[str, dict[str, Any]], inputs: Inputs) -> None:
    reached = {uid: row for uid, row in rows.items() if not row["missed"]}
    result.episodes, result.missed = len(reached), len(rows) - len(reached)
    result.steps_in = sum(row["before"] for row in reached.values())
    result.steps_out = sum(row["after"] for row in reached.values())
    counts = Counter(row["effect"] for row in reached.values())
    result.effects = {effect: counts[effect] for effect in EFFECTS if counts[effect]}
    result.reasons = dict(sorted(Counter(row["reason"] for row in reached.values() if row["reason"]).items()))
    for row in reached.values():
        per = result.sources.setdefault(row["source_id"], {"episodes": 0, "changed": 0, "steps_in": 0, "steps_out": 0})
        per["episodes"] += 1
        per["changed"] += row["effect"] != "unchanged"
        per["steps_in"] += row["before"]
        per["steps_out"] += row["after"]
    name = result.step["name"]
    found = (
        Task(inputs.heads[uid].entry, row["task"], row["before"], row["after"], {name: 1})
        for uid, row in reached.items()
        if row["task"]
    )
    result.tasks = [entry for entry in task_losses(found) if entry.loss > 0]


def _examples(rows: Mapping[str, dict[str, Any]], limit: int) -> list[Example]:
    """The first changed episodes by uid, the effects and the sources in turn, so that each is shown."""
    queues: dict[tuple[str, str], list[Example]] = {}
    for uid, row in sorted(rows.items()):
        if not row["missed"] and row["effect"] != "unchanged":
            made = Example(
                uid, row["source_id"], row["upstream_id"], row["effect"], row["what"], row["steps"], row["kept"]
            )
            queues.setdefault((row["source_id"], row["effect"]), []).append(made)
    found: list[Example] = []
    while len(found) < limit and any(queues.values()):
        for _, queue in sorted(queues.items()):
            if queue and len(found) < limit:
                found.append(queue.pop(0))
    return found
