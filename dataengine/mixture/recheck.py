"""Recheck: a version's statistics computed again from the lake, compared value by value with what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from dataengine.documents import canonical_json
from dataengine.engine.base import Engine
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.select import Inputs, select
from dataengine.mixture.statistics import Stored
from dataengine.mixture.store import MixtureStore
from dataengine.mixture.surveying import Progress, surveyed
from dataengine.normalization.document import reused
from dataengine.specs.recipe import Recipe


@dataclass(frozen=True)
class Difference:
    """One value that is not what the lake gives: where it stands, as stored, and as computed again."""

    where: str
    name: str
    stored: Any
    computed: Any


@dataclass
class Recheck:
    """What was compared. `reused` says that the ranges are frozen, and only what they were applied to was compared."""

    version: str
    groups: list[str] = field(default_factory=list)
    values: int = 0
    reused: bool = False
    differences: list[Difference] = field(default_factory=list)


def inputs_of(store: MixtureStore, found: Stored, lake: Lake) -> Inputs:
    """The episodes that a version was built of, as the lake holds them; missing ones are a `SpecError`."""
    sha, manifest = store.manifest(found.version)
    name = f"{store.documents(sha)}/ledger.parquet"
    rows = ledgers.read_parquet(store.checked(name, manifest.ledger_sha256))
    wanted = {row["uid"] for row in rows if row["unit"] == "episode"}
    inputs = select(Recipe.parse(manifest.recipe, "the version's recipe"), lake)
    there = set(inputs.heads)
    missing = sorted(wanted - there)
    if missing:
        raise SpecError(
            f"the lake lacks {len(missing)} of {len(wanted)} episodes of version {found.version}: {missing[0]}, ...",
            where=str(lake.path),
            fix="give the lake that the version was built from, or ingest its sources again",
        )
    heads = inputs.heads.only(np.array(sorted(map(inputs.heads.index, wanted)), np.int64))
    return replace(inputs, heads=heads, digest=heads.digest())


def kept_train(store: MixtureStore, found: Stored) -> list[str]:
    """The episodes whose values are a version's population, by its ledger."""
    sha, manifest = store.manifest(found.version)
    rows = ledgers.read_parquet(store.checked(f"{store.documents(sha)}/ledger.parquet", manifest.ledger_sha256))
    return sorted(row["uid"] for row in rows if (row["status"], row["split"]) == ("kept", "train"))


def recheck(found: Stored, inputs: Inputs, engine: Engine, tell: Progress) -> Recheck:
    """Survey again by the version's recipe and compare with `found`."""
    recipe = Recipe.parse(found.manifest.recipe, "the version's recipe")
    _, statistics = surveyed(recipe, inputs, engine, tell)
    report = Recheck(found.version, sorted(found.document["groups"]))
    spec, frozen = recipe.normalization, found.document.get("reuse")
    if frozen is not None:
        report.reused = True
        kept = {name: value for name, value in found.document.items() if name != "reuse"}
        computed = reused(statistics.groups, spec, kept, frozen["sha256"])
    else:
        computed = statistics.document(spec)
    pairs = list(compared("", found.document, orjson.loads(canonical_json(computed))))
    report.values = len(pairs)
    report.differences = [Difference(*pair) for pair in pairs if pair[2] != pair[3]]
    if found.statistics is not None and found.statistics.to_bytes() != statistics.to_bytes():
        digests = found.manifest.statistics_sha256, "other bytes"
        report.differences.append(Difference("statistics.bin", "content", *digests))
    return report


def compared(where: str, stored: Any, computed: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(where, name, stored, computed) of every value; what stands on one side only has None on the other."""
    left_side, right_side = _named(stored), _named(computed)
    for name in sorted(left_side.keys() | right_side.keys()):
        left, right = left_side.get(name), right_side.get(name)
        if _inner(left) or _inner(right):
            yield from compared(f"{where} {name}".strip(), left, right)
        else:
            yield where or "normalization.json", name, left, right


def _inner(value: Any) -> bool:
    return isinstance(value, Mapping) or _entries(value)


def _entries(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "channel" in value[0]


def _named(value: Any) -> Mapping[str, Any]:
    """Members by name, entries by channel; nothing of what has no members."""
    if _entries(value):
        return {f"{entry['slot']} channel {entry['channel']}": entry for entry in value}
    return value if isinstance(value, Mapping) else {}
