"""Commands that look: formats, converters, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataengine.cli.output import print_json, print_problems, print_table, progress, reported, shown

if TYPE_CHECKING:
    from dataengine.inspection import Inspection

MAX_OTHERS = 20
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (formats, converters, inspect):
        app.command()(command)


@reported
def formats(json: Json = False) -> None:
    """List the on-disk formats that can be read."""
    from dataengine import api

    rows = api.list_formats()
    if json:
        print_json(rows)
        return
    names = ("layout", "format", "family", "title", "status", "files", "extra")
    print_table("formats", names, [[row[name] for name in names] for row in rows])
    typer.echo(
        "status: real files | writer library (its own writer made the files) | layout fixture (written after the"
    )
    typer.echo("cited upstream code); files: how many the reader was tried on. --json tells the evidence of each.")


@reported
def converters(json: Json = False) -> None:
    """List the shipped converters: one YAML file a source."""
    from dataengine import api

    rows = api.list_converters()
    if json:
        print_json(rows)
        return
    names = ("converter", "family", "format", "embodiment", "source_id", "license")
    print_table("converters", names, [[row[name] for name in names] for row in rows])


@reported
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder or file of raw data.")],
    json: Json = False,
    format: Annotated[str | None, typer.Option(help="Read it as this format instead of detecting.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Read at most this many episodes.")] = 100,
    converter: Annotated[
        str | None, typer.Option(help="A converter whose declared conventions are held against the data.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Write a converter to edit here, every unknown convention marked UNKNOWN.")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Where to write a strip of frames (.png, .jpg); default: inspect-NAME.png.")
    ] = None,
    no_strip: Annotated[bool, typer.Option("--no-strip", help="Draw no strip of frames.")] = False,
) -> None:
    """Name the format of raw data, count its episodes and frames, show its streams and what speaks for or against them.

    Every number is of the data, not of their metadata. Ends with the next command.
    """
    from dataengine import api

    drawn = None if no_strip or (json and strip is None) else strip or Path(f"inspect-{_named(path)}.png")
    with progress() as tell:
        found = api.inspect(
            path, format_name=format, limit=limit, tell=tell, converter=converter, strip=drawn, spec=spec
        )
    if json:
        print_json(found.document())
    elif found.places:
        _print_places(found)
    else:
        _print_inspection(found)


def _named(path: Path) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in path.resolve().name) or "source"


def _print_places(found: Inspection) -> None:
    typer.echo(f"{found.path} holds {len(found.places):,} data sets\n")
    columns = ("folder or file", "format", "layout", "episodes", "problems")
    print_table("data sets", columns, [(p.path, p.format, p.layout, p.episodes, p.problems) for p in found.places])
    _print_others(found)
    typer.echo(f"next: {found.next}")


def _print_others(found: Inspection) -> None:
    if found.other_files:
        groups = found.others_gathered()
        rows = [(f"{at} and {n - 1:,} like it" if n > 1 else at, kind) for at, kind, n in groups[:MAX_OTHERS]]
        print_table("files that no episode is read from", ("file", "what it is"), rows)
        left = sum(count for _, _, count in groups[MAX_OTHERS:])
        if left:
            typer.echo(f"... and {left:,} more (--json lists all)\n")


def _print_inspection(found: Inspection) -> None:
    typer.echo(f"{found.path}: {found.format}, layout {found.layout or 'not told'} (confidence {found.confidence:.2f})")
    for line in found.evidence:
        typer.echo(shown(f"  because {line}"))
    for other in found.others:
        typer.echo(f"  could also be {other} (--format {other})")
    if found.status is not None:
        typer.echo(f"  this layout's reader was tried on: {found.status}")
    decoded = "" if found.decoded == found.frames else f" ({found.decoded:,} of them decoded)"
    held = f"{found.steps:,} steps, {found.frames:,} frames{decoded}"
    typer.echo(f"{found.found:,} episodes found, {found.read:,} read: {held}\n")
    _print_streams(found)
    if found.unread:
        typer.echo(shown(f"not read: {', '.join(found.unread)}") + "\n")
    if found.problems:
        print_problems("problems", [(entry["at"], entry["reason"], entry["what"]) for entry in found.problems])
    _print_verdicts(found)
    _print_others(found)
    shipped = ", ".join(found.converters) or "none"
    typer.echo(f"shipped converters for {found.format}: {shipped}")
    if found.strip is not None:
        typer.echo(f"strip of frames: {found.strip}")
    if found.spec is not None:
        typer.echo(f"converter to edit: {found.spec}")
    typer.echo(shown(f"next: {found.next}"))


def _print_streams(found: Inspection) -> None:
    columns = ("stream", "kind", "dtype", "shape", "unit", "episodes", "rows", "Hz", "gaps", "min", "max", "not finite")
    rows = [
        (
            s.name,
            s.kind,
            s.dtype,
            f"{s.shape} and others" if s.varies else str(s.shape),
            s.unit or "unknown",
            s.episodes,
            s.steps,
            "unknown" if s.rate_hz is None else f"{s.rate_hz:g}",
            s.gaps,
            s.low,
            s.high,
            s.not_finite,
        )
        for s in found.streams
    ]
    print_table("streams", columns, rows)
    if found.unit_from is not None:
        typer.echo(f"units as {found.unit_from} declares them\n")


def _print_verdicts(found: Inspection) -> None:
    print_table(
        "evidence",
        ("status", "check", "where", "what it says", "fix"),
        [(v["status"], v["check"], v["where"], v["says"], v["fix"] or "-") for v in found.verdicts],
    )
    held = f"as {found.converter} declares them" if found.converter else "raw streams; --converter NAME tells more"
    typer.echo(f"evidence rests on {found.judged:,} of {found.found:,} episodes ({held}), see docs/inspect.md\n")
