"""OpenLineage events of one build: START and COMPLETE, with its sources and the version it made (run facts).

Events follow https://openlineage.io/spec/2-0-2/OpenLineage.json, facets the schema that each names.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dataengine.provenance.documents.facts import PRODUCER, Described, Source, in_segments, is_uri, sources

SPEC = "https://openlineage.io/spec"
SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "version": ("1-0-1", "DatasetVersionDatasetFacet"),
    "dataSource": ("1-0-1", "DatasourceDatasetFacet"),
    "schema": ("1-2-0", "SchemaDatasetFacet"),
    "lifecycleStateChange": ("1-0-1", "LifecycleStateChangeDatasetFacet"),
    "documentation": ("1-1-0", "DocumentationDatasetFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "jobType": ("2-0-4", "JobTypeJobFacet"),
    "processing_engine": ("1-1-1", "ProcessingEngineRunFacet"),
}
_WINDOWS = (
    ("json", "document", "Identity, prompt or messages, views, channels, units, time"),
    ("state.npy", "float32[history, channels]", "State in the unified channels"),
    ("state_mask.npy", "uint8[history, channels]", "Which of them exist"),
    ("action.npy", "float32[horizon, channels]", "Action in the unified channels"),
    ("action_mask.npy", "uint8[horizon, channels]", "Which of them exist"),
    ("is_pad.npy", "uint8[horizon]", "Rows behind the episode's end"),
    ("VIEW.jpg", "picture", "One member a view, `.png` where pictures are lossless"),
)
_SEGMENTS = (
    ("json", "document", "Identity, texts, views, channels, units, bounds of the windows"),
    ("state.npy", "float32[steps, channels]", "State in the unified channels"),
    ("state_mask.npy", "uint8[steps, channels]", "Which of them exist"),
    ("action.npy", "float32[steps, channels]", "Action in the unified channels"),
    ("action_mask.npy", "uint8[steps, channels]", "Which of them exist"),
    ("times.npy", "int64[steps]", "Time of each step in ns"),
    ("VIEW.NUMBER.jpg", "picture", "One member a view and frame, `.png` where pictures are lossless"),
)
Node = dict[str, Any]


def events(described: Described, run: Mapping[str, Any]) -> list[Node]:
    """START and COMPLETE of the run whose facts are `run`; `run["run"]` names it."""
    common = {
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_OID, str(run["run"]))), "facets": _engine(run)},
        "job": {
            "namespace": "dataengine",
            "name": f"build {described.manifest.name}",
            "facets": _facet("jobType", {"processingType": "BATCH", "integration": "DATAENGINE", "jobType": "JOB"}),
        },
        "inputs": [_input(source) for source in sources(described.manifest)],
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
    }
    made = _output(described, created=bool(run.get("created")))
    return [
        {"eventType": "START", "eventTime": run["started_at"], **common, "outputs": []},
        {"eventType": "COMPLETE", "eventTime": run["finished_at"], **common, "outputs": [made]},
    ]


def _engine(run: Mapping[str, Any]) -> Node:
    return _facet("processing_engine", {"version": run["code"]["version"], "name": f"dataengine ({run['engine']})"})


def _facet(name: str, body: Node) -> Node:
    version, kind = _FACETS[name]
    return {name: {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{kind}.json#/$defs/{kind}", **body}}


def _input(source: Source) -> Node:
    own = source.summary
    address = {"uri": source.url} if is_uri(source.url) else {}
    terms = f"licence {source.text('license')}; terms {source.text('terms_url')}; consent {source.text('consent')}"
    return {
        "namespace": "dataengine/sources",
        "name": f"{own.source_id}/{own.converter}",
        "facets": {
            **_facet("dataSource", {"name": own.source_id, **address}),
            **_facet("version", {"datasetVersion": source.text("revision")}),
            **_facet("documentation", {"description": terms}),
        },
        "inputFacets": {},
    }


def _output(described: Described, *, created: bool) -> Node:
    manifest = described.manifest
    members = _SEGMENTS if in_segments(manifest) else _WINDOWS
    fields = [{"name": name, "type": kind, "description": told} for name, kind, told in members]
    size = sum(shard.bytes for shard in manifest.shards)
    counted = {"rowCount": manifest.samples, "size": size, "fileCount": len(manifest.shards)}
    return {
        "namespace": "dataengine/mixtures",
        "name": manifest.name,
        "facets": {
            **_facet("version", {"datasetVersion": described.sha256}),
            **_facet("schema", {"fields": fields}),
            **(_facet("lifecycleStateChange", {"lifecycleStateChange": "CREATE"}) if created else {}),
        },
        "outputFacets": _facet("outputStatistics", counted),
    }
