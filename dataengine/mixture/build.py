"""Build: survey the lake, plan, run the tasks that are new, and commit a version.

Nothing is visible before the ref is created; a build that was killed is resumed by running it again, because every
finished task left its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import canonical_json, sha256_bytes
from dataengine.engine.base import Engine
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.bake import Baker
from dataengine.mixture.guard import NOT_COUNTED, TaskLoss, check_tasks, task_losses
from dataengine.mixture.rows import RECORD_GROUP
from dataengine.mixture.select import Inputs
from dataengine.mixture.stale import made_with
from dataengine.mixture.statistics import normalization_json
from dataengine.mixture.store import MixtureStore
from dataengine.mixture.surveying import Progress, result_of, surveyed
from dataengine.mixture.tasks import Digests, build_shard, check_shard
from dataengine.mixture.verdicts import Verdicts
from dataengine.mixture.views import check_views
from dataengine.plan import Tasks, keyed_hash, make_tasks, plan_id
from dataengine.relabel.cache import AnswerCache
from dataengine.relabel.client import Client
from dataengine.relabel.recipes import ask_models, asks
from dataengine.schedule import MixSchedule
from dataengine.schema import unified
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import LedgerRow, Manifest, Pins, ShardEntry, TaskRecord
from dataengine.weights import Offer, drawn, resolve_pins

LOOK_UPS = 32
"""Task records asked for at once: on S3 each takes some milliseconds, and a large mixture has many."""


@dataclass
class BuildReport:
    """What a build did. `created` is False when the version stood there already."""

    version: str = ""
    created: bool = False
    plan_id: str = ""
    manifest: Manifest | None = None
    manifest_sha256: str = ""
    tasks: int = 0
    tasks_executed: int = 0
    tasks_cached: int = 0
    bad_input: list[LedgerRow] = field(default_factory=list)
    relaxed: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A plan: verdicts, pins, shard tasks with their digests, and the statistics document."""

    verdicts: Verdicts
    pins: Pins
    plan_id: str
    tasks: Tasks
    digests: Sequence[str]
    normalization: bytes
    statistics: bytes
    losses: Sequence[TaskLoss] = ()
    offered: Mapping[str, Offer] = field(default_factory=dict)
    schedule: Mapping[str, Any] | None = None


def with_answers(
    recipe: Recipe,
    inputs: Inputs,
    client: Callable[[], Client] | None,
    tell: Progress,
    cache: AnswerCache | None = None,
) -> Inputs:
    """The inputs with the answers of models, which are asked where the lake (or `cache`) does not hold them yet.

    Without `client` nobody is asked, and episodes without an answer keep their texts (a dry run).
    """
    if not asks(recipe):
        return inputs
    uids: dict[str, list[str]] = {}
    for row in np.flatnonzero(inputs.heads.usable).tolist():
        uids.setdefault(inputs.heads.entries[inputs.heads.entry[row]], []).append(inputs.heads.uid(row))
    answers, _ = ask_models(recipe, inputs.lake, inputs.snapshot, uids, client, tell=tell, cache=cache)
    return replace(inputs, answers=answers)


def make_plan(recipe: Recipe, inputs: Inputs, engine: Engine, earlier: Manifest | None, tell: Progress) -> Planned:
    """Survey, resolve rates and assign units to shards. Writes nothing."""
    check_views(recipe, inputs)
    verdicts, statistics = surveyed(recipe, inputs, engine, tell)
    losses = task_losses(verdicts.tasks(NOT_COUNTED))
    if recipe.guard is not None:
        check_tasks(recipe.guard, losses)
    offered = offers(verdicts, inputs)
    pins = resolve_pins(recipe, offered, earlier.pins if earlier else None, earlier.recipe if earlier else None)
    tasks = make_tasks(recipe, verdicts.candidates(), pins)
    normalization = normalization_json(recipe, statistics)
    Baker.of(recipe, normalization)  # what it cannot bake is said before anything is written
    digests = Digests(recipe, inputs.heads, verdicts, normalization)
    samples = tasks.samples("train")
    schedule = drawn(recipe, pins, offered, samples)
    if schedule is not None:
        MixSchedule.of(schedule, samples, recipe.seed)  # one that cannot be drawn is refused before anything is built
    return Planned(
        verdicts=verdicts,
        pins=pins,
        plan_id=plan_id(recipe, inputs.digest, pins, inputs.answers.digest()),
        tasks=tasks,
        digests=[digests.of(tasks, number) for number in range(len(tasks))],
        normalization=normalization,
        statistics=statistics.to_bytes(),
        losses=losses,
        offered=offered,
        schedule=schedule,
    )


