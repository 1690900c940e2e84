"""What `audit --sql` asks: the views of a version, each read when a query names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.mixture.rows import LEDGER, RECORDS
from dataengine.mixture.store import shard_name
from dataengine.provenance.questions import step_rows
from dataengine.provenance.samples import SAMPLES, sample_table
from dataengine.provenance.version import Version, counted, terms
from dataengine.specs.records import SourceSummary

_DROPS = ("uid", "unit", "source_id", "converter", "entry", "upstream_id", "reason", "step", "evidence", "bad_input",
          "accepted")  # fmt: skip
_LISTED = pa.list_(pa.string())
_SHARDS = pa.schema(
    [
        ("shard", pa.int64()),
        ("sha256", pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("samples", pa.int64()),
        ("split", pa.string()),
        ("bucket", pa.string()),
        ("entry", pa.string()),
        ("task_digest", pa.string()),
        ("index_sha256", pa.string()),
        ("plan_id", pa.string()),
        ("episodes", pa.int64()),
        ("segments", pa.int64()),
        ("sources", _LISTED),
        ("licenses", _LISTED),
        ("commercial_ok", pa.string()),
        ("consent", _LISTED),
        ("steps", pa.string()),
    ]
)
_STEPS = pa.schema(
    [
        ("entry", pa.string()),
        ("place", pa.int64()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("version", pa.int64()),
        ("parameters", pa.string()),
        ("dropped", pa.int64()),
    ]
)


def _source_schema() -> pa.Schema:
    kinds: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
    fields = [(n, kinds.get(f.annotation, _LISTED)) for n, f in SourceSummary.model_fields.items()]
    return pa.schema([*fields, ("rate", pa.float64()), ("conversions", _LISTED)])


SCHEMAS: Mapping[str, pa.Schema] = {
    "samples": SAMPLES,
    "episodes": LEDGER,
    "shards": _SHARDS,
    "sources": _source_schema(),
    "drops": pa.schema([LEDGER.field(name) for name in _DROPS]),
    "steps": _STEPS,
    "inputs": RECORDS,
}
"""Columns by view. `samples` reads the index of every shard, the others the manifest, the ledger or the records."""


def view(version: Version, name: str) -> pa.Table:
    """The rows of a view."""
    made: Mapping[str, Callable[[Version], pa.Table]] = {
        "samples": sample_table,
        "episodes": lambda version: version.ledger().select(LEDGER.names),
        "shards": _shards,
        "sources": _sources,
        "drops": _drops,
        "steps": _steps,
        "inputs": lambda version: version.records(RECORDS.names),
    }
    return made[name](version)


def _drops(version: Version) -> pa.Table:
    table = version.ledger(("status", *_DROPS))
    return table.filter(pc.equal(table["status"], "dropped")).select(list(_DROPS))


def _sources(version: Version) -> pa.Table:
    rates = version.manifest.pins.rates
    rows = []
    for source in version.manifest.sources:
        made = version.conversions([(source.source_id, source.converter)])
        digests = [row["conversion_digest"] for row in made]
        rate = rates.get(source.converter)
        rows.append({**source.model_dump(mode="json"), "rate": rate, "conversions": digests})
    return pa.Table.from_pylist(rows, schema=SCHEMAS["sources"])


def _steps(version: Version) -> pa.Table:
    table = version.ledger(("status", "entry", "step"))
    dropped = table.filter(pc.equal(table["status"], "dropped")).group_by(["entry", "step"], use_threads=False)
    counts = {
        (row["entry"], row["step"]): row["count_all"] for row in dropped.aggregate([([], "count_all")]).to_pylist()
    }
    rows = [
        {
            **row,
            "parameters": orjson.dumps(row["parameters"], option=orjson.OPT_SORT_KEYS).decode(),
            "dropped": counts.get((row["entry"], row["name"]), 0),
        }
        for row in step_rows(version)
    ]
    return pa.Table.from_pylist(rows, schema=_STEPS)


def _shards(version: Version) -> pa.Table:
    known, steps = version.known_sources(), version.steps()
    pairs: dict[int, set[tuple[str, str]]] = {}
    entries: dict[int, set[str]] = {}
    segments: dict[int, int] = {}
    table = version.records(("shard", "uid", "source_id", "converter", "entry", "samples"))
    for row in counted(table, ("shard", "source_id", "converter", "entry")):
        pairs.setdefault(row["shard"], set()).add((row["source_id"], row["converter"]))
        entries.setdefault(row["shard"], set()).add(row["entry"])
        segments[row["shard"]] = segments.get(row["shard"], 0) + row["segments"]
    grouped = table.group_by(["shard"], use_threads=False).aggregate([("uid", "count_distinct")]).to_pylist()
    episodes = {row["shard"]: row["uid_count_distinct"] for row in grouped}
    rows = []
    for number, shard in enumerate(version.manifest.shards):
        used = [known[pair] for pair in sorted(pairs.get(number, ())) if pair in known]
        told = terms(used)
        ran = {entry: [_named(step) for step in steps.get(entry, ())] for entry in sorted(entries.get(number, ()))}
        rows.append(
            {
                **shard.model_dump(),
                "shard": number,
                "entry": shard.source,
                "path": shard_name(shard.sha256),
                "plan_id": version.manifest.plan_id,
                "episodes": episodes.get(number, 0),
                "segments": segments.get(number, 0),
                "sources": sorted({source.source_id for source in used}),
                **{name: told[name] for name in ("licenses", "commercial_ok", "consent")},
                "steps": orjson.dumps(ran, option=orjson.OPT_SORT_KEYS).decode(),
            }
        )
    return pa.Table.from_pylist(rows, schema=_SHARDS)


def _named(step: Mapping[str, Any]) -> list[Any]:
    return [step.get("name"), step.get("version"), step.get("parameters")]
