"""Commands about mixtures: verify, diff, urls, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from dataengine.cli.output import print_json, print_table, progress, reported, shown

if TYPE_CHECKING:
    from dataengine.verification import VerifyReport

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Address = Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture's folder, with @VERSION if not the latest.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (verify, diff, urls, demo):
        app.command()(command)


@reported
def verify(
    address: Address,
    read_data: Annotated[bool, typer.Option("--read-data", help="Decode samples too, as the loader does.")] = False,
    subset: Annotated[
        str, typer.Option(metavar="SHARE", help="With --read-data: this share of every shard's samples, as 5%.")
    ] = "100%",
    seed: Annotated[int, typer.Option(help="With --read-data: which samples.")] = 0,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SOURCE=]FOLDER", help="Hash raw files again; SOURCE is an id, or a record's file. Repeatable."
        ),
    ] = None,
    lake: Annotated[
        Path | None, typer.Option(help="Compute statistics again, and know the raw files' digests, from this lake.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: by size.")] = None,
    json: Json = False,
) -> None:
    """Check every file of a mixture against its digest, its record and its counts, and say what to do."""
    from dataengine import api

    with progress() as tell:
        report = api.verify(
            address,
            tell,
            read_data=read_data,
            subset=_share(subset),
            seed=seed,
            sources=sources or (),
            lake=lake,
            workers=workers,
        )
    if json:
        print_json(report.document())
    else:
        _print_verified(report)
    if report.problems:
        raise typer.Exit(1)


def _share(text: str) -> float:
    """`5%` or `0.05`."""
    from dataengine.errors import SpecError

    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise SpecError(f"--subset {text!r} is no share", fix="write it as 5%") from None


def _print_verified(report: VerifyReport) -> None:
    versions = ", ".join(report.versions) or "no version"
    typer.echo(f"{versions}: {report.files:,} files, {report.shards:,} shards, {report.samples:,} samples checked")
    if report.decoded:
        typer.echo(f"{report.decoded:,} samples decoded")
    if report.recomputed:
        typer.echo(f"statistics of {', '.join(report.recomputed)} computed again from the lake")
    if report.raw_files:
        typer.echo(f"{report.raw_files:,} raw files hashed again")
    if report.problems:
        rows = [(entry.file, entry.reason, entry.what, entry.fix) for entry in report.problems]
        print_table("problems", ("file", "reason", "what", "next"), rows)
    else:
        typer.echo("everything is as it was written")


@reported
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A mixture's folder, with @VERSION if not the latest.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same, to compare with.")],
    json: Json = False,
) -> None:
    """Show what changed from version A to version B: sources, tasks, episodes, shares, steps, statistics, shards."""
    from dataengine import api

    found = api.diff(first, second)
    if json:
        print_json(found)
        return
    if found["equal"]:
        typer.echo("the two versions are equal: same shards, statistics and ledger")
        return
    _print_diff(found)


def _print_diff(found: dict[str, Any]) -> None:
    columns = ("source_id", "state", "episodes_kept", "episodes_dropped", "samples")
    print_table("sources", columns, [[row[name] for name in columns] for row in found["sources"]])
    shares = [(row["source"], f"{row['before']:.2%}", f"{row['after']:.2%}") for row in found["shares"]]
    print_table("shares of the samples", ("source", "before", "after"), shares)
    names = ("source", "task", "episodes", "kept_steps", "samples")
    tasks = found["tasks"]
    title = "tasks, the greatest loss first" + (f" (20 of {len(tasks):,})" if len(tasks) > 20 else "")
    print_table(title, names, [[row[name] for name in names] for row in tasks[:20]])
    rows = [
        (kind, row["source_id"], row["upstream_id"], row["fate"])
        for kind in ("added", "removed", "changed")
        for row in found["episodes"][kind][:20]
    ]
    print_table("episodes (at most 20 of a kind)", ("change", "source", "episode", "fate"), rows)
    print_table("drops", ("reason", "change"), list(found["drops"].items()))
    steps = [(row["state"], row["source"] or "all", row["kind"], _inline(row["step"])) for row in found["steps"]]
    print_table("steps", ("change", "source", "kind", "step"), steps)
    fields = [(row["field"], _inline(row["before"]), _inline(row["after"])) for row in found["recipe"] + found["pins"]]
    print_table("recipe and pins", ("field", "before", "after"), fields[:40])
    moved = [row for row in found["statistics"] if row["state"] != "changed" or row["shift"] or row["widening"] != 1]
    told = [
        (row["group"], row["side"], row["representation"], f"{row['slot']} {row['channel']}", row["state"],
         _figure(row["shift"]), _figure(row["widening"]))
        for row in moved[:20]
    ]  # fmt: skip
    heads = ("group", "side", "form", "channel", "change", "mean moved (std)", "range, times")
    title = "statistics" + (f" (20 of {len(moved):,} channels)" if len(moved) > 20 else "")
    print_table(title, heads, told)
    shards, lost = found["shards"], found["lost_most"]
    typer.echo(
        f"{found['samples']:+,} samples; shards: {shards['same']} the same, {shards['added']} added,"
        f" {shards['removed']} removed; statistics {'changed' if found['normalization_changed'] else 'unchanged'}"
    )
    if lost is not None:
        typer.echo(
            shown(
                f"the task that lost most: {lost['task']!r} of {lost['source']}: {lost['kept_steps']:+,} steps,"
                f" {lost['samples']:+,} samples, {lost['episodes']:+,} episodes"
            )
        )


def _inline(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


@reported
def urls(
    address: Address,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Of a scheduled version: train shards, as often as the schedule draws.")
    ] = False,
    epoch: Annotated[int, typer.Option(min=0, help="With --repeat: the epoch.")] = 0,
    json: Json = False,
) -> None:
    """Print the shards of a version, one absolute path a line, for any WebDataset reader."""
    from dataengine import api

    found = _repeated(address, split, epoch) if repeat else api.urls(address, split)
    if json:
        print_json(found)
    else:
        for url in found:
            typer.echo(url)


def _repeated(address: str, split: str | None, epoch: int) -> list[str]:
    from dataengine import api
    from dataengine.errors import SpecError

    if split not in (None, "train"):
        raise SpecError(f"--repeat: split {split!r} is read plainly", fix="leave --repeat out")
    found = api.repeated_urls(address, epoch=epoch)
    for name, (wanted, met) in found.shares.items():
        typer.echo(f"{name}: {met:.3%} of the samples, {wanted:.3%} by the schedule", err=True)
    return found.urls


@reported
def demo(
    out: Annotated[Path | None, typer.Option("--out", help="A new or empty folder; default: a temporary one.")] = None,
    json: Json = False,
) -> None:
    """Make a small data set of each family, one episode broken, and take it the whole way to a verified mixture."""
    from dataengine import demo as demonstration

    with progress() as tell:
        found = demonstration.run(out, tell)
    if json:
        print_json(found.document())
    else:
        _print_demo(found.document())
    if not found.ok:
        raise typer.Exit(1)


def _print_demo(found: dict[str, Any]) -> None:
    typer.echo(f"five small data sets, drawn here and written as their own tools write them, below {found['out']}")
    for source in found["sources"]:
        typer.echo(f"  {source['family']:<15}  {source['layout']:<12}  {source['shows']}")
    typer.echo("")
    names = ("source_id", "family", "episodes_in", "episodes_kept", "episodes_dropped", "samples")
    heads = ("source", "family", "in", "kept", "dropped", "samples")
    print_table(found["mixture"], heads, [[source[name] for name in names] for source in found["sources"]])
    planted = found["planted"]
    typer.echo(f"planted  {planted['source_id']} {planted['upstream_id']}: {planted['story']}")
    for row in found["caught"]:
        typer.echo(f"caught   {row['source_id']} {row['upstream_id']}: {row['reason']}: {row['evidence']}")
    typer.echo("")
    for check in found["checks"]:
        typer.echo(f"  {'ok ' if check['ok'] else 'NOT'}  {check['name']}: {check['what']}")
    spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in found["seconds"].items())
    typer.echo(
        f"\n{found['samples']:,} samples in {found['shards']} shards, {found['bytes'] / 1e6:.1f} MB, built with"
        f" {found['engine']} in {sum(found['seconds'].values()):.1f} s ({spent})\n\nnext:"
    )
    for step in found["next"]:
        typer.echo(f"  # {step['shows']}\n  {step['command']}")
