"""Preview: what a build would make of its inputs, told before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dataengine.mixture.build import Planned
from dataengine.mixture.select import Inputs
from dataengine.mixture.store import MixtureStore
from dataengine.specs.recipe import Recipe
from dataengine.weights import shares


@dataclass
class DryRun:
    """What a build would do, written nowhere.

    `shares` are (requested, realized) by source, in `unit`. `bad_input` counts drops for bad input that the recipe does
    not accept by name; `tasks_cached` are done already. `stages` are seconds for `workers`, measured (`read`, `survey`,
    `plan`) or estimated (`shards`), `estimate_from` says from what; `estimated_seconds` is their sum.
    """

    recipe: str
    plan_id: str
    rates: Mapping[str, float]
    episodes: Mapping[str, int]
    samples: Mapping[str, int]
    dropped: Mapping[str, int]
    bad_input: int
    tasks: int
    tasks_cached: int
    estimated_bytes: int
    unit: str = "sample"
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bytes_by_source: Mapping[str, int] = field(default_factory=dict)
    drops_by_source: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    estimated_seconds: float | None = None
    estimate_from: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1


def preview(recipe: Recipe, inputs: Inputs, planned: Planned, store: MixtureStore | None) -> DryRun:
    """Counts of a plan; `episodes` are the kept ones by source."""
    table, roster = planned.verdicts.table, inputs.heads
    names = [source.entry for source in recipe.sources]
    samples = dict.fromkeys(names, 0) | planned.tasks.samples()
    dropped: Counter[str] = Counter()
    bad_input = 0
    for number, source in enumerate(recipe.sources):
        own = table[(roster.entry == number) & table["dropped"]]
        for reason, count in enumerate(np.bincount(own["reason"]).tolist()):
            dropped[planned.verdicts.words("reason")[reason]] += count
        reasons = planned.verdicts.words("reason")
        accepted = [reasons.index(name) for name in source.accept if name in reasons]
        bad_input += int((own["bad_input"] & ~np.isin(own["reason"], accepted)).sum())
    kept = np.bincount(roster.entry[planned.verdicts.kept], minlength=len(names)).tolist()
    return DryRun(
        recipe=recipe.name,
        plan_id=planned.plan_id,
        rates=planned.pins.rates,
        episodes=dict(zip(roster.entries, kept, strict=True)),
        samples=samples,
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        bad_input=bad_input,
        tasks=len(planned.tasks),
        tasks_cached=sum(store.cached_task(digest) is not None for digest in planned.digests) if store else 0,
        estimated_bytes=planned.tasks.bytes,
        unit=recipe.mix.unit,
        shares=shares(recipe, planned.offered, _drawn(planned) or samples),
    )


def _drawn(planned: Planned) -> dict[str, float]:
    """How often an epoch of a scheduled mix draws from each source; empty for a baked one."""
    found: dict[str, float] = {}
    for stage in (planned.schedule or {}).get("stages", ()):
        for name, share in stage["shares"].items():
            found[name] = found.get(name, 0.0) + stage["draws"] * share
    return found
