"""Forecast: what a recipe would make of a catalogue, before any of its data is there.

The plan is the one that a build makes; what a build learns from the data itself (what its steps take, what cannot be
read) is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dataengine.catalogue import Catalogue, Kind
from dataengine.documents import spec_files
from dataengine.mixture.catalogued import choices, offers, taken
from dataengine.plan import SPLITS, Tasks, make_tasks
from dataengine.specs.recipe import GroupSpec, Recipe, RecipeSource
from dataengine.specs.records import Pins
from dataengine.weights import Offer, drawn, resolve_pins, shares

_CLOSE = 1e-6


@dataclass(frozen=True)
class Line:
    """One source of the recipe. `limit` says what kept its rate down, `shipped` whether its converter is there.

    `samples` lie in the shards; `draws` are those of an epoch, which differ where a schedule draws them.
    """

    source: str
    episodes: int
    hours: float
    windows: int
    rate: float
    samples: int
    draws: int
    bytes: int
    requested: float
    realized: float
    limit: str
    shipped: bool
    grade: str


@dataclass(frozen=True)
class GroupLine:
    """A group of the recipe, `depth` deep: shares of the whole."""

    name: str
    depth: int
    requested: float
    realized: float


@dataclass
class Forecast:
    """What a build of a recipe would come to. `not_applied` names what of the recipe needs the data itself."""

    recipe: str
    catalogue: str
    catalogue_digest: str
    unit: str
    sources: list[Line]
    groups: list[GroupLine]
    episodes: int
    samples: int
    draws: int
    shards: Mapping[str, int]
    largest_shard: int
    bytes: int
    not_applied: list[str]
    not_shipped: list[str]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """The plan behind a forecast, for who wants to look closer."""

    offered: Mapping[str, Offer]
    pins: Pins
    tasks: Tasks


def forecast(recipe: Recipe, catalogue: Catalogue) -> Forecast:
    """Plan a recipe over a catalogue. A source that the catalogue does not speak of is a `SpecError`."""
    return told(recipe, catalogue, *made(recipe, catalogue))


def made(recipe: Recipe, catalogue: Catalogue) -> tuple[Made, dict[str, float]]:
    """The plan, and the seconds of its stages."""
    clock = [time.perf_counter()]
    candidates, rows = taken(recipe, catalogue)
    clock.append(time.perf_counter())
    offered = offers(recipe, catalogue, candidates, rows)
    del rows  # ten million take 80 MB, and the plan is to come
    pins = resolve_pins(recipe, offered, None, None)
    clock.append(time.perf_counter())
    tasks = make_tasks(recipe, candidates, pins)
    clock.append(time.perf_counter())
    seconds = [later - earlier for earlier, later in pairwise(clock)]
    return Made(offered, pins, tasks), dict(zip(("select and split", "weigh", "assign"), seconds, strict=True))


def told(recipe: Recipe, catalogue: Catalogue, plan: Made, seconds: Mapping[str, float]) -> Forecast:
    """The figures of a plan."""
    tasks, offered = plan.tasks, plan.offered
    samples = {source.entry: 0 for source in recipe.sources} | tasks.samples()
    draws = _draws(recipe, plan, samples)
    found = shares(recipe, offered, draws)
    weights = tasks.candidates.sample_bytes[tasks.row] * tasks.counts
    by_source = np.bincount(tasks.candidates.source[tasks.row], weights=weights, minlength=len(recipe.sources))
    chosen = choices(recipe, catalogue)
    lines = []
    for number, source in enumerate(recipe.sources):
        name, have, rate = source.entry, offered[source.entry], plan.pins.rates[source.entry]
        kinds = [catalogue.kinds[place] for place, owner in enumerate(chosen) if owner == number]
        lines.append(
            Line(
                source=name,
                episodes=have.episodes,
                hours=have.seconds / 3600,
                windows=have.samples,
                rate=rate,
                samples=samples[name],
                draws=draws[name],
                bytes=int(by_source[number]),
                requested=found[name][0],
                realized=found[name][1],
                limit=_limit(recipe, source, have, rate),
                shipped=all(kind.converter in spec_files("converters") for kind in kinds),
                grade=_grade(kinds),
            )
        )
    shards = {split: sum(place[0] == split for place in tasks.places) for split in SPLITS}
    return Forecast(
        recipe=recipe.name,
        catalogue=catalogue.name,
        catalogue_digest=catalogue.digest,
        unit=recipe.mix.unit,
        sources=lines,
        groups=list(_groups(recipe.mix.groups, 1.0, found, 0)),
        episodes=sum(line.episodes for line in lines),
        samples=sum(samples.values()),
        draws=sum(draws.values()),
        shards=shards,
        largest_shard=_largest(tasks, weights),
        bytes=int(weights.sum()),
        not_applied=_not_applied(recipe),
        not_shipped=sorted({line.source for line in lines if not line.shipped}),
        seconds=dict(seconds),
    )


def _draws(recipe: Recipe, plan: Made, samples: Mapping[str, int]) -> dict[str, int]:
    """How often each source is drawn in an epoch: its samples in a baked mix, else what the schedule says."""
    schedule = drawn(recipe, plan.pins, plan.offered, plan.tasks.samples("train"))
    if schedule is None:
        return dict(samples)
    stages = schedule["stages"]
    return {name: round(sum(stage["draws"] * stage["shares"].get(name, 0.0) for stage in stages)) for name in samples}


def _limit(recipe: Recipe, source: RecipeSource, have: Offer, rate: float) -> str:
    repeats = recipe.mix.max_repeats
    if source.cap is not None and have.size(source.cap_unit) * rate >= source.cap * (1 - _CLOSE):
        return f"cap {source.cap:g} {source.cap_unit}s"
    return f"max_repeats {repeats:g}" if repeats is not None and rate >= repeats * (1 - _CLOSE) else ""


def _grade(kinds: Sequence[Kind]) -> str:
    """What the sizes rest on."""
    return ", ".join(sorted({kind.grade or "listed" for kind in kinds}))


def _groups(
    groups: Sequence[GroupSpec], whole: float, found: Mapping[str, tuple[float, float]], depth: int
) -> list[GroupLine]:
    total, lines = sum(group.weight for group in groups), []
    for group in groups:
        part = whole * group.weight / total
        realized = sum(found[name][1] for name in group.all_sources())
        lines.append(GroupLine(group.name, depth, part, realized))
        lines += _groups(group.groups, part, found, depth + 1)
    return lines


def _largest(tasks: Tasks, weights: NDArray[np.int64]) -> int:
    """Bytes of the largest shard."""
    sums = np.concatenate([[0], np.cumsum(weights)])
    return int(np.diff(sums[tasks.edges]).max(initial=0))


def _not_applied(recipe: Recipe) -> list[str]:
    """What of a recipe needs the data itself."""
    steps = len(recipe.filters) + len(recipe.steps)
    steps += sum(len(source.filters) + len(source.steps) for source in recipe.sources)
    where = len([source for source in recipe.sources if source.where is not None])
    found = [f"{steps} filters and steps"] if steps else []
    found += [f"`where` of {where} sources"] if where else []
    return [*found, "`require`", "what cannot be read"]
