"""Apply `normalization.json` and undo it; all rules stand in the document, see `dataengine.normalization.scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import SchemaError, SpecError
from dataengine.normalization.scaling import DOCUMENT_VERSION
from dataengine.schema import ROT6D_IDENTITY, WIDTH, unified

Values = NDArray[Any]  # float32 or float64, kept as it came


@cache
def _filler() -> NDArray[np.float64]:
    filler = np.zeros(WIDTH)
    for slot in unified().slots:
        if slot.unit == "rot6d":
            filler[slot.start : slot.stop] = ROT6D_IDENTITY
    return filler


@dataclass(frozen=True)
class _Table:
    """By channel: a value `a` becomes `(a - centre) / half`, clipped. half 0: constant; NaN: no statistics."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    clip: NDArray[np.float64]

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.half)

    @cached_property
    def complete(self) -> bool:
        return bool(self.known.all())

    @cached_property
    def divisor(self) -> NDArray[np.float64]:
        """Constants are divided by infinity: forward gives 0."""
        return np.where(self.half > 0, self.half, np.inf)


class Normalizer:
    """Forward and inverse maps of one `normalization.json`."""

    def __init__(self, groups: Mapping[str, Mapping[str, Mapping[str, _Table]]]) -> None:
        self._groups = groups
        self._picked: dict[tuple[object, ...], _Table] = {}  # few layouts, asked for again with every batch

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Normalizer:
        """Read the document of `Statistics.document`; one of another version or schema is a `SpecError`."""
        found = document.get("normalization"), document.get("schema")
        if found != (DOCUMENT_VERSION, unified().version):
            raise SpecError(
                f"normalization version {found[0]} of schema {found[1]}, not {DOCUMENT_VERSION} of {unified().version}",
                where="normalization.json",
                fix="build the mixture with this version of dataengine",
            )
        groups = {
            key: {
                side: {form: _table(entries) for form, entries in group[side].items()} for side in ("state", "action")
            }
            for key, group in document["groups"].items()
        }
        return cls(groups)

    def forward(
        self,
        key_parts: tuple[str, str, str],
        side: str,
        representation: str,
        values: Values,
        channels: NDArray[np.int16],
        mask: NDArray[np.bool_],
    ) -> Values:
        """Physical values to normalized ones.

        Args:
            key_parts: embodiment, control mode, converter (asked only for native channels).
            side: `state` or `action`.
            representation: what `values` are in; the state is always `absolute`.
            values: [..., c] physical values.
            channels: [c] channel indices.
            mask: [..., c]; masked values become 0.

        Returns:
            [..., c] of the same dtype, within +-clip.

        Raises:
            SpecError: the document holds no statistics for this; it says what it holds.
        """
        table = self._pick(key_parts, side, representation, channels)
        self._check_known(table, mask, channels, key_parts)
        with np.errstate(invalid="ignore"):
            scaled = (values.astype(np.float64) - table.centre) / table.divisor
            result = np.minimum(np.maximum(scaled, -table.clip), table.clip)
        return np.where(mask, result, 0.0).astype(values.dtype)

    def inverse(
        self,
        key_parts: tuple[str, str, str],
        side: str,
        representation: str,
        values: Values,
        channels: NDArray[np.int16],
        mask: NDArray[np.bool_] | None = None,
    ) -> Values:
        """Normalized values [..., c] to physical ones; the other arguments and the errors are those of `forward`.

        Constants give the constant. Masked values become the filler (0, rot6d: the identity); without a mask (a
        model's output has none) only channels without statistics do.
        """
        table = self._pick(key_parts, side, representation, channels)
        if mask is None:
            mask = np.broadcast_to(table.known, values.shape)
        self._check_known(table, mask, channels, key_parts)
        with np.errstate(invalid="ignore", over="ignore"):
            result = table.centre + table.half * values.astype(np.float64)
            return np.where(mask, result, _filler()[channels]).astype(values.dtype)

    def known(
        self, key_parts: tuple[str, str, str], side: str, representation: str, channels: NDArray[np.int16]
    ) -> NDArray[np.bool_]:
        """Which of `channels` [c] have statistics; a channel that was masked throughout has none."""
        return self._pick(key_parts, side, representation, channels).known

    def _pick(
        self, key_parts: tuple[str, str, str], side: str, representation: str, channels: NDArray[np.int16]
    ) -> _Table:
        """The tables of a group at `channels`; native channels from the converter's own group."""
        asked = (key_parts, side, representation, channels.tobytes())
        table = self._picked.get(asked)
        if table is None:
            table = self._picked[asked] = self._gathered(key_parts, side, representation, channels)
        return table

    def _gathered(
        self, key_parts: tuple[str, str, str], side: str, representation: str, channels: NDArray[np.int16]
    ) -> _Table:
        slot = unified().slot("native")
        native = (channels >= slot.start) & (channels < slot.stop)
        parts = [np.full((3, len(channels)), np.nan)]
        for key, picked in (("/".join(key_parts[:2]), ~native), ("/".join(key_parts), native)):
            if picked.any():
                table = self._lookup(key, side, representation)
                found = np.stack([table.centre, table.half, table.clip])[:, channels]
                parts.append(np.where(picked, found, parts[-1]))
        return _Table(*parts[-1])

    def _lookup(self, key: str, side: str, representation: str) -> _Table:
        if key not in self._groups:
            raise SpecError(
                f"no statistics for {key!r}",
                where="normalization.json",
                fix=f"it holds: {', '.join(sorted(self._groups)) or 'none'}",
            )
        forms = self._groups[key].get(side)
        if forms is None:
            raise SchemaError(f"a side is `state` or `action`, not {side!r}")
        if representation not in forms:
            raise SpecError(
                f"no statistics for {side} of {key!r} in representation {representation!r}",
                where="normalization.json",
                fix=f"it holds: {', '.join(forms)}; build with normalization of {representation!r} to have it",
            )
        return forms[representation]

    @staticmethod
    def _check_known(
        table: _Table, mask: NDArray[np.bool_], channels: NDArray[np.int16], key_parts: tuple[str, str, str]
    ) -> None:
        if table.complete:
            return
        unknown = np.flatnonzero(mask.any(axis=tuple(range(mask.ndim - 1))) & ~table.known)
        if unknown.size:
            channel = int(channels[unknown[0]])
            raise SpecError(
                f"channel {channel} ({unified().slot_at(channel).key}) has values, but no statistics",
                where=f"normalization.json, {'/'.join(key_parts)}",
                fix="mask the channel, or gather statistics over episodes that have it",
            )


def _table(entries: list[Mapping[str, Any]]) -> _Table:
    centre, half, clip = np.full((3, WIDTH), np.nan)
    for item in entries:
        if item["low"] is not None:
            low, high, channel = float(item["low"]), float(item["high"]), int(item["channel"])
            centre[channel], half[channel], clip[channel] = low + (high - low) / 2, (high - low) / 2, item["clip"]
    return _Table(centre, half, clip)
