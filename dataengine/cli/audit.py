"""The command `audit`: one question to a version, as tables, JSON or CSV.

It goes to `dataengine.provenance` itself: the functions of `dataengine.api` import the planning too, which takes longer
than the answer.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from dataengine.cli.output import print_json, print_table, reported, shown

MOST = 200
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the answer's main table as CSV.")]
Rows = Sequence[Mapping[str, Any]]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


@reported
def audit(
    address: Annotated[str, typer.Argument(metavar="M[@V]", help="A mixture, with @VERSION if not the latest.")],
    shard: Annotated[int | None, typer.Option(help="What went into this shard.")] = None,
    sample: Annotated[str | None, typer.Option(help="Shard, episode, source and steps of a sample's key.")] = None,
    episode: Annotated[str | None, typer.Option(help="Where this episode went (uid or its beginning).")] = None,
    source: Annotated[str | None, typer.Option(help="A source: its facts, steps, drops, and shards.")] = None,
    license: Annotated[str | None, typer.Option(help="The sources and shards under a licence.")] = None,
    step: Annotated[str | None, typer.Option(help="Where a step ran, with what, and what it dropped.")] = None,
    code: Annotated[str | None, typer.Option(help="What a commit or release built, of all versions.")] = None,
    drops: Annotated[bool, typer.Option("--drops", help="Everything that was dropped, and why.")] = False,
    sql: Annotated[str | None, typer.Option(help="One SELECT over the views (docs/audit.md).")] = None,
    trace: Annotated[str | None, typer.Option(help="The chain from a sample's key to its source files.")] = None,
    lake: Annotated[Path | None, typer.Option(help="With --trace: the lake it was built from.")] = None,
    raw: Annotated[Path | None, typer.Option(help="With --trace: what was ingested, hashed again.")] = None,
    json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Show what made a version, and answer questions by shard, sample, episode, source, licence, step, code, and SQL.

    Exit code 1 when a trace finds something that does not fit.
    """
    from dataengine.errors import SpecError
    from dataengine.provenance.ask import Question, ask

    asked = Question(shard, sample, episode, source, license, step, code, drops, sql)
    if json and as_csv:
        raise SpecError("--json and --csv do not go together", fix="give one of them")
    if trace is None:
        if lake is not None or raw is not None:
            raise SpecError("--lake and --raw go with --trace", fix="give --trace KEY")
        _print(asked.kind, ask(address, asked), json=json, as_csv=as_csv)
        return
    if asked.kind != "overview":
        raise SpecError(f"--trace and --{asked.kind} do not go together", fix="give one of them")
    from dataengine import api

    found = api.trace(address, trace, lake=lake, raw=raw)
    _print("trace", found, json=json, as_csv=as_csv)
    if not found["ok"]:
        raise typer.Exit(1)


def _print(kind: str, found: dict[str, Any], *, json: bool, as_csv: bool) -> None:
    if json:
        print_json(found)
    elif as_csv:
        _csv(*_main_table(kind, found))
    else:
        _PRINTERS[kind](found)


