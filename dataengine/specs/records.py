"""Record types: what a task produced, what went into a shard, what became of each episode, and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from dataengine.documents import Strict, sha256_json
from dataengine.specs.source import UNKNOWN

LEDGER_STATUS = Literal["kept", "dropped"]


_LATER = ("statistics_sha256", "made", "schedule", "policy")


class UnitInput(Strict):
    """A segment of one episode in a shard: window starts `start <= w < stop`, and how many samples it gave."""

    uid: str
    source_id: str
    start: int
    stop: int
    samples: int


class TaskRecord(Strict):
    """What a shard task produced; the cache key is its task digest."""

    task_digest: str
    split: str
    sha256: str
    bytes: int
    samples: int
    index_sha256: str
    index_bytes: int
    inputs: tuple[UnitInput, ...]


class ShardEntry(Strict):
    """A shard as the manifest lists it, in order; `source` is the recipe's source it is of, where it is of one."""

    sha256: str
    bytes: int
    samples: int
    split: str
    bucket: str
    task_digest: str
    index_sha256: str
    source: str = ""


class LedgerRow(Strict):
    """What became of one episode (or of a file that could not be read). in = kept + dropped, always.

    `bad_input` tells drops for data nobody can use from drops by a filter of the recipe; `accepted` that the recipe
    names the reason. A kept episode may give 0 samples when its source's rate is below 1. `entry` is what the recipe
    calls its source, `task` its first instruction; `kept_steps` of its `steps` are left, `seconds` long.
    """

    unit: Literal["episode", "file"]
    source_id: str
    converter: str
    upstream_id: str
    uid: str
    status: LEDGER_STATUS
    reason: str
    step: str
    evidence: str
    bad_input: bool
    accepted: bool
    split: str
    samples: int
    entry: str = ""
    task: str = ""
    steps: int = 0
    kept_steps: int = 0
    seconds: float = 0.0


class SourceSummary(Strict):
    """Counts and terms of one source in a version."""

    source_id: str
    converter: str
    family: str
    license: str
    url: str
    revision: str
    terms_url: str
    consent: str
    commercial_ok: str
    synthetic: bool
    episodes_in: int
    episodes_kept: int
    episodes_dropped: int
    samples: int
    license_evidence: str = UNKNOWN
    creator: str = UNKNOWN
    citation: str = UNKNOWN
    usage: str = UNKNOWN
    withdrawal_contact: str = UNKNOWN
    deidentification: str = UNKNOWN
    collection: str = UNKNOWN
    personal_information: str = UNKNOWN
    tags: tuple[str, ...] = ()
    record_sha256: str = ""
    """Of the source record that the raw files were checked against; empty where none was given. Where rows have several
    and none: all of them, and `-`."""

    def canonical(self) -> Any:
        """Without what earlier versions did not have where it says nothing: their digests stay."""
        usual = {name: self.__class__.model_fields[name].default for name in _FACTS}
        document = super().canonical()
        return {name: value for name, value in document.items() if name not in usual or value not in (usual[name], [])}


_FACTS = (
    *("license_evidence", "creator", "citation", "usage", "withdrawal_contact", "deidentification"),
    *("collection", "personal_information", "tags", "record_sha256"),
)


class Pins(Strict):
    """What a plan resolved and the next version inherits: sampling rates by source, bucket counts by split.

    With a scheduled mix shards are of one source: `sources` names them, bucket counts are by `split/source`, every
    window lies in the shards once, and a rate is how often the schedule draws it in an epoch.
    """

    rates: Mapping[str, float]
    scale: float
    buckets: Mapping[str, int]
    sources: tuple[str, ...] = ()

    def canonical(self) -> Any:
        """Without `sources` where there are none, as in versions of before there were any."""
        document = super().canonical()
        return document if self.sources else {k: v for k, v in document.items() if k != "sources"}


class Manifest(Strict):
    """A version of a mixture: content digests only, no path, host or clock."""

    format: Literal[1] = 1
    name: str
    plan_id: str
    recipe: Mapping[str, Any]
    lake_digest: str
    schema_version: str
    pins: Pins
    shards: tuple[ShardEntry, ...]
    sources: tuple[SourceSummary, ...]
    drops: Mapping[str, int]
    bad_input: int = Field(description="drops for bad input that the recipe does not accept by name")
    normalization_sha256: str
    ledger_sha256: str
    shard_records_sha256: str
    statistics_sha256: str | None = None
    made: Mapping[str, Any] | None = None
    """With what: conversions (converter and card) with their episodes, steps by source with versions, encoders."""
    schedule: Mapping[str, Any] | None = None
    """Draws of an epoch and shares by source and stage, where the mix is scheduled."""
    policy: Mapping[str, Any] | None = None
    """`allow` of the recipe, and `overrides`: what it does not allow and was let in, by whom and why."""

    def canonical(self) -> Any:
        """Without what earlier versions did not have: their digests stay."""
        sources = [source.canonical() for source in self.sources]
        document = {**super().canonical(), "pins": self.pins.canonical(), "sources": sources}
        document = {name: value for name, value in document.items() if name not in _LATER or value is not None}
        if self.schedule is None:
            for shard in document["shards"]:
                shard.pop("source")
        return document

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def content_digest(self) -> str:
        """Equal for versions with the same content: shards, statistics, ledger; records of sources and overrides."""
        shards = [[shard.split, shard.bucket, shard.sha256] for shard in self.shards]
        said: list[Any] = [] if self.schedule is None else [self.schedule]
        said += [] if self.policy is None else [{"policy": self.policy}]
        records = {source.source_id: source.record_sha256 for source in self.sources if source.record_sha256}
        said += [{"records": records}] if records else []
        return sha256_json([shards, self.normalization_sha256, self.ledger_sha256, *said])
