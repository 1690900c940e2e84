"""What all documents say alike: sources with what is known of them, splits, sizes. Unknown is said as "unknown"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataengine.credentials import redacted
from dataengine.documents import canonical_json, sha256_bytes
from dataengine.mixture.store import index_name, shard_name
from dataengine.specs.records import Manifest, ShardEntry, SourceSummary

UNKNOWN = "unknown"
PRODUCER = "urn:dataengine:builder:1"
BUILD_TYPE = "urn:dataengine:build:1"
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_GIT = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")


@dataclass(frozen=True)
class Source:
    """One source of a version, as documents tell of it; every text is filled."""

    summary: SourceSummary
    said: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: SourceSummary) -> Source:
        """With what the summary says beyond counts and terms; earlier versions say less."""
        return cls(summary, summary.model_dump(mode="json"))

    def text(self, name: str) -> str:
        """What is known of a field, as one line; "unknown" for nothing, and for a field that versions lacked."""
        value = self.said.get(name)
        if isinstance(value, Mapping):
            parts = [f"{key}: {one_line(item)}" for key, item in value.items() if item not in (None, "", UNKNOWN)]
            return "; ".join(parts) or UNKNOWN
        return one_line(value)

    @property
    def url(self) -> str:
        """Where it comes from, without anything that grants access."""
        return self.text("url")

    @property
    def label(self) -> str:
        """Its id, with the converter where that differs."""
        own = self.summary
        return own.source_id if own.converter == own.source_id else f"{own.source_id} ({own.converter})"

    @property
    def git_commit(self) -> str | None:
        """The commit that its revision names, where it names one."""
        found = _GIT.findall(self.summary.revision)
        return found[0] if len(found) == 1 else None


def one_line(value: Any) -> str:
    """A value as one line of text without credentials; "unknown" for nothing."""
    if value is None or value in ("", [], ()):
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(redacted(text).split()) or UNKNOWN


def sources(manifest: Manifest) -> list[Source]:
    """The sources that gave samples, in the manifest's order; all of them where none did."""
    found = [Source.of(summary) for summary in manifest.sources]
    return [source for source in found if source.summary.samples] or found


def is_uri(text: str) -> bool:
    """Whether a text can stand where a URI must."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\"<>\\^`{|}]+", text) is not None


def license_url(name: str) -> str:
    """SPDX's page of a licence that has one; an expression or a `LicenseRef-` as it is."""
    plain = _SPDX.fullmatch(name) and not name.startswith("LicenseRef-") and name.lower() != UNKNOWN
    return f"https://spdx.org/licenses/{name}" if plain else name or UNKNOWN


def licenses(found: Iterable[Source]) -> list[str]:
    """The licences of some sources, each once, sorted."""
    return sorted({source.text("license") for source in found})


def in_segments(manifest: Manifest) -> bool:
    """Whether a sample in the shards is a segment of an episode, out of which the loader cuts windows."""
    samples = manifest.recipe.get("samples")
    return isinstance(samples, Mapping) and samples.get("kind") == "episode"


def sample_form(manifest: Manifest) -> str:
    """What a sample is, in a sentence or two."""
    own = " A sample is a segment of an episode, out of which windows are cut." if in_segments(manifest) else ""
    return (
        "A sample is a JSON document with pictures and arrays beside it under one key: state and action in one layout"
        f" of named channels, each with a mask.{own}"
    )


@dataclass(frozen=True)
class Split:
    """The shards of one split."""

    name: str
    shards: tuple[ShardEntry, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)


def splits(manifest: Manifest) -> list[Split]:
    """Splits with samples, the order that of their first shard."""
    found: dict[str, list[ShardEntry]] = {}
    for shard in manifest.shards:
        if shard.samples:
            found.setdefault(shard.split, []).append(shard)
    return [Split(name, tuple(shards)) for name, shards in found.items()]


@dataclass(frozen=True)
class Described:
    """A manifest, its digest, and the digests of what lies in its folder."""

    sha256: str
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest) -> Described:
        return cls(sha256_bytes(canonical_json(manifest.canonical())), manifest)

    @property
    def folder(self) -> str:
        return f"manifests/{self.sha256}.d"

    def digests(self) -> dict[str, str]:
        """sha256 by name below the mixture: manifest, its own documents, shards and indexes, sorted."""
        manifest = self.manifest
        own = {
            "ledger.parquet": manifest.ledger_sha256,
            "normalization.json": manifest.normalization_sha256,
            "shard_records.parquet": manifest.shard_records_sha256,
        }
        if manifest.statistics_sha256 is not None:
            own["statistics.bin"] = manifest.statistics_sha256
        found = {f"{self.folder}/{name}": digest for name, digest in own.items()}
        found[f"manifests/{self.sha256}.json"] = self.sha256
        for shard in manifest.shards:
            found[shard_name(shard.sha256)] = shard.sha256
            found[index_name(shard.sha256)] = shard.index_sha256
        return dict(sorted(found.items()))
