"""Versions whose shards hold normalized values (`normalization: {bake: ...}`), or another project's vectors
(`layout: ...`): what they are, and how they open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataengine.documents import unknown_name
from dataengine.errors import FormatError, SpecError
from dataengine.layouts import Layout, LayoutSpec
from dataengine.transforms.representation import REPRESENTATIONS

_UNBAKED = "open a version built with `normalization: {bake: null}`, whose shards hold physical units"


@dataclass(frozen=True)
class Baked:
    """The representation of a version's values, and the sha256 of the `normalization.json` that they were put through.

    None for that: the values are physical. `layout` is the one that the vectors are in, None for the unified one.
    """

    representation: str
    normalization: str | None
    layout: Layout | None = None

    @classmethod
    def of(cls, recipe: Mapping[str, Any], normalization_sha256: str) -> Baked | None:
        """What a version's resolved recipe says; None for shards in physical units of the unified vector.

        Raises:
            SpecError: the layout's project does not train on the representation, or the layout converts numbers,
                which are normalized before.
        """
        form, said = recipe.get("normalization", {}).get("bake"), recipe.get("layout")
        if said is None:
            return None if form is None else cls(form, normalization_sha256)
        layout = Layout(LayoutSpec.parse(said, "the recipe's layout"))
        if form is not None:
            _check_moves(layout, "leave out `bake`: the shards hold physical values in the layout then")
        return cls(layout.representation(form), None if form is None else normalization_sha256, layout)

    @cached_property
    def facts(self) -> dict[str, str]:
        """The entry `baked` in the JSON of every window."""
        found = {"representation": self.representation}
        if self.normalization is not None:
            found["normalization"] = self.normalization
        return found if self.layout is None else {**found, "layout": self.layout.label}

    def form(self, asked: str | None, layout: Layout | None, *, normalize: bool) -> str:
        """The representation to open with: always its own. Anything else is a `SpecError`."""
        if self.layout is not None:
            return self._form_in_layout(self.layout, asked, layout, normalize=normalize)
        if not normalize:
            raise SpecError(
                f"the shards hold values normalized in {self.representation!r}, and clipping lost the physical ones",
                fix=f"open it with normalize=True, or {_UNBAKED}",
            )
        if asked is not None and asked not in REPRESENTATIONS:
            raise unknown_name("representation", asked, REPRESENTATIONS)
        if asked not in (None, self.representation):
            raise SpecError(
                f"the shards hold values normalized in {self.representation!r}, not in {asked!r}",
                fix=f"open it with representation={self.representation!r}, or {_UNBAKED}",
            )
        if layout is None:
            return self.representation
        _check_moves(layout, f"{_UNBAKED}, with normalize=False")
        return layout.representation(self.representation)

    def _form_in_layout(self, own: Layout, asked: str | None, layout: Layout | None, *, normalize: bool) -> str:
        if layout is not None and layout.digest != own.digest:
            raise SpecError(
                f"the shards hold vectors of layout {own.label}, not of {layout.label}",
                fix="leave out layout=, or open a version built without `layout`",
            )
        if asked not in (None, self.representation):
            raise SpecError(
                f"the shards hold {self.representation!r} actions in layout {own.name}, not {asked!r} ones",
                fix=f"open it with representation={self.representation!r}, or a version built without `layout`",
            )
        if normalize != (self.normalization is not None):
            held = "physical" if normalize else "normalized"
            raise SpecError(
                f"the shards hold {held} values in layout {own.name}",
                fix=f"open it with normalize={not normalize}, or a version built without `layout`",
            )
        return self.representation


def _check_moves(layout: Layout, fix: str) -> None:
    """Normalized values may be moved to other columns; converted they would be of other statistics."""
    changed = layout.conversions()
    if changed:
        raise SpecError(
            f"layout {layout.name} converts numbers ({', '.join(changed[:3])}{', ...' if changed[3:] else ''}),"
            " and the shards hold normalized ones",
            fix=fix,
        )


def check_facts(facts: Mapping[str, Any], baked: Baked | None, where: str) -> None:
    """A window says of itself what its version does; another one is a `FormatError` `sample_damaged`."""
    expected = None if baked is None else baked.facts
    found = facts.get("baked")
    if found != expected:
        raise FormatError("sample_damaged", f"the sample is baked as {found}, its version as {expected}", where=where)
