"""The ledger and the shard records as Parquet: their columns, how they are written, and reading what is asked for.

Light on purpose: an audit reads one shard of a thousand in the time that importing the planning would take. So neither
does `read_shard` compare, group or go over to NumPy: for each of these Arrow imports pandas, where that is installed.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LEDGER = pa.schema(
    [
        *((name, pa.string()) for name in ("unit", "source_id", "converter", "upstream_id", "uid", "status", "reason")),
        *((name, pa.string()) for name in ("step", "evidence")),
        ("bad_input", pa.bool_()),
        ("accepted", pa.bool_()),
        ("split", pa.string()),
        ("samples", pa.int64()),
        ("entry", pa.string()),
        ("task", pa.string()),
        ("steps", pa.int64()),
        ("kept_steps", pa.int64()),
        ("seconds", pa.float64()),
    ]
)
RECORDS = pa.schema(
    [
        ("shard", pa.int64()),
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("task_digest", pa.string()),
        ("uid", pa.string()),
        ("source_id", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("samples", pa.int64()),
        ("converter", pa.string()),
        ("entry", pa.string()),
        ("upstream_id", pa.string()),
    ]
)
RECORD_GROUP = 1 << 16
"""Rows of shard records that are read at once: they are sorted by shard, so one shard is in one group or two."""


def parquet(table: pa.Table, group: int | None = None) -> bytes:
    """A ledger or shard records as Parquet, rows in their order, `group` of them together (Arrow's default: 2^20)."""
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", write_page_checksum=True, store_schema=False, row_group_size=group
    )
    return buffer.getvalue()


def read_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A ledger or shard records, page checksums verified; of `columns` those that it has."""
    # In this thread alone: a thread of Arrow that outlives the interpreter aborts the process at its end.
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as opened:
        there = None if columns is None else [name for name in columns if name in opened.schema_arrow.names]
        return opened.read(there, use_threads=False)


def read_shard(data: bytes, shard: int) -> pa.Table:
    """The records of one shard. Only the row groups are read whose statistics say that it may be in them."""
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as opened:
        place = opened.schema_arrow.names.index("shard")
        groups = [number for number in range(opened.num_row_groups) if _may_hold(opened, number, place, shard)]
        table = opened.read_row_groups(groups, use_threads=False)
    numbers = table["shard"]
    first, past = (bisect_left(range(len(numbers)), n, key=lambda at: numbers[at].as_py()) for n in (shard, shard + 1))
    return table.slice(first, past - first)


def _may_hold(opened: pq.ParquetFile, group: int, column: int, value: int) -> bool:
    statistics = opened.metadata.row_group(group).column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= value <= statistics.max)


def completed(table: pa.Table, names: Sequence[str] | None = None) -> pa.Table:
    """A ledger with all columns, or with `names`: those of before had fewer.

    They called a source of the recipe by its converter, which must be among the columns that were read.
    """
    for field in LEDGER:
        if field.name not in table.schema.names and (names is None or field.name in names):
            usual = table["converter"] if field.name == "entry" else _nothing(field, table.num_rows)
            table = table.append_column(field, usual)
    return table


def _nothing(field: pa.Field, rows: int) -> pa.Array:
    nothing = "" if pa.types.is_string(field.type) else 0
    return pa.repeat(pa.scalar(nothing).cast(field.type), rows)


def read_parquet(data: bytes) -> list[dict[str, Any]]:
    """The rows of a ledger or of shard records."""
    found: list[dict[str, Any]] = read_table(data).to_pylist()
    return found
