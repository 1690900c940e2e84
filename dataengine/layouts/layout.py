"""Layouts: batches in the vectors that other training code takes, and back.

    layout = Layout.load("openpi_libero")
    values, mask = layout.to_layout("action", unified_values, unified_mask)      # [..., 256] to [..., K]
    unified_values, unified_mask = layout.from_layout("action", values, mask)    # and back

Lossless where both sides have the channel; what the layout has no place for, and what a source does not have, is
masked. Nothing is invented: a masked value is 0 in the layout, and the schema's filler in the unified vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import find_spec, load_yaml, spec_files
from dataengine.errors import SchemaError, SpecError
from dataengine.layouts.parts import Bound, Difference, Native, Part, compiled, filler
from dataengine.layouts.spec import SIDES, LayoutSpec, Representation, Side, SideSpec
from dataengine.schema import WIDTH, unified

KIND = "schemas/layouts"
Values = NDArray[Any]
Bools = NDArray[np.bool_]
Columns = NDArray[np.intp]
State = tuple[Values, Bools]


@dataclass(frozen=True)
class Holds:
    """What a source has on one side, as a sample's facts say: needed by `native` entries and by front packing.

    Attributes:
        channels: its unified channels, rising.
        native_units: the unit of each of its native channels on this side, `{240: "norm01", ...}`.
    """

    channels: tuple[int, ...] = ()
    native_units: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any], side: Side) -> Holds:
        """From a sample's JSON."""
        named = {name: unit for name, unit in facts["native_units"].items() if name.startswith(f"{side}/")}
        units = {int(name.partition("/")[2]): unit for name, unit in named.items()}
        return cls(tuple(facts["channels"][side]), units)


