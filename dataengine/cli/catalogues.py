"""Commands about catalogues, and what a dry run over one prints."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.cli.output import print_json, print_table, progress, reported, shown

if TYPE_CHECKING:
    from dataengine.mixture.forecast import Forecast

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
catalogue_app = typer.Typer(
    help="What data sets hold, told before they are there: for `build --dry-run --catalogue`.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(catalogue_app, name="catalogue")


@catalogue_app.command()
@reported
def show(
    name: Annotated[str | None, typer.Argument(help="A shipped catalogue's name, or a YAML file.")] = None,
    json: Json = False,
) -> None:
    """Show a catalogue's data sets and what their sizes rest on; without a name the shipped catalogues."""
    from dataengine import api

    if name is None:
        names = api.list_catalogues()
        print_json(names) if json else print_table("catalogues", ("catalogue",), [(entry,) for entry in names])
        return
    found = api.catalogue_show(name)
    if json:
        print_json(found)
        return
    typer.echo(shown(f"{found['name']}, version {found['version']}: {found['description'] or 'no description'}"))
    columns = ("converter", "shipped", "family", "episodes", "total_steps", "hz", "hours", "grade")
    rows = [[source[column] for column in columns] for source in found["sources"]]
    print_table("data sets", columns, rows)
    typer.echo("--json tells what each figure rests on")


@catalogue_app.command()
@reported
def export(
    lake: Annotated[Path, typer.Argument(help="The lake's folder.")],
    out: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="The file to write.")],
    json: Json = False,
) -> None:
    """Write what a lake holds as a catalogue: one row an episode, no data."""
    from dataengine import api

    with progress() as tell:
        episodes = api.catalogue_export(lake, out, tell=tell)
    if json:
        print_json({"episodes": episodes, "file": str(out)})
    else:
        typer.echo(f"{episodes:,} episodes; next: dataengine build RECIPE --dry-run --catalogue {out}")


def print_forecast(found: Forecast, *, json: bool) -> None:
    """Print a dry run over a catalogue."""
    if json:
        print_json({**asdict(found), "dry_run": True})
        return
    columns = ("source", "rate", "episodes", "windows", "samples", "GB", f"requested ({found.unit}s)",
               f"realized ({found.unit}s)", "limit", "sizes")  # fmt: skip
    rows = [
        (
            f"{line.source}" + ("" if line.shipped else " *"),
            line.rate,
            line.episodes,
            line.windows,
            line.samples,
            round(line.bytes / 1e9, 2),
            f"{line.requested:.3%}",
            f"{line.realized:.3%}",
            line.limit or None,
            line.grade,
        )
        for line in found.sources
    ]
    print_table(f"plan of {found.recipe} over the catalogue {found.catalogue}", columns, rows)
    if found.groups:
        told = [
            ("  " * group.depth + group.name, f"{group.requested:.3%}", f"{group.realized:.3%}")
            for group in found.groups
        ]
        print_table("groups", ("group", "requested", "realized"), told)
    if found.not_shipped:
        count = len(found.not_shipped)
        typer.echo(f"* the converters of {count} of {len(found.sources)} sources are not shipped yet")
    shards = ", ".join(f"{count:,} {split}" for split, count in found.shards.items())
    if found.draws != found.samples:
        typer.echo(f"an epoch is {found.draws:,} draws by a schedule; shares are those of the draws")
    typer.echo(
        f"{found.samples:,} samples of {found.episodes:,} episodes in {shards} shards, about"
        f" {found.bytes / 1e9:,.1f} GB, the largest {found.largest_shard / 1e6:,.1f} MB"
    )
    typer.echo(f"not applied, and not in these figures: {', '.join(found.not_applied)}\nnothing was written")
