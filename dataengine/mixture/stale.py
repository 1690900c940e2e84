"""With what a version was made, and what of that is no longer what the engine would use today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataengine.convert import Conversion
from dataengine.documents import canonical_json
from dataengine.mixture.roster import Roster
from dataengine.shards.samples import encoder_versions
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import Manifest
from dataengine.transforms.quality import recipe_steps
from dataengine.transforms.steps import describe, kind_of


def made_with(recipe: Recipe, roster: Roster) -> dict[str, Any]:
    """What a manifest says of converters, cards, steps and encoders: names, versions and digests."""
    counts = np.bincount(roster.kind[roster.usable], minlength=len(roster.kinds)).tolist()
    conversions = [
        {
            "source_id": kind.source_id,
            "converter": kind.converter,
            "conversion_digest": kind.conversion_digest,
            "card": kind.card.name,
            "card_version": kind.card.version,
            "card_sha256": kind.card.digest(),
            "episodes": count,
        }
        for kind, count in zip(roster.kinds, counts, strict=True)
        if count
    ]
    return {
        "conversions": sorted(conversions, key=canonical_json),
        "steps": {source.entry: _steps(recipe, source.entry) for source in recipe.sources},
        "encoders": encoder_versions(),
    }


def _steps(recipe: Recipe, entry: str) -> list[dict[str, Any]]:
    source = next(source for source in recipe.sources if source.entry == entry)
    return [{"kind": kind_of(step), **describe(step)} for step in recipe_steps(recipe, source)]


def stale(manifest: Manifest, current: Mapping[str, Conversion]) -> list[dict[str, Any]]:
    """One row for each converter, card, step and encoder of a version: as it was, as it is, and whether they differ.

    `current` are the conversions at hand by converter; one that is not at hand is `unknown`.
    """
    made = manifest.made or {}
    recipe = Recipe.parse(dict(manifest.recipe), "the version's recipe")
    rows = _conversions(made.get("conversions", ()), current)
    for entry, steps in made.get("steps", {}).items():
        now = {step["name"]: step["version"] for step in _steps(recipe, entry)}
        rows += [_row("step", f"{entry}: {step['name']}", step["version"], now.get(step["name"])) for step in steps]
    encoders = encoder_versions()
    rows += [_row("encoder", name, was, encoders.get(name)) for name, was in made.get("encoders", {}).items()]
    return rows


def _conversions(made: Sequence[Mapping[str, Any]], current: Mapping[str, Conversion]) -> list[dict[str, Any]]:
    rows = []
    for was in made:
        now = current.get(was["converter"])
        digest = now.digest if now is not None else None
        row = _row("converter", was["converter"], was["conversion_digest"], digest, unknown=now is None)
        rows.append({**row, "episodes": was["episodes"]})
        card = now.card if now is not None else None
        row = _row("card", was["card"], was["card_sha256"], card.digest() if card else None, unknown=card is None)
        rows.append({**row, "episodes": was["episodes"]})
    return rows


def _row(kind: str, name: str, was: Any, now: Any, *, unknown: bool = False) -> dict[str, Any]:
    state = "unknown" if unknown else "current" if was == now else "stale"
    return {"kind": kind, "name": name, "built_with": was, "current": now, "state": state, "episodes": None}
