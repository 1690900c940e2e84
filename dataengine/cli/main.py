"""The command line. Heavy libraries are imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from dataengine.cli import (
    audit,
    bodies,
    catalog,
    catalogues,
    data,
    forgetting,
    layouts,
    mixture,
    recipes,
    relabel,
    report,
    schedule,
    sources,
    stats,
    versions,
    view,
)

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, or verification failed; 2 usage; 3 done, but a file was quarantined or an episode"
    " dropped for bad input that the recipe does not accept by name; 4 conflict."
)
app = typer.Typer(
    name="dataengine",
    help="Turn embodied data of every kind into one unified, verified, trainable mixture of WebDataset shards.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dataengine {version('dataengine')}")
        raise typer.Exit


@app.callback()
def _top(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options of the program itself."""


catalog.register(app)
bodies.register(app)
layouts.register(app)
data.register(app)
sources.register(app)
forgetting.register(app)
relabel.register(app)
audit.register(app)
mixture.register(app)
recipes.register(app)
catalogues.register(app)
schedule.register(app)
stats.register(app)
report.register(app)
versions.register(app)
view.register(app)


def main() -> None:
    """Entry point of the `dataengine` program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold any bytes, and they leave as they came.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    app()


if __name__ == "__main__":
    main()
