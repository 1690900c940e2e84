"""Into a lake and into a version: ingest, build, plan, try a step, ask models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataengine.api.common import EngineName, Tell, bound, chosen_engine, silent
from dataengine.convert import Conversion
from dataengine.engine.base import Engine
from dataengine.engine.local import LocalEngine
from dataengine.episode import Failure
from dataengine.errors import SpecError, StorageError
from dataengine.ingest import IngestReport
from dataengine.ingest import ingest as run_ingest
from dataengine.lake import Lake, ScratchLake, keep_name
from dataengine.mixture import build as building
from dataengine.mixture import runs
from dataengine.mixture import trial as trying
from dataengine.mixture.build import BuildReport
from dataengine.mixture.collect import building as build_lease
from dataengine.mixture.estimate import Stages, complete
from dataengine.mixture.policy import Overrides, facts_of, judged
from dataengine.mixture.preview import DryRun, preview
from dataengine.mixture.select import Inputs, select
from dataengine.mixture.store import MARKER, MixtureStore, check_version_name
from dataengine.mixture.trial import Trial, chosen_step
from dataengine.provenance import documents
from dataengine.relabel.cache import AnswerCache
from dataengine.relabel.client import Client, Limits
from dataengine.relabel.recipes import ask_models, asks
from dataengine.relabel.stage import Usage
from dataengine.sources import SourceRecord, load_record
from dataengine.specs.recipe import Recipe, bound_path
from dataengine.specs.records import Manifest
from dataengine.storage import Store, address_of
from dataengine.transforms.quality import recipe_steps


@dataclass
class BuildOutcome:
    """A build with the ingests that came before it."""

    report: BuildReport
    ingests: list[IngestReport] = field(default_factory=list)
    engine: str = ""
    left_out: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 when bad input was left out (or could not be read again) that the recipe does not accept by name."""
        manifest = self.report.manifest
        return 3 if self.left_out or (manifest is not None and manifest.bad_input) else 0


def build(
    recipe: str | Recipe,
    lake: Path,
    out: Path,
    *,
    version: str | None = None,
    engine: EngineName = "auto",
    workers: int | None = None,
    parameters: Mapping[str, str] | None = None,
    task_order: int | None = None,
    single_writer: bool = False,
    rebalance: bool = False,
    override_policy: str | None = None,
    allow_unknown_license: bool = False,
    tell: Tell = silent,
) -> BuildOutcome:
    """Ingest what the recipe names by path, then build and commit a version of the mixture at `out`.

    `task_order` permutes the order in which tasks run; the result does not depend on it. `single_writer` promises that
    nobody else builds there, which a store without conditional writes needs. With `rebalance` rates are resolved anew
    instead of inherited from the last version. What the recipe does not allow of a source is a `PolicyError` before
    anything is planned, unless `override_policy` says why it may be in; the manifest keeps that.
    """
    overrides = Overrides(override_policy, allow_unknown_license)
    started, timed = datetime.now(UTC), Stages(tell)
    tell = timed
    check_version_name(version)
    spec, conversions = bound(recipe, parameters)
    _check_places(spec, out)
    _looks(spec)
    records = _records(spec, conversions, overrides)
    opened = Lake(lake, create=_reads_raw(spec))
    store = MixtureStore(out, create=True, writers="single" if single_writer else "conditional")
    store.check_writers()
    store.clean_staging()
    with ExitStack() as stack:
        stack.enter_context(build_lease(store))
        pool = LocalEngine(workers)
        stack.callback(pool.close)
        ingests = _ingest_sources(spec, conversions, opened, pool, tell, records)
        left_out = _left_out(spec, ingests)
        _reading(stack, opened)
        inputs = select(spec, opened)
        policy = judged(spec, facts_of(inputs.heads), overrides)
        earlier = _earlier(store)
        standing = _standing(spec, inputs, store, earlier, version, policy)
        if standing is not None and not rebalance:
            _documented(store, standing)
            return BuildOutcome(standing, ingests, "none", left_out)
        chosen = chosen_engine(engine, workers, inputs, pool, store.address)
        stack.callback(chosen.close)
        if chosen is not pool:
            pool.close()
        inputs = building.with_answers(spec, inputs, partial(Client.from_environment, Limits()), tell)
        running = building.permuted(chosen, task_order) if task_order is not None else chosen
        planned = building.make_plan(spec, inputs, running, None if rebalance else earlier, tell)
        done = building.execute(spec, inputs, planned, store, running, tell)
        report = building.commit(
            spec, inputs, planned, done, store, version, policy=policy, describe=partial(documents.write, store)
        )
        report.tasks_executed, report.tasks_cached = done.executed, len(planned.tasks) - done.executed
        with suppress(StorageError):  # a lake that may only be read cannot be told what is needed of it
            opened.keep(keep_name(store.address, report.manifest_sha256), inputs.snapshot)
        runs.record(
            store,
            report,
            chosen.name,
            started,
            timed.rounded(),
            _workers(chosen, workers),
            describe=documents.run_documents,
        )
        return BuildOutcome(report, ingests, chosen.name, left_out)


