"""The command that writes a version's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.cli.output import progress, reported

Address = Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not the latest.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


@reported
def report(
    address: Address,
    compare: Annotated[
        str | None, typer.Option(metavar="V2", help="Show what changed since this version (or M@V of another mixture).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write; default: NAME-VERSION.html here.")] = None,
    lake: Annotated[
        Path | None, typer.Option(help="The version's lake: tells steps and hours where an early version does not.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples of every source the page shows.")] = 2,
) -> None:
    """Write one page that shows a version: composition, drops, values, samples, licences, shards, changes."""
    from dataengine import api

    with progress() as tell:
        path = api.report(address, compare=compare, out=out, lake=lake, samples=samples, tell=tell)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): open it in any browser, it needs no network")
