"""A few samples of every source, decoded by the loader: pictures, prompt or conversation, state and action."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.errors import EpisodeError
from dataengine.loader import open_mixture
from dataengine.loader.dataset import MixtureDataset
from dataengine.loader.examples import Bools, Example, Floats
from dataengine.loader.segments import Choices
from dataengine.loader.shards import IndexTable, Shards
from dataengine.loader.stored import KINDS, stored_samples
from dataengine.mixture.store import index_name
from dataengine.report.version import Row, SourceKey, Version, rounded
from dataengine.schema import unified
from dataengine.shards.samples import KEY_UID

FRAMES, POINTS, HEIGHT, QUALITY, COLUMNS = 6, 64, 144, 78, 8
MAX_TEXT = 4000
Tell = Callable[[str, int, int], None]


def samples(version: Version, count: int, tell: Tell) -> list[dict[str, Any]]:
    """Up to `count` samples of every source that has any, each of another episode where there are so many."""
    if not count or not version.manifest.shards:
        return []
    rows = {row["uid"]: row for row in version.rows}
    by_source: dict[SourceKey, list[Row]] = {}
    for record in version.inputs:
        if record["samples"]:
            by_source.setdefault(version.key(rows[record["uid"]]), []).append(record)
    reader, found = _Reader(version), []
    for done, (key, records) in enumerate(sorted(by_source.items()), start=1):
        found += [{"entry": key[0], **reader.sample(record)} for record in _spread(records, count)]
        tell("samples", done, len(by_source))
    return found


def _spread(records: Sequence[Row], count: int) -> list[Row]:
    """`count` records evenly over all of them, the first of every episode."""
    firsts = list({record["uid"]: record for record in reversed(records)}.values())[::-1]
    firsts.sort(key=lambda record: record["uid"])
    places = np.unique(np.linspace(0, len(firsts) - 1, min(count, len(firsts))).round().astype(int))
    return [firsts[place] for place in places.tolist()]


def _key_parts(key: str) -> tuple[str, int]:
    uid, start, _ = key.split("-")
    return uid, int(start)


class _Reader:
    """Opens every split once: with pictures, and without for the curves."""

    def __init__(self, version: Version) -> None:
        self._version = version
        recipe = version.manifest.recipe
        self._normalized = recipe.get("normalization", {}).get("bake") is not None
        self._columns = recipe.get("layout") is not None
        self._opened: dict[str, tuple[MixtureDataset, MixtureDataset]] = {}

    def sample(self, record: Row) -> dict[str, Any]:
        """The middle one of the samples that an episode's segment gave, with frames and state of the others."""
        split = record["split"]
        if split not in self._opened:
            address = self._version.address
            both = [open_mixture(address, split=split, normalize=self._normalized, views=views) for views in (None, ())]
            self._opened[split] = both[0], both[1]
        full, plain = self._opened[split]
        places = self._places(record, plain)
        example = full[places[len(places) // 2]]
        result = _head(example)
        if example.kind == "item":
            return result | _item(example)
        run = plain.examples([places[at] for at in _evenly(len(places), POINTS)])
        frames = full.examples([places[at] for at in _evenly(len(places), FRAMES)]) if example.images else []
        return result | _window(example, frames) | self._curves(example, run)

    def _curves(self, example: Example, run: Sequence[Example]) -> dict[str, Any]:
        """State over the run of samples, and the action chunk of the one; by slot, or by column in another layout."""
        facts = example.facts
        times = [other.facts["step"] / other.facts["hz"] for other in run]
        ahead = (np.arange(len(example.action)) / facts["hz"]).tolist()
        state, state_mask = (
            np.stack(rows) for rows in zip(*((e.state[-1], e.state_mask[-1]) for e in run), strict=True)
        )
        sides = {
            "state": (times, state, state_mask),
            "action": (ahead, example.action, example.action_mask),
        }
        found: dict[str, Any] = {"normalized": self._normalized}
        for side, (seconds, values, mask) in sides.items():
            if self._columns:
                found[side] = _by_column(seconds, values, mask)
            else:
                found[side] = _by_slot(facts["channels"][side], seconds, values, mask, facts["labels"])
        return found

    def _places(self, record: Row, plain: MixtureDataset) -> list[int]:
        """Places in the split of a record's samples, in the order of their steps."""
        shards = self._version.manifest.shards
        shard = shards[record["shard"]]
        if self._version.manifest.recipe.get("samples", {}).get("kind") == "episode":
            return self._cut_places(record, plain)
        before = sum(other.samples for other in shards[: record["shard"]] if other.split == shard.split)
        name = index_name(shard.sha256)
        keys = IndexTable.parse(self._version.store.checked(name, shard.index_sha256), name).keys
        own = [(*_key_parts(key), place) for place, key in enumerate(keys)]
        return [
            before + place
            for uid, start, place in sorted(own, key=lambda entry: entry[1:])
            if uid == record["uid"][:KEY_UID] and record["start"] <= start < max(record["stop"], record["start"] + 1)
        ]

    def _cut_places(self, record: Row, plain: MixtureDataset) -> list[int]:
        """The same where the loader cuts windows out of segments: around the middle of where the record's must lie."""
        entries = tuple(shard for shard in self._version.manifest.shards if shard.split == record["split"])
        number = [shard.sha256 for shard in entries].index(self._version.manifest.shards[record["shard"]].sha256)
        stored = stored_samples(
            Shards(self._version.store.address, entries), Choices.of(self._version.manifest.recipe, None, None), KINDS
        )
        first, stop = (int(stored.stops[at]) if at >= 0 else 0 for at in (number - 1, number))
        beside = [other for other in self._version.inputs if other["shard"] == record["shard"]]
        sizes = [other["stop"] - other["start"] for other in beside]
        own = beside.index(record)
        middle = first + (stop - first) * (sum(sizes[:own]) + sizes[own] / 2) / max(sum(sizes), 1)
        low = max(first, min(int(middle) - POINTS // 2, stop - POINTS))
        near = range(low, min(stop, low + POINTS))
        uids = [example.facts["episode_uid"] for example in plain.examples(near)]
        wanted = record["uid"] if record["uid"] in uids else uids[len(uids) // 2]
        return [place for place, uid in zip(near, uids, strict=True) if uid == wanted]


def _evenly(count: int, most: int) -> list[int]:
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return places


def _head(example: Example) -> dict[str, Any]:
    facts = example.facts
    return {
        "key": example.key,
        "kind": example.kind,
        "uid": facts["episode_uid"],
        "upstream_id": facts["upstream_id"],
        "converter": facts["converter"],
        "embodiment": facts.get("embodiment", ""),
        "control_mode": facts.get("control_mode", ""),
    }


def _item(example: Example) -> dict[str, Any]:
    media = {name: _picture(data) for name, data in sorted(example.media.items())}
    messages = [
        {
            "role": str(message["role"]),
            "loss": bool(message["loss"]),
            "parts": [
                {"text": str(part["text"])[:MAX_TEXT]}
                if part.get("text") is not None
                else {"media": part.get("media", "")}
                for part in message["content"]
            ],
        }
        for message in example.messages
    ]
    return {"messages": messages, "media": media}


def _picture(data: bytes) -> dict[str, Any] | None:
    """A thumbnail; None for what is no picture (a video)."""
    try:
        return _thumbnail(images.decode(data))
    except EpisodeError:
        return None


def _thumbnail(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    height, width = pixels.shape[:2]
    small = min(HEIGHT, height)
    size = small, max(8, min(4 * HEIGHT, round(width * small / height)))
    shown = pixels if size == (height, width) else images.resize(pixels, size, "stretch")
    data = base64.b64encode(images.encode(np.ascontiguousarray(shown), quality=QUALITY)).decode()
    return {"width": size[1], "height": size[0], "of": [width, height], "jpeg": data}


def _window(example: Example, frames: Sequence[Example]) -> dict[str, Any]:
    facts = example.facts
    view = min(example.images, key=lambda name: ("." in name, list(example.images).index(name)), default=None)
    shown = [other for other in frames if view is not None and view in other.images]
    return {
        "step": facts["step"],
        "length": facts["episode_length"],
        "hz": rounded(facts["hz"]),
        "prompt": None if example.prompt is None else example.prompt[:MAX_TEXT],
        "views": [{"view": name, **_thumbnail(pixels)} for name, pixels in example.images.items()],
        "strip": [{"step": other.facts["step"], **_thumbnail(other.images[view])} for other in shown if view],
        "strip_view": view,
        "padding": int(example.is_pad.sum()),
    }


def _by_slot(
    channels: Sequence[int],
    seconds: Sequence[float],
    values: Floats,
    mask: Bools,
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One plot a slot: seconds, and by channel the values [T], null where masked."""
    present = set(channels)
    found = []
    for slot in unified().slots_of(list(channels)):
        own = [channel for channel in range(slot.start, slot.stop) if channel in present]
        names = [slot.names[c - slot.start] if slot.names else str(c - slot.start) for c in own]
        curves = _curves(seconds, values, mask, own, names)
        found.append({"slot": slot.key, "unit": slot.unit, "label": labels.get(slot.key, ""), **curves})
    return found


def _by_column(seconds: Sequence[float], values: Floats, mask: Bools) -> list[dict[str, Any]]:
    """Plots of eight columns each, of those that are anywhere unmasked."""
    there = np.flatnonzero(mask.any(axis=0)).tolist()
    return [
        {
            "slot": f"columns {own[0]} to {own[-1]}",
            "unit": "",
            "label": "",
            **_curves(seconds, values, mask, own, [str(column) for column in own]),
        }
        for own in (there[start : start + COLUMNS] for start in range(0, len(there), COLUMNS))
    ]


def _curves(
    seconds: Sequence[float], values: Floats, mask: Bools, columns: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    return {
        "seconds": [rounded(time, 5) for time in seconds],
        "names": list(names),
        "values": [
            [rounded(float(value), 5) if there else None for value, there in zip(values[:, c], mask[:, c], strict=True)]
            for c in columns
        ],
    }
