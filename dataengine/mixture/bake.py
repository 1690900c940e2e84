"""Bake: normalized values in place of physical ones (`normalization: {bake: ...}`), and the vectors and image names
of another project in place of our own (`layout: ...`), in the windows of a build.

The loader's own reading and codec make them, so a baked version gives the batches that the unbaked one gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from dataengine.documents import canonical_json, sha256_bytes
from dataengine.errors import EpisodeError, SpecError, StorageError
from dataengine.loader.arrays import COSINES, Form, Window, stacked, window_of
from dataengine.loader.baked import Baked
from dataengine.loader.codec import Codec, make_codec, wide
from dataengine.loader.decode import parse_facts, placed
from dataengine.loader.layouts import Target
from dataengine.loader.shards import IMAGES, RawSample
from dataengine.shards.npy import npy
from dataengine.shards.tar import Sample
from dataengine.specs.recipe import Recipe

BAKE_VERSION = 1


def bake_digest(recipe: Recipe, normalization: bytes) -> dict[str, Any]:
    """What baking adds to a shard task's digest; empty for a recipe that bakes nothing.

    Normalized values have the digest of the whole `normalization.json`: a changed population rewrites every shard.
    """
    mark = _mark(recipe, normalization)
    if mark is None:
        return {}
    layout = {} if mark.layout is None else {"layout": mark.layout.digest}
    return {"baked": {**mark.facts, **layout, "version": BAKE_VERSION, "scipy": version("scipy")}}


def _mark(recipe: Recipe, normalization: bytes) -> Baked | None:
    said = {"normalization": {"bake": recipe.normalization.bake}}
    if recipe.layout is not None:
        said["layout"] = recipe.layout.canonical()
    return Baked.of(said, sha256_bytes(normalization))


@dataclass(frozen=True)
class Baker:
    """Normalizes the windows of a build, and puts them in a layout; `history` is how many rows a state has there."""

    mark: Baked
    codec: Codec
    history: int = 1

    @classmethod
    def of(cls, recipe: Recipe, normalization: bytes) -> Baker | None:
        """With a version's `normalization.json`; None for a recipe that bakes nothing.

        Raises:
            SpecError: as `make_codec` and `Baked.of`, or normalization makes what the layout has no place for.
        """
        mark = _mark(recipe, normalization)
        if mark is None:
            return None
        document = orjson.loads(normalization) if mark.normalization is not None else None
        if document is not None and mark.layout is not None and b'"sincos"' in normalization:
            raise SpecError(
                f"layout {mark.layout.name} has no place for the cosines of angles normalized by `sincos`",
                fix="choose another method in `normalization`, or leave out `bake`",
            )
        return cls(mark, make_codec(mark.representation, document), recipe.window_for(recipe.sources[0]).history)

    def baked(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples in their order; items as they are.

        Raises:
            SpecError: a window has values without statistics, which only the train split gives.
            StorageError: an unmasked rotation is none.
        """
        result = list(samples)
        groups: dict[Form, list[Window]] = {}
        for place, sample in enumerate(samples):
            raw = RawSample("sample", sample.key, dict(sample.members))
            facts = parse_facts(raw)
            if facts["kind"] == "window":
                layout = self.codec.layout(facts, raw.where)
                form, window = window_of(place, raw, facts, layout, baked=False)
                groups.setdefault(form, []).append(window)
        for form, windows in groups.items():
            made = self._members if self.mark.layout is None else self._in_layout
            for window, members in zip(windows, made(form, windows), strict=True):
                facts = {**window.facts, "baked": self.mark.facts}
                kept = {name: data for name, data in window.raw.members.items() if name != "json"}
                if self.mark.layout is not None:
                    kept, facts["views"] = _renamed(Target(self.mark.layout), kept, window.facts["views"])
                ordered = sorted({**kept, **members}.items())
                result[window.place] = Sample(window.raw.key, (("json", canonical_json(facts)), *ordered))
        return result

    def _in_layout(self, form: Form, windows: Sequence[Window]) -> list[dict[str, bytes]]:
        """All arrays of each window: vectors of one shape whatever the source, and the unified state at t0."""
        found = stacked(form, windows)
        try:
            ready = self.codec.forward(form.layout, found.numbers)
            (state, state_mask), (action, action_mask) = placed(
                None if self.mark.layout is None else Target(self.mark.layout),
                form.layout, ready, windows[0].facts, found.is_pad,
            )  # fmt: skip
        except EpisodeError as error:
            raise self._unfit(error, windows) from None
        if not form.layout.state.size:  # no state at all: as many masked rows as others have
            state, state_mask = np.repeat(state, self.history, axis=1), np.repeat(state_mask, self.history, axis=1)
        arrays = {
            "state": state,
            "state_mask": state_mask,
            "action": action,
            "action_mask": action_mask,
            "is_pad": found.is_pad,
            "present": wide(found.present, form.layout.state_runs),
            "present_mask": wide(found.numbers.state_mask[:, -1], form.layout.state_runs),
        }
        return _rows(arrays, len(windows))

    def _members(self, form: Form, windows: Sequence[Window]) -> list[dict[str, bytes]]:
        """The members of each window that are other than before, or new."""
        found = stacked(form, windows)
        try:
            ready = self.codec.forward(form.layout, found.numbers)
        except EpisodeError as error:
            raise self._unfit(error, windows) from None
        arrays: dict[str, Any] = {}
        if form.layout.state.size:
            arrays |= {"state": ready.state, "state_mask": ready.state_mask, "present": found.present}
        if form.layout.action.size:
            arrays |= {"action": ready.action, "action_mask": ready.action_mask}
        arrays |= {name: cosine for name in COSINES if (cosine := getattr(ready, name)) is not None}
        return _rows(arrays, len(windows))

    def _unfit(self, error: EpisodeError, windows: Sequence[Window]) -> StorageError:
        return StorageError(
            f"values cannot be put in {self.mark.representation!r}: {error.what}",
            where=f"one of the windows {windows[0].raw.key} .. {windows[-1].raw.key}",
            fix="drop the episode with a step, or build with `bake: absolute`",
        )


def _renamed(
    target: Target, members: Mapping[str, bytes], views: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The images of a window by the layout's names, and the facts of their views, which tell that name."""
    extensions = {name.rpartition(".")[0]: name for name in members if name.endswith(IMAGES)}
    named = target.images(extensions)
    stored = {
        f"{shown}.{extensions[name].rpartition('.')[2]}": members[extensions[name]] for name, shown in named.items()
    }
    return stored, {name: {**facts, "image": named[name]} for name, facts in views.items() if name in named}


def _rows(arrays: Mapping[str, Any], count: int) -> list[dict[str, bytes]]:
    """The members of each of `count` windows."""
    return [{f"{name}.npy": npy(_stored(array[row])) for name, array in arrays.items()} for row in range(count)]


def _stored(array: Any) -> Any:
    return array.astype(np.uint8) if array.dtype == np.bool_ else array
