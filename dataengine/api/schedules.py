"""The schedule of a version for other readers than the loader, and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.api.versions import open_mixture
from dataengine.errors import SpecError
from dataengine.loader import open_mixture as open_dataset
from dataengine.loader.baked import Baked
from dataengine.loader.mixing import MixOrder
from dataengine.loader.order import Order
from dataengine.loader.repeats import repeats
from dataengine.mixture.store import shard_name
from dataengine.schedule import MixSchedule
from dataengine.shuffle import Integers

_Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RepeatedUrls:
    """Shards to read in an epoch, repeated; and by source its share of the samples, wanted and met."""

    urls: list[str]
    shares: dict[str, tuple[float, float]]


def repeated_urls(address: str, *, seed: int = 0, epoch: int = 0) -> RepeatedUrls:
    """Absolute paths of a scheduled version's train shards, each as often as its source is drawn (see `repeats`).

    Raises:
        SpecError: the version is not scheduled, or holds segments, which only the loader cuts into windows.
    """
    store, version = open_mixture(address)
    _, manifest = store.manifest(version)
    if manifest.schedule is None:
        what = f"version {version} has no schedule: every shard holds the mixture"
        raise SpecError(what, fix="leave out --repeat, or build it with `mix: {mode: scheduled}`")
    if manifest.recipe.get("samples", {}).get("kind") == "episode":
        what = f"the shards of version {version} hold segments, and its schedule draws windows of them"
        raise SpecError(what, fix="read it with the loader, or build it with `samples: {kind: window}`")
    root = str(store.root.resolve()) if store.is_local else store.address
    own: dict[str, list[int]] = {}
    names: dict[str, list[str]] = {}
    for shard in manifest.shards:
        if shard.split == "train":
            own.setdefault(shard.source, []).append(shard.samples)
            names.setdefault(shard.source, []).append(f"{root}/{shard_name(shard.sha256)}")
    sizes = {name: sum(own[name]) for name in sorted(own)}
    found = repeats(MixSchedule.of(manifest.schedule, sizes, seed), own, epoch)
    return RepeatedUrls([names[source][at] for source, at in found.shards], found.shares)


def schedule(
    address: str, *, seed: int = 0, epoch: int = 0, start: int = 0, count: int = 20, stage: str | None = None
) -> dict[str, Any]:
    """What an epoch of a version's train split reads: its stages with each source's draws, and `count` draws.

    A draw is (draw, stage, source, sample, shard, key), `sample` its number in the source. A version without a
    schedule has one stage without a name, and every sample once.

    Raises:
        SpecError: no such version or stage, or a negative number.
    """
    if min(epoch, start, count) < 0:
        raise SpecError("--epoch, --start and --count are not negative", fix="give 0 or more")
    store, version = open_mixture(address)
    _, manifest = store.manifest(version)
    baked = Baked.of(manifest.recipe, manifest.normalization_sha256)
    normalized = baked is not None and baked.normalization is not None
    data = open_dataset(f"{store.address}@{version}", normalize=normalized, stage=stage)
    order = data.order(seed, epoch)
    numbers = np.arange(min(start, len(order)), min(start + count, len(order)))
    stages, rows = _plain(order, numbers)
    if isinstance(order, MixOrder):
        stages, rows = _drawn(order.schedule, numbers, epoch)
    for row, (shard, key) in zip(rows, data.located(order.take(numbers).tolist()), strict=True):
        row |= {"shard": shard, "key": key}
    told = {"mixture": data.identity.mixture, "version": data.identity.version, "seed": seed, "epoch": epoch}
    return {**told, "draws_per_epoch": len(order), "stages": stages, "draws": rows}


def _plain(order: Order, numbers: Integers) -> tuple[_Rows, _Rows]:
    samples = zip(numbers.tolist(), order.take(numbers).tolist(), strict=True)
    rows: _Rows = [{"draw": number, "stage": "", "source": "", "sample": sample} for number, sample in samples]
    return [{"name": "", "draws": len(order), "sources": {"": len(order)}}], rows


def _drawn(schedule: MixSchedule, numbers: Integers, epoch: int) -> tuple[_Rows, _Rows]:
    names = [name for name, _ in schedule.sources]
    edges = np.cumsum([draws for _, draws, _ in schedule.stages])
    owner = np.searchsorted(edges, numbers, side="right").tolist()
    drawn = schedule.take(numbers, epoch)
    found = zip(numbers.tolist(), owner, drawn.sources.tolist(), drawn.samples.tolist(), strict=True)
    rows: _Rows = [
        {"draw": number, "stage": schedule.stages[stage][0], "source": names[source], "sample": sample}
        for number, stage, source, sample in found
    ]
    stages: _Rows = [
        {"name": name, "draws": draws, "sources": dict(zip(names, counts, strict=True))}
        for (name, draws, _), counts in zip(schedule.stages, schedule.counts.tolist(), strict=True)
    ]
    return stages, rows
