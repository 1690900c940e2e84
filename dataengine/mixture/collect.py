"""Garbage: what no version needs and no running build may come to need.

Versions (refs) and tags are never garbage. A running build holds a lease (`leases/<id>.json`), a file whose time it
renews; while one is live nothing is removed, because the build may have found a finished task that no version names
yet. A collection holds a lease of its own, and a build that begins meanwhile waits for it. A lease that nobody
has renewed for `LEASE_SECONDS` is of a process that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.mixture.store import MixtureStore, index_name, shard_name, task_name
from dataengine.storage.leases import lease, refuse, wait_for

LEASES = "leases"


@dataclass
class Garbage:
    """Files that no version needs. `removed` is False for a look without hands."""

    files: list[str] = field(default_factory=list)
    bytes: int = 0
    kept_files: int = 0
    removed: bool = False


@contextmanager
def building(store: MixtureStore, *, wait_seconds: float = 600.0) -> Iterator[None]:
    """The lease of a build: taken first, then any collection that is at work is waited for."""
    with lease(store, LEASES, "build"):
        wait_for(store, LEASES, "gc", "a collection of garbage", wait_seconds=wait_seconds)
        yield


@contextmanager
def collecting(store: MixtureStore) -> Iterator[None]:
    """The lease of a collection; a live build is a `ConflictError`."""
    with lease(store, LEASES, "gc"):
        refuse(store, LEASES, "build", "builds are")
        yield


def collect(store: MixtureStore, *, delete: bool) -> Garbage:
    """Find, and with `delete` remove, what no version needs. A live build is a `ConflictError`."""
    if not delete:
        return _found(store)
    with collecting(store):
        return remove_garbage(store)


def remove_garbage(store: MixtureStore) -> Garbage:
    """Remove what no version needs; the caller holds the lease of a collection."""
    found = _found(store)
    for name in found.files:
        store.remove(name)
    found.removed = True
    return found


def _found(store: MixtureStore) -> Garbage:
    needed = _needed(store)
    result = Garbage()
    for name in store.files():
        if name.startswith(("blobs/", "tasks/", "manifests/")) and not _is_needed(name, needed):
            result.files.append(name)
            result.bytes += store.size(name) or 0
        else:
            result.kept_files += 1
    return result


def _needed(store: MixtureStore) -> set[str]:
    """Names that the versions lead to; a version that cannot be read is an error, never garbage."""
    needed: set[str] = set()
    for version in store.versions():
        sha, manifest = store.manifest(version)
        needed |= {f"manifests/{sha}.json", store.documents(sha)}
        for shard in manifest.shards:
            needed |= {shard_name(shard.sha256), index_name(shard.sha256), task_name(shard.task_digest)}
    return needed


def _is_needed(name: str, needed: set[str]) -> bool:
    return name in needed or str(Path(name).parent) in needed
