"""Commands that bring data in and build: ingest, lake, build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dataengine.cli.catalogues import print_forecast
from dataengine.cli.output import print_json, print_problems, print_table, progress, reported, shown
from dataengine.cli.recipes import parameters
from dataengine.errors import SpecError

if TYPE_CHECKING:
    from dataengine.api import BuildOutcome
    from dataengine.ingest import IngestReport
    from dataengine.mixture.preview import DryRun
    from dataengine.mixture.trial import Trial

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LakePath = Annotated[Path, typer.Option("--lake", help="The lake's folder.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")]
lake_app = typer.Typer(help="List or remove what is in a lake.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(ingest)
    app.add_typer(lake_app, name="lake")
    app.command()(build)
    app.command(name="try")(try_)


@reported
def ingest(
    path: Annotated[Path, typer.Argument(help="A folder or file of raw data.")],
    converter: Annotated[str, typer.Option(help="A shipped converter's name, or a YAML file.")],
    lake: LakePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and convert everything, write nothing.")] = False,
    mano: Annotated[
        Path | None,
        typer.Option(help="Folder with your MANO_RIGHT.pkl and MANO_LEFT.pkl; default: $DATAENGINE_MANO, else none."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="A source record (or SHA256SUMS): files that differ from it are left out.")
    ] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Convert raw data and append it to a lake. Running it again adds nothing twice."""
    from dataengine import api
    from dataengine.lake.lean import leave_pandas_out

    leave_pandas_out()
    with progress() as tell:
        report = api.ingest(
            path, converter, lake, dry_run=dry_run, mano=mano, record=record, workers=workers, tell=tell
        )
    if json:
        print_json(_ingest_document(report, dry_run=dry_run))
    else:
        _print_ingest(report, dry_run=dry_run)
        if report.failures:
            typer.echo("next: repair what is named and run the same command again; what is well is not added twice")
        elif dry_run:
            hands = f" --mano {mano}" if mano is not None else ""
            known = f" --record {record}" if record is not None else ""
            typer.echo(f"next: dataengine ingest {path} --converter {converter} --lake {lake}{hands}{known}")
        else:
            typer.echo(f"next: dataengine lake ls --lake {lake}")
    if report.failures:
        raise typer.Exit(3)


def _ingest_document(report: IngestReport, *, dry_run: bool) -> dict[str, object]:
    reasons: dict[str, int] = {}
    for failure in report.failures:
        reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
    return {
        "source_id": report.source_id,
        "converter": report.converter,
        "dry_run": dry_run,
        "scanned": report.scanned,
        "added": report.added,
        "reconverted": report.reconverted,
        "unchanged": report.unchanged,
        "dropped": len(report.failures),
        "reasons": dict(sorted(reasons.items())),
        "failures": [vars(failure) for failure in report.failures],
        "forgotten": len(report.forgotten),
        "standing": list(report.standing),
        "restated": report.restated,
    }


def _print_ingest(report: IngestReport, *, dry_run: bool) -> None:
    verb = "would be added" if dry_run else "added"
    parts = [f"{report.added:,} {verb}", f"{report.unchanged:,} there already"]
    if report.reconverted:
        parts.append(f"{report.reconverted:,} reconverted")
    if report.restated:
        parts.append(f"{report.restated:,} restated by the record")
    if report.forgotten:
        parts.append(f"{len(report.forgotten):,} forgotten and left out")
    if report.failures:
        parts.append(f"{len(report.failures):,} dropped")
    new = "" if report.changed or dry_run else " (nothing new)"
    typer.echo(f"{report.source_id}: {report.scanned:,} scanned: {', '.join(parts)}{new}")
    if report.failures:
        print_problems("dropped", [(f.upstream_id, f.reason, f.what) for f in report.failures])
    if report.standing:
        count = f"{len(report.standing):,} failures" if len(report.standing) > 1 else "1 failure"
        first = shown(report.standing[0])
        typer.echo(
            f"{count} of earlier ingests, not met again, still counted as dropped: {first}"
            f"{', ...' if len(report.standing) > 1 else ''}; `dataengine lake rm NAME` forgets one"
        )


