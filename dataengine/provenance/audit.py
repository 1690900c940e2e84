"""Audit: which episodes, licences and code made a version, a shard, or where an episode went.

Everything is counted in columns: a version has more episodes than objects are quick to make.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataengine.errors import SpecError
from dataengine.mixture.store import shard_name
from dataengine.provenance.version import Version, facts, terms

_DROPS = ("uid", "unit", "source_id", "upstream_id", "reason", "step", "evidence", "bad_input", "accepted")
_INPUTS = ("uid", "source_id", "converter", "entry", "upstream_id", "start", "stop", "samples")
_UID = re.compile(r"[0-9a-f]{1,64}")


def overview(version: Version) -> dict[str, Any]:
    """A version: shards, sources with licence and counts, drops by reason."""
    manifest = version.manifest
    return {
        "mixture": manifest.name,
        "version": version.name,
        "manifest": version.sha256,
        "plan_id": manifest.plan_id,
        "lake_digest": manifest.lake_digest,
        "samples": manifest.samples,
        "terms": terms(manifest.sources),
        "shards": [shard_facts(version, number) for number in range(len(manifest.shards))],
        "sources": [
            {**source.model_dump(mode="json"), "rate": manifest.pins.rates.get(source.converter)}
            for source in manifest.sources
        ],
        "steps": version.steps(),
        "conversions": version.conversions(),
        "encoders": dict((manifest.made or {}).get("encoders", {})),
        "policy": manifest.policy,
        "drops": dict(manifest.drops),
        "bad_input": manifest.bad_input,
    }


def shard_facts(version: Version, number: int) -> dict[str, Any]:
    """What the manifest says of a shard."""
    shard = version.manifest.shards[number]
    return {
        "shard": number,
        "sha256": shard.sha256,
        "path": shard_name(shard.sha256),
        "bytes": shard.bytes,
        "samples": shard.samples,
        "split": shard.split,
        "bucket": shard.bucket,
        "task_digest": shard.task_digest,
        "index_sha256": shard.index_sha256,
    }


def shard(version: Version, number: int) -> dict[str, Any]:
    """One shard: its segments of episodes, samples by source, licences and terms, steps, converters, encoders."""
    manifest, rows = version.manifest, version.inputs(number).select(list(_INPUTS)).to_pylist()
    counts: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts[row["source_id"]] += row["samples"]
        pairs[row["source_id"], row["converter"]] += row["samples"]
    known = version.known_sources()
    used = [known[pair] for pair in sorted(pairs) if pair in known]
    return {
        **shard_facts(version, number),
        "mixture": manifest.name,
        "version": version.name,
        "plan_id": manifest.plan_id,
        "lake_digest": manifest.lake_digest,
        "licenses": sorted({source.license for source in used}),
        "terms": terms(used),
        "sources": dict(sorted(counts.items())),
        "source_records": [{**facts(source), "samples": pairs[source.source_id, source.converter]} for source in used],
        "steps": version.steps(sorted({row["entry"] for row in rows})),
        "conversions": version.conversions(pairs),
        "encoders": dict((manifest.made or {}).get("encoders", {})),
        "inputs": rows,
    }


def drops(version: Version) -> dict[str, Any]:
    """Everything that was dropped, with reason and evidence."""
    table = version.ledger(("status", *_DROPS))
    rows = table.filter(pc.equal(table["status"], "dropped")).select(list(_DROPS)).to_pylist()
    return {
        "mixture": version.manifest.name,
        "version": version.name,
        "drops": dict(version.manifest.drops),
        "dropped": rows,
    }


def episode(version: Version, uid: str) -> dict[str, Any]:
    """One episode by its uid or the beginning of it, or by a sample's key: fate, evidence, shards."""
    row = episode_row(version, uid.partition("-")[0])
    source = version.known_sources()[row["source_id"], row["converter"]]
    records = version.records(("shard", "start", "stop", "samples"))
    own = records.filter(pc.equal(records["uid"], row["uid"]))
    return {
        **row,
        **{name: value for name, value in facts(source).items() if name not in row},
        "steps_run": version.steps([row["entry"]]).get(row["entry"], []),
        "shards": own.select(["shard", "start", "stop", "samples"]).to_pylist(),
    }


def episode_row(version: Version, uid: str) -> dict[str, Any]:
    """The ledger's row of the one episode whose uid begins so; none or several are a `SpecError`."""
    table = version.ledger()
    found = with_prefix(table, uid) if _UID.fullmatch(uid) else table.slice(0, 0)
    if found.num_rows != 1:
        what = f"no episode {uid!r}" if not found.num_rows else f"{found.num_rows} episodes begin with {uid!r}"
        fix = "give the uid as the ledger or a sample's JSON shows it"
        raise SpecError(f"{what} in version {version.name}", fix=fix)
    row: dict[str, Any] = found.to_pylist()[0]
    return row


def with_prefix(table: pa.Table, uid: str) -> pa.Table:
    """The rows whose uid begins so."""
    return table.filter(pc.starts_with(table["uid"], uid))
