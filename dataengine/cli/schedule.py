"""The command that prints what an epoch of a version draws."""

from __future__ import annotations

from typing import Annotated

import typer

from dataengine.cli.output import print_json, print_table, reported

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Address = Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not the latest.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(schedule)


@reported
def schedule(
    address: Address,
    epoch: Annotated[int, typer.Option(min=0, help="The epoch.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="The first draw to print.")] = 0,
    count: Annotated[int, typer.Option(min=0, help="How many draws to print.")] = 20,
    seed: Annotated[int, typer.Option(help="The seed, as training gives it.")] = 0,
    stage: Annotated[str | None, typer.Option(help="An epoch of this stage alone.")] = None,
    json: Json = False,
) -> None:
    """Print what an epoch of a version's train split draws: its stages, and draws by source, shard and key."""
    from dataengine import api

    found = api.schedule(address, seed=seed, epoch=epoch, start=start, count=count, stage=stage)
    if json:
        print_json(found)
        return
    typer.echo(f"{found['mixture']}@{found['version']}: {found['draws_per_epoch']:,} draws in epoch {epoch}")
    stages = [[part["name"], part["draws"], name, n] for part in found["stages"] for name, n in part["sources"].items()]
    print_table("stages", ("stage", "draws", "source", "of it"), stages)
    names = ("draw", "stage", "source", "sample", "key", "shard")
    print_table("draws", names, [[row[name] for name in names] for row in found["draws"]])