@lake_app.command()
@reported
def stale(
    lake: LakePath,
    converter: Annotated[list[str] | None, typer.Option(help="A converter's YAML file that is not shipped.")] = None,
    json: Json = False,
) -> None:
    """Show what an outdated converter or card made; ingesting the source again brings it up to date."""
    from dataengine import api

    rows = api.stale(lake, converter or ())
    if json:
        print_json(rows)
        return
    names = ("source_id", "converter", "episodes", "stale", "state")
    print_table("what the lake holds", names, [[row[name] for name in names] for row in rows])
    for row in rows:
        if row["state"] == "stale":
            typer.echo(f"next: dataengine ingest RAW --converter {row['converter']} --lake {lake}")


@lake_app.command("ls")
@reported
def lake_ls(lake: LakePath, json: Json = False) -> None:
    """List the sources in a lake."""
    from dataengine import api

    rows = api.lake_list(lake)
    if json:
        print_json(rows)
        return
    names = ("source_id", "converter", "family", "embodiment", "episodes", "steps", "dropped")
    print_table(f"lake {lake}", names, [[row[name] for name in names] for row in rows])


@lake_app.command("rm")
@reported
def lake_rm(
    names: Annotated[
        list[str], typer.Argument(help="Source ids, converters, episode uids, or failed files and episodes by name.")
    ],
    lake: LakePath,
    json: Json = False,
) -> None:
    """Remove sources or episodes from a lake. Mixtures that were built keep their shards."""
    from dataengine import api

    removed = api.lake_remove(lake, names)
    if json:
        print_json({"removed": removed})
    else:
        typer.echo(f"{removed:,} {'row' if removed == 1 else 'rows'} removed")


@reported
def build(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    lake: Annotated[Path | None, typer.Option("--lake", help="The lake's folder.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The mixture's folder.")] = None,
    version: Annotated[str | None, typer.Option(help="Version name; default: the next number.")] = None,
    engine: Annotated[Literal["auto", "local", "ray"], typer.Option(help="What runs the tasks.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A recipe parameter, NAME=VALUE.")] = None,
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and plan everything, write nothing.")] = False,
    catalogue: Annotated[
        str | None, typer.Option(help="With --dry-run: plan over a catalogue, without a lake or any data.")
    ] = None,
    rebalance: Annotated[
        bool, typer.Option("--rebalance", help="Resolve all rates anew instead of inheriting the last version's.")
    ] = False,
    single_writer: Annotated[
        bool, typer.Option("--single-writer", help="Nobody else builds there: for a store without conditional writes.")
    ] = False,
    override_policy: Annotated[
        str | None, typer.Option(metavar="REASON", help="Let in what `allow` does not; the version keeps the reason.")
    ] = None,
    allow_unknown_license: Annotated[
        bool, typer.Option("--allow-unknown-license", help="Let in sources of unknown licence; the version keeps it.")
    ] = False,
    json: Json = False,
) -> None:
    """Build a version of a mixture. An interrupted build goes on where it was; the same build again is nothing."""
    from dataengine import api

    given = parameters(set_)
    if catalogue is not None:
        _only_dry(dry_run)
        print_forecast(api.forecast(recipe, catalogue, parameters=given), json=json)
        return
    lake, out = _named(lake, "--lake"), _named(out, "--out")
    if dry_run:
        with progress() as tell:
            plan, ingests, code = api.plan(
                recipe,
                lake,
                out,
                parameters=given,
                workers=workers,
                rebalance=rebalance,
                override_policy=override_policy,
                allow_unknown_license=allow_unknown_license,
                tell=tell,
            )
        if json:
            read = [_ingest_document(entry, dry_run=True) for entry in ingests]
            print_json({**vars(plan), "dry_run": True, "ingests": read})
        else:
            _print_plan(plan, ingests)
        if code:
            raise typer.Exit(code)
        return
    with progress() as tell:
        outcome = api.build(
            recipe,
            lake,
            out,
            version=version,
            engine=engine,
            workers=workers,
            parameters=given,
            single_writer=single_writer,
            rebalance=rebalance,
            override_policy=override_policy,
            allow_unknown_license=allow_unknown_license,
            tell=tell,
        )
    if json:
        print_json(_build_document(outcome))
    else:
        _print_build(outcome, out)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _only_dry(dry_run: bool) -> None:
    if not dry_run:
        raise SpecError("a catalogue holds no data to build from", fix="add --dry-run, or leave out --catalogue")


