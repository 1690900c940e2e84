"""The episodes of a catalogue as a plan takes them: what a build whose steps take nothing would plan with."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.catalogue import Catalogue, Kind
from dataengine.errors import SpecError
from dataengine.mixture.judge import JSON_BYTES
from dataengine.plan import SPLITS, Candidates, choose_split
from dataengine.shards.samples import estimated_frame_bytes
from dataengine.specs.recipe import Recipe, RecipeSource
from dataengine.weights import Offer

CHANNELS = 16  # of state and of action, where nobody says how many there are
_CELL = 5  # bytes of a value and its mask
_HEADERS = 4096  # of the two arrays of a sample


def taken(recipe: Recipe, catalogue: Catalogue) -> tuple[Candidates, NDArray[np.int64]]:
    """The episodes that the recipe takes, as a build whose steps take nothing would, and their rows."""
    chosen = np.array(choices(recipe, catalogue), np.int16)
    source = chosen[catalogue.kind]
    rows = np.flatnonzero((source >= 0) & (catalogue.steps > 0))
    source, kind = source[rows], catalogue.kind[rows]
    items = np.array([kind.item for kind in catalogue.kinds], np.bool_)
    strides = np.array([recipe.window_for(entry).stride for entry in recipe.sources], np.int32)[source]
    windows = np.where(items[kind], 1, -(-catalogue.steps[rows] // strides)).astype(np.int32)
    candidates = Candidates(
        uids=catalogue.uids if len(rows) == len(catalogue) else catalogue.uids[rows],
        source=source,
        split=_splits(recipe, catalogue, rows, source),
        windows=windows,
        sample_bytes=_sample_bytes(recipe, catalogue, rows, source),
        run_stops=np.zeros(len(rows), np.int64),
        runs=np.zeros((0, 3), np.int32),
        names=tuple(entry.entry for entry in recipe.sources),
    )
    return candidates, rows


def choices(recipe: Recipe, catalogue: Catalogue) -> list[int]:
    """The recipe's source that takes each data set, -1 for none."""
    found = [-1] * len(catalogue.kinds)
    for number, source in enumerate(recipe.sources):
        own = [place for place, kind in enumerate(catalogue.kinds) if _takes(source, kind)]
        if not own:
            known = ", ".join(sorted({kind.converter for kind in catalogue.kinds}))
            raise SpecError(
                f"the catalogue {catalogue.name} holds nothing for the source {source.entry!r}",
                fix=f"add it to the catalogue, which speaks of {known}",
            )
        for place in own:
            if found[place] >= 0:
                other = recipe.sources[found[place]].entry
                raise SpecError(
                    f"{catalogue.kinds[place].converter} is chosen by two sources: {other} and {source.entry}",
                    fix="let their selections differ in more than `where`, which a catalogue cannot answer",
                )
            found[place] = number
    return found


def _takes(source: RecipeSource, kind: Kind) -> bool:
    if source.select is None:
        return source.converter == kind.converter
    known = {
        "converters": (kind.converter,),
        "sources": (kind.source_id,),
        "families": (kind.family,),
        "embodiments": (kind.embodiment,),
        "control_modes": (kind.control_mode,),
        "licenses": (kind.license,),
        "tags": kind.tags,
    }
    return all(
        any(fnmatchcase(value, pattern) for value in values for pattern in wanted)
        for name, values in known.items()
        if (wanted := getattr(source.select, name))
    )


def _splits(
    recipe: Recipe, catalogue: Catalogue, rows: NDArray[np.int64], source: NDArray[np.int16]
) -> NDArray[np.int8]:
    """The split of each row: its source's, or by hash of its group (its uid, where it has none)."""
    valid, seed = recipe.split.valid, recipe.seed
    pinned = {name: split for split, names in recipe.split.pinned.items() for name in names}
    fixed = np.array([-1 if e.split == "hash" else SPLITS.index(e.split) for e in recipe.sources], np.int8)
    split = fixed[source]
    open_rows = np.flatnonzero(split < 0)
    named = [pinned.get(name) or choose_split(name, valid, seed) for name in catalogue.groups]
    by_group = np.array([SPLITS.index(name) for name in named] or [0], np.int8)
    group = catalogue.group[rows[open_rows]]
    split[open_rows] = by_group[np.maximum(group, 0)]
    lone = open_rows[group < 0]
    uids = (catalogue.uids[row].tobytes().hex() for row in rows[lone].tolist())
    drawn = (SPLITS.index(pinned.get(uid) or choose_split(uid, valid, seed)) for uid in uids)
    split[lone] = np.fromiter(drawn, np.int8, len(lone))
    return split


@dataclass(frozen=True)
class _Stream:
    """A view as sizes are estimated from: stored as JPEG, `size` bytes a frame."""

    height: int
    width: int
    size: int
    frames: int = 1
    kind: Literal["images", "video"] = "images"
    codec: str = "jpeg"


def _sample_bytes(
    recipe: Recipe, catalogue: Catalogue, rows: NDArray[np.int64], source: NDArray[np.int16]
) -> NDArray[np.int64]:
    """[n] bytes of one sample, estimated as a build does, all arrays of `CHANNELS` channels."""
    kind = catalogue.kind[rows]
    size = JSON_BYTES + catalogue.bytes[rows].astype(np.int64)
    for place, found in enumerate(catalogue.kinds):
        own = np.flatnonzero(kind == place)
        if found.item or not len(own):
            continue
        entry = recipe.sources[int(source[own[0]])]
        window = recipe.window_for(entry)
        images = float(catalogue.bytes[rows[own]].mean())
        whole = sum(height * width for height, width in found.views.values()) or 1
        frame = 0.0
        for name, (height, width) in found.views.items():
            stored = round(images * height * width / whole) if images else height * width // 4
            frame += estimated_frame_bytes(recipe.images_for(entry), [name], _Stream(height, width, stored))
        horizon = window.chunk.horizon(float(catalogue.hz[rows[own[0]]]))
        arrays = (window.history + horizon) * CHANNELS * _CELL + _HEADERS
        size[own] = round(JSON_BYTES + frame * window.history + arrays)
    return size


def offers(recipe: Recipe, catalogue: Catalogue, candidates: Candidates, rows: NDArray[np.int64]) -> dict[str, Offer]:
    """What the episodes of each source amount to."""
    items = np.array([kind.item for kind in catalogue.kinds], np.bool_)[catalogue.kind[rows]]
    steps = np.where(items, 1, catalogue.steps[rows]).astype(np.int64)
    rate = catalogue.hz[rows]
    seconds = np.divide(steps, rate, out=np.zeros(len(rows)), where=(rate > 0) & ~items)
    size, total = candidates.sample_bytes, len(recipe.sources)
    sums = {
        name: np.bincount(candidates.source, weights=values, minlength=total).tolist()
        for name, values in (
            ("samples", candidates.offered),
            ("frames", steps),
            ("seconds", seconds),
            ("bytes", candidates.offered * size),
            ("items", items),
        )
    }
    episodes = np.bincount(candidates.source, minlength=total).tolist()
    return {
        source.entry: Offer(
            samples=int(sums["samples"][number]),
            episodes=episodes[number],
            frames=int(sums["frames"][number]),
            seconds=sums["seconds"][number],
            items=sums["items"][number] == episodes[number] > 0,
            bytes=int(sums["bytes"][number]),
        )
        for number, source in enumerate(recipe.sources)
    }
