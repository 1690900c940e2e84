"""Diff: what changed between two versions: sources, episodes, samples, drops, shards."""

from __future__ import annotations

from typing import Any

from dataengine.mixture import ledger as ledgers
from dataengine.mixture.store import MixtureStore
from dataengine.specs.records import Manifest


def ledger_rows(store: MixtureStore, sha: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The ledger of a version, digest checked."""
    return ledgers.read_parquet(store.checked(f"{store.documents(sha)}/ledger.parquet", manifest.ledger_sha256))


def diff(one: MixtureStore, first: str, two: MixtureStore, second: str) -> dict[str, Any]:
    """Differences from version `first` to version `second`; equal content gives `equal: true`."""
    sha_a, a = one.manifest(first)
    sha_b, b = two.manifest(second)
    rows_a = {row["uid"]: row for row in ledger_rows(one, sha_a, a)}
    rows_b = {row["uid"]: row for row in ledger_rows(two, sha_b, b)}
    added, removed = rows_b.keys() - rows_a.keys(), rows_a.keys() - rows_b.keys()
    both = rows_a.keys() & rows_b.keys()
    changed = [uid for uid in both if _fate(rows_a[uid]) != _fate(rows_b[uid])]
    shards_a, shards_b = ({shard.sha256 for shard in m.shards} for m in (a, b))
    return {
        "a": {"name": a.name, "version": first, "samples": a.samples, "shards": len(a.shards)},
        "b": {"name": b.name, "version": second, "samples": b.samples, "shards": len(b.shards)},
        "equal": a.content_digest() == b.content_digest(),
        "sources": _sources(a, b),
        "episodes": {
            "added": [_named(rows_b[uid]) for uid in sorted(added)],
            "removed": [_named(rows_a[uid]) for uid in sorted(removed)],
            "changed": [
                {**_named(rows_b[uid]), "before": _fate(rows_a[uid]), "after": _fate(rows_b[uid])}
                for uid in sorted(changed)
            ],
        },
        "samples": b.samples - a.samples,
        "drops": {
            reason: b.drops.get(reason, 0) - a.drops.get(reason, 0)
            for reason in sorted(a.drops.keys() | b.drops.keys())
            if b.drops.get(reason, 0) != a.drops.get(reason, 0)
        },
        "shards": {
            "same": len(shards_a & shards_b),
            "added": len(shards_b - shards_a),
            "removed": len(shards_a - shards_b),
        },
        "normalization_changed": a.normalization_sha256 != b.normalization_sha256,
        "recipe_changed": a.recipe != b.recipe,
    }


def _fate(row: dict[str, Any]) -> str:
    return str(row["status"] if row["status"] == "kept" else f"dropped: {row['reason']}")


def _named(row: dict[str, Any]) -> dict[str, str]:
    return {"uid": row["uid"], "source_id": row["source_id"], "upstream_id": row["upstream_id"], "fate": _fate(row)}


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