def _named(path: Path | None, option: str) -> Path:
    if path is None:
        raise SpecError(f"{option} is missing", fix="name it; only `--dry-run --catalogue NAME` goes without")
    return path


@reported
def try_(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or its YAML file.")],
    step: Annotated[str, typer.Option(help="The step's name; NAME#2 for the second of that name.")],
    lake: Annotated[
        Path | None, typer.Option("--lake", help="The lake to read, where the recipe names no path.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A recipe parameter, NAME=VALUE.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Show at most this many examples.")] = 6,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for the strips of pictures; default: try-RECIPE-STEP.")
    ] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Draw no strips.")] = False,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Show what one step of a recipe would drop, narrow or relabel: counts, examples, strips of pictures.

    Nothing is built, and no lake is written.
    """
    from dataengine import api

    folder = pictures or Path(f"try-{Path(recipe).stem}-{step.replace('#', '-')}")
    with progress() as tell:
        found = api.try_step(
            recipe,
            step,
            lake,
            parameters=parameters(set_),
            examples=examples,
            pictures=None if no_pictures else folder,
            workers=workers,
            tell=tell,
        )
    if json:
        print_json(asdict(found))
    else:
        _print_trial(found)


def _print_trial(found: Trial) -> None:
    told = ", ".join(f"{name} {value}" for name, value in found.step["parameters"].items()) or "no parameters"
    typer.echo(shown(f"{found.kind} {found.step['name']}, version {found.step['version']}: {told}"))
    effects = ", ".join(f"{count:,} {effect}" for effect, count in found.effects.items()) or "none"
    typer.echo(f"  of {found.episodes:,} episodes that reach it: {effects}")
    if found.missed:
        typer.echo(f"  {found.missed:,} are dropped by the steps before it")
    share = f" ({found.steps_out / found.steps_in:.1%})" if found.steps_in else ""
    typer.echo(f"  steps that samples may start at: {found.steps_in:,} before, {found.steps_out:,} after{share}\n")
    names = ("episodes", "changed", "steps_in", "steps_out")
    rows = [(source, *(counts[name] for name in names)) for source, counts in sorted(found.sources.items())]
    print_table("sources", ("source", *names), rows)
    if found.reasons:
        print_table("reasons", ("reason", "episodes"), list(found.reasons.items()))
    if found.tasks:
        rows = [(t.source, t.task, t.episodes, t.steps, t.kept, f"{t.loss:.1%}") for t in found.tasks[:10]]
        title = "tasks that lose most" + (f" (10 of {len(found.tasks):,})" if len(found.tasks) > 10 else "")
        print_table(title, ("source", "task", "episodes", "steps", "kept", "loss"), rows)
    columns = ("source", "episode", "effect", "what", "picture")
    shown_rows = [(e.source_id, e.upstream_id, e.effect, "; ".join(e.what), e.picture or None) for e in found.examples]
    print_table("examples", columns, shown_rows)
    typer.echo("nothing was built; change the step in the recipe and try again, or build it")


def _print_plan(plan: DryRun, ingests: list[IngestReport]) -> None:
    for entry in ingests:
        _print_ingest(entry, dry_run=True)
    rows = [
        (
            name,
            plan.rates.get(name),
            plan.episodes[name],
            sum(plan.drops_by_source.get(name, {}).values()),
            count,
            f"{plan.bytes_by_source.get(name, 0) / 1e6:,.1f}",
            *(f"{share:.2%}" for share in plan.shares[name]),
        )
        for name, count in plan.samples.items()
    ]
    counted = (f"requested ({plan.unit}s)", f"realized ({plan.unit}s)")
    print_table(f"plan of {plan.recipe}", ("source", "rate", "episodes", "dropped", "samples", "MB", *counted), rows)
    if plan.dropped:
        found = [(name, *entry) for name, reasons in plan.drops_by_source.items() for entry in reasons.items()]
        print_table("drops", ("source", "reason", "episodes"), found)
    done = f" ({plan.tasks_cached} of them built already)" if plan.tasks_cached else ""
    typer.echo(
        f"{sum(plan.samples.values()):,} samples in {plan.tasks} shards{done},"
        f" about {plan.estimated_bytes / 1e6:,.1f} MB; plan {plan.plan_id}"
    )
    if plan.estimated_seconds is not None:
        parts = ", ".join(f"{name} {_lasting(seconds)}" for name, seconds in plan.stages.items())
        workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
        typer.echo(
            f"about {_lasting(plan.estimated_seconds)} to build with {workers} ({parts}; from {plan.estimate_from})"
        )
    for warning in plan.warnings:
        typer.echo(shown(warning), err=True)
    typer.echo("nothing was written")
    if plan.bad_input:
        _print_not_accepted(plan.bad_input)


def _lasting(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _print_not_accepted(count: int) -> None:
    drops = "1 drop" if count == 1 else f"{count:,} drops"
    typer.echo(
        f"{drops} for bad input that the recipe does not accept by name: repair the files and run again, or add the"
        " reason to the source's `accept` in the recipe",
        err=True,
    )


def _build_document(outcome: BuildOutcome) -> dict[str, object]:
    report, manifest = outcome.report, outcome.report.manifest
    return {
        "version": report.version,
        "created": report.created,
        "already_built": not report.created,
        "plan_id": report.plan_id,
        "manifest": report.manifest_sha256,
        "engine": outcome.engine,
        "shards": len(manifest.shards) if manifest else 0,
        "samples": manifest.samples if manifest else 0,
        "tasks": report.tasks,
        "tasks_executed": report.tasks_executed,
        "tasks_cached": report.tasks_cached,
        "drops": dict(manifest.drops) if manifest else {},
        "bad_input": manifest.bad_input if manifest else 0,
        "relaxed": report.relaxed,
        "policy": manifest.policy if manifest else None,
        "ingests": [_ingest_document(entry, dry_run=False) for entry in outcome.ingests],
    }


def _print_build(outcome: BuildOutcome, out: Path) -> None:
    report, manifest = outcome.report, outcome.report.manifest
    for entry in outcome.ingests:
        typer.echo(
            f"  {entry.source_id}: {entry.added} added, {entry.unchanged} there already,"
            f" {entry.reconverted} reconverted, {len(entry.failures)} dropped"
        )
    for failure in outcome.left_out[:20]:
        typer.echo(shown(f"bad input: {failure.upstream_id}: {failure.reason}: {failure.what}"), err=True)
    if manifest is None:
        return
    names = ("source", "family", "in", "kept", "dropped", "samples", "license")
    rows = [
        (s.source_id, s.family, s.episodes_in, s.episodes_kept, s.episodes_dropped, s.samples, s.license)
        for s in manifest.sources
    ]
    print_table(f"{manifest.name}@{report.version}", names, rows)
    if manifest.drops:
        print_table("drops", ("reason", "episodes"), list(manifest.drops.items()))
    for converter, reasons in report.relaxed.items():
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        typer.echo(f"a relaxed `require` lets in from {converter}: {told}")
    for entry in (manifest.policy or {}).get("overrides", ()):
        told = f"{entry['source']}: {entry['field']} is {entry['value']}; let in by {entry['by']}: {entry['reason']}"
        typer.echo(shown(f"not allowed by the recipe: {told}"), err=True)
    state = "built" if report.created else "already built"
    typer.echo(
        f"{state}: version {report.version}, {manifest.samples:,} samples in {len(manifest.shards)} shards;"
        f" {report.tasks_executed} tasks executed, {report.tasks_cached} cached ({outcome.engine})"
    )
    named = {failure.upstream_id for failure in outcome.left_out}
    for row in [row for row in report.bad_input if row.upstream_id not in named][:20]:
        typer.echo(shown(f"bad input: {row.source_id} {row.upstream_id}: {row.reason}: {row.evidence}"), err=True)
    if manifest.bad_input:
        _print_not_accepted(manifest.bad_input)
    drops = f"   dataengine audit {out} --drops" if manifest.drops else f"   dataengine audit {out}"
    typer.echo(f"next: dataengine verify {out}{drops}   dataengine urls {out} --split train")
