"""Audit: which episodes, licences and code made a version, a shard, or where an episode went."""

from __future__ import annotations

from typing import Any

from dataengine.errors import SpecError
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.diff import ledger_rows
from dataengine.mixture.store import MixtureStore, shard_name
from dataengine.specs.records import Manifest


def overview(store: MixtureStore, version: str) -> dict[str, Any]:
    """A version: shards, sources with licence and counts, drops by reason."""
    sha, manifest = store.manifest(version)
    return {
        "mixture": manifest.name,
        "version": version,
        "manifest": sha,
        "plan_id": manifest.plan_id,
        "lake_digest": manifest.lake_digest,
        "samples": manifest.samples,
        "shards": [_shard(manifest, number) for number in range(len(manifest.shards))],
        "sources": [
            {
                "source_id": source.source_id,
                "converter": source.converter,
                "family": source.family,
                "license": source.license,
                "url": source.url,
                "revision": source.revision,
                "terms_url": source.terms_url,
                "consent": source.consent,
                "commercial_ok": source.commercial_ok,
                "synthetic": source.synthetic,
                "rate": manifest.pins.rates.get(source.converter),
                "episodes_in": source.episodes_in,
                "episodes_kept": source.episodes_kept,
                "episodes_dropped": source.episodes_dropped,
                "samples": source.samples,
            }
            for source in manifest.sources
        ],
        "drops": dict(manifest.drops),
        "bad_input": manifest.bad_input,
    }


def _shard(manifest: Manifest, number: int) -> dict[str, Any]:
    shard = manifest.shards[number]
    return {
        "shard": number,
        "sha256": shard.sha256,
        "path": shard_name(shard.sha256),
        "bytes": shard.bytes,
        "samples": shard.samples,
        "split": shard.split,
        "bucket": shard.bucket,
        "task_digest": shard.task_digest,
    }


def _inputs(store: MixtureStore, sha: str, manifest: Manifest) -> list[dict[str, Any]]:
    name = f"{store.documents(sha)}/shard_records.parquet"
    return ledgers.read_parquet(store.checked(name, manifest.shard_records_sha256))


def shard(store: MixtureStore, version: str, number: int) -> dict[str, Any]:
    """One shard: its segments of episodes, samples by source, licences."""
    sha, manifest = store.manifest(version)
    if not 0 <= number < len(manifest.shards):
        raise SpecError(f"version {version} has no shard {number}", fix=f"they are 0 to {len(manifest.shards) - 1}")
    known = {row["uid"]: row for row in ledger_rows(store, sha, manifest)}
    inputs = [row for row in _inputs(store, sha, manifest) if row["shard"] == number]
    counts: dict[str, int] = {}
    for row in inputs:
        counts[row["source_id"]] = counts.get(row["source_id"], 0) + row["samples"]
    return {
        **_shard(manifest, number),
        "plan_id": manifest.plan_id,
        "licenses": sorted({source.license for source in manifest.sources if source.source_id in counts}),
        "sources": dict(sorted(counts.items())),
        "inputs": [
            {
                "uid": row["uid"],
                "source_id": row["source_id"],
                "upstream_id": known[row["uid"]]["upstream_id"],
                "start": row["start"],
                "stop": row["stop"],
                "samples": row["samples"],
            }
            for row in inputs
        ],
    }


def drops(store: MixtureStore, version: str) -> dict[str, Any]:
    """Everything that was dropped, with reason and evidence."""
    sha, manifest = store.manifest(version)
    names = ("uid", "unit", "source_id", "upstream_id", "reason", "step", "evidence", "bad_input", "accepted")
    rows = [row for row in ledger_rows(store, sha, manifest) if row["status"] == "dropped"]
    return {
        "mixture": manifest.name,
        "version": version,
        "drops": dict(manifest.drops),
        "dropped": [{name: row[name] for name in names} for row in rows],
    }


def episode(store: MixtureStore, version: str, uid: str) -> dict[str, Any]:
    """One episode by its uid or the beginning of it (a sample key's first part): fate, evidence, shards."""
    sha, manifest = store.manifest(version)
    found = [row for row in ledger_rows(store, sha, manifest) if row["uid"].startswith(uid)] if uid else []
    if len(found) != 1:
        what = f"no episode {uid!r}" if not found else f"{len(found)} episodes begin with {uid!r}"
        raise SpecError(f"{what} in version {version}", fix="give the uid as the ledger or a sample's JSON shows it")
    row = found[0]
    source = next(s for s in manifest.sources if (s.source_id, s.converter) == (row["source_id"], row["converter"]))
    return {
        **row,
        "family": source.family,
        "license": source.license,
        "url": source.url,
        "revision": source.revision,
        "shards": [
            {"shard": entry["shard"], "start": entry["start"], "stop": entry["stop"], "samples": entry["samples"]}
            for entry in _inputs(store, sha, manifest)
            if entry["uid"] == row["uid"]
        ],
    }
