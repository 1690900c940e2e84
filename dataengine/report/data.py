"""A version as one plain document for the page: the same version gives the same document.

It has three parts, because a page opens faster when what is large need not be read first: `summary` (all that the
first screen shows, and the shards), `tables` (episodes, what went into every shard, channels) and `samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataengine.mixture import diff as diffing
from dataengine.mixture.statistics import stored
from dataengine.report import composition
from dataengine.report.distributions import channels
from dataengine.report.findings import findings
from dataengine.report.samples import samples
from dataengine.report.version import Row, SourceKey, Version
from dataengine.shards.samples import KEY_UID

FORMAT = 1
MAX_EPISODES = 200_000
MAX_CHANGES = 2_000
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Document:
    """What a page shows; plain JSON values."""

    summary: dict[str, Any]
    tables: dict[str, Any]
    samples: list[dict[str, Any]]


def collect(version: Version, other: Version | None, count: int, tell: Tell) -> Document:
    """Everything of `version`, with `count` samples of every source, and what changed since `other`."""
    tell("report", 0, 3)
    shown = samples(version, count, tell)
    embodiments = {row["converter"]: row["embodiment"] for row in shown if row["embodiment"]}
    tell("report", 1, 3)
    listed = channels(stored(version.store, version.name))
    tell("report", 2, 3)
    rows = _shown_rows(version)
    summary = _summary(version, embodiments)
    summary["episodes_shown"] = len(rows)
    summary["values"] = _values(listed)
    summary["findings"] = findings(summary, listed)
    summary["diff"] = None if other is None else changes(other, version)
    tables = {"episodes": _episodes(version, rows), "inputs": _inputs(version, rows), "channels": _columns(listed)}
    tell("report", 3, 3)
    return Document(summary, tables, shown)


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many channels there are, and the one that loses most to the clip."""
    worst = max(rows, key=lambda row: row["cut"] or 0.0, default=None)
    cut = worst["cut"] or 0.0 if worst is not None else 0.0
    named = (
        "" if worst is None else f"{worst['group']} {worst['side']} {worst['slot']} {worst['name']}, {worst['form']}"
    )
    return {
        "channels": len(rows),
        "worst_cut": cut,
        "worst": named if cut else "",
        "constant": sum(row["class"] == "constant" for row in rows),
    }


def _summary(version: Version, embodiments: Mapping[str, str]) -> dict[str, Any]:
    manifest = version.manifest
    listed = composition.sources(version, embodiments)
    dimensions = [name for name in composition.DIMENSIONS if name != "task" or composition.has_tasks(version)]
    seconds = [source["seconds"] for source in listed]
    return {
        "format": FORMAT,
        "name": manifest.name,
        "version": version.name,
        "description": str(manifest.recipe.get("description", "")),
        "manifest": version.sha256,
        "plan_id": manifest.plan_id,
        "lake_digest": manifest.lake_digest,
        "schema": manifest.schema_version,
        "unit": str(manifest.recipe.get("mix", {}).get("unit", "sample")),
        "weights": str(manifest.recipe.get("mix", {}).get("weights", "")),
        "totals": {
            "samples": manifest.samples,
            "draws": None if manifest.schedule is None else manifest.schedule["draws"],
            "kind": str(manifest.recipe.get("samples", {}).get("kind", "window")),
            "shards": len(manifest.shards),
            "bytes": sum(shard.bytes for shard in manifest.shards),
            "episodes_in": len(version.rows),
            "episodes_kept": sum(source["episodes_kept"] for source in listed),
            "episodes_dropped": sum(source["episodes_dropped"] for source in listed),
            "bad_input": manifest.bad_input,
            "seconds": None if None in seconds else sum(seconds),
            "sources": len(listed),
        },
        "sources": listed,
        "parts": {name: composition.parts(version, embodiments, name) for name in dimensions},
        "drops": composition.drops(version),
        "shards": _shards(version),
    }


