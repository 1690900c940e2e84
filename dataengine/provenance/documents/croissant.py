"""Croissant 1.1 with the RAI 1.0 fields: files, record sets, sources, and what is known about people and limits.

Croissant: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html; RAI: .../croissant-rai-spec.html.
File addresses are relative to the document's folder, so that a mixture can be moved as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataengine.mixture.store import shard_name
from dataengine.provenance.documents.facts import (
    UNKNOWN,
    Described,
    Source,
    Split,
    is_uri,
    license_url,
    licenses,
    sample_form,
    sources,
    splits,
)
from dataengine.shards.samples import KEY_UID

UP = "../.."
"""From the document's folder to the mixture's."""
Node = dict[str, Any]

_CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TABLES = {  # record sets over the tables: column, type, what it is
    "episodes": (
        "ledger.parquet",
        "One row an episode, or file that could not be read: kept, or dropped with reason and evidence.",
        (
            ("uid", "sc:Text", "The episode; a sample's key begins with its first characters."),
            ("unit", "sc:Text", "episode, or file for one that could not be read."),
            ("source_id", "sc:Text", "The source it is of."),
            ("converter", "sc:Text", "What converted it."),
            ("upstream_id", "sc:Text", "What the source calls it."),
            ("status", "sc:Text", "kept or dropped."),
            ("reason", "sc:Text", "Why it was dropped."),
            ("split", "sc:Text", "The split it is in."),
            ("samples", "cr:Int64", "How many samples it gave."),
            ("task", "sc:Text", "Its first instruction."),
            ("steps", "cr:Int64", "Its length."),
            ("seconds", "cr:Float64", "Its length in seconds."),
        ),
    ),
    "segments": (
        "shard_records.parquet",
        "One row a segment of an episode in a shard.",
        (
            ("shard", "cr:Int64", "The shard's number in the version."),
            ("sha256", "sc:Text", "The shard's digest, which names its file."),
            ("split", "sc:Text", "The split."),
            ("uid", "sc:Text", "The episode."),
            ("source_id", "sc:Text", "The source."),
            ("start", "cr:Int64", "First step a window may start at."),
            ("stop", "cr:Int64", "The step behind the last."),
            ("samples", "cr:Int64", "How many samples lie there."),
        ),
    ),
}
_LATER_COLUMNS = {"task", "steps", "seconds"}


def document(described: Described) -> Node:
    """The whole description of a version."""
    manifest, found = described.manifest, sources(described.manifest)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": _description(described, found),
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "identifier": f"sha256:{described.sha256}",
        "version": f"1.0.0+{described.sha256[:12]}",
        "license": [license_url(name) for name in licenses(found)],
        "url": UNKNOWN,
        "creator": {"@type": "sc:Organization", "name": UNKNOWN},
        "citeAs": "; ".join(sorted({source.text("citation") for source in found})),
        "keywords": ["robotics", "vision-language-action", "webdataset", *sorted({s.summary.family for s in found})],
        "isLiveDataset": False,
        "isBasedOn": [_based_on(source) for source in found],
        **_derived(found),
        **_usage(found),
        **_rai(described, found),
        "distribution": [*_tables(described), *_files(described)],
        "recordSet": [*_table_sets(described), *_record_sets(described)],
    }


def _description(described: Described, found: Sequence[Source]) -> str:
    manifest = described.manifest
    parts = ", ".join(f"{split.samples:,} in {split.name}" for split in splits(manifest)) or "none"
    return (
        f"{manifest.name}: {manifest.samples:,} samples ({parts}) in {len(manifest.shards):,} WebDataset shards,"
        f" sources: {len(found)}. {sample_form(manifest)} The licence of a sample is its source's."
    )


def _based_on(source: Source) -> Node:
    """A source; no `sc:Dataset`, which readers of Croissant take for the data set itself."""
    return {
        "@type": "sc:CreativeWork",
        "name": source.summary.source_id,
        "identifier": source.summary.source_id,
        "url": source.url,
        "version": source.text("revision"),
        "license": license_url(source.text("license")),
        "creator": {"@type": "sc:Organization", "name": source.text("creator")},
        "citeAs": source.text("citation"),
        "usageInfo": source.text("terms_url"),
    }


def _derived(found: Sequence[Source]) -> Node:
    urls = sorted({source.url for source in found if is_uri(source.url)})
    return {"prov:wasDerivedFrom": [{"@id": url} for url in urls]} if urls else {}


def _usage(found: Sequence[Source]) -> Node:
    said = [
        f"{s.label}: commercial use {s.text('commercial_ok')}; {s.text('usage')}; {s.text('terms_url')}" for s in found
    ]
    return {"usageInfo": said}


def _rai(described: Described, found: Sequence[Source]) -> Node:
    """RAI 1.0: what the sources say, source by source, and "unknown" where they say nothing."""
    manifest = described.manifest
    made: Mapping[str, Any] = manifest.made or {}
    steps = sorted({f"{step['name']} {step['version']}" for own in made.get("steps", {}).values() for step in own})
    synthetic = [s.label for s in found if s.summary.synthetic]
    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(manifest.drops.items())) or "none"
    return {
        "rai:dataCollection": _by_source(found, "collection"),
        "rai:dataCollectionType": sorted({_collected(source) for source in found}),
        "rai:dataCollectionMissingData": "Absent values are masked, never filled in.",
        "rai:dataPreprocessingProtocol": [
            f"Converted to the unified schema {manifest.schema_version}",
            *(f"Step {name}" for name in steps),
            f"Episodes dropped by reason: {dropped}",
        ],
        "rai:dataBiases": ["unknown: nobody has assessed the sources for biases"],
        "rai:dataLimitations": [
            f"Synthetic sources: {', '.join(synthetic) or 'none'}",
            "What the sources state about licence, consent and de-identification is recorded, not checked",
        ],
        "rai:dataUseCases": ["Training and evaluation of vision-language-action models"],
        "rai:dataSocialImpact": UNKNOWN,
        "rai:personalSensitiveInformation": [
            f"{s.label}: personal information {s.text('personal_information')}; consent {s.text('consent')},"
            f" withdrawal to {s.text('withdrawal_contact')}; de-identification {s.text('deidentification')}"
            for s in found
        ],
        "rai:dataReleaseMaintenancePlan": "Versions are immutable; a corrected or withdrawn source makes a new one.",
    }


def _by_source(found: Sequence[Source], name: str) -> str:
    return "; ".join(f"{source.label}: {source.text(name)}" for source in found) or UNKNOWN


def _collected(source: Source) -> str:
    return f"{source.summary.family}{' (synthetic)' if source.summary.synthetic else ''}"


def _file(name: str, address: str, kind: str, sha256: str, size: int | None) -> Node:
    node: Node = {"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": address, "encodingFormat": kind}
    return {**node, **({} if size is None else {"contentSize": f"{size} B"}), "sha256": sha256}


def _tables(described: Described) -> list[Node]:
    digests = {
        "ledger.parquet": described.manifest.ledger_sha256,
        "shard_records.parquet": described.manifest.shard_records_sha256,
    }
    return [_file(name, name, "application/x-parquet", digest, None) for name, digest in digests.items()]


def _files(described: Described) -> list[Node]:
    """The shards, and by split the JSON documents and the pictures in them."""
    found = []
    for split in splits(described.manifest):
        for shard in split.shards:
            address = f"{UP}/{shard_name(shard.sha256)}"
            found.append(_file(f"{shard.sha256}.tar", address, "application/x-tar", shard.sha256, shard.bytes))
        inside = [{"@id": f"{shard.sha256}.tar"} for shard in split.shards]
        found += [
            _set(f"{split.name}-documents", inside, ["application/json"], ["*.json"]),
            _set(f"{split.name}-pictures", inside, ["image/jpeg", "image/png"], ["*.jpg", "*.png"]),
        ]
    return found


def _set(name: str, inside: Sequence[Node], kinds: Sequence[str], includes: Sequence[str]) -> Node:
    node: Node = {"@type": "cr:FileSet", "@id": name, "name": name, "containedIn": list(inside)}
    return {**node, "encodingFormat": list(kinds), "includes": list(includes)}


def _table_sets(described: Described) -> list[Node]:
    earlier = described.manifest.made is None  # ledgers of then lacked some columns
    found = []
    for name, (file, told, columns) in _TABLES.items():
        fields = [
            _field(f"{name}/{column}", kind, what, {"fileObject": {"@id": file}, "extract": {"column": column}})
            for column, kind, what in columns
            if not (earlier and column in _LATER_COLUMNS)
        ]
        key = [{"@id": f"{name}/{part}"} for part in (("uid",) if name == "episodes" else ("shard", "uid", "start"))]
        found.append(
            {"@type": "cr:RecordSet", "@id": name, "name": name, "description": told, "key": key, "field": fields}
        )
    return found


def _record_sets(described: Described) -> list[Node]:
    return [node for split in splits(described.manifest) for node in (_samples(split), _pictures(split))]


def _samples(split: Split) -> Node:
    name, documents = f"{split.name}-samples", f"{split.name}-documents"

    def part(regex: str) -> Node:
        return _extracted(documents, {"fileProperty": "filename"}, regex)

    fields = [
        _field(f"{name}/key", "sc:Text", "The sample's key.", part(r"^(.+)\.json$")),
        _field(
            f"{name}/episode",
            "sc:Text",
            f"The first {KEY_UID} characters of the episode's uid.",
            part(rf"^(.{{{KEY_UID}}})-.*$"),
        ),
        _field(
            f"{name}/document",
            "sc:Text",
            "The sample's JSON: key, episode_uid, source_id, prompt or messages, views, units and time.",
            _extracted(documents, {"fileProperty": "content"}),
        ),
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The samples of the split {split.name}, {split.samples:,}.",
        "key": {"@id": f"{name}/key"},
        "field": fields,
    }


def _pictures(split: Split) -> Node:
    name, pictures = f"{split.name}-images", f"{split.name}-pictures"
    name_of = {"fileProperty": "filename"}
    fields = [
        _field(f"{name}/key", "sc:Text", "The key of its sample.", _extracted(pictures, name_of, r"^([^.]+)\..*$")),
        _field(
            f"{name}/view",
            "sc:Text",
            "The view or the medium; `.mN` behind it for N steps back, a number in segments.",
            _extracted(pictures, name_of, r"^[^.]+\.(.+)\.[a-z]+$"),
        ),
        _field(f"{name}/image", "sc:ImageObject", "The picture.", _extracted(pictures, {"fileProperty": "content"})),
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The pictures of the samples of the split {split.name}.",
        "key": [{"@id": f"{name}/key"}, {"@id": f"{name}/view"}],
        "field": fields,
    }


def _extracted(file_set: str, extract: Node, regex: str | None = None) -> Node:
    node: Node = {"fileSet": {"@id": file_set}, "extract": extract}
    return node if regex is None else {**node, "transform": {"regex": regex}}


def _field(name: str, kind: str, what: str, source: Node) -> Node:
    short = name.rpartition("/")[2]
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": short,
        "description": what,
        "dataType": kind,
        "source": source,
    }
