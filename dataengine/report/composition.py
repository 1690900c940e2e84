"""What a version consists of: sources with asked and realized shares, parts by family, body and task, and the drops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dataengine.documents import unknown_name
from dataengine.errors import SpecError
from dataengine.report.version import Row, SourceKey, Version, entry_of, rounded
from dataengine.specs.recipe import Recipe
from dataengine.weights import Offer, shares

MAX_TASKS = 300
CAP_NEAR = 0.02
OTHER = "(all other tasks)"
_TERMS = ("family", "license", "url", "revision", "terms_url", "consent", "commercial_ok", "synthetic")
_COUNTS = ("episodes_in", "episodes_kept", "episodes_dropped", "samples")
Embodiments = Mapping[str, str]  # by converter


def sources(version: Version, embodiments: Embodiments) -> list[dict[str, Any]]:
    """One row a source of the recipe: its terms, counts, weight, rate and shares, sorted by name."""
    recipe = _recipe(version)
    weighed = {} if recipe is None else _weighing(version.manifest.recipe)
    grouped: dict[SourceKey, list[Row]] = {key: [] for key in version.sources}
    for row in version.rows:
        grouped[version.key(row)].append(row)
    asked = {} if recipe is None else _shares(version, recipe, grouped)
    found = []
    for key, rows in grouped.items():
        entry, source_id, converter = key
        terms = version.terms[source_id, converter].canonical()
        wanted, planned, got = asked.get(entry, (None, None, None))
        said = weighed.get(entry, {"weight": None, "cap": None, "cap_unit": ""})
        rate = version.manifest.pins.rates.get(entry)
        found.append(
            {
                "entry": entry,
                "source_id": source_id,
                "converter": converter,
                "embodiment": embodiments.get(converter, ""),
                **{name: terms[name] for name in _TERMS},
                "more": {
                    name: terms[name] for name in sorted(terms.keys() - {*_TERMS, *_COUNTS, "source_id", "converter"})
                },
                **said,
                "rate": rate,
                "capped": recipe is not None and _capped(version, recipe, said, rows, rate),
                "requested": rounded(wanted),
                "planned": rounded(planned),
                "realized": rounded(got),
                **_counts(version, rows),
            }
        )
    return found


def _counts(version: Version, rows: list[Row]) -> dict[str, Any]:
    kept = [row for row in rows if row["status"] == "kept"]
    return {
        "episodes_in": len(rows),
        "episodes_kept": len(kept),
        "episodes_dropped": len(rows) - len(kept),
        "episodes_used": sum(row["samples"] > 0 for row in kept),
        "samples": sum(row["samples"] for row in rows),
        "steps": _sum([version.steps(row) for row in kept]),
        "kept_steps": _sum([version.kept_steps(row) for row in kept]),
        "seconds": _sum([version.seconds(row) for row in kept]),
        "splits": dict(sorted(Counter(row["split"] for row in kept for _ in range(bool(row["samples"]))).items())),
    }


def _capped(version: Version, recipe: Recipe, said: Mapping[str, Any], rows: list[Row], rate: float | None) -> bool:
    """Whether a source's cap lowered its rate: what it plans to give then is the cap."""
    if said["cap"] is None or not rate:
        return False
    if recipe.mix.weights == "multiplier":
        return bool(rate < said["weight"])
    kept = [row for row in rows if row["status"] == "kept"]
    have = _offer(version, recipe, entry_of(rows[0]), kept).size(said["cap_unit"]) * rate
    return bool(abs(have - said["cap"]) <= CAP_NEAR * said["cap"])


def _sum(values: list[Any]) -> Any:
    """The sum, None where a part is unknown."""
    return None if any(value is None for value in values) else rounded(sum(values), 12)


def _recipe(version: Version) -> Recipe | None:
    """The version's recipe; None for one that this version of the engine does not read."""
    try:
        return Recipe.parse(version.manifest.recipe, version.name)
    except SpecError:
        return None


