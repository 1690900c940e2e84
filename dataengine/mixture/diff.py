"""Diff: what changed between two versions: sources, tasks, episodes, shares, statistics, steps, shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.documents import canonical_json
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MixtureStore
from dataengine.specs.records import Manifest

MAX_EPISODES = 10_000
_STEPS = ("filters", "steps")


def ledger_table(store: MixtureStore, sha: str, manifest: Manifest) -> pa.Table:
    """The ledger of a version, digest checked; columns that versions of before did not have are empty."""
    name = f"{store.documents(sha)}/ledger.parquet"
    return ledgers.completed(ledgers.read_table(store.checked(name, manifest.ledger_sha256)))


def ledger_rows(store: MixtureStore, sha: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The rows of a version's ledger."""
    found: list[dict[str, Any]] = ledger_table(store, sha, manifest).to_pylist()
    return found


def diff(one: MixtureStore, first: str, two: MixtureStore, second: str) -> dict[str, Any]:
    """Differences from version `first` to version `second`; equal content gives `equal: true`.

    Of episodes at most `MAX_EPISODES` of a kind are listed; `counts` has them all. `tasks` are those of which
    something changed, the one that lost most first; `lost_most` names it. `statistics` tells channels whose scaling
    changed: by how many standard deviations the mean moved, and how the width of the range changed.
    """
    sha_a, a = one.manifest(first)
    sha_b, b = two.manifest(second)
    ledger_a, ledger_b = ledger_table(one, sha_a, a), ledger_table(two, sha_b, b)
    shards_a, shards_b = ({shard.sha256 for shard in m.shards} for m in (a, b))
    episodes = _episodes(ledger_a, ledger_b)
    tasks = _tasks(ledger_a, ledger_b)
    return {
        "a": {"name": a.name, "version": first, "samples": a.samples, "shards": len(a.shards)},
        "b": {"name": b.name, "version": second, "samples": b.samples, "shards": len(b.shards)},
        "equal": a.content_digest() == b.content_digest(),
        "sources": _sources(a, b),
        "shares": _shares(ledger_a, ledger_b),
        "tasks": tasks,
        "lost_most": next((task for task in tasks if task["kept_steps"] < 0 or task["samples"] < 0), None),
        "counts": {kind: table.num_rows for kind, table in episodes.items()},
        "episodes": {kind: _listed(kind, table) for kind, table in episodes.items()},
        "samples": b.samples - a.samples,
        "drops": _changes(a.drops, b.drops),
        "shards": {
            "same": len(shards_a & shards_b),
            "added": len(shards_b - shards_a),
            "removed": len(shards_a - shards_b),
        },
        "normalization_changed": a.normalization_sha256 != b.normalization_sha256,
        "statistics": _statistics(_document(one, sha_a, a), _document(two, sha_b, b)),
        "recipe_changed": a.recipe != b.recipe,
        "steps": list(_steps(a.recipe, b.recipe)),
        "recipe": list(_fields("", _plain(a.recipe), _plain(b.recipe))),
        "pins": list(_fields("", a.pins.canonical(), b.pins.canonical())),
    }


def _changes(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: change for name in sorted({*a, *b}) if (change := b.get(name, 0) - a.get(name, 0))}


def _episodes(a: pa.Table, b: pa.Table) -> dict[str, pa.Table]:
    """Rows that only one ledger has, and those whose fate differs."""
    names = ["uid", "source_id", "upstream_id"]
    left = a.select([*names, "status", "reason"]).append_column("before", _fates(a)).drop_columns(["status", "reason"])
    right = b.select(["uid", "source_id", "upstream_id"]).append_column("after", _fates(b))
    right = right.rename_columns(["uid", "source_b", "upstream_b", "after"])
    both = left.join(right, "uid", join_type="full outer", coalesce_keys=True, use_threads=False)
    added, removed = pc.is_null(both["before"]), pc.is_null(both["after"])
    stay = pc.and_(pc.invert(added), pc.invert(removed))
    changed = pc.and_(stay, pc.not_equal(both["before"], both["after"]))
    kinds = {"added": added, "removed": removed, "changed": changed}
    return {kind: both.filter(pc.fill_null(mask, False)).sort_by("uid") for kind, mask in kinds.items()}


def _fates(table: pa.Table) -> pa.ChunkedArray:
    dropped = pc.binary_join_element_wise(pa.scalar("dropped"), table["reason"], ": ")
    return pc.if_else(pc.equal(table["status"], "kept"), table["status"], dropped)


def _listed(kind: str, table: pa.Table) -> list[dict[str, str]]:
    found = []
    for row in table.slice(0, MAX_EPISODES).to_pylist():
        named = {
            "uid": row["uid"],
            "source_id": row["source_id"] or row["source_b"],
            "upstream_id": row["upstream_id"] or row["upstream_b"],
            "fate": row["after"] or row["before"],
        }
        found.append(named | ({"before": row["before"], "after": row["after"]} if kind == "changed" else {}))
    return found


def _counted(table: pa.Table, keys: list[str]) -> dict[tuple[str, ...], dict[str, int]]:
    """Kept episodes, kept steps and samples by these columns."""
    kept = pc.equal(table["status"], "kept")
    steps = pc.if_else(kept, table["kept_steps"], 0)
    columns = table.select([*keys, "samples"]).append_column("episodes", kept.cast(pa.int64()))
    grouped = columns.append_column("kept_steps", steps).group_by(keys, use_threads=False)
    names = ("episodes", "kept_steps", "samples")
    rows = grouped.aggregate([(name, "sum") for name in names]).to_pylist()
    return {tuple(row[key] for key in keys): {name: row[f"{name}_sum"] for name in names} for row in rows}