def _main_table(kind: str, found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of what an answer is mostly about."""
    if kind == "sql":
        return found["columns"], found["rows"]
    rows: Rows = {"sample": _flat_sample, "episode": _flat_episode, "trace": _chain}.get(kind, _listed)(found)
    columns = list(rows[0]) if rows else []
    return columns, [[row.get(name) for name in columns] for row in rows]


def _listed(found: dict[str, Any]) -> Rows:
    rows: Rows = next(found[name] for name in ("inputs", "shards", "dropped") if name in found)
    return rows


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([orjson.dumps(v).decode() if isinstance(v, dict | list) else v for v in row])


def _table(title: str, columns: Sequence[str], rows: Rows) -> None:
    _cells(title, columns, [[row[name] for name in columns] for row in rows[:MOST]], len(rows))


def _cells(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], count: int) -> None:
    """A table's first rows; how many more there are is said."""
    print_table(title, columns, rows[:MOST])
    if count > MOST:
        typer.echo(f"... and {count - MOST:,} more (--json and --csv list all)")


def _lines(pairs: Mapping[str, Any]) -> None:
    for name, value in pairs.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        typer.echo(f"  {name:<15} {shown(text)}")


def _overview(found: dict[str, Any]) -> None:
    typer.echo(f"{found['mixture']}@{found['version']}: {found['samples']:,} samples, plan {found['plan_id']}")
    names = ("source_id", "family", "license", "rate", "episodes_in", "episodes_kept", "episodes_dropped", "samples")
    _table("sources", names, found["sources"])
    print_table("drops", ("reason", "episodes"), list(found["drops"].items()))
    _table("shards", ("shard", "split", "samples", "bytes", "sha256"), found["shards"])


def _terms(terms: Mapping[str, Any]) -> None:
    named = {"licences": terms["licenses"], "commercial use": terms["commercial_ok"], "consent": terms["consent"]}
    _lines({**named, "usage": terms["usage"], "terms": terms["terms_urls"]})


def _shard(found: dict[str, Any]) -> None:
    typer.echo(f"shard {found['shard']} ({found['split']}): {found['samples']:,} samples, {found['bytes']:,} bytes")
    _lines({"sha256": found["sha256"], "file": found["path"], "plan": found["plan_id"], "task": found["task_digest"]})
    _terms(found["terms"])
    _table("sources", ("source_id", "license", "revision", "samples"), found["source_records"])
    _print_steps(found["steps"])
    _table("inputs", ("source_id", "upstream_id", "start", "stop", "samples", "uid"), found["inputs"])


def _print_steps(steps: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    rows = [{"source": entry, **step} for entry, listed in steps.items() for step in listed]
    _table("steps", ("source", "kind", "name", "version", "parameters"), rows)


def _flat_sample(found: dict[str, Any]) -> Rows:
    shard, row, source = found["shard"], found["episode"], found["source"]
    return [
        {
            **{name: found[name] for name in ("key", "mixture", "version", "step")},
            **{name: shard[name] for name in ("shard", "sha256", "split")},
            **{name: row[name] for name in ("uid", "upstream_id", "entry", "converter", "task")},
            **{name: source[name] for name in ("source_id", "license", "terms_url", "url", "revision", "consent")},
        }
    ]


def _sample(found: dict[str, Any]) -> None:
    row, source = found["episode"], found["source"]
    typer.echo(f"{found['key']} of {found['mixture']}@{found['version']}")
    _lines({"shard": f"{found['shard']['shard']} ({found['shard']['split']})", "file": found["shard"]["path"]})
    _lines({"episode": row["uid"], "upstream id": row["upstream_id"], "step": found["step"], "task": row["task"]})
    _print_source(source)
    _print_steps({row["entry"]: found["steps_run"]})
    _table("members", ("name", "bytes"), found["members"])


def _print_source(source: Mapping[str, Any]) -> None:
    names = {"source": "source_id", "converter": "converter", "licence": "license", "evidence": "license_evidence"}
    more = ("url", "revision", "terms_url", "usage", "creator", "citation", "consent", "deidentification")
    _lines({title: source[name] for title, name in names.items()})
    _lines({name: source[name] for name in more if name in source})


def _flat_episode(found: dict[str, Any]) -> Rows:
    names = ("uid", "source_id", "converter", "upstream_id", "status", "reason", "license")
    own = {name: found[name] for name in names}
    return [{**own, **shard} for shard in found["shards"]] or [own]


def _episode(found: dict[str, Any]) -> None:
    names = ("uid", "source_id", "upstream_id", "converter", "family", "license", "url", "revision", "split", "task")
    _lines({name: found[name] for name in names})
    fate = (
        "kept" if found["status"] == "kept" else f"dropped by {found['step']}: {found['reason']}: {found['evidence']}"
    )
    _lines({"fate": fate})
    _table("shards", ("shard", "start", "stop", "samples"), found["shards"])


_SHARDS = ("shard", "split", "segments", "samples", "of", "sha256")
_SUMMARY = ("source_id", "converter", "license", "commercial_ok", "episodes_kept", "episodes_dropped", "samples")


def _source(found: dict[str, Any]) -> None:
    for source in found["sources"]:
        _print_source(source)
    _table("counts", _SUMMARY, found["sources"])
    _print_steps(found["steps"])
    _table("drops", ("reason", "step", "episodes"), found["drops"])
    _table("shards that hold it", _SHARDS, found["shards"])


def _license(found: dict[str, Any]) -> None:
    _table(f"sources under {found['license']}", _SUMMARY, found["sources"])
    _terms(found["terms"])
    _table("shards that hold them", _SHARDS, found["shards"])


def _step(found: dict[str, Any]) -> None:
    _table(f"runs of {found['step']}", ("entry", "place", "kind", "version", "parameters"), found["runs"])
    _table("drops", ("entry", "reason", "episodes"), found["drops"])
    _table("dropped episodes", ("source_id", "upstream_id", "reason", "evidence"), found["dropped"])
    _table("shards of the sources that it ran on", _SHARDS, found["shards"])


def _code(found: dict[str, Any]) -> None:
    typer.echo(f"code {found['code']} built {', '.join(found['versions'])}")
    columns = ("run", "version", "created", "commit", "release", "tasks", "tasks_executed")
    _table("runs", columns, found["runs"])
    _table("shards (new: first built by this code)", ("version", "shard", "new", "samples", "sha256"), found["shards"])


def _drops(found: dict[str, Any]) -> None:
    columns = ("source_id", "upstream_id", "reason", "evidence", "accepted", "uid")
    rows = [{**row, "uid": row["uid"][:12]} for row in found["dropped"]]
    _table(f"dropped from {found['mixture']}@{found['version']}", columns, rows)


def _sql(found: dict[str, Any]) -> None:
    _cells(f"{len(found['rows']):,} rows", found["columns"], found["rows"], len(found["rows"]))


def _chain(found: dict[str, Any]) -> Rows:
    """A trace as rows, from the sample to the source: each link with its digest and what was seen of it."""
    shard, row, lake, source = found["shard"], found["episode"], found["lake"], found["source"]
    rows: list[tuple[str, str, str, str]] = [("sample", found["key"], "", f"step {found['step']}")]
    rows += [("member", entry["name"], entry["sha256"], _seen(entry)) for entry in found["members"]]
    rows += [
        ("shard", f"{shard['shard']}: {shard['path']}", shard["sha256"], f"{shard['samples']} samples"),
        ("task", found["task"]["record"] or "its record was collected", found["task"]["digest"], ""),
        ("episode", row["upstream_id"], row["uid"], f"{row['status']}, {row['samples']} samples"),
    ]
    rows += [("step", f"{step['name']} v{step['version']}", "", _short(step["parameters"])) for step in found["steps"]]
    if lake is not None:
        rows.append(("lake row", lake["converter"], lake["conversion_digest"], "converter with its card"))
        rows.append(("card", f"{lake['card']} {lake['card_version']}", lake["card_sha256"], lake["embodiment"]))
        files = found["files"] or []
        rows += [("source file", f["path"], f["sha256"], f"{f['bytes']} bytes{_found(f)}") for f in files]
    rows.append(("source", source["source_id"], source["record_sha256"], source["url"]))
    rows += [(name, str(source[name]), "", "") for name in ("revision", "license", "terms_url", "consent")]
    return [dict(zip(("link", "what", "sha256", "seen"), entry, strict=True)) for entry in rows]


def _seen(entry: Mapping[str, Any]) -> str:
    parts = [entry.get("origin", ""), entry.get("source", "")]
    if "file" in entry:
        parts.append(f"{entry['file']} at {entry['offset']}")
    return ": ".join(filter(None, parts))


def _found(file: Mapping[str, Any]) -> str:
    return f", {file['found']}" if "found" in file else ""


def _short(value: Any) -> str:
    return orjson.dumps(value).decode()


def _trace(found: dict[str, Any]) -> None:
    typer.echo(f"{found['key']} of {found['mixture']}@{found['version']}")
    for row in _chain(found):
        typer.echo(shown(f"{row['link']:<12} {row['what']}"))
        told = [f"sha256 {row['sha256']}" if row["sha256"] else "", row["seen"]]
        if any(told):
            typer.echo(shown(f"{'':<14} {'  '.join(filter(None, told))}"))
    if found["files"] is None and not found["problems"]:
        typer.echo("next: --lake L shows the lake's row and the source files, --raw FOLDER hashes them again")
    for problem in found["problems"]:
        typer.echo(shown(f"does not fit: {problem['where']}: {problem['what']}"), err=True)


_PRINTERS: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "overview": _overview,
    "shard": _shard,
    "sample": _sample,
    "episode": _episode,
    "source": _source,
    "license": _license,
    "step": _step,
    "code": _code,
    "drops": _drops,
    "sql": _sql,
    "trace": _trace,
}
