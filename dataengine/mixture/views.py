"""The views that a recipe's `images` name: each must be one that a source of the recipe has."""

from __future__ import annotations

import numpy as np

from dataengine.documents import unknown_name
from dataengine.mixture.select import Inputs
from dataengine.specs.recipe import Recipe

EPISODES = 64  # of a conversion, whose episodes have the views that its converter says


def check_views(recipe: Recipe, inputs: Inputs) -> None:
    """A view that none of the sources which these images are of has is a `SpecError`, which names those there are."""
    common = recipe.images.names()
    if not common and all(source.images is None for source in recipe.sources):
        return
    shared: set[str] = set()
    for number, source in enumerate(recipe.sources):
        there = _views(inputs, number)
        for name in sorted(source.images.names() - there) if source.images is not None else ():
            raise unknown_name(f"view of {source.entry}", name, there)
        shared |= there if source.images is None else set()
    for name in sorted(common - shared):
        raise unknown_name("view", name, shared)


def _views(inputs: Inputs, entry: int) -> set[str]:
    roster, found = inputs.heads, set()
    own = np.flatnonzero(roster.usable & (roster.entry == entry))
    for kind in np.unique(roster.kind[own]).tolist():
        uids = [roster.uid(row) for row in own[roster.kind[own] == kind][:EPISODES].tolist()]
        reader = inputs.lake.reader(uids, inputs.snapshot)
        found |= {view.name for uid in uids for view in reader.episode(uid, media=False).views}
    return found