def offers(verdicts: Verdicts, inputs: Inputs) -> dict[str, Offer]:
    """What the kept episodes of each source amount to."""
    rows, found, roster = verdicts.kept, verdicts.candidates(), inputs.heads
    kept = verdicts.table[rows]
    talks = np.array([kind.family == "vision_language" for kind in roster.kinds], np.bool_)[roster.kind[rows]]
    result = {}
    for number, name in enumerate(roster.entries):
        own = np.flatnonzero(found.source == number)
        if len(own):
            result[name] = Offer(
                samples=int(found.offered[own].sum()),
                episodes=len(own),
                frames=int(kept["kept"][own].sum()),
                seconds=float(kept["seconds"][own].sum()),
                items=bool(talks[own].all()),
                bytes=int((found.offered[own] * found.sample_bytes[own]).sum()),
            )
    return result


class _Payloads(Sequence[dict[str, Any]]):
    """What the chosen shard tasks need, each made when it is asked for."""

    def __init__(
        self, recipe: Recipe, inputs: Inputs, planned: Planned, store: MixtureStore, numbers: Sequence[int]
    ) -> None:
        self._recipe, self._inputs, self._planned, self._store = recipe, inputs, planned, store
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        planned, inputs, number = self._planned, self._inputs, self._numbers[index]
        task = planned.tasks[number]
        return {
            "task": task,
            "digest": planned.digests[number],
            "recipe": self._recipe,
            "lake": inputs.lake.path,
            "snapshot": inputs.snapshot,
            "store": self._store.address,
            "writers": self._store.writers,
            "answers": inputs.answers.of([unit.uid for unit in task.units]),
            "normalization": planned.normalization if self._recipe.normalization.bake is not None else b"",
        }


@dataclass(frozen=True)
class Done:
    """What the tasks of a plan made: their records by task digest, and the samples of every unit [u] of the plan."""

    records: Mapping[str, TaskRecord]
    counts: NDArray[np.int64]
    executed: int


def execute(
    recipe: Recipe, inputs: Inputs, planned: Planned, store: MixtureStore, engine: Engine, tell: Progress
) -> Done:
    """Run the tasks without a record, then read every shard back."""
    records: dict[str, TaskRecord] = {}
    counts: dict[str, list[int]] = {}

    def take(digest: str, record: TaskRecord) -> None:
        counts[digest] = [unit.samples for unit in record.inputs]
        records[digest] = record.model_copy(update={"inputs": ()})  # of large mixtures they would fill the memory

    with ThreadPoolExecutor(LOOK_UPS) as pool:
        for digest, found in zip(planned.digests, pool.map(store.cached_task, planned.digests), strict=True):
            if found is not None:
                take(digest, found)
    todo = [number for number, digest in enumerate(planned.digests) if digest not in records]
    tell("shards", len(records), len(planned.tasks))
    for index, result in engine.run(build_shard, _Payloads(recipe, inputs, planned, store, todo)):
        digest = planned.digests[todo[index]]
        take(digest, result_of(result, f"shard task {digest}")["record"])
        tell("shards", len(records), len(planned.tasks))
    _read_back(store, [records[digest] for digest in planned.digests], engine, tell)
    listed = [count for digest in planned.digests for count in counts[digest]]
    return Done(records, np.array(listed, np.int64), len(todo))


def _read_back(store: MixtureStore, records: Sequence[TaskRecord], engine: Engine, tell: Progress) -> None:
    told = {"sha256", "samples", "bytes"}
    checks = [{"store": store.address, **record.model_dump(include=told)} for record in records]
    for count, (_, result) in enumerate(engine.run(check_shard, checks), start=1):
        result_of(result, "reading a shard back")
        tell("read back", count, len(checks))


