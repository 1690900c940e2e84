"""The drop ledger and the shard records of a version: what became of every episode, what went into every shard.

Both are made and counted in columns: a mixture has more episodes than objects fit into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataengine.mixture.policy import stated_together
from dataengine.mixture.roster import STATUSES, Kind, Roster
from dataengine.mixture.rows import LEDGER, RECORDS
from dataengine.mixture.rows import completed as completed  # noqa: PLC0414 - written here, read there
from dataengine.mixture.rows import parquet as parquet  # noqa: PLC0414
from dataengine.mixture.rows import read_parquet as read_parquet  # noqa: PLC0414
from dataengine.mixture.rows import read_table as read_table  # noqa: PLC0414
from dataengine.mixture.verdicts import Verdicts
from dataengine.plan import SPLITS, Tasks
from dataengine.specs.recipe import Recipe
from dataengine.specs.records import LedgerRow, ShardEntry, SourceSummary

_UID_BYTES = 32
_CHUNK = 1 << 22
Ints = NDArray[np.int64]


def ledger(recipe: Recipe, roster: Roster, verdicts: Verdicts, samples: Ints) -> pa.Table:
    """One row for each selected episode or unreadable file, sorted by source, upstream id and uid.

    `samples` [k] are those of the kept episodes, in the order of `verdicts.kept`.
    """
    given = np.zeros(len(roster), np.int64)
    given[verdicts.kept] = samples
    accepted = _accepted(recipe, roster, verdicts)
    order = _order(roster)
    parts = (order[start : start + _CHUNK] for start in range(0, max(len(order), 1), _CHUNK))
    return pa.concat_tables(_ledger_part(roster, verdicts, given, accepted, rows) for rows in parts)


def _accepted(recipe: Recipe, roster: Roster, verdicts: Verdicts) -> NDArray[np.bool_]:
    """[n] which rows were dropped for a reason that their source accepts by name."""
    table, reasons = verdicts.table, verdicts.words("reason")
    accepted = np.zeros(len(roster), np.bool_)
    for number, source in enumerate(recipe.sources):
        named = np.isin(table["reason"], [reasons.index(name) for name in source.accept if name in reasons])
        accepted |= (roster.entry == number) & named & table["dropped"]
    return accepted


def _order(roster: Roster) -> Ints:
    """The rows by source and upstream id; they are in uid order, and the sort is stable."""
    sources = np.array([kind.source_id for kind in roster.kinds], np.str_)
    ranks = np.unique(sources, return_inverse=True)[1] if len(sources) else np.zeros(0, np.int64)
    rows = pa.table({"source": ranks[roster.kind], "upstream": roster.upstream, "row": np.arange(len(roster))})
    keys = [(name, "ascending") for name in ("source", "upstream", "row")]
    return np.asarray(pc.sort_indices(rows, sort_keys=keys).to_numpy(), np.int64)


def _ledger_part(roster: Roster, verdicts: Verdicts, given: Ints, accepted: NDArray[np.bool_], rows: Ints) -> pa.Table:
    """The rows at these places, as a table of its own: a column of strings holds two gigabytes at most."""
    table, kind = verdicts.table[rows], roster.kind[rows]
    units = ["file" if status == "quarantined" else "episode" for status in STATUSES]
    columns = {
        "unit": _words(units, roster.status[rows]),
        "source_id": _words([kind.source_id for kind in roster.kinds], kind),
        "converter": _words([kind.converter for kind in roster.kinds], kind),
        "upstream_id": roster.upstream.take(pa.array(rows)).cast(pa.string()),
        "uid": _hex(roster.uids[rows]),
        "status": _words(["kept", "dropped"], table["dropped"].astype(np.int8)),
        "reason": _words(verdicts.words("reason"), table["reason"]),
        "step": _words(verdicts.words("step"), table["step"]),
        "evidence": pa.array([verdicts.evidence(row) for row in rows.tolist()], pa.string()),
        "bad_input": pa.array(np.ascontiguousarray(table["bad_input"])),
        "accepted": pa.array(accepted[rows]),
        "split": _words(SPLITS, table["split"]),
        "samples": pa.array(given[rows]),
        "entry": _words(roster.entries, roster.entry[rows]),
        "task": _words(verdicts.words("task"), table["task"]),
        "steps": pa.array(np.ascontiguousarray(table["total"]).astype(np.int64)),
        "kept_steps": pa.array(np.ascontiguousarray(table["kept"]).astype(np.int64)),
        "seconds": pa.array(np.ascontiguousarray(table["seconds"])),
    }
    return pa.table(columns, schema=LEDGER)


def _words(words: Sequence[str], numbers: NDArray[Any]) -> pa.Array:
    """Numbers as the words they stand for."""
    return pa.array(list(words), pa.string()).take(pa.array(np.ascontiguousarray(numbers)))


def _hex(wide: NDArray[np.uint8]) -> pa.StringArray:
    """[n, 32] bytes as hexadecimal strings."""
    text = np.ascontiguousarray(wide).tobytes().hex().encode()
    size = 2 * _UID_BYTES
    offsets = np.arange(0, size * (len(wide) + 1), size, dtype=np.int64)
    found = pa.LargeStringArray.from_buffers(len(wide), pa.py_buffer(offsets), pa.py_buffer(text))
    return found.cast(pa.string())


def drop_counts(table: pa.Table) -> dict[str, int]:
    """Drops by reason, sorted by reason."""
    dropped = table.filter(pc.equal(table["status"], "dropped"))["reason"]
    return dict(sorted((entry["values"], entry["counts"]) for entry in dropped.value_counts().to_pylist()))


def bad_input(table: pa.Table) -> list[LedgerRow]:
    """The drops for bad input that the recipe does not accept by name."""
    chosen = table.filter(pc.and_not(table["bad_input"], table["accepted"]))
    return [LedgerRow.model_construct(**row) for row in chosen.to_pylist()]


def count_bad_input(table: pa.Table) -> int:
    """How many those are."""
    return int(pc.sum(pc.and_not(table["bad_input"], table["accepted"])).as_py() or 0)


def source_counts(table: pa.Table) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(episodes, kept ones, samples) of a ledger by source and converter."""
    kept = pc.equal(table["status"], "kept").cast(pa.int64())
    grouped = table.select(["source_id", "converter", "samples"]).append_column("kept", kept)
    counted = grouped.group_by(["source_id", "converter"], use_threads=False)
    rows = counted.aggregate([("kept", "count"), ("kept", "sum"), ("samples", "sum")]).to_pylist()
    return {(r["source_id"], r["converter"]): (r["kept_count"], r["kept_sum"], r["samples_sum"]) for r in rows}


