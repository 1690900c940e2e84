"""The unified vector: 256 channels, one meaning per index (`schemas/unified.v1.yaml` is the only definition).

A slot is addressed by its name, with the side for paired body parts: `arm_joint.right`, `nav_yaw`, `native`.
Values are absolute and in SI units; relative, delta or normalized forms are chosen when training reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from dataengine.documents import Strict, load_yaml, spec_root, unknown_name
from dataengine.errors import SchemaError

WIDTH = 256
ActionKind = Literal["target", "command", "label", "none"]
PadKind = Literal["hold", "zero"]
ROT6D_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class _SlotRow(Strict):
    name: str
    right: tuple[int, int] | None = None
    left: tuple[int, int] | None = None
    span: tuple[int, int] | None = None
    unit: str
    state: bool
    action: ActionKind
    pad: PadKind
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_place(self) -> _SlotRow:
        if (self.span is None) == (self.right is None) or (self.right is None) != (self.left is None):
            raise ValueError("a slot has either `span`, or `right` and `left`")
        return self


class _SchemaFile(Strict):
    version: str
    width: int
    slots: tuple[_SlotRow, ...]
    reserved: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slot:
    """One slot on one side. `start:stop` are its channel indices; `names` its channels where they are named."""

    key: str
    group: str
    side: Literal["right", "left", ""]
    start: int
    stop: int
    unit: str
    state: bool
    action: ActionKind
    pad: PadKind
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        return self.stop - self.start

    @property
    def channels(self) -> NDArray[np.int16]:
        return np.arange(self.start, self.stop, dtype=np.int16)


@dataclass(frozen=True)
class Schema:
    """The slot table of one schema version; `digest` enters every conversion digest."""

    version: str
    width: int
    slots: tuple[Slot, ...]
    digest: str

    def slot(self, key: str) -> Slot:
        """The slot called `key`; an unknown name is a `SpecError` with the nearest one."""
        for slot in self.slots:
            if slot.key == key:
                return slot
        raise unknown_name("slot", key, (slot.key for slot in self.slots))

    def slot_at(self, channel: int) -> Slot:
        """The slot that holds a channel index."""
        for slot in self.slots:
            if slot.start <= channel < slot.stop:
                return slot
        raise SchemaError(f"channel {channel} is reserved or outside 0..{self.width - 1}")

    def slots_of(self, channels: Sequence[int] | NDArray[np.integer]) -> tuple[Slot, ...]:
        """The slots that a compact channel list touches, in index order."""
        present = {int(channel) for channel in channels}
        return tuple(slot for slot in self.slots if not present.isdisjoint(range(slot.start, slot.stop)))


@cache
def unified() -> Schema:
    """The unified schema, version 1; overlapping or missing ranges are a `SchemaError`."""
    path = spec_root("schemas") / "unified.v1.yaml"
    file = _SchemaFile.parse(load_yaml(path), str(path))
    slots: list[Slot] = []
    for row in file.slots:
        for side, span in (("right", row.right), ("left", row.left), ("", row.span)):
            if span is not None:
                key = f"{row.name}.{side}" if side else row.name
                slots.append(
                    Slot(key, row.name, side, *span, row.unit, row.state, row.action, row.pad, row.names)  # type: ignore[arg-type]
                )
    slots.sort(key=lambda slot: slot.start)
    covered = sorted([(slot.start, slot.stop) for slot in slots] + list(file.reserved))
    edges = [0, *(edge for span in covered for edge in span), file.width]
    if any(a != b for a, b in zip(edges[::2], edges[1::2], strict=True)):
        raise SchemaError("slots and reserved ranges do not tile the vector", where=str(path))
    return Schema(file.version, file.width, tuple(slots), file.digest())