def plan(
    recipe: str | Recipe,
    lake: Path,
    out: Path,
    *,
    parameters: Mapping[str, str] | None = None,
    workers: int | None = None,
    rebalance: bool = False,
    override_policy: str | None = None,
    allow_unknown_license: bool = False,
    tell: Tell = silent,
) -> tuple[DryRun, list[IngestReport], int]:
    """What `build` would do, ingests included, and its exit code. Raw data is read; nothing is written."""
    overrides = Overrides(override_policy, allow_unknown_license)
    tell = timed = Stages(tell)
    spec, conversions = bound(recipe, parameters)
    _check_places(spec, out)
    records = _records(spec, conversions, overrides)
    store = MixtureStore(out) if Store(out).exists(MARKER) else None
    with ExitStack() as stack:
        pool = LocalEngine(workers)
        stack.callback(pool.close)
        opened = _scratch(stack, lake, media=_looks(spec)) if _reads_raw(spec) else Lake(lake)
        ingests = _ingest_sources(spec, conversions, opened, pool, tell, records)
        inputs = select(spec, opened)
        judged(spec, facts_of(inputs.heads), overrides)
        inputs = building.with_answers(spec, inputs, None, tell, AnswerCache(lake))
        chosen = chosen_engine("local", workers, inputs, pool)
        earlier = _earlier(store) if store and not rebalance else None
        planned = building.make_plan(spec, inputs, chosen, earlier, tell)
        found = preview(spec, inputs, planned, store)
        complete(found, spec, inputs, planned, store, timed=timed, workers=_workers(chosen, workers) or 1)
    return found, ingests, 3 if found.bad_input or _left_out(spec, ingests) else 0


def try_step(
    recipe: str | Recipe,
    step: str,
    lake: Path | None,
    *,
    parameters: Mapping[str, str] | None = None,
    examples: int = 6,
    pictures: Path | None = None,
    workers: int | None = None,
    tell: Tell = silent,
) -> Trial:
    """What one step of a recipe would change; raw data that the recipe names is read into a lake that is thrown away.

    With `pictures` a strip of frames of each example is written into that folder.
    """
    spec, conversions = bound(recipe, parameters)
    chosen_step(spec, step)
    with ExitStack() as stack:
        pool = LocalEngine(workers)
        stack.callback(pool.close)
        if _reads_raw(spec):
            _check_sources(spec)
            opened = _scratch(stack, lake, media=_looks(spec) or pictures is not None)
        else:
            opened = Lake(_named(lake))
        _ingest_sources(spec, conversions, opened, pool, tell)
        cache = AnswerCache(lake) if lake is not None else None
        inputs = building.with_answers(spec, select(spec, opened), None, tell, cache)
        running = chosen_engine("local", workers, inputs, pool)
        found = trying.try_step(spec, step, inputs, running, examples, tell)
        if pictures is not None:
            found.examples = trying.draw(spec, step, inputs, found.examples, pictures, tell)
    return found


def _named(lake: Path | None) -> Path:
    if lake is None:
        raise SpecError("the recipe reads from a lake, and none is named", fix="give --lake, or each source's `path`")
    return lake


def relabel(
    recipe: str | Recipe,
    lake: Path,
    *,
    parameters: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    dry_run: bool = False,
    tell: Tell = silent,
) -> dict[str, Usage]:
    """Ask the models that a recipe's steps name about what is in the lake, before a build does; usage by step.

    Answers go to the lake's folder; a question that has one there is not asked. The endpoint is the environment's
    (`OPENAI_BASE_URL`, `OPENAI_API_KEY`). A dry run asks nothing and writes nothing. A recipe without such a step is a
    `SpecError`.
    """
    spec, _ = bound(recipe, parameters)
    if not asks(spec):
        raise SpecError(f"no step of {spec.name} asks a model", fix="add a step {name: llm_relabel, ...}")
    inputs = select(spec, Lake(lake))
    uids: dict[str, list[str]] = {}
    for head in inputs.heads.values():
        if head.status == "ok":
            uids.setdefault(head.entry, []).append(head.uid)
    client = None if dry_run else partial(Client.from_environment, limits or Limits())
    return ask_models(spec, inputs.lake, inputs.snapshot, uids, client, tell=tell)[1]