def _weighing(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    named = {str(source.get("name") or source.get("converter")): source for source in recipe["sources"]}
    return {name: {part: source.get(part) for part in ("weight", "cap", "cap_unit")} for name, source in named.items()}


def _shares(
    version: Version, recipe: Recipe, grouped: Mapping[SourceKey, list[Row]]
) -> dict[str, tuple[float, float, float]]:
    """(requested, planned, realized) by source, in the recipe's unit; of a scheduled mix what its epochs draw.

    Requested is what weights and groups ask for, caps apart; planned is what the pinned rates give, within caps.
    """
    by_entry: dict[str, list[Row]] = {}
    for key, rows in grouped.items():
        by_entry.setdefault(key[0], []).extend(row for row in rows if row["status"] == "kept")
    offered = {entry: _offer(version, recipe, entry, rows) for entry, rows in by_entry.items()}
    if recipe.mix.unit == "hour" and None in [version.seconds(row) for rows in by_entry.values() for row in rows]:
        return {}
    samples = {entry: sum(row["samples"] for row in rows) for entry, rows in by_entry.items()}
    found = shares(recipe, offered, samples)
    drawn = _drawn(version)
    if drawn is not None:  # epochs are of the train split alone
        train = {entry: [row for row in rows if row["split"] == "train"] for entry, rows in by_entry.items()}
        offered = {entry: _offer(version, recipe, entry, rows) for entry, rows in train.items()}
    rates = version.manifest.pins.rates
    plan = {name: offer.size(recipe.mix.unit) * rates.get(name, 0) for name, offer in offered.items()}
    whole = sum(plan.values()) or 1.0
    return {
        name: (asked, plan.get(name, 0.0) / whole, got if drawn is None else drawn.get(name, 0.0))
        for name, (asked, got) in found.items()
    }


def _offer(version: Version, recipe: Recipe, entry: str, kept: list[Row]) -> Offer:
    """What a source offered: its windows where the ledger tells them, else its samples over its rate."""
    taken, rate = sum(row["samples"] for row in kept), version.manifest.pins.rates.get(entry) or 1.0
    whole = taken
    if recipe.mix.mode == "baked" or recipe.samples.kind == "episode":
        whole = _windows(version, recipe, entry, kept, taken / rate)
    steps, seconds = (_sum([told(row) for row in kept]) for told in (version.kept_steps, version.seconds))
    families = {version.family(version.key(row)) for row in kept}
    return Offer(
        samples=whole,
        episodes=len(kept),
        frames=int(steps if steps is not None else whole),
        seconds=float(seconds or 0.0),
        items=families == {"vision_language"},
    )


def _windows(version: Version, recipe: Recipe, entry: str, kept: list[Row], estimate: float) -> int:
    """Windows of the kept steps, unless steps of the recipe weigh them: then their number is further from the estimate
    than chance would take it."""
    source = next((source for source in recipe.sources if source.entry == entry), None)
    steps = [version.kept_steps(row) for row in kept]
    if source is None or None in steps:
        return round(estimate)
    stride = recipe.window_for(source).stride
    exact = sum(-(-int(count or 0) // stride) for count in steps)
    rate = version.manifest.pins.rates.get(entry) or 1.0
    if recipe.samples.kind == "episode":
        return exact
    return exact if abs(exact - estimate) * rate <= 4 * math.sqrt(estimate * rate) + 1 else round(estimate)


def _drawn(version: Version) -> dict[str, float] | None:
    """The share of each source in the draws of an epoch; None where the shards are the mixture."""
    schedule = version.manifest.schedule
    if schedule is None:
        return None
    draws: Counter[str] = Counter()
    for stage in schedule["stages"]:
        for name, share in stage["shares"].items():
            draws[name] += share * stage["draws"]
    whole = sum(draws.values()) or 1.0
    return {name: count / whole for name, count in draws.items()}


def parts(version: Version, embodiments: Embodiments, dimension: str) -> list[dict[str, Any]]:
    """What was kept by family, source, embodiment, task, license or split: episodes, samples, steps, seconds.

    The largest first. Tasks beyond `MAX_TASKS` stand together in the last row.
    """
    found: dict[str, list[Row]] = {}
    for row in version.rows:
        if row["status"] == "kept":
            found.setdefault(_part(version, embodiments, dimension, row), []).append(row)
    listed = [{"name": name, **_amount(version, rows)} for name, rows in found.items()]
    listed.sort(key=lambda part: (-part["samples"], -part["episodes"], part["name"]))
    if dimension != "task" or len(listed) <= MAX_TASKS:
        return listed
    rest = [row for part in listed[MAX_TASKS:] for row in found[part["name"]]]
    return [*listed[:MAX_TASKS], {"name": OTHER, **_amount(version, rest)}]


DIMENSIONS = ("family", "source", "embodiment", "task", "license", "split")


def _part(version: Version, embodiments: Embodiments, dimension: str, row: Row) -> str:
    terms = version.terms[row["source_id"], row["converter"]]
    if dimension in ("family", "license"):
        return str(getattr(terms, dimension))
    if dimension == "source":
        return entry_of(row)
    if dimension == "embodiment":
        return embodiments.get(row["converter"]) or "(none)"
    if dimension == "split":
        return str(row["split"])
    if dimension == "task":
        return str(row.get("task") or "(no instruction)")
    raise unknown_name("dimension", dimension, DIMENSIONS)


def _amount(version: Version, rows: list[Row]) -> dict[str, Any]:
    return {
        "episodes": len(rows),
        "samples": sum(row["samples"] for row in rows),
        "steps": _sum([version.kept_steps(row) for row in rows]),
        "seconds": _sum([version.seconds(row) for row in rows]),
    }


def drops(version: Version) -> list[dict[str, Any]]:
    """Dropped episodes by reason, source and step, the most first, each with one example."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in version.rows:
        if row["status"] != "kept":
            found.setdefault((row["reason"], entry_of(row), row["step"]), []).append(row)
    listed = [
        {
            "reason": reason,
            "source": source,
            "step": step,
            "episodes": len(rows),
            "bad_input": sum(row["bad_input"] for row in rows),
            "accepted": sum(row["accepted"] for row in rows),
            "example": rows[0]["upstream_id"],
            "evidence": rows[0]["evidence"][:500],
        }
        for (reason, source, step), rows in found.items()
    ]
    return sorted(listed, key=lambda row: (-row["episodes"], row["reason"], row["source"], row["step"]))


def has_tasks(version: Version) -> bool:
    """Whether the ledger says what episodes were told to do."""
    return any(row.get("task") is not None for row in version.rows)
