"""Commands about source records: source add, show, check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dataengine.cli.output import print_json, print_table, progress, reported, shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
MAX_FILES = 20
source_app = typer.Typer(
    help="Records of sources: licence, terms, people, and every file with its digest.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(source_app, name="source")


@source_app.command()
@reported
def add(
    path: Annotated[Path, typer.Argument(help="A folder or file of raw data.")],
    converter: Annotated[str, typer.Option(help="A shipped converter's name, or a YAML file: its facts are taken.")],
    out: Annotated[Path, typer.Option("--out", help="The record to write, NAME.yaml.")],
    revision: Annotated[str | None, typer.Option(help="The revision that these files are of, as resolved.")] = None,
    sums: Annotated[Path | None, typer.Option(help="Upstream's SHA256SUMS: files that differ from it fail.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A pattern of paths that are no part of the source (`.cache/*`).")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Hash again over a record that is there; its facts stay.")
    ] = False,
    json: Json = False,
) -> None:
    """Hash every file of a source and write its record. What nobody knows is "unknown": correct it in the file."""
    from dataengine import api

    with progress() as tell:
        done = api.source_add(
            path,
            converter,
            out,
            revision=revision,
            sums=sums,
            exclude=exclude or (),
            replace_old=replace,
            tell=tell,
        )
    record = done.record
    info = record.info.model_dump(mode="json") if record.info is not None else {}
    unknown = sorted(name for name, value in info.items() if value == "unknown")
    written = [str(name) for name in done.written]
    if json:
        told = {"record_sha256": record.digest, "files": len(record.files), "bytes": record.bytes}
        print_json({**told, "written": written, "unknown": unknown, "compared_upstream": done.compared})
        return
    typer.echo(f"{info['name']}: {len(record.files):,} files, {record.bytes:,} bytes; wrote {', '.join(written)}")
    if done.compared:
        typer.echo(f"{done.compared:,} of them are as upstream lists them")
    if unknown:
        typer.echo(f"unknown, to be filled in where somebody knows: {', '.join(unknown)}")
    typer.echo(f"next: dataengine ingest {path} --converter {converter} --lake LAKE --record {out}")


@source_app.command()
@reported
def show(
    name: Annotated[str, typer.Argument(metavar="RECORD|CONVERTER|LAKE:ID", help="Whose facts.")],
    json: Json = False,
) -> None:
    """Show the facts of a source: of a record, of a converter, or as a lake's rows tell them."""
    from dataengine import api

    found = api.source_show(name)
    if json:
        print_json(found)
        return
    for facts in found["facts"]:
        for field, value in facts.items():
            typer.echo(shown(f"  {field:<22} {_told(value)}"))
        typer.echo("")
    if "files" in found:
        rows = [(file["path"], file["bytes"], file["sha256"]) for file in found["files"][:MAX_FILES]]
        print_table(f"files (the first {len(rows)} of {len(found['files']):,})", ("path", "bytes", "sha256"), rows)
        typer.echo(f"{found['bytes']:,} bytes; record {found['record_sha256']}")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "-"


@source_app.command()
@reported
def check(
    record: Annotated[Path, typer.Argument(help="A record, or a list as sha256sum writes it.")],
    path: Annotated[Path, typer.Argument(help="The folder or file of raw data.")],
    json: Json = False,
) -> None:
    """Hash the files again: name what is missing, changed, or not in the record. Exit 1 when anything is."""
    from dataengine import api

    with progress() as tell:
        found = api.source_check(record, path, tell)
    if json:
        print_json({**asdict(found), "ok": found.equal})
    else:
        rows = [(name, "missing", "in the record, and not here") for name in found.missing]
        rows += [
            (name, "changed", f"recorded {was[:16]}..., found {now[:16]}...")
            for name, (was, now) in found.changed.items()
        ]
        rows += [(name, "extra", "here, and not in the record") for name in found.extra]
        rows += [(name, "refused", what) for name, what in found.refused.items()]
        if rows:
            print_table("differences", ("file", "what", "how"), rows)
            typer.echo("next: fetch what is named again, or record the source anew", err=True)
        typer.echo(f"{found.files:,} files, {found.bytes:,} bytes hashed: {len(rows):,} differences")
    if not found.equal:
        raise typer.Exit(1)
