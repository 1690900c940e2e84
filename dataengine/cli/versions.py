"""Commands about versions: mixtures, log, tag, gc, rebuild."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dataengine.cli.output import print_json, print_table, reported, shown

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (mixtures, log, tag, gc, rebuild, stale, documents):
        app.command()(command)


@reported
def mixtures(
    folder: Annotated[Path, typer.Argument(help="Look below this folder.")] = Path(),
    json: Json = False,
) -> None:
    """List the mixtures below a folder."""
    from dataengine import api

    found = api.mixtures(folder)
    if json:
        print_json(found)
        return
    names = ("path", "name", "versions", "latest", "samples", "shards")
    print_table("mixtures", names, [[row[name] for name in names] for row in found])


@reported
def log(
    mixture: Annotated[Path, typer.Argument(metavar="M", help="A mixture's folder.")],
    json: Json = False,
) -> None:
    """List the versions of a mixture, the newest first, with what changed from the one before."""
    from dataengine import api

    found = api.log(mixture)
    if json:
        print_json(found)
        return
    names = ("version", "built_at", "episodes", "dropped", "samples", "samples_change", "shards", "new_shards")
    rows = [[row[name] for name in names] + [row["manifest"][:12]] for row in found]
    print_table(f"versions of {mixture}", (*names, "manifest"), rows)
    for row in found:
        for entry in row["overrides"]:
            told = f"{entry['source']}: {entry['field']} is {entry['value']}; by {entry['by']}: {entry['reason']}"
            typer.echo(shown(f"{row['version']} lets in what its recipe does not allow: {told}"))


@reported
def tag(
    address: Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not latest.")],
    name: Annotated[str | None, typer.Argument(help="The tag; without one the tags are listed.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Let a tag that stands for another version move.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tag.")] = False,
    json: Json = False,
) -> None:
    """Let a tag stand for a version: `M@TAG` then names it. Without a tag, list them."""
    from dataengine import api

    if name is not None:
        if remove:
            api.untag(Path(address), name)
        else:
            version = api.tag(address, name, move=move)
            typer.echo(f"{name} stands for {version}", err=json)
    found = api.tags(Path(address.rpartition("@")[0] or address))
    if json:
        print_json(found)
    elif name is None:
        print_table("tags", ("tag", "version"), list(found.items()))


@reported
def gc(
    mixture: Annotated[Path, typer.Argument(metavar="M", help="A mixture's folder.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this nothing is touched.")] = False,
    json: Json = False,
) -> None:
    """Show what no version needs (shards, records and documents of builds that were never committed), or remove it."""
    from dataengine import api

    found = api.gc(mixture, delete=delete)
    if json:
        print_json(asdict(found))
        return
    print_table("not needed (the first 20)", ("file",), [(name,) for name in found.files[:20]])
    what = "removed" if found.removed else "could be removed; --delete does it"
    typer.echo(f"{len(found.files):,} files, {found.bytes / 1e6:,.1f} MB {what}; {found.kept_files:,} files are needed")


@reported
def rebuild(
    address: Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not latest.")],
    shard: Annotated[int, typer.Option(min=0, help="The shard's number, as `audit` lists it.")],
    lake: Annotated[Path, typer.Option("--lake", help="The lake it was built from.")],
    check: Annotated[bool, typer.Option("--check", help="Fail (exit 1) unless the bytes are the same.")] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put it back where the shard or its index is missing or damaged.")
    ] = False,
    json: Json = False,
) -> None:
    """Make one shard again from the lake and compare it, bit for bit, with the one that lies there."""
    from dataengine import api

    found = api.rebuild(address, shard, lake, restore=restore)
    if json:
        print_json(asdict(found))
    else:
        typer.echo(f"shard {found.shard} of {address}: {found.samples:,} samples")
        typer.echo(f"  there    {found.sha256}\n  rebuilt  {found.rebuilt_sha256}")
        typer.echo("the same, bit for bit" if found.equal else f"not the same: {found.why}")
        for name in found.restored:
            typer.echo(f"put back {name}")
    if (check or restore) and not found.equal:
        raise typer.Exit(1)


@reported
def stale(
    address: Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not latest.")],
    converter: Annotated[list[str] | None, typer.Option(help="A converter's YAML file that is not shipped.")] = None,
    json: Json = False,
) -> None:
    """Show with which converters, cards, steps and encoders a version was made, and which of them are others today."""
    from dataengine import api

    rows = api.outdated(address, converter or ())
    if json:
        print_json(rows)
        return
    told = [
        [row["kind"], row["name"], *(str(row[side])[:12] for side in ("built_with", "current")), row["state"]]
        for row in rows
    ]
    print_table(f"what made {address}", ("kind", "name", "built with", "today", "state"), told)
    old = sorted({row["name"] for row in rows if row["state"] == "stale" and row["kind"] in ("converter", "card")})
    if old:
        typer.echo("next: ingest the sources again, then build: only what they touch is executed")


@reported
def documents(
    address: Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not latest.")],
    rewrite: Annotated[bool, typer.Option("--rewrite", help="Make them anew, as this release words them.")] = False,
    json: Json = False,
) -> None:
    """List a version's documents for others (Croissant, in-toto, dataset card, SHA256SUMS); write those that miss."""
    from dataengine import api

    found = api.documents(address, rewrite=rewrite)
    if json:
        print_json(found)
        return
    print_table(f"documents of {address}", ("file", "sha256"), list(found["documents"].items()))
    typer.echo("written" if found["written"] else "they were there; `verify` checks them, --rewrite makes them anew")
