"""Forget and purge, and the care of a lake."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataengine.api.building import build
from dataengine.api.common import Tell, silent
from dataengine.errors import SpecError
from dataengine.lake import Lake
from dataengine.lake import forget as forgetting
from dataengine.lake.care import GRACE_SECONDS, LakeGarbage, collect
from dataengine.lake.forget import Asked, Buried
from dataengine.mixture import purge as purging
from dataengine.mixture.collect import LEASES
from dataengine.mixture.purge import Purge
from dataengine.mixture.select import vacant
from dataengine.mixture.store import MixtureStore
from dataengine.specs.recipe import Recipe
from dataengine.storage.leases import wait_for

_UID = re.compile(r"^[0-9a-f]{64}$")


@dataclass
class NewVersion:
    """What became of one mixture: `version` is its latest now, `before` what it was before, and `held` whether that one
    held what is forgotten. `left_out` are sources of its recipe of which nothing is left. `note` says why no version
    could be built."""

    address: str
    before: str
    version: str
    held: bool
    tasks: int = 0
    tasks_executed: int = 0
    tasks_cached: int = 0
    note: str = ""
    left_out: list[str] = field(default_factory=list)


@dataclass
class Forgotten:
    """What `forget` did, in the lake and in each mixture."""

    lake: Buried
    mixtures: list[NewVersion] = field(default_factory=list)


def forget(
    lake: Path,
    *,
    reason: str,
    source: str | None = None,
    episodes: Sequence[str] = (),
    mixtures: Sequence[Path] = (),
    dry_run: bool = False,
    workers: int | None = None,
    wait_seconds: float = 600.0,
    tell: Tell = silent,
) -> Forgotten:
    """Hide a source, or episodes (uids, or files with one a line), and build each mixture anew without them.

    The lake takes them in no more. Running it again goes on where it was interrupted. What is hidden lies in the lake
    and in old versions until `purge`.
    """
    if not reason.strip():
        raise SpecError("a tombstone needs a reason", fix='--reason "consent withdrawn"')
    asked = _asked(source, episodes)
    opened = Lake(lake)
    stores = [MixtureStore(path) for path in mixtures]
    buried = forgetting.forget(opened, asked, reason.strip(), dry_run=dry_run, wait_seconds=wait_seconds)
    result = Forgotten(buried)
    for store in stores:
        if not dry_run:  # a build that chose its episodes before may still commit
            wait_for(store, LEASES, "build", "a build", wait_seconds=wait_seconds)
        result.mixtures.append(_without(store, opened, asked, dry_run=dry_run, workers=workers, tell=tell))
    return result


def _asked(source: str | None, episodes: Sequence[str]) -> Asked:
    if (source is None) == (not episodes):
        raise SpecError("name a source or episodes, one of them", fix="--source ID, or --episode UID (or a file)")
    uids = []
    for entry in episodes:
        listed = Path(entry).read_text().split() if not _UID.match(entry) and Path(entry).is_file() else [entry]
        uids += listed
    wrong = [uid for uid in uids if not _UID.match(uid)]
    if wrong or (source is None and not uids):
        told = f"{wrong[0][:80]!r} is no uid" if wrong else "the list is empty"
        raise SpecError(told, fix="a uid has 64 hexadecimal digits; `dataengine audit M --episode UID` prints it whole")
    return Asked(source or "", tuple(dict.fromkeys(uids)))


def _without(
    store: MixtureStore, lake: Lake, asked: Asked, *, dry_run: bool, workers: int | None, tell: Tell
) -> NewVersion:
    """A new version by the latest one's recipe, if that holds what is forgotten."""
    latest = store.latest()
    if latest is None:
        raise SpecError("the mixture has no latest version to build anew", where=store.address, fix="build one first")
    hidden = forgetting.future(lake, asked) if dry_run else lake.tombstones()
    held = latest in purging.holding(store, hidden)
    if dry_run or not held:
        return NewVersion(store.address, latest, latest, held)
    recipe = _unpinned(Recipe.parse(dict(store.manifest(latest)[1].recipe), f"{latest} in {store.address}"), lake)
    try:
        gone = vacant(recipe, lake)
        if gone and len(gone) == len(recipe.sources):
            return NewVersion(store.address, latest, latest, held, note="nothing of its sources is left")
        recipe = _narrowed(recipe, gone) if gone else recipe
        report = build(recipe, Path(lake.path), Path(store.address), workers=workers, tell=tell).report
    except SpecError as error:  # the other mixtures are to be built all the same
        return NewVersion(store.address, latest, latest, held, note=error.what)
    counts = report.tasks, report.tasks_executed, report.tasks_cached
    return NewVersion(store.address, latest, report.version, held, *counts, left_out=gone)


