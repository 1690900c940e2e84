"""Versions of mixtures: look, check, compare, tag, collect, rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dataengine.api.common import Tell, conversions_at_hand, silent
from dataengine.engine.local import LocalEngine
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.mixture import described
from dataengine.mixture import diff as diffing
from dataengine.mixture import history as histories
from dataengine.mixture import rebuild as rebuilding
from dataengine.mixture import stale as staling
from dataengine.mixture.collect import Garbage, building, collect
from dataengine.mixture.rebuild import Rebuilt
from dataengine.mixture.store import MixtureStore, shard_name, split_address
from dataengine.provenance import audit as auditing
from dataengine.provenance import documents as documenting
from dataengine.verification import Asked, VerifyReport
from dataengine.verification import verify as verifying

PARALLEL_BYTES = 256 << 20


def open_mixture(address: str) -> tuple[MixtureStore, str]:
    """The store and the version that `M` or `M@V` names."""
    path, version = split_address(address)
    store = MixtureStore(path)
    return store, store.resolve(version)


def audit(address: str, *, shard: int | None = None, episode: str | None = None, drops: bool = False) -> dict[str, Any]:
    """What made a version (`M` or `M@V`), one of its shards, where an episode went, or everything that was dropped."""
    store, version = open_mixture(address)
    if drops:
        return auditing.drops(store, version)
    if shard is not None:
        return auditing.shard(store, version, shard)
    if episode is not None:
        return auditing.episode(store, version, episode)
    return auditing.overview(store, version)


def verify(
    address: str,
    tell: Tell = silent,
    *,
    read_data: bool = False,
    subset: float = 1.0,
    seed: int = 0,
    sources: Sequence[str] = (),
    lake: Path | None = None,
    workers: int | None = None,
) -> VerifyReport:
    """Check every byte of a mixture; with `M@V` only that version's chain beside the files themselves.

    Args:
        read_data: decode samples as the loader does, of every shard the share `subset` (at least one).
        seed: which of them.
        sources: raw files to hash again: `SOURCE=FOLDER`, `RECORD=FOLDER`, or a folder where there is one source.
        lake: computes the statistics again, and knows which raw files the episodes were read from.
        workers: processes; None: all cores for more than `PARALLEL_BYTES` of shards, else this process alone.
    """
    if not 0 < subset <= 1:
        raise SpecError(f"a subset of {subset:.3g} is no share", fix="give more than 0% and at most 100%")

    def engine(size: int) -> LocalEngine:
        return LocalEngine(1 if workers is None and size < PARALLEL_BYTES else workers)

    asked = Asked(subset if read_data else None, seed, tuple(sources), None if lake is None else Lake(lake))
    return verifying(address, engine, tell, asked)


def diff(first: str, second: str) -> dict[str, Any]:
    """What changed from one version to another."""
    one, a = open_mixture(first)
    two, b = open_mixture(second)
    return diffing.diff(one, a, two, b)


def mixtures(folder: Path) -> list[dict[str, Any]]:
    """The mixtures below a folder."""
    return histories.mixtures(folder)


def log(mixture: Path) -> list[dict[str, Any]]:
    """The versions of a mixture, the newest first."""
    return histories.log(MixtureStore(mixture))


def tag(address: str, name: str, *, move: bool = False) -> str:
    """Let a tag stand for a version; returns the version."""
    store, version = open_mixture(address)
    store.tag(name, version, move=move)
    return version


def tags(mixture: Path) -> dict[str, str]:
    """Versions of a mixture by tag."""
    return MixtureStore(mixture).tags()


def untag(mixture: Path, name: str) -> None:
    """Remove a tag."""
    MixtureStore(mixture).untag(name)


def gc(mixture: Path, *, delete: bool = False) -> Garbage:
    """What no version of a mixture needs; with `delete` it is removed."""
    return collect(MixtureStore(mixture), delete=delete)


def rebuild(address: str, shard: int, lake: Path, *, restore: bool = False) -> Rebuilt:
    """Make one shard of a version again from the lake, and compare it with the one that lies there.

    With `restore` an equal one replaces a shard or an index that is missing or damaged.
    """
    store, version = open_mixture(address)
    with ExitStack() as stack:
        if restore:
            stack.enter_context(building(store))
        return rebuilding.rebuild(store, version, shard, Lake(lake), restore=restore)


def documents(address: str, *, rewrite: bool = False) -> dict[str, Any]:
    """The documents of a version that others read, with their digests; those that are missing are written.

    With `rewrite` all are made anew, as this release words them; the version stays what it is.
    """
    store, version = open_mixture(address)
    sha, manifest = store.manifest(version)
    wrote = False
    if rewrite or not documenting.complete(store, manifest):
        with building(store):
            wrote = documenting.write(store, manifest, rewrite=rewrite)
    found = described.listed(store, sha) or {}
    names = {f"{store.documents(sha)}/{name}": digest for name, digest in sorted(found.items())}
    return {"version": version, "manifest": sha, "written": wrote, "documents": names}


def outdated(address: str, converters: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Which converters, cards, steps and encoders made a version, and which of them are others today.

    `converters` are files of converters that are not shipped; one that is nowhere at hand is `unknown`.
    """
    store, version = open_mixture(address)
    manifest = store.manifest(version)[1]
    used = {row["converter"] for row in (manifest.made or {}).get("conversions", ())}
    return staling.stale(manifest, conversions_at_hand(used, converters))


def urls(address: str, split: str | None = None) -> list[str]:
    """Absolute paths of a version's shards, for any WebDataset reader."""
    store, version = open_mixture(address)
    _, manifest = store.manifest(version)
    splits = sorted({shard.split for shard in manifest.shards})
    if split is not None and split not in splits:
        raise SpecError(f"version {version} has no split {split!r}", fix=f"its splits: {', '.join(splits)}")
    root = str(store.root.resolve()) if store.is_local else store.address
    return [f"{root}/{shard_name(s.sha256)}" for s in manifest.shards if split in (None, s.split)]