def _workers(engine: Engine, asked: int | None) -> int | None:
    """How many tasks run at once, where that is known."""
    return engine.workers if isinstance(engine, LocalEngine) else asked


def _reading(stack: ExitStack, lake: Lake) -> None:
    """Hold the lake's versions for as long as a build reads them; a lake that may only be read holds them itself."""
    with suppress(StorageError):
        stack.enter_context(lake.reading())


def _scratch(stack: ExitStack, lake: Path | None, *, media: bool) -> Lake:
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="dataengine-")))
    return ScratchLake(folder, lake if lake is not None else folder / "none", media=media)


def _looks(spec: Recipe) -> bool:
    """Whether a step of the recipe looks at pictures."""
    return any(step.needs_media for source in spec.sources for step in recipe_steps(spec, source))


def _check_places(spec: Recipe, out: Path) -> None:
    """What would fail after hours of reading fails before: raw data that is not there, a folder of other files."""
    _check_sources(spec)
    MixtureStore.check_free(out)


def _check_sources(spec: Recipe) -> None:
    for source in spec.sources:
        path = bound_path(source)
        if path is not None and address_of(path) is None and not path.exists():
            raise SpecError(
                f"the raw data of {source.converter} is not there: {path}",
                fix="correct the source's `path` in the recipe, or the --set option that it uses",
            )


def _reads_raw(spec: Recipe) -> bool:
    return any(source.path is not None for source in spec.sources)


def _records(spec: Recipe, conversions: Mapping[str, Conversion], overrides: Overrides) -> dict[str, SourceRecord]:
    """The source records that the recipe names, by converter; what is not allowed fails before anything is read."""
    records, facts = {}, []
    for source in spec.sources:
        if source.path is None or source.converter is None:
            continue
        info = conversions[source.converter].converter.source
        if source.record is not None:
            record = records[source.converter] = load_record(Path(source.record).expanduser())
            info = record.stated_for(conversions[source.converter]).converter.source
        facts.append((source.entry, info))
    judged(spec, facts, overrides)
    return records


def _ingest_sources(
    spec: Recipe,
    conversions: Mapping[str, Conversion],
    lake: Lake,
    pool: LocalEngine,
    tell: Tell,
    records: Mapping[str, SourceRecord] | None = None,
) -> list[IngestReport]:
    bound = [(source, path) for source in spec.sources if (path := bound_path(source)) is not None]
    reports = []
    for number, (source, path) in enumerate(bound):
        tell("ingest", number, len(bound))
        told, hashing = (partial(tell, f"{what} {source.converter}") for what in ("read", "hash"))
        name = source.converter or ""
        record = (records or {}).get(name)
        reports.append(run_ingest(path, conversions[name], lake, pool, told, record=record, hashing=hashing))
    tell("ingest", len(bound), len(bound))
    return reports


def _left_out(spec: Recipe, ingests: Sequence[IngestReport]) -> list[Failure]:
    """What the ingests could not read, but for what the recipe accepts by name."""
    accepted: dict[str, set[str]] = {}
    for source in spec.sources:
        if source.converter is not None:
            accepted.setdefault(source.converter, set()).update(source.accept)
    return [entry for report in ingests for entry in report.failures if entry.reason not in accepted[report.converter]]


def _documented(store: MixtureStore, report: BuildReport) -> None:
    """A version of before there were documents, or whose writing was stopped, has them then."""
    if report.manifest is not None:
        documents.write(store, report.manifest)


def _earlier(store: MixtureStore) -> Manifest | None:
    latest = store.latest()
    return store.manifest(latest)[1] if latest is not None else None


def _standing(
    spec: Recipe,
    inputs: Inputs,
    store: MixtureStore,
    earlier: Manifest | None,
    version: str | None,
    policy: Mapping[str, Any] | None,
) -> BuildReport | None:
    """The latest version when it answers the same request; under a new name it is named again, not made again."""
    latest = store.latest()
    if earlier is None or latest is None:
        return None
    if (earlier.recipe, earlier.lake_digest, earlier.policy) != (spec.resolved(), inputs.digest, policy):
        return None
    if not store.holds(store.manifest_sha(latest), earlier):
        return None
    name, created = store.commit(earlier, version) if version is not None else (latest, False)
    sha, manifest = store.manifest(name)
    return BuildReport(name, created, manifest.plan_id, manifest, sha, tasks=len(manifest.shards))
