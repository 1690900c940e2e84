"""Care of a lake: indexes for look-ups, and the collection of what nothing needs.

Media rows that no episode references are left by interrupted and by concurrent ingests and by conversions that were
replaced. One is removed only when it was unreferenced and older than the grace period when looked at, and is still
unreferenced right before; after the removal the episodes are looked at once more, and what one of them references by
then is put back. Together with an ingest's own look after its commit no order of events loses a stream, leases or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa

from dataengine.errors import StorageError
from dataengine.lake import tables
from dataengine.lake.core import Lake
from dataengine.lake.tables import EPISODES_TABLE, MEDIA_TABLE, lookup, retried
from dataengine.lake_rows import MEDIA
from dataengine.storage import remote

INDEXED = ((EPISODES_TABLE, "uid"), (MEDIA_TABLE, "media_id"))
INDEX_ROWS = 2048  # a scan of fewer rows is as quick as an index
INDEX_PART = 0.1
GRACE_SECONDS = 3600.0
COMPACT_ROWS = {EPISODES_TABLE: 16384, MEDIA_TABLE: 2048}
"""Fragments with fewer rows are merged; the others are never written again."""
COMPACT_BATCH = {EPISODES_TABLE: 256, MEDIA_TABLE: 32}


@dataclass(frozen=True)
class LakeGarbage:
    """What a collection found. `media_rows` are unreferenced, `media_bytes` their payloads; `versions` are older than
    the grace period and not kept; `small_fragments` could be merged. `removed` is False for a look without hands."""

    media_rows: int = 0
    media_bytes: int = 0
    versions: int = 0
    small_fragments: int = 0
    kept_versions: int = 0
    removed: bool = False


def tend(lake: Lake) -> list[str]:
    """Index what is not indexed yet, if that is much; returns the tables whose index changed. Safe beside writers.

    Where another writer's commit comes in between it is left for the next time: an index is never needed for an answer.
    """
    changed = []
    for table, column in INDEXED:
        dataset = tables.open_table(lake.path, table)
        rows, covered = dataset.count_rows(), _covered(dataset, column)
        if rows - covered <= max(INDEX_ROWS, INDEX_PART * covered):
            continue
        try:
            if covered:
                dataset.optimize.optimize_indices(index_names=[_index(column)])
            else:
                dataset.create_scalar_index(column, "BTREE", name=_index(column), replace=True)
        except OSError as error:
            if not tables.is_conflict(error):
                raise StorageError(f"no index on {column}: {str(error).splitlines()[0]}", where=lake.path) from error
            continue
        changed.append(table)
    return changed


def _index(column: str) -> str:
    return f"by_{column}"


def _covered(dataset: Any, column: str) -> int:
    """Rows that the index knows; 0 without one."""
    return sum(int(found.num_rows_indexed) for found in dataset.describe_indices() if found.name == _index(column))


def reindex(lake: Lake) -> None:
    """Make the indexes anew, where there are any: nothing of removed rows stays in them."""
    for table, column in INDEXED:
        dataset = tables.open_table(lake.path, table)
        if any(found.name == _index(column) for found in dataset.describe_indices()):
            retried(
                lambda table=table, column=column: tables.open_table(lake.path, table).create_scalar_index(  # type: ignore[misc]
                    column, "BTREE", name=_index(column), replace=True
                )
            )


def collect(lake: Lake, *, delete: bool, grace_seconds: float = GRACE_SECONDS) -> LakeGarbage:
    """Find, and with `delete` remove, unreferenced media, small fragments and old versions.

    With `delete` a live ingest, build or other collection is a `ConflictError`.
    """
    if not delete:
        return _found(lake, grace_seconds)
    with lake.caring():
        found = _found(lake, grace_seconds)
        rows, size = remove_orphans(lake, _orphans(lake, grace_seconds))
        compact(lake)
        tend(lake)
        before = sum(_versions(lake, table) for table in COMPACT_ROWS)
        for table in COMPACT_ROWS:
            clean_up(lake, table, timedelta(seconds=grace_seconds))
        _abort_uploads(lake, grace_seconds)
        gone = before - sum(_versions(lake, table) for table in COMPACT_ROWS)
        return LakeGarbage(rows, size, gone, found.small_fragments, found.kept_versions, removed=True)


def _abort_uploads(lake: Lake, grace_seconds: float) -> None:
    """On S3, give up uploads in parts that a killed writer of the tables left: no listing shows what they cost."""
    if remote(lake.path) is not None:
        from dataengine.storage.s3 import S3Backend

        S3Backend(str(lake.path)).abort_uploads(max(grace_seconds, GRACE_SECONDS))


def _found(lake: Lake, grace_seconds: float) -> LakeGarbage:
    orphans = _orphans(lake, grace_seconds)
    old = small = 0
    until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    kept = lake.kept()
    for table, least in COMPACT_ROWS.items():
        dataset = tables.open_table(lake.path, table)
        tagged = {tag["version"] for tag in dataset.tags.list().values()} | {dataset.version}
        old += sum(v["version"] not in tagged and _time(v) < until for v in dataset.versions())
        counts = [fragment.count_rows() for fragment in dataset.get_fragments()]
        small += sum(count < least for count in counts) if len(counts) > 1 else 0
    return LakeGarbage(len(orphans), sum(orphans.values()), old, small, len(kept))


def _versions(lake: Lake, table: str) -> int:
    return len(tables.open_table(lake.path, table).versions())


def _time(version: dict[str, Any]) -> datetime:
    found: datetime = version["timestamp"].astimezone(UTC)
    return found


def _orphans(lake: Lake, grace_seconds: float) -> dict[str, int]:
    """Bytes of the unreferenced media by media id, of those that were there a grace period ago."""
    until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    media = tables.open_table(lake.path, MEDIA_TABLE)
    before = [version["version"] for version in media.versions() if _time(version) <= until]
    if not before:
        return {}
    then = tables.open_table(lake.path, MEDIA_TABLE, max(before))
    old = set(then.to_table(columns=["media_id"])["media_id"].to_pylist())
    rows = media.to_table(columns=["media_id", "bytes"]).to_pylist()
    needed = referenced(lake)
    return {r["media_id"]: r["bytes"] for r in rows if r["media_id"] in old and r["media_id"] not in needed}


def referenced(lake: Lake) -> set[str]:
    """Media ids of all rows, hidden ones too."""
    found: set[str] = set()
    for batch in tables.batches(tables.open_table(lake.path, EPISODES_TABLE), ["media"], None, tables.BATCH_ROWS):
        found.update(entry["media_id"] for text in batch["media"].to_pylist() for entry in orjson.loads(text))
    return found


def remove_orphans(lake: Lake, orphans: dict[str, int]) -> tuple[int, int]:
    """Remove media rows that are still unreferenced; what is referenced right after is put back. (rows, bytes) gone."""
    needed = referenced(lake)
    gone = {name: size for name, size in orphans.items() if name not in needed}
    if not gone:
        return 0, 0
    before = tables.open_table(lake.path, MEDIA_TABLE)
    tables.delete(lake.path, MEDIA_TABLE, "media_id", sorted(gone))
    back = sorted(gone.keys() & referenced(lake))
    if back:
        _put_back(lake, before, back)
    kept = set(back)
    return len(gone) - len(kept), sum(size for name, size in gone.items() if name not in kept)


def _put_back(lake: Lake, before: Any, media_ids: Sequence[str]) -> None:
    columns = [name for name in MEDIA.names if name != "payload"]
    there = {r["media_id"] for r in lookup(tables.open_table(lake.path, MEDIA_TABLE), "media_id", media_ids, columns)}
    rows = []
    for row in lookup(before, "media_id", [m for m in media_ids if m not in there], columns, with_row_id=True):
        with before.take_blobs("payload", ids=[row.pop("_rowid")])[0] as blob:
            rows.append({**row, "payload": bytes(blob.readall())})
    if rows:
        table = pa.Table.from_pylist(rows, schema=MEDIA)
        retried(lambda: tables.write(table, lake.path, MEDIA_TABLE, "append"))


def compact(lake: Lake, *, wholly: bool = False) -> None:
    """Merge small fragments; `wholly` writes every fragment with a deleted row anew."""
    for table, rows in COMPACT_ROWS.items():
        retried(
            lambda table=table, rows=rows: tables.open_table(lake.path, table).optimize.compact_files(  # type: ignore[misc]
                target_rows_per_fragment=rows,
                materialize_deletions=True,
                materialize_deletions_threshold=0.0 if wholly else 0.1,
                batch_size=COMPACT_BATCH[table],
            )
        )


def clean_up(lake: Lake, table: str, older_than: timedelta, *, unfinished: bool = False) -> None:
    """Remove old versions of a table that are not tagged, and the files that only they hold.

    `unfinished` also removes files that no commit names: only where nobody else writes.
    """
    retried(
        lambda: tables.open_table(lake.path, table).cleanup_old_versions(
            older_than=older_than, delete_unverified=unfinished, error_if_tagged_old_versions=False
        )
    )
