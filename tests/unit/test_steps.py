"""Steps in their order: what is dropped, which steps samples may start at, and how far they may read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from dataengine.episode import Episode, Language, SlotArray
from dataengine.errors import GuardError, SchemaError, SpecError
from dataengine.mixture.guard import check_tasks, task_losses
from dataengine.mixture.judge import content_digest
from dataengine.mixture.verdicts import Task
from dataengine.plan import Candidate, Unit, chosen_windows, make_tasks, runs_of
from dataengine.specs.recipe import Guard, Recipe
from dataengine.specs.records import Pins
from dataengine.transforms.quality import MinSteps, recipe_steps
from dataengine.transforms.steps import Boost, Drop, Filter, Keep, Kept, Relabel, check_order, parse_step, run_steps


def episode(rows: int = 10) -> Episode:
    values = np.arange(rows, dtype=np.float32)[:, None]
    slots = SlotArray(np.array([0], np.int16), values, np.ones((rows, 1), np.bool_))
    return Episode(
        uid="a" * 64,
        source_id="s",
        upstream_id="u",
        converter="c",
        family="robot",
        embodiment="e",
        control_mode="m",
        conversion_digest="",
        content_digest="",
        group="g",
        times_ns=np.arange(rows, dtype=np.int64) * 100_000_000,
        hz=10.0,
        state=slots,
        action=slots,
        labels={},
        frames={"state/arm_joint.right": "joint", "action/arm_joint.right": "joint"},
        native_units={},
        views=(),
        language=(Language("lift", "t", "episode", (0, rows)),),
        messages=(),
        native={},
        native_action={},
        media={},
        files=(),
        attributes={},
        notes={},
    )


@dataclass(frozen=True)
class Ranges(Keep):
    ranges: tuple[tuple[int, int], ...]
    bounded: bool = False
    name: ClassVar[str] = "ranges"
    version: ClassVar[int] = 1

    def keep(self, episode: Episode) -> Kept | None:
        return Kept(self.ranges, "outside", bounded=self.bounded)


@dataclass(frozen=True)
class Halve(Relabel):
    name: ClassVar[str] = "halve"
    version: ClassVar[int] = 1
    retimes: ClassVar[bool] = True

    def relabel(self, episode: Episode) -> Episode | Drop:
        def picked(slots: SlotArray | None) -> SlotArray | None:
            return None if slots is None else SlotArray(slots.channels, slots.values[::2], slots.mask[::2])

        return replace(
            episode, times_ns=episode.times_ns[::2], hz=5.0, state=picked(episode.state), action=picked(episode.action)
        )


@dataclass(frozen=True)
class Liar(Halve):
    retimes: ClassVar[bool] = False


@dataclass(frozen=True)
class Twice(Boost):
    name: ClassVar[str] = "twice"
    version: ClassVar[int] = 1

    def weights(self, episode: Episode) -> np.ndarray | None:
        return np.where(np.arange(episode.steps) >= 8, 2, 1)


def test_ranges_intersect_and_bounds_narrow() -> None:
    found = run_steps(episode(), [Ranges(((0, 4), (6, 10))), Ranges(((2, 8),), bounded=True)])
    assert found.drop is None
    assert found.weights.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert found.first[2] == found.first[7] == 2
    assert found.stop[2] == found.stop[7] == 8
    assert found.stop[9] == 10
    assert found.lost == {"ranges": 4}


def test_ranges_that_keep_nothing_drop_the_episode() -> None:
    found = run_steps(episode(), [Ranges(())])
    assert found.drop == Drop("outside", "ranges keeps none of 10 steps")
    assert found.step == "ranges"


@pytest.mark.parametrize("ranges", [((0, 11),), ((4, 2),), ((0, 5), (3, 8)), ((-1, 3),)])
def test_ranges_that_do_not_fit_are_a_mistake_of_the_step(ranges: Any) -> None:
    with pytest.raises(SchemaError, match="does not fit"):
        run_steps(episode(), [Ranges(ranges)])


def test_a_step_that_retimes_says_so_and_stands_first() -> None:
    found = run_steps(episode(), [Halve(), Ranges(((1, 4),))])
    assert found.episode.steps == 5
    assert found.weights.tolist() == [0, 1, 1, 1, 0]
    assert found.stop.tolist() == [5] * 5
    assert found.changed == ("halve",)
    with pytest.raises(SchemaError, match="retimes"):
        run_steps(episode(), [Liar()])
    with pytest.raises(SpecError, match="has chosen"):
        check_order([Ranges(((0, 1),)), Halve()])
    check_order([Halve(), Ranges(((0, 1),))])


def test_boosts_multiply_what_is_kept() -> None:
    found = run_steps(episode(), [Ranges(((0, 9),)), Twice(), Twice()])
    assert found.weights.tolist() == [1] * 8 + [4, 0]


def units(candidate: Candidate, rate: float, segment: int) -> list[Unit]:
    """The units of a plan of one episode."""
    recipe = Recipe.parse({"name": "r", "sources": [{"converter": "c"}], "shards": {"segment": segment}}, "test")
    found = make_tasks(recipe, [candidate], Pins(rates={"c": rate}, scale=1, buckets={}))
    return [unit for task in found for unit in task.units]


def test_weighted_windows_are_given_out_by_their_weight() -> None:
    weights = np.array([0, 1, 1, 3, 0, 0, 2, 2])
    runs = runs_of(weights)
    assert runs == ((1, 3, 1), (3, 4, 3), (6, 8, 2))
    candidate = Candidate("a" * 64, "c", "train", 8, 10, runs)
    assert candidate.offered == weights.sum()
    (unit,) = units(candidate, 1.0, 100)
    chosen = chosen_windows(unit, 0)
    times = np.bincount([window for window, _ in chosen], minlength=8)
    assert times.tolist() == weights.tolist()
    assert len(set(chosen)) == len(chosen)
    parts = units(candidate, 1.0, 3)
    assert [(part.start, part.count) for part in parts] == [(0, 2), (3, 3), (6, 4)]
    assert sorted(pair for part in parts for pair in chosen_windows(part, 0)) == chosen
    (half,) = units(candidate, 0.5, 100)
    assert half.count in (4, 5)


def test_the_content_of_a_relabelled_episode_has_a_digest_of_its_own() -> None:
    one = episode()
    assert content_digest(one) == content_digest(episode())
    changed = [
        replace(one, language=(Language("push", "t", "episode", (0, 10)),)),
        replace(one, labels={"arm_joint.right": "reached"}),
        replace(one, hz=5.0),
        replace(one, action=None),
        replace(one, notes={"x": 1}),
    ]
    assert len({content_digest(entry) for entry in (one, *changed)}) == 6


def tasks_of(kept: list[tuple[str, int, int]], step: str = "") -> list[Task]:
    return [
        Task("c", task, total, left, {step: total} if not left and step else {"idle": total - left})
        for task, total, left in kept
    ]


def test_the_guard_stops_a_step_that_erases_a_task() -> None:
    losses = task_losses(tasks_of([("lift", 100, 50), ("lift", 100, 90), ("wipe", 40, 0), ("wipe", 60, 0)], "idle"))
    assert [(entry.task, entry.loss) for entry in losses] == [("wipe", 1.0), ("lift", 0.3)]
    with pytest.raises(GuardError, match="'wipe': 100 of 100 steps in 2 episodes, most by idle"):
        check_tasks(Guard(), losses)
    with pytest.raises(GuardError, match="2 tasks"):
        check_tasks(Guard(task_loss=0.3), losses)
    check_tasks(Guard(min_episodes=3), losses)
    check_tasks(Guard(), losses[1:])


def test_recipes_name_their_steps() -> None:
    base = {"name": "r", "sources": [{"converter": "a", "steps": [{"name": "min_steps", "steps": 3}]}]}
    recipe = Recipe.parse({**base, "filters": [{"name": "no_nan"}]}, "test")
    found = recipe_steps(recipe, recipe.sources[0])
    assert [step.name for step in found] == ["require", "no_nan", "min_steps"]
    assert found[2] == MinSteps(3)
    assert isinstance(found[0], Filter)
    for entry, told in [
        ({"steps": 3}, "needs `name`"),
        ({"name": "min_stepz"}, "min_steps"),
        ({"name": "min_steps", "step": 3}, "steps"),
        ({"name": "min_steps"}, "steps"),
        ({"name": "min_steps", "steps": 0}, "whole number"),
    ]:
        with pytest.raises(SpecError, match=told):
            parse_step(entry)
