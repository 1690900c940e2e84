"""An in-toto Statement v1 with a SLSA provenance v1 predicate: what was made, of what, with which settings.

Statement: https://in-toto.io/Statement/v1; predicate: https://slsa.dev/spec/v1.0/provenance. Unsigned: wrap the line in
a DSSE envelope to sign it. Beside the manifest it holds no run facts; the copy in `runs/` adds version, code and times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataengine.provenance.documents.facts import BUILD_TYPE, PRODUCER, UNKNOWN, Described, Source, is_uri, sources

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
Node = dict[str, Any]


def statement(described: Described, others: Mapping[str, str], run: Mapping[str, Any] | None = None) -> Node:
    """Statement about shards, indexes, the manifest's documents and `others` (digests by name); `run` are run facts."""
    subjects = dict(sorted({**described.digests(), **others}.items()))
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": _definition(described, run),
            "runDetails": {"builder": {"id": PRODUCER}} if run is None else _details(run),
        },
    }


def _definition(described: Described, run: Mapping[str, Any] | None) -> Node:
    manifest = described.manifest
    made: Mapping[str, Any] = manifest.made or {}
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {"recipe": manifest.recipe},
        "internalParameters": {
            "plan_id": manifest.plan_id,
            "schema_version": manifest.schema_version,
            "pins": manifest.pins.canonical(),
            "steps": made.get("steps", {}),
            "encoders": made.get("encoders", {}),
        },
        "resolvedDependencies": [
            *map(_source, sources(manifest)),
            {"name": "lake", "digest": {"sha256": manifest.lake_digest}},
            *_conversions(made),
            *([] if run is None else [_code(run.get("code", {}))]),
        ],
    }


def _source(source: Source) -> Node:
    """A source; its revision is the digest where it is a commit, an annotation anyway."""
    own = source.summary
    node: Node = {"name": f"source:{own.source_id}"}
    if is_uri(source.url):
        node["uri"] = source.url
    if source.git_commit is not None:
        node["digest"] = {"gitCommit": source.git_commit}
    said = ("revision", "license", "license_evidence", "terms_url", "consent", "commercial_ok", "record_sha256")
    notes = {name: source.text(name) for name in said}
    return {**node, "annotations": {"converter": own.converter, **notes}}


def _conversions(made: Mapping[str, Any]) -> list[Node]:
    """Converters and cards by what they say: each once."""
    found: dict[str, Node] = {}
    for row in made.get("conversions", ()):
        for name, digest in (
            (f"converter:{row['converter']}", row["conversion_digest"]),
            (f"card:{row['card']}", row["card_sha256"]),
        ):
            found[f"{name} {digest}"] = {"name": name, "digest": {"sha256": digest}}
    return [found[name] for name in sorted(found)]


def _code(code: Mapping[str, Any]) -> Node:
    version, commit, dirty = (code.get(name) for name in ("version", "commit", "dirty_sha256"))
    node: Node = {"name": "dataengine", "uri": f"pkg:pypi/dataengine@{version}"}
    if commit and commit != UNKNOWN:
        node["digest"] = {"gitCommit": commit}
    return {**node, "annotations": {"uncommitted_changes_sha256": dirty}} if dirty else node


def _details(run: Mapping[str, Any]) -> Node:
    packages = {name: version for name, version in run.get("packages", {}).items() if name != "dataengine"}
    return {
        "builder": {
            "id": PRODUCER,
            "version": {"dataengine": run["code"]["version"], "python": run["python"], **packages},
        },
        "metadata": {"invocationId": run["run"], "startedOn": run["started_at"], "finishedOn": run["finished_at"]},
    }
