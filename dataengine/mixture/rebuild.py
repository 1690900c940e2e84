"""Rebuild one shard of a version from the lake, and compare it bit for bit with the one that lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.errors import SpecError, StorageError
from dataengine.lake import Lake, Snapshot
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.judge import judge
from dataengine.mixture.roster import Roster, RosterBuilder
from dataengine.mixture.rows import read_shard
from dataengine.mixture.store import MixtureStore, index_name, shard_name
from dataengine.mixture.tasks import Digests, build_shard
from dataengine.mixture.verdicts import Verdicts
from dataengine.plan import Tasks, clipped, source_of, tickets
from dataengine.relabel.recipes import Relabelled, ask_models
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import Manifest, ShardEntry, TaskRecord
from dataengine.storage import CHUNK, sha256_file


@dataclass(frozen=True)
class Rebuilt:
    """A shard made again. `why` tells what differs when `equal` is False."""

    version: str
    shard: int
    sha256: str
    rebuilt_sha256: str
    equal: bool
    samples: int
    why: str
    restored: tuple[str, ...] = ()
    """Files that were missing or damaged, and were put back."""


def rebuild(store: MixtureStore, version: str, number: int, lake: Lake, *, restore: bool = False) -> Rebuilt:
    """Make a shard again, in a folder that is thrown away, out of what the lake holds now.

    With `restore` an equal one takes the place of a shard or an index that is missing or damaged.
    """
    sha, manifest = store.manifest(version)
    if not 0 <= number < len(manifest.shards):
        raise SpecError(f"version {version} has no shard {number}", fix=f"its shards are 0..{len(manifest.shards) - 1}")
    entry = manifest.shards[number]
    recipe = Recipe.parse(dict(manifest.recipe), f"{version} of {manifest.name}")
    inputs = _inputs(store, sha, manifest, number)
    snapshot = lake.snapshot()
    uids = sorted({row["uid"] for row in inputs})
    entries = _sources(store, sha, manifest, uids)
    answers = _answers(recipe, lake, entries, snapshot)
    verdicts, roster = _verdicts(recipe, lake, entries, snapshot, (answers, entry.split))
    tasks = _tasks(recipe, entry, inputs, verdicts)
    normalization = store.checked(f"{store.documents(sha)}/normalization.json", manifest.normalization_sha256)
    digest = Digests(recipe, roster, verdicts, normalization).of(tasks, 0)
    with TemporaryDirectory(prefix="dataengine-") as folder:
        scratch = MixtureStore(Path(folder) / "m", create=True)
        payload: dict[str, Any] = {
            "task": tasks[0],
            "digest": digest,
            "recipe": recipe,
            "lake": lake.path,
            "snapshot": snapshot,
            "store": scratch.address,
            "writers": scratch.writers,
            "answers": answers,
            "normalization": normalization,
        }
        record = build_shard(payload)["record"]
        equal = record.sha256 == entry.sha256
        restored = _restored(store, scratch, record) if restore and equal else ()
    why = "" if equal else _why(entry, digest)
    return Rebuilt(version, number, entry.sha256, record.sha256, equal, record.samples, why, restored)


def _restored(store: MixtureStore, scratch: MixtureStore, record: TaskRecord) -> tuple[str, ...]:
    """Put shard and index where they lie, unless the same bytes do already."""
    put = []
    for name, digest in ((shard_name(record.sha256), record.sha256), (index_name(record.sha256), record.index_sha256)):
        if store.exists(name):
            with store.local(name) as path:
                if sha256_file(path) == digest:
                    continue
            store.remove(name)
        with store.writer("shard") as staged, scratch.path(name).open("rb") as made:
            while data := made.read(CHUNK):
                staged.write(data)
            staged.publish(name)
        put.append(name)
    return tuple(put)


def _why(entry: ShardEntry, digest: str) -> str:
    if digest != entry.task_digest:
        return (
            "its inputs are no longer what they were: an episode was converted anew, a card or a step changed, or the"
            " encoders are of another version"
        )
    return "the same inputs gave other bytes: the shard, or the lake, is damaged; run verify"


def _inputs(store: MixtureStore, sha: str, manifest: Manifest, number: int) -> list[dict[str, Any]]:
    data = store.checked(f"{store.documents(sha)}/shard_records.parquet", manifest.shard_records_sha256)
    found: list[dict[str, Any]] = read_shard(data, number).to_pylist()
    return found


def _sources(store: MixtureStore, sha: str, manifest: Manifest, uids: list[str]) -> dict[str, str]:
    """What the recipe calls the source of each episode; in ledgers of before it said so, its converter."""
    data = store.checked(f"{store.documents(sha)}/ledger.parquet", manifest.ledger_sha256)
    table = ledgers.read_table(data)
    rows = table.filter(pc.is_in(table["uid"], pa.array(uids, pa.string()))).to_pylist()
    return {row["uid"]: row.get("entry") or row["converter"] for row in rows}


def _answers(recipe: Recipe, lake: Lake, entries: Mapping[str, str], snapshot: Snapshot) -> Relabelled:
    """What models said when the version was built, out of the lake: nobody is asked again."""
    named: dict[str, list[str]] = {}
    for uid, entry in entries.items():
        named.setdefault(entry, []).append(uid)
    answers, usages = ask_models(recipe, lake, snapshot, named, None)
    lost = sum(usage.to_ask for usage in usages.values())
    if lost:
        raise StorageError(
            f"the lake no longer holds {lost:,} of the models' answers",
            where=str(lake.path),
            fix="ask again with `dataengine relabel`, and build a new version: the answers may differ",
        )
    return answers


def _verdicts(
    recipe: Recipe, lake: Lake, entries: Mapping[str, str], snapshot: Snapshot, given: tuple[Relabelled, str]
) -> tuple[Verdicts, Roster]:
    """The episodes of a shard as the lake holds them, and what the recipe's steps make of them."""
    answers, split = given
    steps = {source.entry: answers.steps(recipe, source) for source in recipe.sources}
    native = any(step.needs_native for listed in steps.values() for step in listed)
    reader = lake.reader(sorted(entries), snapshot, native=native)
    builder = RosterBuilder([source.entry for source in recipe.sources])
    for uid, entry in sorted(entries.items()):
        builder.add(entry, [reader.heads[uid]], lambda _: split)
    roster = builder.made()
    found = Verdicts(roster)
    for uid, entry in entries.items():
        listed = steps[entry]
        episode = reader.episode(uid, media=any(step.needs_media for step in listed))
        head = reader.heads[uid]
        verdict, _ = judge(episode, head, source_of(recipe, entry), recipe, listed, split)
        if verdict.drop is not None:
            raise StorageError(
                f"the recipe's steps drop an episode now that they kept: {verdict.drop.reason}",
                where=f"{head.source_id}, episode {head.upstream_id}",
                fix="the lake or a step has changed since; build a new version",
            )
        found.put(roster.index(uid), verdict)
    return found, roster


def _tasks(recipe: Recipe, entry: ShardEntry, inputs: list[dict[str, Any]], verdicts: Verdicts) -> Tasks:
    """The one task that the shard's record tells of."""
    candidates = verdicts.candidates()
    places = {candidates.uid(row): row for row in range(len(candidates))}
    rows, starts, stops, counts = [], [], [], []
    for unit in inputs:
        row = places[unit["uid"]]
        runs = candidates.runs_of(row) if candidates.narrowed[row] else ((0, int(candidates.windows[row]), 1),)
        offered = tickets(clipped(runs, unit["start"], unit["stop"]))
        if not offered:
            where = f"{unit['uid']}, steps {unit['start']}..{unit['stop']}"
            raise StorageError("the recipe's steps leave nothing of a segment", where=where, fix="build a new version")
        rows.append(row)
        starts.append(unit["start"])
        stops.append(unit["stop"])
        counts.append(offered if recipe.samples.kind == "episode" else unit["samples"])
    columns = tuple(np.array(values, np.int32) for values in (rows, starts, stops, counts))
    edges = np.array([0, len(rows)], np.int64)
    return Tasks(candidates, columns, edges, [(entry.split, entry.bucket, entry.source)])  # type: ignore[arg-type]
