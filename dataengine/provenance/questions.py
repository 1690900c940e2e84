"""Questions to a version by source, licence and step, and to a mixture by the code that built it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataengine.documents import unknown_name, unseal
from dataengine.errors import DataEngineError, SpecError
from dataengine.mixture.store import MixtureStore, shard_name
from dataengine.provenance.version import Version, counted, facts, terms

_TOKEN = re.compile(r"[^\s()]+")
_COUNTED = ("entry", "source_id", "converter")


def source(version: Version, name: str) -> dict[str, Any]:
    """A source by its id, its converter or its name in the recipe: facts, counts, steps, drops, and its shards."""
    table = version.ledger((*_COUNTED, "status", "reason", "step"))
    masks = [pc.equal(table[column], name) for column in _COUNTED]
    own = table.filter(pc.or_(pc.or_(masks[0], masks[1]), masks[2]))
    if not own.num_rows:
        known = {value for column in _COUNTED for value in pc.unique(table[column]).to_pylist()}
        raise unknown_name("source", name, known)
    pairs, entries = _pairs(own), sorted(pc.unique(own["entry"]).to_pylist())
    dropped = own.filter(pc.equal(own["status"], "dropped"))
    return {
        **_heading(version),
        "sources": _summaries(version, pairs),
        "terms": terms(s for pair, s in version.known_sources().items() if pair in pairs),
        "conversions": version.conversions(pairs),
        "steps": version.steps(entries),
        "drops": _grouped(dropped, ("reason", "step")),
        "shards": _shards_with(version, entries=entries, pairs=pairs),
    }


def license_of(version: Version, name: str) -> dict[str, Any]:
    """The sources under a licence, or under an expression that holds it, and the shards that they are in."""
    known = version.known_sources()
    found = [s for s in known.values() if name == s.license or name in _TOKEN.findall(s.license)]
    if not found:
        raise unknown_name("licence", name, {s.license for s in known.values()})
    pairs = {(s.source_id, s.converter) for s in found}
    return {
        **_heading(version),
        "license": name,
        "sources": _summaries(version, pairs),
        "terms": terms(found),
        "shards": _shards_with(version, pairs=pairs),
    }


def step(version: Version, name: str) -> dict[str, Any]:
    """A step: with which version and parameters it ran on which sources, the shards of those, and what it dropped."""
    runs = step_rows(version, name)
    columns = ("status", "entry", "source_id", "upstream_id", "uid", "reason", "step", "evidence")
    table = version.ledger(columns)
    dropped = table.filter(pc.and_(pc.equal(table["status"], "dropped"), pc.equal(table["step"], name)))
    if not runs and not dropped.num_rows:
        known = {row["name"] for row in step_rows(version)} | set(pc.unique(table["step"]).to_pylist()) - {""}
        raise unknown_name("step", name, known)
    return {
        **_heading(version),
        "step": name,
        "runs": runs,
        "drops": _grouped(dropped, ("entry", "reason")),
        "dropped": dropped.select(list(columns[1:])).to_pylist(),
        "shards": _shards_with(version, entries={row["entry"] for row in runs}),
    }


def step_rows(version: Version, name: str | None = None) -> list[dict[str, Any]]:
    """One row for each step of each source of the recipe, in the order that they run; those of `name` if given."""
    return [
        {"entry": entry, "place": place, **{key: run.get(key) for key in ("kind", "name", "version", "parameters")}}
        for entry, listed in version.steps().items()
        for place, run in enumerate(listed)
        if name in (None, run.get("name"))
    ]


def code(store: MixtureStore, name: str) -> dict[str, Any]:
    """What a commit (or the beginning of one) or a release built: its runs, and the versions and shards of those.

    A shard counts for the first run whose version holds it; `new` are those of this code.
    """
    runs = run_facts(store)
    chosen = {run["run"] for run in runs if _is_of(run, name)}
    if not chosen:
        known = sorted({str(run["commit"] or run["release"]) for run in runs})
        what = f"no run on record was of code {name!r}"
        raise SpecError(what, fix=f"known: {', '.join(known)}" if known else "the mixture has no run facts")
    first: dict[str, tuple[str, str]] = {}  # by shard: the run and the version that had it first
    shards: dict[str, dict[str, Any]] = {}
    for run in runs:
        for number, shard in _shards_of(store, run["manifest"]):
            first.setdefault(shard["sha256"], (run["run"], run["version"]))
            if run["run"] in chosen:
                began = first[shard["sha256"]]
                row = {"shard": number, **shard, "version": run["version"], "new": began[0] in chosen}
                shards.setdefault(shard["sha256"], {**row, "first_version": began[1]})
    own = [run for run in runs if run["run"] in chosen]
    versions = sorted({run["version"] for run in own})
    return {"code": name, "versions": versions, "runs": own, "shards": list(shards.values())}


def run_facts(store: MixtureStore) -> list[dict[str, Any]]:
    """The runs on record in the order of time; a damaged file tells nothing here (`verify` names it)."""
    rows = []
    for name in store.names("runs", "*.json"):
        with suppress(DataEngineError):
            found = unseal(store.read(name), name)
            told = found.get("code", {})
            rows.append(
                {
                    "run": name.rpartition("/")[2].removesuffix(".json"),
                    **{key: found.get(key) for key in ("version", "manifest", "created", "started_at", "engine")},
                    "commit": told.get("commit"),
                    "dirty_sha256": told.get("dirty_sha256"),
                    "release": told.get("version"),
                    **{key: found.get(key) for key in ("tasks", "tasks_executed", "tasks_cached")},
                }
            )
    return rows


def _is_of(run: Mapping[str, Any], name: str) -> bool:
    commit = run["commit"] or ""
    return bool(name) and (name == run["release"] or (len(name) >= 4 and commit.startswith(name.lower())))


def _shards_of(store: MixtureStore, manifest_sha: object) -> Iterable[tuple[int, dict[str, Any]]]:
    """The shards of a manifest by number; none where it was collected since."""
    name = f"manifests/{manifest_sha}.json"
    if not isinstance(manifest_sha, str) or not store.exists(name):
        return
    for number, shard in enumerate(store.manifest_of(manifest_sha).shards):
        yield (
            number,
            {
                "sha256": shard.sha256,
                "path": shard_name(shard.sha256),
                "split": shard.split,
                "samples": shard.samples,
                "task_digest": shard.task_digest,
            },
        )


def _heading(version: Version) -> dict[str, Any]:
    return {"mixture": version.manifest.name, "version": version.name, "plan_id": version.manifest.plan_id}


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    rows = table.group_by(["source_id", "converter"], use_threads=False).aggregate([]).to_pylist()
    return {(row["source_id"], row["converter"]) for row in rows}


def _summaries(version: Version, pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {**facts(found), **{name: getattr(found, name) for name in _COUNTS}}
        for pair, found in version.known_sources().items()
        if pair in pairs
    ]


_COUNTS = ("episodes_in", "episodes_kept", "episodes_dropped", "samples")


def _grouped(table: pa.Table, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Episodes by `keys`."""
    found = table.group_by(list(keys), use_threads=False).aggregate([([], "count_all")])
    found = found.sort_by([(key, "ascending") for key in keys])
    rows: list[dict[str, Any]] = found.select([*keys, "count_all"]).rename_columns([*keys, "episodes"]).to_pylist()
    return rows


def _shards_with(
    version: Version, *, entries: Iterable[str] | None = None, pairs: set[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """The shards with segments of these sources: their numbers, digests, and how much of them it is."""
    table = version.records(("shard", *_COUNTED, "samples"))
    if entries is not None:
        table = table.filter(pc.is_in(table["entry"], value_set=pa.array(sorted(entries), pa.string())))
    rows: dict[int, dict[str, Any]] = {}
    for row in counted(table, ("shard", "source_id", "converter")):
        if pairs is None or (row["source_id"], row["converter"]) in pairs:
            shard = version.manifest.shards[row["shard"]]
            told = {"shard": row["shard"], "split": shard.split, "segments": 0, "samples": 0}
            own = rows.setdefault(row["shard"], {**told, "of": shard.samples, "sha256": shard.sha256})
            own["segments"] += row["segments"]
            own["samples"] += row["samples"]
    return list(rows.values())
