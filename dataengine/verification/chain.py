"""One version: ref -> manifest -> documents -> shards -> counts. Everything in columns: no object an episode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.documents import sha256_bytes, sha256_json
from dataengine.errors import DataEngineError
from dataengine.mixture import described
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MixtureStore, index_name, shard_name
from dataengine.relabel.recipes import asks
from dataengine.shards.samples import KEY_UID
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import Manifest, ShardEntry
from dataengine.verification.report import FROM_COPY, MAX_NAMED, Advice, VerifyReport
from dataengine.verification.shard import ShardFacts, counts_digest

_LEDGER = ("source_id", "converter", "uid", "status", "reason", "bad_input", "accepted", "samples", "entry")
_RECORDS = ("shard", "sha256", "split", "task_digest", "uid", "samples")
FORGED = f"a script or a hand wrote it anew with digests that fit: {FROM_COPY}, or build a new version"


@dataclass
class Chain:
    """Checks versions; what it finds goes to `report`. `odd` are names that are no regular files."""

    store: MixtureStore
    report: VerifyReport
    advice: Advice
    shards: Mapping[str, ShardFacts]
    odd: frozenset[str] = frozenset()

    def check(self, sha: str, manifest: Manifest) -> None:
        """All that the manifest of a version names, and what it counts."""
        folder, where = self.store.documents(sha), f"manifests/{sha}.json"
        ledger = self._table(f"{folder}/ledger.parquet", manifest.ledger_sha256, _LEDGER)
        records = self._table(f"{folder}/shard_records.parquet", manifest.shard_records_sha256, _RECORDS)
        self.document(f"{folder}/normalization.json", manifest.normalization_sha256)
        if manifest.statistics_sha256 is not None:
            self.document(f"{folder}/statistics.bin", manifest.statistics_sha256)
        self._shards(manifest, where)
        self._plan(manifest, where)
        if records is not None:
            self._records(manifest, records, f"{folder}/shard_records.parquet")
        if ledger is not None:
            self._sources(manifest, ledger, where)
            self._fates(manifest, ledger, f"{folder}/ledger.parquet")
        if ledger is not None and records is not None:
            self._counts(ledger, records, f"{folder}/ledger.parquet")
        for name in described.unfinished(self.store, sha):
            self.report.add(name, "missing_file", "a document of the version is missing", self.advice.of(name))

    def document(self, name: str, digest: str) -> bytes | None:
        """A file's bytes; None where it is missing or damaged. The damage itself is told with the file."""
        if name in self.odd:
            return None
        if not self.store.exists(name):
            self.report.add(name, "missing_file", "a file of the version is missing", self.advice.of(name))
            return None
        data = self.store.read(name)
        return data if sha256_bytes(data) == digest else None

    def _table(self, name: str, digest: str, columns: tuple[str, ...]) -> pa.Table | None:
        data = self.document(name, digest)
        if data is None:
            return None
        try:
            table = ledgers.read_table(data, columns)
        except (pa.ArrowException, OSError, KeyError) as error:
            told = str(error).splitlines()[0]
            self.report.add(name, "unreadable_file", f"no table, though its digest fits: {told}", FORGED)
            return None
        missing = [column for column in columns if column not in table.schema.names and column != "entry"]
        if missing:
            self.report.add(name, "missing_column", f"it has no column {missing[0]}", FORGED)
        return None if missing else table

    def _shards(self, manifest: Manifest, where: str) -> None:
        for shard in manifest.shards:
            name, beside, found = shard_name(shard.sha256), index_name(shard.sha256), self.shards.get(shard.sha256)
            if name not in self.odd and not self.store.exists(name):
                self.report.add(name, "missing_file", "a shard of the version is missing", self.advice.of(name))
            if self.document(beside, shard.index_sha256) is None and beside not in self.odd:
                told = "the index is missing, or not the one that the manifest names"
                self.report.add(beside, "digest_mismatch", told, self.advice.of(name))
            if found is None:
                continue
            self.report.shards += 1
            self.report.samples += found.samples
            if (found.samples, found.size) != (shard.samples, shard.bytes):
                told = f"{shard.samples} samples and {shard.bytes} bytes of {name}, which has {found.samples} and"
                self.report.add(where, "count_mismatch", f"{told} {found.size}", FORGED)
        for sha, count in Counter(shard.sha256 for shard in manifest.shards).items():
            if count > 1:
                self.report.add(where, "duplicate_shard", f"{shard_name(sha)} stands {count} times in it", FORGED)

    def _plan(self, manifest: Manifest, where: str) -> None:
        """Recipe, pins and lake digest are those of the plan. (Answers of models are in no manifest.)"""
        told = {"recipe": manifest.recipe, "pins": manifest.pins.canonical(), "lake": manifest.lake_digest}
        if sha256_json(told) == manifest.plan_id:
            return
        try:
            asked = asks(Recipe.parse(dict(manifest.recipe), where))
        except DataEngineError as error:  # of another release: it cannot be told
            asked = "unknown field" in error.what
        if not asked:
            self.report.add(where, "plan_mismatch", "recipe, pins and lake are not those of its plan id", FORGED)

    def _records(self, manifest: Manifest, records: pa.Table, where: str) -> None:
        """The rows of each shard say of it what the manifest and the shard itself say."""
        numbers = np.asarray(records["shard"].to_numpy(), np.int64)
        if (np.diff(numbers) < 0).any() or (len(numbers) and not 0 <= numbers[0] <= numbers[-1] < len(manifest.shards)):
            self.report.add(where, "count_mismatch", "its shards are not the manifest's", FORGED)
            return
        edges = np.searchsorted(numbers, np.arange(len(manifest.shards) + 1))
        for number, shard in enumerate(manifest.shards):
            rows = records.slice(int(edges[number]), int(edges[number + 1] - edges[number]))
            for told in self._record(shard, rows):
                self.report.add(where, "count_mismatch", f"shard {number}: {told}", FORGED)

    def _record(self, shard: ShardEntry, rows: pa.Table) -> Iterator[str]:
        for column in ("sha256", "split", "task_digest"):
            if rows.num_rows and set(rows[column].unique().to_pylist()) != {getattr(shard, column)}:
                yield f"another {column} than the manifest's"
        counts: Counter[str] = Counter()
        for uid, samples in zip(rows["uid"].to_pylist(), rows["samples"].to_pylist(), strict=True):
            counts[uid[:KEY_UID]] += samples
        found = self.shards.get(shard.sha256)
        if found is not None and counts_digest(+counts) != found.episodes:
            yield f"the episodes in {shard_name(shard.sha256)} are not those of its rows"

    def _counts(self, ledger: pa.Table, records: pa.Table, where: str) -> None:
        """Every episode has in the shards what the ledger says, and none without a row or dropped has anything."""
        given = records.group_by("uid", use_threads=False).aggregate([("samples", "sum")])
        own = ledger.select(["uid", "samples", "status"])
        both = own.join(given, "uid", join_type="full outer", coalesce_keys=True, use_threads=False)
        lost = pc.is_null(both["status"])
        if pc.any(lost).as_py():
            self.report.add(where, "count_mismatch", "a shard holds an episode that is not in the ledger", FORGED)
        said, made = pc.fill_null(both["samples"], 0), pc.fill_null(both["samples_sum"], 0)
        dropped = pc.and_(pc.equal(both["status"], "dropped"), pc.greater(said, 0))
        wrong = pc.and_(pc.invert(lost), pc.or_(pc.not_equal(said, made), pc.fill_null(dropped, False)))
        for row in both.append_column("made", made).filter(wrong).sort_by("uid").slice(0, MAX_NAMED).to_pylist():
            what = f"{row['uid']}: {row['samples']} in the ledger, {row['made']} in shards"
            self.report.add(where, "count_mismatch", what, FORGED)

    def _sources(self, manifest: Manifest, ledger: pa.Table, where: str) -> None:
        """What the manifest counts, counted again."""
        counted = ledgers.source_counts(ledger)
        told = {(source.source_id, source.converter) for source in manifest.sources}
        for source in manifest.sources:
            said = (source.episodes_in, source.episodes_kept, source.samples)
            found = counted.get((source.source_id, source.converter))
            if found != said or source.episodes_dropped != source.episodes_in - source.episodes_kept:
                what = f"the counts of {source.source_id} are not the ledger's"
                self.report.add(where, "count_mismatch", what, FORGED)
        for name in sorted({key[0] for key in counted.keys() - told}):
            self.report.add(where, "count_mismatch", f"the ledger's source {name} is not in it", FORGED)
        if ledgers.drop_counts(ledger) != dict(manifest.drops):
            self.report.add(where, "count_mismatch", "the drops are not the ledger's", FORGED)
        if ledgers.count_bad_input(ledger) != manifest.bad_input:
            self.report.add(where, "count_mismatch", "its count of bad input is not the ledger's", FORGED)

    def _fates(self, manifest: Manifest, ledger: pa.Table, where: str) -> None:
        """Each uid once; kept rows without a reason, dropped ones with one; what is taken whole gives samples."""
        kept, has_reason = pc.equal(ledger["status"], "kept"), pc.not_equal(ledger["reason"], "")
        wrong = pc.equal(kept, has_reason)
        if "entry" in ledger.schema.names:
            whole = pa.array([name for name, rate in manifest.pins.rates.items() if rate >= 1], pa.string())
            silent = pc.and_(pc.equal(ledger["samples"], 0), pc.is_in(ledger["entry"], value_set=whole))
            wrong = pc.or_(wrong, pc.and_(kept, silent))
        for uid in ledger.filter(wrong)["uid"].slice(0, MAX_NAMED).to_pylist():
            what = f"{uid}: kept with a reason to drop it or without samples, or dropped without a reason"
            self.report.add(where, "fate_mismatch", what, FORGED)
        uids = ledger["uid"].filter(pc.not_equal(ledger["uid"], ""))
        if pc.count_distinct(uids).as_py() != len(uids):
            self.report.add(where, "duplicate_row", "an episode has two rows in the ledger", FORGED)
