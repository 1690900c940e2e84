"""Verify: every byte of a mixture outside `staging/` against the digest that should be its own.

ref -> manifest -> documents -> shards -> members -> counts, and the files that no version names (task records, run
facts, blobs of unfinished builds) each against its own digest.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.documents import sha256_bytes, unseal
from dataengine.errors import BadInput, DataEngineError
from dataengine.mixture import described
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MARKER, MixtureStore, index_name, shard_name
from dataengine.shards import index, segments
from dataengine.shards.samples import KEY_UID
from dataengine.shards.tar import Member, group, members
from dataengine.specs.records import Manifest, TaskRecord
from dataengine.storage import sha256_file

Progress = Callable[[str, int, int], None]
MAX_NAMED = 100


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be, and what to do."""

    file: str
    reason: str
    what: str


@dataclass
class VerifyReport:
    """What was checked and what was found."""

    versions: list[str] = field(default_factory=list)
    files: int = 0
    shards: int = 0
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, file: str, reason: str, what: str) -> None:
        self.problems.append(Problem(file, reason, what))


def verify(store: MixtureStore, version: str | None, tell: Progress) -> VerifyReport:
    """Check every file, then the chains of one version, or of all."""
    report = VerifyReport()
    files = store.files()
    shards: dict[str, Counter[str]] = {}
    for done, name in enumerate(files, start=1):
        try:
            _check_file(store, name, shards)
        except BadInput as error:
            report.add(name, error.reason, error.what)
        except DataEngineError as error:
            report.add(name, "unreadable", error.what)
        tell("files", done, len(files))
    report.files = len(files)
    for name in [store.resolve(version)] if version is not None else store.versions():
        report.versions.append(name)
        try:
            _check_version(store, name, shards, report)
        except (DataEngineError, orjson.JSONDecodeError) as error:
            report.add(f"refs/{name}", "version_damaged", str(error).splitlines()[0])
    return report


def _check_file(store: MixtureStore, name: str, shards: dict[str, Counter[str]]) -> None:
    """One file by itself: its name says what it is and, for most, what its digest must be."""
    parts, path = Path(name).parts, Path(name)
    if parts[0] == "runs" and path.suffix != ".json":
        described.check_run_document(store, name)
    elif name == MARKER or parts[0] in ("leases", "refs", "runs", "tags", "tasks"):
        body = unseal(store.read(name), name)
        if parts[0] == "tasks":
            record = TaskRecord.parse(body, name)
            if record.task_digest != path.stem:
                raise BadInput("digest_mismatch", "the record is of another task", where=name)
    elif parts[0] == "manifests" and len(parts) == 2 and path.suffix == ".json":
        store.checked(name, path.stem)
    elif parts[0] == "manifests" and len(parts) == 3 and parts[1].endswith(".d"):
        _check_document(store, name, parts[1].removesuffix(".d"))
    elif parts[:2] == ("blobs", "sha256") and path.suffix == ".tar":
        beside = index_name(path.stem)
        with store.local(name) as file:
            if sha256_file(file) != path.stem:
                raise BadInput("digest_mismatch", "the shard does not have the digest in its name", where=name)
            shards[path.stem] = _check_shard(file, store.read(beside) if store.exists(beside) else b"", beside)
    elif parts[:2] == ("blobs", "sha256") and path.suffix == ".idx":
        if not store.exists(shard_name(path.stem)):
            raise BadInput("orphan_index", "an index without its shard: remove it", where=name)
    else:
        raise BadInput("unknown_file", "no file of a mixture: remove it", where=name)


def _check_document(store: MixtureStore, name: str, manifest_sha: str) -> None:
    """A manifest's document has the digest that the manifest says (an unfinished commit has no manifest yet)."""
    if not store.exists(f"manifests/{manifest_sha}.json"):
        return
    if Path(name).name in (described.LIST, *described.NAMES):
        described.check_document(store, name, manifest_sha)
        return
    manifest = orjson.loads(store.checked(f"manifests/{manifest_sha}.json", manifest_sha))
    field_name = f"{Path(name).stem}_sha256"
    if field_name not in manifest:
        raise BadInput("unknown_file", "the manifest names no such document: remove it", where=name)
    store.checked(name, manifest[field_name])


def _check_shard(path: Path, listed: bytes, beside: str) -> Counter[str]:
    """Members against the index beside; returns how many samples each episode has."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        entries = list(group(members(memoryview(mapped))))
        said = {key: _check_sample(mapped, key, found) for key, found in entries}
    if listed != index.dump(entries, {key: facts for key, facts in said.items() if facts is not None}):
        raise BadInput("index_damaged", "the index beside the shard does not describe it", where=beside)
    return Counter(key[:KEY_UID] for key, _ in entries)


def _check_sample(mapped: mmap.mmap, key: str, found: tuple[Member, ...]) -> dict[str, Any] | None:
    """A sample's JSON is its own; returns what the index must say of it beside its members."""
    first = found[0]
    if first.name != f"{key}.json":
        raise BadInput("sample_damaged", f"sample {key} does not begin with its JSON")
    document = orjson.loads(mapped[first.offset : first.offset + first.size])
    if document.get("key") != key or not str(document.get("episode_uid", "")).startswith(key[:KEY_UID]):
        raise BadInput("sample_damaged", f"sample {key} says it is {document.get('key')}")
    return segments.listed(document)


