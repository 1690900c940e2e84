"""A version as the report reads it: manifest, ledger and shard records, and what every source of the recipe gave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MixtureStore
from dataengine.specs.records import Manifest, SourceSummary

Row = dict[str, Any]
SourceKey = tuple[str, str, str]  # the recipe's source, source_id, converter


@dataclass(frozen=True)
class Known:
    """What a lake knows of an episode that the ledger of an early version does not say: length in steps, rate in Hz."""

    steps: int
    hz: float


def entry_of(row: Mapping[str, Any]) -> str:
    """The recipe's source that an episode came in by; in early versions its converter."""
    return str(row.get("entry") or row["converter"])


@dataclass(frozen=True)
class Version:
    """A version with its ledger and shard records, digests checked. `known` are facts of a lake by uid, if any."""

    store: MixtureStore
    name: str
    sha256: str
    manifest: Manifest
    rows: list[Row]
    inputs: list[Row]
    known: Mapping[str, Known] = field(default_factory=dict)

    @classmethod
    def read(cls, store: MixtureStore, name: str, known: Mapping[str, Known] | None = None) -> Version:
        """Read a version; damaged documents are a `FormatError`."""
        sha, manifest = store.manifest(name)
        records = store.checked(f"{store.documents(sha)}/shard_records.parquet", manifest.shard_records_sha256)
        # As it was written: what an early version's ledger does not say is unknown, not nothing.
        ledger = store.checked(f"{store.documents(sha)}/ledger.parquet", manifest.ledger_sha256)
        rows, inputs = ledgers.read_parquet(ledger), ledgers.read_parquet(records)
        return cls(store, name, sha, manifest, rows, inputs, known or {})

    @property
    def address(self) -> str:
        return f"{self.store.address}@{self.name}"

    @cached_property
    def sources(self) -> list[SourceKey]:
        """Every (source of the recipe, source_id, converter) of the ledger, sorted."""
        return sorted({self.key(row) for row in self.rows})

    @staticmethod
    def key(row: Row) -> SourceKey:
        return entry_of(row), row["source_id"], row["converter"]

    @cached_property
    def terms(self) -> dict[tuple[str, str], SourceSummary]:
        """Licence and counts by source_id and converter."""
        return {(source.source_id, source.converter): source for source in self.manifest.sources}

    def family(self, key: SourceKey) -> str:
        return self.terms[key[1:]].family

    @cached_property
    def places(self) -> dict[str, int]:
        """Where an episode stands in the ledger, by uid."""
        return {row["uid"]: place for place, row in enumerate(self.rows)}

    def steps(self, row: Row) -> int | None:
        """Steps of an episode, None where nobody says."""
        if row.get("steps") is not None:
            return int(row["steps"])
        known = self.known.get(row["uid"])
        return known.steps if known is not None else None

    def kept_steps(self, row: Row) -> int | None:
        """Steps that the recipe left of a kept episode."""
        if row["status"] != "kept":
            return 0
        return int(row["kept_steps"]) if row.get("kept_steps") is not None else self.steps(row)

    def seconds(self, row: Row) -> float | None:
        """How long these steps are."""
        if row["status"] != "kept":
            return 0.0
        if row.get("seconds") is not None:
            return float(row["seconds"])
        known = self.known.get(row["uid"])
        if known is None:
            return None
        return known.steps / known.hz if known.hz else 0.0


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number with as many digits as a page needs; what is no finite number is None."""
    return float(f"{value:.{digits}g}") if value is not None and math.isfinite(value) else None