def permuted(engine: Engine, seed: int) -> Engine:
    """The same engine, given its tasks in another order: results must not depend on it."""
    return _Permuted(engine, seed)


class _Permuted:
    def __init__(self, engine: Engine, seed: int) -> None:
        self.name, self._engine, self._seed = engine.name, engine, seed

    def run(self, function: Any, tasks: Sequence[dict[str, Any]]) -> Any:
        order = sorted(range(len(tasks)), key=lambda index: keyed_hash(self._seed, "task order", index))
        for index, result in self._engine.run(function, [tasks[index] for index in order]):
            yield order[index], result

    def close(self) -> None:
        self._engine.close()


def commit(
    recipe: Recipe,
    inputs: Inputs,
    planned: Planned,
    done: Done,
    store: MixtureStore,
    version: str | None,
    *,
    policy: Mapping[str, Any] | None = None,
    describe: Callable[[Manifest], object] | None = None,
) -> BuildReport:
    """Write ledger, records and manifest, what `describe` writes beside it, then create the ref.

    `policy` is what `judged` let in.
    """
    shards = tuple(_entries(planned, done.records))
    verdicts, tasks = planned.verdicts, planned.tasks
    given = np.bincount(tasks.row, weights=done.counts, minlength=len(tasks.candidates)).astype(np.int64)
    ledger = ledgers.ledger(recipe, inputs.heads, verdicts, given)
    segments = ledgers.shard_records(shards, tasks, done.counts, inputs.heads, verdicts)
    documents = {
        "normalization.json": planned.normalization,
        "statistics.bin": planned.statistics,
        "ledger.parquet": ledgers.parquet(ledger),
        "shard_records.parquet": ledgers.parquet(segments, RECORD_GROUP),
    }
    digests = {name: sha256_bytes(data) for name, data in documents.items()}
    manifest = Manifest(
        name=recipe.name,
        plan_id=planned.plan_id,
        recipe=recipe.resolved(),
        lake_digest=inputs.digest,
        schema_version=unified().version,
        pins=planned.pins,
        shards=shards,
        sources=ledgers.summaries(inputs.heads, ledger),
        drops=ledgers.drop_counts(ledger),
        bad_input=ledgers.count_bad_input(ledger),
        normalization_sha256=digests["normalization.json"],
        statistics_sha256=digests["statistics.bin"],
        ledger_sha256=digests["ledger.parquet"],
        shard_records_sha256=digests["shard_records.parquet"],
        made=made_with(recipe, inputs.heads),
        schedule=planned.schedule,
        policy=policy,
    )
    sha = sha256_bytes(canonical_json(manifest.canonical()))
    for name, data in documents.items():
        store.publish(f"{store.documents(sha)}/{name}", data)
    name, created = store.commit(manifest, version, describe)
    return BuildReport(
        version=name,
        created=created,
        plan_id=planned.plan_id,
        manifest=manifest,
        manifest_sha256=sha,
        tasks=len(planned.tasks),
        bad_input=ledgers.bad_input(ledger),
        relaxed=_relaxed(inputs, planned),
    )


def _entries(planned: Planned, done: Mapping[str, TaskRecord]) -> Iterator[ShardEntry]:
    for (split, bucket, source), digest in zip(planned.tasks.places, planned.digests, strict=True):
        record = done[digest]
        yield ShardEntry(
            sha256=record.sha256,
            bytes=record.bytes,
            samples=record.samples,
            split=split,
            bucket=bucket,
            task_digest=digest,
            index_sha256=record.index_sha256,
            source=source,
        )


def _relaxed(inputs: Inputs, planned: Planned) -> dict[str, dict[str, int]]:
    """Kept episodes by source that the default requirement would have dropped, by its reason."""
    words, roster = planned.verdicts.words("relaxed"), inputs.heads
    rows = planned.verdicts.kept
    reasons = planned.verdicts.table["relaxed"][rows]
    found: dict[str, dict[str, int]] = {}
    for number, name in enumerate(roster.entries):
        counts = np.bincount(reasons[roster.entry[rows] == number], minlength=len(words)).tolist()
        told = {word: count for word, count in sorted(zip(words, counts, strict=True)) if word and count}
        if told:
            found[name] = told
    return dict(sorted(found.items()))
