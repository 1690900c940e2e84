"""Normalization statistics of a training population: gathered per episode, merged in any order, the same bits always.

Groups: `embodiment/control_mode` for slots with a physical unit, `embodiment/control_mode/converter` for `native`
channels, whose meaning ends at their converter. Within a group a channel pools only over equal unit and frame, and
equal rate and horizon where its values depend on them; anything else is a `SchemaError`.

Population: only unmasked values, never padding, never weighted by a mixture's shares.

- State, absolute targets, commands and labels count each step once, whatever the horizon. So do the channels that a
  representation leaves as they are (commands, grippers, ...): their entries are the same in every representation.
- Moving channels in `relative`, `relative_base` and `delta` count every window of the episode, as a loader with
  stride 1 yields them: every start t and every h < horizon with t + h inside the episode, through the loader's own
  `to_representation`. In `delta` a step thus counts once against the state and up to horizon - 1 times against the
  step before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from dataengine.documents import canonical_json
from dataengine.episode import SlotArray
from dataengine.errors import FormatError, SchemaError
from dataengine.normalization.channel import ChannelStatistics, Pool
from dataengine.normalization.population import ChannelKey, GroupKey, Part, Side, grouped
from dataengine.normalization.scaling import CLIP, DOCUMENT_VERSION, entry
from dataengine.schema import unified
from dataengine.transforms.representation import REPRESENTATIONS, Representation

_MAGIC = b"DESTATS1"


@dataclass
class _Group:
    """One group: its episodes, the sum of sha256(uid) over them (mod 2^256), and its channels."""

    representations: tuple[Representation, ...]
    episodes: int = 0
    population: int = 0
    channels: dict[ChannelKey, ChannelStatistics] = field(default_factory=dict)

    def count(self, episodes: int, population: int) -> None:
        """Count episodes; a sum does not depend on their order."""
        self.episodes += episodes
        self.population = (self.population + population) % (1 << 256)

    def place(self, channel: ChannelKey, pool: Pool, where: str) -> ChannelStatistics:
        """Where a channel's values go, made when it is new."""
        found = self.channels.get(channel)
        if found is None:
            found = self.channels[channel] = ChannelStatistics(pool)
        found.pool = found.pool.joined(pool, where)
        return found