def _tasks(a: pa.Table, b: pa.Table) -> list[dict[str, Any]]:
    """Tasks of which steps or samples changed, the greatest loss first."""
    before, after = (_counted(table.filter(pc.not_equal(table["task"], "")), ["entry", "task"]) for table in (a, b))
    nothing = {"episodes": 0, "kept_steps": 0, "samples": 0}
    found = []
    for entry, task in before.keys() | after.keys():
        old, new = before.get((entry, task), nothing), after.get((entry, task), nothing)
        change = {name: new[name] - old[name] for name in nothing}
        if any(change.values()):
            found.append({"source": entry, "task": task, **change, "before": old, "after": new})
    return sorted(found, key=lambda row: (row["kept_steps"], row["samples"], row["source"], row["task"]))


def _shares(a: pa.Table, b: pa.Table) -> list[dict[str, Any]]:
    """The share of each source of the recipe in the samples, where it changed."""
    before, after = _counted(a, ["entry"]), _counted(b, ["entry"])
    totals = [sum(row["samples"] for row in side.values()) or 1 for side in (before, after)]
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = (
            side[key]["samples"] / total if key in side else 0.0
            for side, total in zip((before, after), totals, strict=True)
        )
        if old != new:
            found.append({"source": key[0], "before": old, "after": new})
    return found


def _sources(a: Manifest, b: Manifest) -> list[dict[str, Any]]:
    counts_a, counts_b = (
        {source.source_id: (source.episodes_kept, source.episodes_dropped, source.samples) for source in m.sources}
        for m in (a, b)
    )
    found = []
    for name in sorted(counts_a.keys() | counts_b.keys()):
        before, after = counts_a.get(name), counts_b.get(name)
        if before == after:
            continue
        state = "added" if before is None else "removed" if after is None else "changed"
        kept_a, dropped_a, samples_a = before or (0, 0, 0)
        kept_b, dropped_b, samples_b = after or (0, 0, 0)
        found.append(
            {
                "source_id": name,
                "state": state,
                "episodes_kept": kept_b - kept_a,
                "episodes_dropped": dropped_b - dropped_a,
                "samples": samples_b - samples_a,
            }
        )
    return found


def _document(store: MixtureStore, sha: str, manifest: Manifest) -> dict[str, Any]:
    name = f"{store.documents(sha)}/normalization.json"
    found: dict[str, Any] = orjson.loads(store.checked(name, manifest.normalization_sha256))
    return found


def _statistics(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Channels that are scaled otherwise, or are new or gone; the greatest change first."""
    before, after = dict(_channels(a)), dict(_channels(b))
    found = []
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        row = dict(zip(("group", "side", "representation", "slot", "channel"), key, strict=True))
        if old is None or new is None:
            found.append({**row, "state": "added" if old is None else "removed", "shift": None, "widening": None})
        else:
            found.append({**row, "state": "changed", **_moved(old, new)})
    return sorted(found, key=lambda row: (-abs(row["shift"] or 0), *map(str, row.values())))


def _channels(document: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for name, group in document["groups"].items():
        for side in ("state", "action"):
            for form, entries in group[side].items():
                for entry in entries:
                    yield (name, side, form, entry["slot"], entry["channel"]), entry


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """By how many of the old standard deviations the mean moved; the new range's width by the old one's."""
    shift = widening = None
    if old.get("mean") is not None and new.get("mean") is not None:
        spread = old.get("std") or 0.0
        moved = new["mean"] - old["mean"]
        shift = moved / spread if spread else None if moved else 0.0
    widths = [side["q99"] - side["q01"] if side.get("q99") is not None else None for side in (old, new)]
    if widths[0] and widths[1] is not None:
        widening = widths[1] / widths[0]
    return {"shift": shift, "widening": widening, "n": [old.get("n"), new.get("n")]}


def _steps(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Filters and steps that one recipe has and the other has not, of the recipe itself and of each source."""
    sides = [{"": recipe, **{_entry(source): source for source in recipe["sources"]}} for recipe in (a, b)]
    for name in sorted(sides[0].keys() & sides[1].keys()):
        for kind in _STEPS:
            before, after = ([canonical_json(step) for step in side[name].get(kind, ())] for side in sides)
            for state, rows, others in (("removed", before, after), ("added", after, before)):
                left = list(others)
                for row in rows:
                    if row in left:
                        left.remove(row)
                    else:
                        yield {"source": name, "kind": kind, "state": state, "step": orjson.loads(row)}
            if sorted(before) == sorted(after) and before != after:
                yield {"source": name, "kind": kind, "state": "reordered", "step": [orjson.loads(row) for row in after]}


def _entry(source: Mapping[str, Any]) -> str:
    return str(source.get("name") or source["converter"])


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without its steps, its sources by name."""
    sources = {_entry(source): {k: v for k, v in source.items() if k not in _STEPS} for source in recipe["sources"]}
    return {**{k: v for k, v in recipe.items() if k not in _STEPS}, "sources": sources}


def _fields(at: str, a: Any, b: Any) -> Iterator[dict[str, Any]]:
    """Fields that differ, by their path."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted({*a, *b}):
            yield from _fields(f"{at}.{name}".lstrip("."), a.get(name), b.get(name))
    elif a != b:
        yield {"field": at, "before": a, "after": b}
