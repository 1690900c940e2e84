"""State and action over time: a curve a channel, by slot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataengine.episode import Episode
from dataengine.schema import Slot
from dataengine.transforms.slots import Block, blocks_of
from dataengine.viewing.recording import Clock, Recording

NATIVE_ACTION = "action/native_action"


@dataclass(frozen=True)
class Plot:
    """What one plot shows: entities, and a title with the unit."""

    title: str
    paths: tuple[str, ...]


def slot_path(slot: Slot) -> str:
    """`eef_pos/right`."""
    return f"{slot.group}/{slot.side}" if slot.side else slot.group


def signals(recording: Recording, episode: Episode, clock: Clock) -> list[Plot]:
    """Every slot of state and action: values as the lake holds them, gaps where masked. One plot for both of a slot."""
    shown: dict[str, tuple[Slot, list[str]]] = {}
    for side, slots in (("state", episode.state), ("action", episode.action)):
        for block in blocks_of(slots):
            path = f"{side}/{slot_path(block.slot)}"
            names = [f"{side} {name}" for name in channel_names(episode, side, block)]
            shown_values = np.where(block.mask, block.values, np.nan)
            recording.scalars(path, clock, shown_values, names, pale=side == "action")
            shown.setdefault(block.slot.key, (block.slot, []))[1].append(path)
    plots = [Plot(_title(episode, slot), tuple(paths)) for slot, paths in shown.values()]
    if episode.native_action:
        ids = np.asarray(episode.native_action["ids"], np.float64).reshape(-1, 1)
        recording.scalars(NATIVE_ACTION, clock.at(slice(0, len(ids))), ids, ["action id"])
        plots.append(Plot("native action ids", (NATIVE_ACTION,)))
    return plots


def channel_names(episode: Episode, side: str, block: Block) -> list[str]:
    """Names of a block's channels with their units: `vx [m/s]`, `joint 3 [rad]`."""
    slot = block.slot
    slots = episode.state if side == "state" else episode.action
    channels = [] if slots is None else slots.channels[block.columns].tolist()
    found = []
    for channel in channels:
        place = channel - slot.start
        unit = episode.native_units.get(f"{side}/{channel}", slot.unit) if slot.unit == "native" else slot.unit
        found.append(f"{slot.names[place] if slot.names else _usual(slot, place)} [{unit}]")
    return found


def _usual(slot: Slot, place: int) -> str:
    if slot.unit in ("m", "rotvec", "m/s", "rad/s", "N", "N m") and slot.width == 3:
        return "xyz"[place]
    if slot.group == "fingertips":
        return f"{('thumb', 'index', 'middle', 'ring', 'little')[place // 3]} {'xyz'[place % 3]}"
    return str(place) if slot.width > 1 else slot.group


def _title(episode: Episode, slot: Slot) -> str:
    label = episode.labels.get(slot.key)
    unit = "unit by channel" if slot.unit == "native" else slot.unit
    return f"{slot.key} [{unit}]{f', action {label}' if label else ''}"
