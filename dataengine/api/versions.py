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
from dataengine.provenance import documents as documenting
from dataengine.provenance import trace as tracing
from dataengine.provenance.ask import Question, ask
from dataengine.provenance.version import Version
from dataengine.verification import Asked, VerifyReport
from dataengine.verification import verify as verifying

PARALLEL_BYTES = 256 << 20


def open_mixture(address: str) -> tuple[MixtureStore, str]:
    """The store and the version that `M` or `M@V` names."""
    path, version = split_address(address)
    store = MixtureStore(path)
    return store, store.resolve(version)


def audit(
    address: str,
    *,
    shard: int | None = None,
    sample: str | None = None,
    episode: str | None = None,
    source: str | None = None,
    license: str | None = None,
    step: str | None = None,
    code: str | None = None,
    drops: bool = False,
    sql: str | None = None,
) -> dict[str, Any]:
    """What made a version (`M` or `M@V`): all of it, or what one question asks.

    Args:
        address: the mixture, and the version if it is not the latest.
        shard: what went into this shard.
        sample: which shard, episode, source and steps a sample's key leads to.
        episode: where an episode went (its uid, or the beginning of it).
        source: a source by its id, its converter or its name in the recipe.
        license: the sources and shards under a licence.
        step: where a step ran, with which parameters, and what it dropped.
        code: what a commit or a release built, of all versions.
        drops: everything that was dropped, and why.
        sql: one SELECT over the views that docs/audit.md describes: `columns` and `rows`.

    Raises:
        SpecError: two questions at once, an unknown name, or a query that cannot be asked.
    """
    asked = Question(shard, sample, episode, source, license, step, code, drops, sql)
    return ask(address, asked)


def trace(address: str, key: str, *, lake: Path | None = None, raw: Path | None = None) -> dict[str, Any]:
    """The chain from one sample to its source files and their digests, every link checked that is at hand.

    `lake` is the one that the version was built from, `raw` the folder or file that was ingested into it: its files are
    hashed again, and bytes that went through untouched are looked up. `problems` of the answer say what does not fit.
    """
    return tracing.trace(Version.open(address), key, None if lake is None else Lake(lake), raw)


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
