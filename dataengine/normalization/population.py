"""One episode's part in the statistics: what its channels pool on, and the values they count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import SlotArray
from dataengine.errors import SchemaError
from dataengine.normalization.channel import Pool
from dataengine.normalization.scaling import PER_STEP
from dataengine.schema import Slot, unified
from dataengine.transforms.representation import (
    POSES,
    Representation,
    check_rotations,
    moving,
    same_units,
    to_representation,
)

Side = Literal["state", "action"]
GroupKey = tuple[str, str, str]  # embodiment, control mode, converter (empty where converters pool)
ChannelKey = tuple[Side, Representation, int]

_WINDOW_VALUES = 1 << 20  # bounds the memory of a block of windows, however long an episode is
_POSE_SLOTS = frozenset(key for pair in POSES for key in pair)


@dataclass(frozen=True)
class Part:
    """An episode as `Statistics.add_episode` gets it; `forms` begins with `absolute`."""

    uid: str
    state: SlotArray | None
    action: SlotArray | None
    state_frames: Mapping[str, str]
    action_frames: Mapping[str, str]
    native_units: Mapping[str, str]
    hz: float
    horizon: int
    forms: tuple[Representation, ...]

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise SchemaError(f"a horizon of {self.horizon} steps is impossible", where=self.uid)
        if self.state is not None and self.action is not None and len(self.state.values) != len(self.action.values):
            raise SchemaError(
                f"{len(self.state.values)} rows of state, {len(self.action.values)} of action", where=self.uid
            )

    @cached_property
    def _same(self) -> frozenset[int]:
        return same_units(self.native_units)

    @cached_property
    def _moving(self) -> NDArray[np.bool_]:
        return np.zeros(0, np.bool_) if self.action is None else moving(self.action.channels, self._same)

    def pools(self) -> dict[ChannelKey, Pool]:
        """What every channel pools on. A missing frame, unit or rate is a `SchemaError`."""
        result: dict[ChannelKey, Pool] = {}
        for channel in () if self.state is None else self.state.channels.tolist():
            unit, frame = self._unit_and_frame("state", channel)
            result["state", "absolute", channel] = Pool(unit, frame, None, None, False)
        channels = [] if self.action is None else self.action.channels.tolist()
        for channel, moves in zip(channels, self._moving.tolist(), strict=True):
            unit, frame = self._unit_and_frame("action", channel)
            slot = unified().slot_at(channel)
            rate = self._rate() if slot.group in PER_STEP else None
            result["action", "absolute", channel] = Pool(unit, frame, rate, None, moves)
            for form in self.forms[1:] if moves else ():
                self._check_one_frame(slot)
                result["action", form, channel] = Pool(unit, frame, self._rate(), self.horizon, moves)
        return result

    def _unit_and_frame(self, side: Side, channel: int) -> tuple[str, str]:
        slot = unified().slot_at(channel)
        unit = self.native_units.get(f"{side}/{channel}") if slot.key == "native" else slot.unit
        frame = (self.state_frames if side == "state" else self.action_frames).get(slot.key)
        if unit is None or frame is None:
            lacking = "unit" if unit is None else "frame"
            raise SchemaError(f"{side} {slot.key} (channel {channel}) has no {lacking}", where=self.uid)
        return unit, frame

    def _rate(self) -> tuple[float, float]:
        if not self.hz > 0:
            raise SchemaError("the episode has no rate, its steps cannot be pooled with others", where=self.uid)
        return self.hz, self.hz

    def _check_one_frame(self, slot: Slot) -> None:
        """A pose relative to a state in another frame means nothing."""
        if slot.key not in _POSE_SLOTS or self.state is None or not len(self.state.columns(slot.start, slot.stop)):
            return
        action, state = self.action_frames[slot.key], self.state_frames.get(slot.key)
        if action != state:
            raise SchemaError(
                f"{slot.key}: the action is in frame {action!r}, the state in {state!r}; they make no relative pose",
                where=self.uid,
                fix="use `absolute`, or map both into one frame",
            )

    def check_rotations(self) -> None:
        """Raise `EpisodeError` `bad_rotation` before anything is counted, if `values` would."""
        if len(self.forms) > 1:
            for slots in (self.state, self.action):
                if slots is not None:
                    check_rotations(slots.values, slots.mask, slots.channels)

    def values(self) -> Iterator[tuple[ChannelKey, NDArray[Any]]]:
        """Unmasked values by channel: each step once in `absolute`, all windows of moving channels in other forms."""
        sides: tuple[tuple[Side, SlotArray | None], ...] = ("state", self.state), ("action", self.action)
        for side, slots in sides:
            if slots is not None:
                for column, channel in enumerate(slots.channels.tolist()):
                    yield (side, "absolute", channel), slots.values[slots.mask[:, column], column]
        for form in self.forms[1:]:
            for channels, values, mask in self._windows(form):
                for column, channel in enumerate(channels):
                    yield ("action", form, channel), values[..., column][mask[..., column]]

    def _windows(self, form: Representation) -> Iterator[tuple[list[int], NDArray[Any], NDArray[np.bool_]]]:
        """All windows of the moving channels, some starts at a time: channels, values and mask [B, H, c]."""
        if self.action is None or not self._moving.any():
            return
        rows = len(self.action.values)
        channels = self.action.channels[self._moving]
        values, mask = self.action.values[:, self._moving], self.action.mask[:, self._moving]
        state = self.state or SlotArray(
            np.zeros(0, np.int16), np.zeros((rows, 0), np.float32), np.zeros((rows, 0), np.bool_)
        )
        block = max(1, _WINDOW_VALUES // (self.horizon * len(channels)))
        for start in range(0, rows, block):
            stop = min(start + block, rows)
            steps = np.arange(start, stop)[:, None] + np.arange(self.horizon)
            inside = (steps < rows)[..., None]
            steps = np.minimum(steps, rows - 1)
            action = values[steps], mask[steps] & inside, channels
            at_start = state.values[start:stop], state.mask[start:stop], state.channels
            yield channels.tolist(), *to_representation(form, *action, *at_start, self._same)


def grouped(pools: Mapping[ChannelKey, Pool], key: GroupKey) -> dict[GroupKey, dict[ChannelKey, Pool]]:
    """Channels by group: native channels stand in their converter's own, the others pool over converters."""
    pooled: GroupKey = (key[0], key[1], "")
    result: dict[GroupKey, dict[ChannelKey, Pool]] = {}
    for channel, pool in pools.items():
        native = unified().slot_at(channel[2]).key == "native"
        result.setdefault(key if native else pooled, {})[channel] = pool
    return result
