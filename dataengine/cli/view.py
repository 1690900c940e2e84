"""The command that writes an episode for the Rerun viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataengine.cli.output import reported


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(view)


@reported
def view(
    episode: Annotated[
        str, typer.Argument(metavar="EPISODE", help="A uid or its beginning, a sample's key, or SOURCE:UPSTREAM_ID.")
    ],
    lake: Annotated[Path, typer.Option("--lake", help="The lake's folder.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; default: CONVERTER-UID.rrd here.")] = None,
    mixture: Annotated[
        str | None, typer.Option(metavar="M[@V]", help="Show what this version kept, and where its samples start.")
    ] = None,
) -> None:
    """Write an episode as a recording for the Rerun viewer: pictures, values, poses and language on one timeline."""
    from dataengine import api

    path = api.view(episode, lake, out=out, mixture=mixture)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)\nnext: rerun {path}")