class Statistics:
    """Mergeable statistics of many groups (see the module)."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, _Group] = {}

    def add_episode(
        self,
        *,
        episode_uid: str,
        embodiment: str,
        control_mode: str,
        converter: str,
        state: SlotArray | None,
        action: SlotArray | None,
        state_frames: Mapping[str, str],
        action_frames: Mapping[str, str],
        native_units: Mapping[str, str],
        hz: float,
        horizon: int,
        representations: Iterable[Representation],
    ) -> None:
        """Add one kept, resampled episode of the train split.

        Args:
            episode_uid: its identity, for the digest of the population.
            embodiment: with `control_mode`, and `converter` for native channels, the group.
            control_mode: see `embodiment`.
            converter: see `embodiment`.
            state: [T, cs], or None.
            action: [T, c] absolute targets and commands, or None. With neither, nothing is added.
            state_frames: the frame of every state slot.
            action_frames: the frame of every action slot.
            native_units: units of native channels, `{"state/240": "px512"}`.
            hz: rate of the steps.
            horizon: steps in an action chunk (H >= 1).
            representations: forms of the action to keep; `absolute` always is.

        Raises:
            SchemaError: the values do not pool with those already here, or a frame, unit or rate is missing.
            EpisodeError: `bad_rotation`, a degenerate rot6d. In every error case nothing was added.
        """
        forms = tuple(form for form in REPRESENTATIONS if form == "absolute" or form in frozenset(representations))
        part = Part(episode_uid, state, action, state_frames, action_frames, native_units, hz, horizon, forms)
        pools = grouped(part.pools(), (embodiment, control_mode, converter))
        self._check(pools, forms, episode_uid)
        part.check_rotations()
        identity = int.from_bytes(hashlib.sha256(episode_uid.encode()).digest(), "big")
        places: dict[ChannelKey, ChannelStatistics] = {}
        for key, channels in pools.items():
            group = self._groups.setdefault(key, _Group(forms))
            group.count(1, identity)
            for channel, pool in channels.items():
                places[channel] = group.place(channel, pool, _joined(key))
        for channel, values in part.values():
            places[channel].add(values)

    def _check(
        self, pools: Mapping[GroupKey, Mapping[ChannelKey, Pool]], forms: tuple[Representation, ...], where: str
    ) -> None:
        """Raise before anything is changed."""
        for key, channels in pools.items():
            group = self._groups.get(key)
            if group is None:
                continue
            if group.representations != forms:
                raise SchemaError(
                    f"statistics over {', '.join(group.representations)} do not pool with {', '.join(forms)}",
                    where=f"{_joined(key)}, {where}",
                    fix="gather the same representations from every episode",
                )
            for channel, pool in channels.items():
                found = group.channels.get(channel)
                if found is not None:
                    found.pool.joined(pool, f"{_joined(key)}, {_told(channel)}, {where}")

    def merge(self, other: Statistics) -> None:
        """Add the episodes of another; a `SchemaError`, and no change, where they do not pool."""
        for key, group in other._groups.items():
            pools = {channel: found.pool for channel, found in group.channels.items()}
            self._check({key: pools}, group.representations, "merge")
        for key, group in other._groups.items():
            mine = self._groups.setdefault(key, _Group(group.representations))
            mine.count(group.episodes, group.population)
            for channel, found in group.channels.items():
                mine.place(channel, found.pool, _joined(key)).merge(found, f"{_joined(key)}, {_told(channel)}")

    def to_bytes(self) -> bytes:
        """Everything, for `from_bytes`: the same bytes for the same population, however it was gathered."""
        groups: list[Any] = []
        arrays: list[bytes] = []
        for key, group in sorted(self._groups.items()):
            channels = []
            for (side, form, channel), found in sorted(group.channels.items()):
                state, parts = found.state()
                channels.append([side, form, channel, state])
                arrays.extend(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)
            groups.append([key, group.representations, group.episodes, f"{group.population:064x}", channels])
        header = canonical_json(groups)
        body = len(header).to_bytes(8, "little") + header + b"".join(arrays)
        return _MAGIC + hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """The inverse of `to_bytes`; a changed byte is a `FormatError` `digest_mismatch`."""
        body = data[40:]
        if data[:8] != _MAGIC or hashlib.sha256(body).digest() != data[8:40]:
            raise FormatError("digest_mismatch", "the statistics do not match their own digest")
        start = 8 + int.from_bytes(body[:8], "little")
        result = cls()
        for key, forms, episodes, population, channels in orjson.loads(body[8:start]):
            group = result._groups[tuple(key)] = _Group(tuple(forms), episodes, int(population, 16))
            for side, form, channel, state in channels:
                keys = np.frombuffer(body, "<u4", state["bins"], start)
                start += keys.nbytes
                counts = np.frombuffer(body, f"<u{state['counts']}", state["bins"], start)
                start += counts.nbytes
                group.channels[side, form, channel] = ChannelStatistics.from_state(state, keys, counts)
        return result

    def document(self) -> dict[str, Any]:
        """`normalization.json`: per group, side and representation, one entry a channel (see `scaling.entry`)."""
        groups: dict[str, Any] = {}
        for key, group in sorted(self._groups.items()):
            if _joined(key) in groups:
                raise SchemaError(f"two groups are called {_joined(key)}", fix="use names without a slash")
            embodiment, control_mode, converter = key
            groups[_joined(key)] = {
                "embodiment": embodiment,
                "control_mode": control_mode,
                "converter": converter or None,
                "episodes": group.episodes,
                "population": f"{group.population:064x}",
                "state": {"absolute": _entries(group, "state", "absolute")},
                "action": {form: _entries(group, "action", form) for form in group.representations},
            }
        return {"normalization": DOCUMENT_VERSION, "schema": unified().version, "clip": CLIP, "groups": groups}


def _joined(key: GroupKey) -> str:
    return "/".join(part for part in key if part)


def _told(channel: ChannelKey) -> str:
    side, form, index = channel
    return f"{side} {unified().slot_at(index).key} (channel {index}, {form})"


def _entries(group: _Group, side: Side, form: Representation) -> list[dict[str, Any]]:
    """Entries in channel order; a channel that does not move has the absolute one in every representation."""
    result = []
    for channel in sorted(channel for s, f, channel in group.channels if (s, f) == (side, "absolute")):
        taken: Representation = form if group.channels[side, "absolute", channel].pool.moves else "absolute"
        result.append(entry(group.channels[side, taken, channel], unified().slot_at(channel), channel, taken))
    return result