@dataclass(frozen=True)
class Layout:
    """A layout, ready to use; picklable. Made by `Layout.load` or `Layout.of`."""

    spec: LayoutSpec
    _parts: dict[Side, tuple[Part, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sides: tuple[tuple[Side, SideSpec], ...] = (("state", self.spec.state), ("action", self.spec.action))
        object.__setattr__(self, "_parts", {side: compiled(spec) for side, spec in sides})

    @classmethod
    def load(cls, name: str) -> Layout:
        """A shipped layout by name, or one from a YAML file; mistakes are a `SpecError`."""
        path = find_spec(KIND, name)
        return cls(LayoutSpec.parse(load_yaml(path), str(path)))

    @staticmethod
    def names() -> list[str]:
        """The shipped layouts."""
        return sorted(spec_files(KIND))

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def digest(self) -> str:
        """Changes with anything that the layout says."""
        return self.spec.digest()

    @property
    def label(self) -> str:
        """The name and the first characters of the digest."""
        return f"{self.name}@{self.digest[:12]}"

    def width(self, side: Side) -> int:
        """K, the number of columns of a side."""
        return self.spec_of(side).width

    def representation(self, asked: str | None) -> Representation:
        """The representation to train on: the asked one if the project knows it, else its first."""
        for known in self.spec.representations:
            if asked in (None, known):
                return known
        raise SpecError(
            f"layout {self.name} is not used with {asked!r} actions",
            fix=f"{self.spec.project} takes: {', '.join(self.spec.representations)}",
        )

    def conversions(self) -> list[str]:
        """Where numbers change on the way (`action gripper.right`): statistics of unified channels are of others."""
        return [f"{side} {part.slots}" for side in SIDES for part in self._parts[side] if part.converts]

    def to_layout(
        self, side: Side, values: Values, mask: Bools, holds: Holds | None = None, now: State | None = None
    ) -> tuple[Values, Bools]:
        """Unified values in the layout.

        Args:
            side: `state` or `action`.
            values: [..., 256], in any representation.
            mask: [..., 256].
            holds: what the source has; needed for native channels, and for a layout that packs to the front.
            now: the physical state at t0 [..., 1, 256] with its mask; needed for entries with `difference`.

        Returns:
            values [..., K] of the same dtype, mask [..., K]. A rotation is valid where all its channels are.

        Raises:
            EpisodeError: `bad_rotation`, a valid rotation is degenerate.
            SpecError: the source's channels do not fit the layout.
        """
        self._check(values, mask, WIDTH)
        if self.spec.packing != "columns":
            columns, channels = self._packed(side, holds)
            return self._moved(values, mask, channels, columns, self.width(side))
        work = values.astype(np.float64)
        result = np.zeros((*values.shape[:-1], self.width(side)))
        valid = np.zeros(result.shape, np.bool_)
        for part in self._bound(side, holds, now):
            made, known = part.forward(work, mask, _exact(now))
            free = known & ~valid[..., part.columns]
            result[..., part.columns] = np.where(free, made, result[..., part.columns])
            valid[..., part.columns] |= known
        return result.astype(values.dtype), valid

    def from_layout(
        self,
        side: Side,
        values: Values,
        mask: Bools | None = None,
        holds: Holds | None = None,
        now: State | None = None,
    ) -> tuple[Values, Bools]:
        """A layout's values in the unified vector: the inverse of `to_layout`, same arguments and errors.

        A model's answer may be passed: without a mask all columns are valid; one that makes no rotation is masked.

        Returns:
            values [..., 256], mask [..., 256]. Masked: 0, rot6d the identity.
        """
        mask = np.ones(values.shape, np.bool_) if mask is None else mask
        self._check(values, mask, self.width(side))
        if self.spec.packing != "columns":
            columns, channels = self._packed(side, holds)
            back, known = self._moved(values, mask, columns, channels, WIDTH)
            return np.where(known, back, filler().astype(values.dtype)), known
        work = values.astype(np.float64)
        result = np.broadcast_to(filler(), (*values.shape[:-1], WIDTH)).copy()
        valid = np.zeros(result.shape, np.bool_)
        for part in self._bound(side, holds, now):
            made, known = part.backward(work, mask, _exact(now))
            channels = part.channels
            result[..., channels] = np.where(known, made, filler()[channels])
            valid[..., channels] = known
        return result.astype(values.dtype), valid

    def fill_padding(self, values: Values, mask: Bools, is_pad: Bools, holds: Holds | None = None) -> Values:
        """Rows past the episode's end as the project fills them; they stay masked.

        Args:
            values: [n, H, K] actions in the layout.
            mask: [n, H, K].
            is_pad: [n, H]; padding stands at the end.
        """
        rule = self.spec.padding
        if rule == "zero" or not is_pad.any():
            return values
        steps = np.arange(values.shape[1])[:, None]
        last = np.where(mask, steps, -1).max(axis=1, keepdims=True)  # of each column the last valid row
        kept = np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=1), 0)
        if rule == "by_slot":
            kept = np.where(self._holding(holds), kept, 0)
        return np.where(is_pad[..., None], kept, values).astype(values.dtype)

    def _holding(self, holds: Holds | None) -> Bools:
        """Which columns of the action hold their last value: all but commands."""
        keep = np.ones(self.width("action"), np.bool_)
        for part in self._bound("action", holds, differences=True):
            if isinstance(part, Difference) or all(
                unified().slot_at(int(channel)).action == "command" for channel in part.channels
            ):
                keep[part.columns] = False
        return keep

    def parts(self, side: Side) -> tuple[Part, ...]:
        """What fills the columns of a side, in order of preference."""
        self.spec_of(side)
        return self._parts[side]

    def spec_of(self, side: Side) -> SideSpec:
        """What the file says of a side."""
        if side not in SIDES:
            raise SchemaError(f"a side is `state` or `action`, not {side!r}")
        return self.spec.state if side == "state" else self.spec.action

    @staticmethod
    def _check(values: Values, mask: Bools, width: int) -> None:
        if values.shape != mask.shape or values.shape[-1:] != (width,):
            raise SchemaError(f"values are [..., {width}] with a mask, not {values.shape} and {mask.shape}")

    def _bound(
        self, side: Side, holds: Holds | None, now: State | None = None, *, differences: bool = False
    ) -> list[Bound | Difference]:
        """The parts that apply: native ones where the source has channels of their unit, differences with a state."""
        units = holds.native_units if holds is not None else {}
        bound = [part.bound(units) if isinstance(part, Native) else part for part in self.parts(side)]
        against = now is not None or differences
        return [part for part in bound if part is not None and (against or not isinstance(part, Difference))]

    def _packed(self, side: Side, holds: Holds | None) -> tuple[Columns, Columns]:
        """(columns, channels) of a layout that is no list of entries."""
        width = self.width(side)
        if self.spec.packing == "unified":
            return np.arange(width), np.arange(width)
        if holds is None:
            raise SpecError(f"layout {self.name} packs the channels that a source has", fix="pass `holds`")
        if len(holds.channels) > width:
            raise SpecError(
                f"the source has {len(holds.channels)} channels, layout {self.name} holds {width}",
                fix="give a layout file with a wider `width`",
            )
        return np.arange(len(holds.channels)), np.array(holds.channels, np.intp)

    @staticmethod
    def _moved(values: Values, mask: Bools, source: Columns, target: Columns, width: int) -> tuple[Values, Bools]:
        result = np.zeros((*values.shape[:-1], width), values.dtype)
        valid = np.zeros(result.shape, np.bool_)
        result[..., target] = np.where(mask[..., source], values[..., source], 0)
        valid[..., target] = mask[..., source]
        return result, valid


def _exact(now: State | None) -> tuple[NDArray[np.float64], Bools] | None:
    return None if now is None else (np.asarray(now[0], np.float64), np.asarray(now[1], np.bool_))
