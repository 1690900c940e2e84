"""Commands that remove for good: forget, purge, and `lake gc`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.cli.data import lake_app
from dataengine.cli.output import print_json, print_table, progress, reported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataengine.api.forgetting import Forgotten
    from dataengine.mixture.purge import Purge

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LakePath = Annotated[Path, typer.Option("--lake", help="The lake's folder.")]
Mixtures = Annotated[list[Path] | None, typer.Option("--mixture", help="A mixture's folder; give it once for each.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(forget)
    app.command()(purge)


@reported
def forget(
    lake: LakePath,
    reason: Annotated[str, typer.Option(help="Why, for the tombstone: name no person.")],
    source: Annotated[str | None, typer.Option(help="Forget this source.")] = None,
    episode: Annotated[
        list[str] | None, typer.Option(help="Forget this episode: its uid, or a file with one uid a line.")
    ] = None,
    mixture: Mixtures = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do, write nothing.")] = False,
    json: Json = False,
) -> None:
    """Hide a source or episodes from now on, and build each mixture anew without them; `purge` then removes them."""
    from dataengine import api

    with progress() as tell:
        found = api.forget(
            lake,
            reason=reason,
            source=source,
            episodes=episode or (),
            mixtures=mixture or (),
            dry_run=dry_run,
            workers=workers,
            tell=tell,
        )
    if json:
        print_json(asdict(found))
    else:
        _print_forgotten(found, lake, mixture or (), dry_run=dry_run)
    if any(entry.note for entry in found.mixtures):
        raise typer.Exit(1)


def _print_forgotten(found: Forgotten, lake: Path, mixtures: Sequence[Path], *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    typer.echo(
        f"{found.lake.episodes:,} episodes and {found.lake.other_rows:,} rows of failures {would}hidden;"
        f" {len(found.lake.neighbours):,} neighbours {would}cleaned of their frames"
    )
    for entry in found.mixtures:
        if not entry.held:
            typer.echo(f"{entry.address}: {entry.before} holds nothing of it")
        elif entry.note:
            typer.echo(f"{entry.address}: no new version: {entry.note}; a purge removes {entry.before}", err=True)
        elif dry_run:
            typer.echo(f"{entry.address}: {entry.before} holds it and would be built anew")
        else:
            typer.echo(
                f"{entry.address}: version {entry.version} in the place of {entry.before};"
                f" {entry.tasks_executed} of {entry.tasks} tasks executed, {entry.tasks_cached} cached"
            )
        if entry.left_out:
            typer.echo(
                f"{entry.address}: nothing is left of {', '.join(entry.left_out)}: no source of its recipe any more"
            )
    if not dry_run:
        given = "".join(f" --mixture {path}" for path in mixtures)
        typer.echo(f"next: dataengine purge --lake {lake}{given}")


@reported
def purge(
    lake: LakePath,
    mixture: Mixtures = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is touched.")] = False,
    drop_tags: Annotated[
        bool, typer.Option("--drop-tags", help="Remove tags that stand for versions that go.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove for good what was forgotten: rows, media, models' answers, old versions; then search every file for it."""
    from dataengine import api

    found = api.purge(lake, mixtures=mixture or (), delete=delete, drop_tags=drop_tags)
    if json:
        print_json(asdict(found))
    else:
        _print_purge(found)
    if found.finds:
        raise typer.Exit(1)


def _print_purge(found: Purge) -> None:
    went, gone = found.lake, "removed" if found.removed else "could be removed; --delete does it"
    if found.empty:
        typer.echo("nothing is forgotten that is still there")
        return
    typer.echo(
        f"{went.episodes:,} episodes, {went.other_rows:,} rows of failures, {went.media_rows:,} streams"
        f" ({went.media_bytes / 1e6:,.1f} MB) and {went.neighbour_streams:,} former streams of neighbours {gone}"
    )
    columns = ("mixture", "versions that go", "tags on them", "versions that stay")
    rows = [(m.address, ", ".join(m.versions), ", ".join(m.tags), ", ".join(m.left)) for m in found.mixtures]
    print_table("mixtures", columns, rows)
    if not found.removed:
        return
    probes = ", ".join(f"{count:,} {kind}" for kind, count in found.probes.items()) or "no"
    typer.echo(f"searched {found.files:,} files ({found.bytes / 1e6:,.1f} MB) for {probes} probes")
    print_table("left in", ("file", "what"), [(find.file, ", ".join(find.kinds)) for find in found.finds])
    if not found.finds:
        typer.echo(f"nothing was found; the receipt is care/{found.receipt} in the lake")
    else:
        typer.echo("next: see docs/forgetting.md for what may still hold it, then purge again", err=True)


@lake_app.command("gc")
@reported
def lake_gc(
    lake: Annotated[Path, typer.Argument(metavar="LAKE", help="The lake's folder.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is touched.")] = False,
    grace: Annotated[float, typer.Option(min=0.0, help="Leave what is younger than this many seconds.")] = 3600.0,
    release: Annotated[
        list[str] | None,
        typer.Option(help="Keep a version no longer, by the name it is kept for: its mixture is gone."),
    ] = None,
    json: Json = False,
) -> None:
    """Show or remove what a lake does not need: streams that no episode references, old versions, small fragments."""
    from dataengine import api

    found, kept = api.lake_gc(lake, delete=delete, grace_seconds=grace, release=release or ()), api.lake_kept(lake)
    if json:
        print_json({**asdict(found), "kept": kept})
        return
    print_table("versions kept for mixtures", ("name", "episodes", "media"), [list(row.values()) for row in kept])
    what = "removed" if found.removed else "could be removed; --delete does it"
    typer.echo(
        f"{found.media_rows:,} streams ({found.media_bytes / 1e6:,.1f} MB) and {found.versions:,} old versions {what};"
        f" {found.small_fragments:,} small fragments {'merged' if found.removed else 'could be merged'};"
        f" {found.kept_versions:,} versions are kept for mixtures"
    )
