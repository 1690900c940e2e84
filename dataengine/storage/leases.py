"""Leases: files that say that a process is at work, renewed for as long as it lives.

A lease (`<folder>/<kind>-<id>.json`) that nobody has renewed for `LEASE_SECONDS` is of a process that is gone. Who
works takes a lease first and looks for the other side's then; so does the other side: of two that begin at once at
least one sees the other.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dataengine.documents import seal
from dataengine.errors import ConflictError, StorageError
from dataengine.storage.store import Store

LEASE_SECONDS = 120.0
_RENEW_SECONDS = 10.0
_WAIT_SECONDS = 0.5


def live(store: Store, folder: str, kind: str) -> list[str]:
    """Names of the leases of one kind that are being renewed; those of processes that are gone are removed."""
    found = []
    for name in store.names(folder, f"{kind}-*.json"):
        age = store.backend.age(name)
        if age is not None and age < LEASE_SECONDS:
            found.append(name)
        elif age is not None:
            store.remove(name)
    return found


@contextmanager
def lease(store: Store, folder: str, kind: str) -> Iterator[None]:
    """Hold a lease, renewed by a thread for as long as this process lives."""
    name = f"{folder}/{kind}-{os.urandom(8).hex()}.json"
    store.publish(name, seal({"kind": kind}))
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with suppress(StorageError):  # a renewal that fails is made up for by the next
                store.backend.renew(name)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        store.remove(name)


@contextmanager
def working(
    store: Store, folder: str, kind: str, other: str, doing: str, *, wait_seconds: float = 600.0
) -> Iterator[None]:
    """Hold a lease of one kind while none of the `other` is live, which is waited for without holding one.

    So neither side waits for the other: who holds a lease of the `other` may in turn wait for those of this `kind`.
    """
    while True:
        wait_for(store, folder, other, doing, wait_seconds=wait_seconds)
        with lease(store, folder, kind):
            if not live(store, folder, other):
                yield
                return


def wait_for(store: Store, folder: str, kind: str, doing: str, *, wait_seconds: float = 600.0) -> None:
    """Wait until no lease of a kind is live; a `ConflictError` after `wait_seconds`."""
    until = time.monotonic() + wait_seconds
    while live(store, folder, kind):
        if time.monotonic() > until:
            raise ConflictError(f"{doing} is at work here", where=store.address, fix="try again later")
        time.sleep(_WAIT_SECONDS)


def refuse(store: Store, folder: str, kind: str, doing: str, *, own: int = 0) -> None:
    """A `ConflictError` while a lease of a kind is live, beside the caller's `own`."""
    running = len(live(store, folder, kind)) - own
    if running > 0:
        raise ConflictError(
            f"{running} {doing} at work here",
            where=store.address,
            fix=f"wait for them (the lease of one that was killed ends after {LEASE_SECONDS:g} s)",
        )
