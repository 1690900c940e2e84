"""History: the mixtures below a folder, and the versions of one with when and from what they were built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataengine.documents import unseal
from dataengine.errors import DataEngineError, MissingError
from dataengine.mixture.store import MARKER, MixtureStore


def mixtures(folder: Path) -> list[dict[str, Any]]:
    """One row for each mixture below `folder` (itself included), sorted by path."""
    if not folder.is_dir():
        raise MissingError(f"there is no folder {folder}", fix="name one that holds mixtures")
    found = []
    for marker in sorted(folder.rglob(MARKER)):
        store = MixtureStore(marker.parent)
        latest = store.latest()
        manifest = store.manifest(latest)[1] if latest is not None else None
        found.append(
            {
                "path": str(marker.parent),
                "name": manifest.name if manifest else None,
                "versions": len(store.versions()),
                "latest": latest,
                "samples": manifest.samples if manifest else 0,
                "shards": len(manifest.shards) if manifest else 0,
            }
        )
    return found


def log(store: MixtureStore) -> list[dict[str, Any]]:
    """One row a version, the newest first: when it was built, its size, and what changed from the one before."""
    runs = _runs(store)
    rows: list[dict[str, Any]] = []
    before: tuple[set[str], int] | None = None
    for name in store.versions():
        sha, manifest = store.manifest(name)
        shards = {shard.sha256 for shard in manifest.shards}
        run = runs.get(sha, {})
        rows.append(
            {
                "version": name,
                "manifest": sha,
                "plan_id": manifest.plan_id,
                "built_at": run.get("finished_at"),
                "commit": run.get("code", {}).get("commit"),
                "samples": manifest.samples,
                "shards": len(shards),
                "new_shards": len(shards - before[0]) if before else len(shards),
                "samples_change": manifest.samples - before[1] if before else manifest.samples,
                "episodes": sum(source.episodes_kept for source in manifest.sources),
                "dropped": sum(source.episodes_dropped for source in manifest.sources),
                "overrides": list((manifest.policy or {}).get("overrides", ())),
            }
        )
        before = shards, manifest.samples
    return rows[::-1]


def _runs(store: MixtureStore) -> dict[str, dict[str, Any]]:
    """The first run that made each manifest; a damaged file of run facts tells nothing (`verify` names it)."""
    found: dict[str, dict[str, Any]] = {}
    for name in store.names("runs", "*.json"):
        try:
            facts = unseal(store.read(name), name)
        except DataEngineError:
            continue
        if isinstance(facts.get("manifest"), str):
            found.setdefault(facts["manifest"], facts)
    return found
