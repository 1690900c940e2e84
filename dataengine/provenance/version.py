"""A version opened for questions: its documents are read when they are asked for, and only the columns that are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataengine.errors import SpecError
from dataengine.mixture.rows import completed, read_shard, read_table
from dataengine.mixture.store import MixtureStore, split_address
from dataengine.specs.records import Manifest, SourceSummary

_JOINED = ("converter", "entry", "upstream_id")
"""Columns that shard records of before did not have: they come from the ledger then."""
_STRICTEST = ("no", "unknown", "yes")


@dataclass(frozen=True)
class Version:
    """A version of a mixture: every document that is read has the digest that the manifest holds."""

    store: MixtureStore
    name: str
    sha256: str
    manifest: Manifest

    @classmethod
    def open(cls, address: str) -> Version:
        """The version that `M` or `M@V` names."""
        path, version = split_address(address)
        store = MixtureStore(path)
        return cls.of(store, store.resolve(version))

    @classmethod
    def of(cls, store: MixtureStore, name: str) -> Version:
        """A version of an open store."""
        return cls(store, name, *store.manifest(name))

    @property
    def folder(self) -> str:
        return self.store.documents(self.sha256)

    @cached_property
    def _ledger(self) -> bytes:
        return self.store.checked(f"{self.folder}/ledger.parquet", self.manifest.ledger_sha256)

    @cached_property
    def _records(self) -> bytes:
        return self.store.checked(f"{self.folder}/shard_records.parquet", self.manifest.shard_records_sha256)

    def ledger(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The ledger; with `columns` those of it, and `converter` beside them."""
        wanted = None if columns is None else list(dict.fromkeys((*columns, "converter")))
        table = completed(read_table(self._ledger, wanted), wanted)
        return table if wanted is None else table.select(wanted)

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The shard records: one row for each segment in each shard, in shard order."""
        wanted = None if columns is None else tuple(dict.fromkeys((*columns, "uid")))
        return self._joined(read_table(self._records, wanted), wanted)

    def inputs(self, shard: int) -> pa.Table:
        """The shard records of one shard; a number that is none is a `SpecError`."""
        if not 0 <= shard < len(self.manifest.shards):
            last = len(self.manifest.shards) - 1
            raise SpecError(f"version {self.name} has no shard {shard}", fix=f"they are 0 to {last}")
        return self._joined(read_shard(self._records, shard), None)

    def _joined(self, table: pa.Table, wanted: Sequence[str] | None) -> pa.Table:
        missing = [n for n in _JOINED if n not in table.schema.names and (wanted is None or n in wanted)]
        if missing:
            ledger = self.ledger(("uid", *missing))
            places = pc.index_in(table["uid"], value_set=ledger["uid"].combine_chunks())
            for name in missing:
                table = table.append_column(name, ledger[name].take(places))
        return table if wanted is None else table.select(list(wanted))

    def known_sources(self) -> dict[tuple[str, str], SourceSummary]:
        """What the version says of its sources, by source id and converter."""
        return {(source.source_id, source.converter): source for source in self.manifest.sources}

    def steps(self, entries: Iterable[str] | None = None) -> dict[str, list[Mapping[str, Any]]]:
        """The steps with versions and parameters by what the recipe calls its source; of `entries` alone if given."""
        found = (self.manifest.made or {}).get("steps", {})
        return {name: list(found[name]) for name in (sorted(found) if entries is None else entries) if name in found}

    def conversions(self, pairs: Iterable[tuple[str, str]] | None = None) -> list[Mapping[str, Any]]:
        """Converters and cards with their digests; those of the (source id, converter) `pairs` alone if given."""
        wanted = None if pairs is None else set(pairs)
        rows = (self.manifest.made or {}).get("conversions", ())
        return [row for row in rows if wanted is None or (row["source_id"], row["converter"]) in wanted]


def terms(sources: Iterable[SourceSummary]) -> dict[str, Any]:
    """What binds whoever uses these sources together: unions, and of commercial use the strictest word."""
    listed = list(sources)
    commercial = {source.commercial_ok for source in listed}

    def union(name: str) -> list[str]:
        return sorted({str(getattr(source, name)) for source in listed})

    return {
        "licenses": union("license"),
        "commercial_ok": next((word for word in _STRICTEST if word in commercial), "unknown"),
        "consent": union("consent"),
        "usage": union("usage"),
        "deidentification": union("deidentification"),
        "terms_urls": union("terms_url"),
        "citations": union("citation"),
    }


def facts(source: SourceSummary) -> dict[str, Any]:
    """What is known of a source, without counts."""
    counts = ("episodes_in", "episodes_kept", "episodes_dropped", "samples")
    return {name: value for name, value in source.model_dump(mode="json").items() if name not in counts}


def counted(table: pa.Table, keys: Sequence[str], total: str = "samples") -> list[dict[str, Any]]:
    """Rows (`segments`) and the sum of a column by `keys`, sorted by them."""
    grouped = table.group_by(list(keys), use_threads=False).aggregate([([], "count_all"), (total, "sum")])
    grouped = grouped.sort_by([(key, "ascending") for key in keys])
    names = {"count_all": "segments", f"{total}_sum": total}
    rows: list[dict[str, Any]] = grouped.rename_columns([names.get(n, n) for n in grouped.schema.names]).to_pylist()
    return rows