class _Names:
    """Texts by number, in the order in which they came."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    @property
    def texts(self) -> list[str]:
        return list(self.numbers)


def _shards(version: Version) -> dict[str, Any]:
    """Columns of the shards; `sources` are [number of the summary's source, samples] pairs of each."""
    numbers = {key: number for number, key in enumerate(version.sources)}
    inside: list[dict[int, int]] = [{} for _ in version.manifest.shards]
    for record in version.inputs:
        own, number = inside[record["shard"]], _source_number(version, numbers, record["uid"])
        own[number] = own.get(number, 0) + record["samples"]
    splits, shards = _Names(), version.manifest.shards
    return {
        "sha256": [shard.sha256 for shard in shards],
        "task_digest": [shard.task_digest for shard in shards],
        "bytes": [shard.bytes for shard in shards],
        "samples": [shard.samples for shard in shards],
        "bucket": [shard.bucket for shard in shards],
        "split": [splits.number(shard.split) for shard in shards],
        "splits": splits.texts,
        "sources": [[list(pair) for pair in sorted(own.items())] for own in inside],
    }


def _source_number(version: Version, numbers: Mapping[SourceKey, int], uid: str) -> int:
    return numbers[version.key(version.rows[version.places[uid]])]


def _shown_rows(version: Version) -> list[Row]:
    """The episodes that the page lists: all, or of very many those that were dropped and the first of the others."""
    if len(version.rows) <= MAX_EPISODES:
        return version.rows
    order = sorted(range(len(version.rows)), key=lambda place: (version.rows[place]["status"] == "kept", place))
    return [version.rows[place] for place in sorted(order[:MAX_EPISODES])]


def _episodes(version: Version, rows: list[Row]) -> dict[str, Any]:
    """Columns of the ledger. `reason`, `task` and `step` are numbers into lists of texts, "" for none."""
    numbers = {key: number for number, key in enumerate(version.sources)}
    reasons, tasks, stages, splits = _Names(), _Names(), _Names(), _Names()
    return {
        "uid": [row["uid"][:KEY_UID] for row in rows],
        "upstream": [row["upstream_id"] for row in rows],
        "source": [numbers[version.key(row)] for row in rows],
        "reason": [reasons.number(row["reason"]) for row in rows],
        "task": [tasks.number(str(row.get("task") or "")) for row in rows],
        "step": [stages.number(row["step"]) for row in rows],
        "split": [splits.number(row["split"]) for row in rows],
        "samples": [row["samples"] for row in rows],
        "steps": [version.steps(row) for row in rows],
        "kept_steps": [version.kept_steps(row) for row in rows],
        "evidence": {str(place): row["evidence"][:500] for place, row in enumerate(rows) if row["evidence"]},
        "bad_input": [place for place, row in enumerate(rows) if row["bad_input"]],
        "accepted": [place for place, row in enumerate(rows) if row["accepted"]],
        "reasons": reasons.texts,
        "tasks": tasks.texts,
        "stages": stages.texts,
        "splits": splits.texts,
    }


def _inputs(version: Version, rows: list[Row]) -> dict[str, list[int]]:
    """What went into the shards, in their order: `first[n]` is shard n's first record. -1: an episode not listed."""
    places = {row["uid"]: place for place, row in enumerate(rows)}
    records = sorted(version.inputs, key=lambda record: int(record["shard"]))
    counts = [0] * len(version.manifest.shards)
    for record in records:
        counts[record["shard"]] += 1
    return {
        "count": counts,
        "episode": [places.get(record["uid"], -1) for record in records],
        "start": [record["start"] for record in records],
        "length": [record["stop"] - record["start"] for record in records],
        "samples": [record["samples"] for record in records],
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def changes(before: Version, after: Version) -> dict[str, Any]:
    """`dataengine diff`, at most `MAX_CHANGES` of each list, and samples by source before and after."""
    found = diffing.diff(before.store, before.name, after.store, after.name)
    found |= {name: rows[:MAX_CHANGES] for name, rows in found.items() if isinstance(rows, list)}
    episodes = found["episodes"]
    found["episodes"] = {kind: rows[:MAX_CHANGES] for kind, rows in episodes.items()}
    amounts = [{s.source_id: 0 for s in v.manifest.sources} for v in (before, after)]
    for version, amount in zip((before, after), amounts, strict=True):
        for source in version.manifest.sources:
            amount[source.source_id] += source.samples
    names = sorted(amounts[0].keys() | amounts[1].keys())
    found["samples_by_source"] = [
        {"name": name, "before": amounts[0].get(name, 0), "after": amounts[1].get(name, 0)} for name in names
    ]
    return found
