"""Purge: what tombstones hide goes physically from a lake and its mixtures, and every file of them is searched.

The receipt (`<lake>/care/receipts/`, sealed) says what was removed, what was searched and what was found; it holds no
uid and no text of an episode.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from dataengine.documents import seal, sha256_bytes, unseal
from dataengine.errors import ConflictError, FormatError, StorageError
from dataengine.lake import Forgotten, Lake, keep_name
from dataengine.lake import purge as lakes
from dataengine.lake.forget import clean_neighbours
from dataengine.lake.probes import Probes
from dataengine.mixture import ledger as ledgers
from dataengine.mixture.collect import collecting, remove_garbage
from dataengine.mixture.store import MixtureStore
from dataengine.relabel.cache import AnswerCache
from dataengine.storage import Store

RECEIPTS = "receipts"


@dataclass
class MixturePurge:
    """What went from one mixture. `address` is where it lies, for people; the receipt has its digest."""

    address: str
    versions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


@dataclass
class Find:
    """A file in which something of what was forgotten is left, and of what kind."""

    file: str
    kinds: list[str]


@dataclass
class Purge:
    """What a purge did, or without `removed` would do; `receipt` names the sealed record of it in the lake."""

    lake: lakes.LakePurge
    mixtures: list[MixturePurge]
    answers: int = 0
    probes: dict[str, int] = field(default_factory=dict)
    shared_probes: int = 0
    files: int = 0
    tables: int = 0
    bytes: int = 0
    finds: list[Find] = field(default_factory=list)
    resumed: bool = False
    removed: bool = False
    receipt: str = ""

    @property
    def empty(self) -> bool:
        """Whether there was nothing to remove."""
        return not (self.lake.episodes or self.lake.other_rows or self.lake.media_rows or self.resumed) and not any(
            entry.versions for entry in self.mixtures
        )


def holding(store: MixtureStore, forgotten: Forgotten) -> list[str]:
    """The versions of a mixture whose ledger names something that is forgotten, kept or dropped."""
    found = []
    for version in store.versions() if forgotten else ():
        sha, manifest = store.manifest(version)
        table = ledgers.read_table(store.checked(f"{store.documents(sha)}/ledger.parquet", manifest.ledger_sha256))
        rows = zip(table["uid"].to_pylist(), table["source_id"].to_pylist(), strict=True)
        if any(forgotten.hides(uid, source) for uid, source in rows):
            found.append(version)
    return found


def purge(lake: Lake, stores: Sequence[MixtureStore], *, delete: bool, drop_tags: bool = False) -> Purge:
    """Remove what is forgotten from a lake and mixtures, then search every file of them.

    A version that a tag stands for is a `ConflictError` unless `drop_tags`; so are live ingests, builds, collections.
    """
    what = lakes.doomed(lake)
    plans = [_planned(store, lake.tombstones()) for store in stores]
    usable = sum(head.status == "ok" for head in what.heads)
    counts = (usable, len(what.heads) - usable, len(what.media), sum(what.media.values()), len(what.streams))
    if not delete:
        return Purge(lakes.LakePurge(*counts), plans, resumed=lakes.is_pending(lake))
    tagged = sorted({tag for plan in plans for tag in plan.tags})
    if tagged and not drop_tags:
        raise ConflictError(
            f"tags stand for versions that hold what is forgotten: {', '.join(tagged)}",
            fix="move them to another version (dataengine tag M@V TAG --move), or give --drop-tags",
        )
    with ExitStack() as stack:
        stack.enter_context(lake.caring())
        for store in stores:
            stack.enter_context(collecting(store))
        return _purge(lake, stores, drop_tags=drop_tags)


def _planned(store: MixtureStore, forgotten: Forgotten) -> MixturePurge:
    versions = holding(store, forgotten)
    tags = sorted(tag for tag, version in store.tags().items() if version in versions)
    left = [version for version in store.versions() if version not in versions]
    return MixturePurge(store.address, versions, tags, left)


def _purge(lake: Lake, stores: Sequence[MixtureStore], *, drop_tags: bool) -> Purge:
    """The purge itself, under all leases."""
    clean_neighbours(lake)
    what, sight = lakes.doomed(lake), lakes.in_sight(lake)
    resumed = lakes.is_pending(lake)
    probes = lakes.take_probes(lake, what, sight.others)
    if probes.probes:
        lakes.write_pending(lake, probes)
    released, mixtures = set(), []
    for store in stores:
        plan = _planned(store, lake.tombstones())
        if plan.tags and not drop_tags:
            raise ConflictError(f"tag {plan.tags[0]!r} was put on a version meanwhile", where=store.address)
        released |= {keep_name(store.address, store.manifest_sha(version)) for version in plan.versions}
        mixtures.append(_remove_versions(store, plan))
    cache = AnswerCache(lake.path)
    answers = cache.about(what.digests - sight.digests, what.texts - sight.texts)
    cache.remove(answers)
    result = Purge(lakes.remove(lake, what, frozenset(released)), mixtures, len(answers), probes.counts())
    result.removed, result.resumed = True, resumed
    _search(result, lake, stores, probes)
    result.receipt = _write_receipt(result, lake)
    if not result.finds:
        lakes.clear_pending(lake)
    return result


def _remove_versions(store: MixtureStore, plan: MixturePurge) -> MixturePurge:
    """Tags, then refs, then what no version needs: builds that were never committed may hold what is forgotten, too."""
    for tag in plan.tags:
        store.untag(tag)
    gone = {store.manifest_sha(version) for version in plan.versions}
    for version in plan.versions:
        store.remove(f"refs/{version}")
    for name in _told_by_runs(store, gone):
        store.remove(name)
    garbage = remove_garbage(store)
    plan.files, plan.bytes = len(garbage.files), garbage.bytes
    return plan


def _told_by_runs(store: MixtureStore, manifests: Collection[str]) -> list[str]:
    """What runs wrote about versions that go, beside their facts: it repeats recipes and shards."""
    found = []
    for name in store.names("runs", "*.json"):
        with suppress(FormatError):  # `verify` names what is damaged, and the search reads it
            if unseal(store.read(name), name).get("manifest") in manifests:
                run = name.removesuffix(".json")
                found += [other for other in store.names("runs") if other.startswith(f"{run}.") and other != name]
    return found


def _search(result: Purge, lake: Lake, stores: Sequence[MixtureStore], probes: Probes) -> None:
    """Look for the probes in every file; those that rows in sight have of their own are told apart."""
    found: dict[str, set[int]] = {}
    for root in (Store(lake.path), *stores):
        for name in root.backend.names(""):
            if root.address == lake.path and name.startswith(f"care/{lakes.PENDING}/"):
                continue
            numbers = _search_file(result, lake, root, name, probes)
            if numbers:
                found[root.at(name)] = numbers
    content = {n for numbers in found.values() for n in numbers if probes.probes[n].kind in ("stream", "array")}
    shared = lakes.shared(lake, probes, content) if content else set()
    whole = _copies(probes, shared)
    shared -= {number for number in shared if probes.probes[number].episode in whole}
    result.shared_probes = len(shared)
    for file, numbers in sorted(found.items()):
        kinds = sorted({probes.probes[number].kind for number in numbers - shared})
        if kinds:
            result.finds.append(Find(file, list(kinds)))


def _copies(probes: Probes, shared: set[int]) -> set[int]:
    """Episodes all of whose content is that of rows in sight: another row is a copy of what was forgotten."""
    content: dict[int, set[int]] = {}
    for number, probe in enumerate(probes.probes):
        if probe.kind in ("stream", "array"):
            content.setdefault(probe.episode, set()).add(number)
    return {episode for episode, numbers in content.items() if numbers <= shared}


def _search_file(result: Purge, lake: Lake, root: Store, name: str, probes: Probes) -> set[int]:
    numbers, size = lakes.scan_file(root, name, probes)
    numbers |= probes.find(name.encode())
    result.files += 1
    result.bytes += size
    if root.address == lake.path and name.endswith(".lance"):
        result.tables += 1
        return numbers | lakes.scan_lance(lake, name, probes)
    magic = root.backend.read(name, 0, 4) if size >= 4 else b""
    if magic == b"PAR1":
        result.tables += 1
        numbers |= _in_table(ledgers.read_table(root.read(name)), probes)
    elif magic[:2] == b"\x1f\x8b":
        numbers |= probes.find(_unzipped(root, name))
    return numbers


def _in_table(table: pa.Table, probes: Probes) -> set[int]:
    chunks = (chunk for column in table.columns for chunk in column.chunks)
    plain = (c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in chunks)
    found: set[int] = set()
    return found.union(*(probes.find(memoryview(part)) for c in plain for part in c.buffers() if part is not None))


def _unzipped(root: Store, name: str) -> bytes:
    try:
        return gzip.decompress(root.read(name))
    except (OSError, EOFError, zlib.error) as error:
        raise StorageError("a packed file cannot be searched", where=root.at(name), fix="remove it") from error


def _write_receipt(result: Purge, lake: Lake) -> str:
    now = datetime.now(UTC)
    names = lake.care.names("tombstones", "*.json")
    body: dict[str, Any] = {
        "at": now.isoformat(timespec="seconds"),
        "tombstones": {name.rpartition("/")[2]: sha256_bytes(lake.care.read(name)) for name in names},
        "lake": asdict(result.lake),
        "mixtures": [
            {**asdict(entry), "address": sha256_bytes(entry.address.encode())[:16]} for entry in result.mixtures
        ],
        "answers": result.answers,
        "probes": result.probes,
        "shared_probes": result.shared_probes,
        "searched": {"files": result.files, "tables": result.tables, "bytes": result.bytes},
        "finds": [{"file": sha256_bytes(find.file.encode()), "kinds": find.kinds} for find in result.finds],
        "resumed": result.resumed,
    }
    name = f"{RECEIPTS}/{now:%Y%m%dT%H%M%S}-{os.urandom(4).hex()}.json"
    lake.care.publish(name, seal(body))
    return name