def summaries(roster: Roster, table: pa.Table) -> tuple[SourceSummary, ...]:
    """Counts and terms by source and converter, sorted."""
    kinds: dict[tuple[str, str], list[Kind]] = {}
    for kind in roster.kinds:
        kinds.setdefault((kind.source_id, kind.converter), []).append(kind)
    found = []
    for key, (episodes, kept, samples) in sorted(source_counts(table).items()):
        kind = kinds[key][0]
        found.append(
            SourceSummary(
                source_id=kind.source_id,
                converter=kind.converter,
                family=kind.family,
                **stated_together([kind.source for kind in kinds[key]]),
                episodes_in=episodes,
                episodes_kept=kept,
                episodes_dropped=episodes - kept,
                samples=samples,
            )
        )
    return tuple(found)


def shard_records(
    shards: Sequence[ShardEntry], tasks: Tasks, counts: Ints, roster: Roster, verdicts: Verdicts
) -> pa.Table:
    """One row for each segment in each shard, in shard order; `counts` [u] are the samples of each."""
    numbers = np.repeat(np.arange(len(shards)), np.diff(tasks.edges))
    parts = (slice(start, start + _CHUNK) for start in range(0, max(len(numbers), 1), _CHUNK))
    return pa.concat_tables(_records_part(shards, tasks, counts, (roster, verdicts), (numbers, part)) for part in parts)


def _records_part(
    shards: Sequence[ShardEntry],
    tasks: Tasks,
    counts: Ints,
    known: tuple[Roster, Verdicts],
    chosen: tuple[Ints, slice],
) -> pa.Table:
    """The records of some units, whose shards are numbered; a column of strings holds two gigabytes at most."""
    (roster, verdicts), (numbers, part) = known, chosen
    shard = numbers[part]
    low, high = (int(shard[0]), int(shard[-1]) + 1) if len(shard) else (0, 0)
    near = shards[low:high]
    rows = verdicts.kept[tasks.row[part]]
    columns = {
        "shard": pa.array(shard),
        "sha256": _words([entry.sha256 for entry in near], shard - low),
        "split": _words([entry.split for entry in near], shard - low),
        "task_digest": _words([entry.task_digest for entry in near], shard - low),
        "uid": _hex(roster.uids[rows]),
        "source_id": _words([kind.source_id for kind in roster.kinds], roster.kind[rows]),
        "start": pa.array(tasks.start[part].astype(np.int64)),
        "stop": pa.array(tasks.stop[part].astype(np.int64)),
        "samples": pa.array(counts[part]),
        "converter": _words([kind.converter for kind in roster.kinds], roster.kind[rows]),
        "entry": _words(roster.entries, roster.entry[rows]),
        "upstream_id": roster.upstream.take(pa.array(rows)).cast(pa.string()),
    }
    return pa.table(columns, schema=RECORDS)