def _narrowed(recipe: Recipe, gone: Sequence[str]) -> Recipe:
    """The recipe without these sources, in its groups and stages too."""
    out = set(gone)
    mix = recipe.mix.canonical()
    mix["groups"] = _groups_without(mix["groups"], out)
    for stage in mix["stages"]:
        stage["groups"] = _groups_without(stage["groups"], out)
        stage["weights"] = {name: weight for name, weight in stage["weights"].items() if name not in out}
    document = recipe.canonical()
    sources = [
        listed for source, listed in zip(recipe.sources, document["sources"], strict=True) if source.entry not in out
    ]
    return Recipe.parse({**document, "sources": sources, "mix": mix}, recipe.name)


def _groups_without(groups: Sequence[Mapping[str, Any]], out: set[str]) -> list[dict[str, Any]]:
    found = []
    for group in groups:
        sources = [name for name in group["sources"] if name not in out]
        inner = _groups_without(group["groups"], out)
        if sources or inner:
            found.append({**group, "sources": sources, "groups": inner})
    return found


def _unpinned(recipe: Recipe, lake: Lake) -> Recipe:
    """The recipe without pinned names (uids, upstream ids, groups) that only hidden rows have."""
    if not recipe.split.pinned:
        return recipe
    gone = {name for head in lake.hidden() for name in (head.uid, head.upstream_id, head.group)}
    for heads in lake.head_batches():
        gone -= {name for head in heads for name in (head.uid, head.upstream_id, head.group)}
    pinned = {split: tuple(n for n in names if n not in gone) for split, names in recipe.split.pinned.items()}
    return recipe.model_copy(update={"split": recipe.split.model_copy(update={"pinned": pinned})})


def purge(lake: Path, *, mixtures: Sequence[Path] = (), delete: bool = False, drop_tags: bool = False) -> Purge:
    """Remove what was forgotten from the lake and from these mixtures for good, then search every file of them.

    Without `delete` nothing is touched. A find is in the result's `finds`, never an exception.
    """
    return purging.purge(Lake(lake), [MixtureStore(path) for path in mixtures], delete=delete, drop_tags=drop_tags)


def lake_gc(
    lake: Path, *, delete: bool = False, grace_seconds: float = GRACE_SECONDS, release: Sequence[str] = ()
) -> LakeGarbage:
    """What of a lake nothing needs: unreferenced media, small fragments, old versions; with `delete` it is removed.

    Versions that are kept for mixtures stay, but for those named in `release`, because their mixtures are gone.
    """
    opened = Lake(lake)
    unknown = sorted(set(release) - opened.kept().keys())
    if unknown:
        raise SpecError(f"no version is kept as {unknown[0]!r}", fix="`dataengine lake gc LAKE` lists the names")
    for name in release:
        opened.release(name)
    return collect(opened, delete=delete, grace_seconds=grace_seconds)


def lake_kept(lake: Path) -> list[dict[str, Any]]:
    """The versions of a lake that are kept for mixtures, by name."""
    kept = Lake(lake).kept().items()
    return [{"name": name, "episodes": taken.episodes, "media": taken.media} for name, taken in kept]