def _check_version(store: MixtureStore, version: str, shards: Mapping[str, Counter[str]], report: VerifyReport) -> None:
    sha, manifest = store.manifest(version)
    folder = store.documents(sha)
    ledger = ledgers.read_table(store.checked(f"{folder}/ledger.parquet", manifest.ledger_sha256))
    store.checked(f"{folder}/normalization.json", manifest.normalization_sha256)
    if manifest.statistics_sha256 is not None:
        store.checked(f"{folder}/statistics.bin", manifest.statistics_sha256)
    inputs = ledgers.read_table(store.checked(f"{folder}/shard_records.parquet", manifest.shard_records_sha256))
    _check_shards(store, manifest, inputs, shards, report)
    _check_ledger(ledger, inputs, report, f"{folder}/ledger.parquet")
    if ledgers.drop_counts(ledger) != dict(manifest.drops):
        report.add(f"manifests/{sha}.json", "count_mismatch", "the drops are not the ledger's")
    _check_sources(manifest, ledger, report, f"manifests/{sha}.json")
    for name in described.unfinished(store, sha):
        report.add(name, "missing_file", f"a document of the version is missing: {described.FIX}")


def _check_ledger(ledger: pa.Table, inputs: pa.Table, report: VerifyReport, where: str) -> None:
    """Every episode has in the shards what the ledger says, and none without a row or dropped has anything."""
    given = inputs.group_by("uid", use_threads=False).aggregate([("samples", "sum")])
    own = ledger.select(["uid", "samples", "status"])
    both = own.join(given, "uid", join_type="full outer", coalesce_keys=True, use_threads=False)
    lost = pc.is_null(both["status"])
    if pc.any(lost).as_py():
        report.add(where, "count_mismatch", "a shard holds an episode that is not in the ledger")
    said, made = pc.fill_null(both["samples"], 0), pc.fill_null(both["samples_sum"], 0)
    dropped = pc.and_(pc.equal(both["status"], "dropped"), pc.greater(said, 0))
    wrong = pc.and_(pc.invert(lost), pc.or_(pc.not_equal(said, made), pc.fill_null(dropped, False)))
    for row in both.append_column("made", made).filter(wrong).sort_by("uid").slice(0, MAX_NAMED).to_pylist():
        what = f"{row['uid']}: {row['samples']} in the ledger, {row['made']} in shards"
        report.add(where, "count_mismatch", what)


def _check_shards(
    store: MixtureStore,
    manifest: Manifest,
    inputs: pa.Table,
    shards: Mapping[str, Counter[str]],
    report: VerifyReport,
) -> None:
    keys: Counter[str] = Counter()
    by_shard: dict[int, Counter[str]] = {}
    for batch in inputs.select(["shard", "uid", "samples"]).to_batches():
        for row in batch.to_pylist():
            by_shard.setdefault(row["shard"], Counter())[row["uid"][:KEY_UID]] += row["samples"]
    for number, shard in enumerate(manifest.shards):
        name = shard_name(shard.sha256)
        found = shards.get(shard.sha256)
        if found is None:
            if not store.exists(name):
                report.add(name, "missing_file", "the shard is missing: build again with the same recipe and lake")
            continue
        report.shards += 1
        report.samples += found.total()
        if found.total() != shard.samples or store.size(name) != shard.bytes:
            report.add(name, "count_mismatch", f"{found.total()} samples, the manifest says {shard.samples}")
        if found != by_shard.get(number, Counter()):
            report.add(name, "count_mismatch", "the episodes in the shard are not those of its record")
        beside = index_name(shard.sha256)
        if not store.exists(beside) or sha256_bytes(store.read(beside)) != shard.index_sha256:
            report.add(beside, "digest_mismatch", "the index is missing or damaged")
        keys.update([shard.sha256])
    twice = [sha for sha, count in keys.items() if count > 1]
    if twice:
        report.add(shard_name(twice[0]), "duplicate_shard", "a shard stands twice in the version")


def _check_sources(manifest: Manifest, ledger: pa.Table, report: VerifyReport, where: str) -> None:
    counted = ledgers.source_counts(ledger)
    for source in manifest.sources:
        said = (source.episodes_in, source.episodes_kept, source.samples)
        found = counted.get((source.source_id, source.converter))
        if found != said or source.episodes_dropped != source.episodes_in - source.episodes_kept:
            report.add(where, "count_mismatch", f"the counts of {source.source_id} are not the ledger's")
