"""Every sample as the loader decodes it: pictures, arrays, masks, JSON, media; values against the statistics."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine import images, video
from dataengine.errors import DataEngineError, EpisodeError, FormatError
from dataengine.loader.baked import Baked
from dataengine.loader.codec import make_codec
from dataengine.loader.decode import Decoder
from dataengine.loader.examples import Example
from dataengine.loader.layouts import Target
from dataengine.loader.npy import parse_npy
from dataengine.loader.segment import Cut, Segment
from dataengine.loader.segments import Choices, Place, SegmentPlaces, SegmentReader
from dataengine.loader.shards import IMAGES, RawSample, Shards
from dataengine.loader.stored import KINDS
from dataengine.mixture.store import shard_name
from dataengine.specs.records import ShardEntry
from dataengine.verification.values import Bounds

BATCH = 32
MAX_NAMED = 20
"""Damaged samples of one shard that are named one by one."""
_VIDEOS = (".mp4",)
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
_COMMON = {"key": str, "kind": str, "episode_uid": str, "source_id": str, "converter": str, "weight": float}
_NUMBERS = {
    "embodiment": str, "control_mode": str, "channels": dict, "frames": dict, "native_units": dict, "views": dict,
    "hz": float, "dt_ns": int, "episode_length": int, "labels": dict,
}  # fmt: skip
_FIELDS: dict[str, dict[str, type]] = {
    "window": {
        **_COMMON, **_NUMBERS, "step": int, "horizon": int, "timestamp_ns": int, "offsets_ns": dict, "prompt": dict,
        "language": list, "is_first": bool, "is_last": bool,
    },
    "segment": {**_COMMON, **_NUMBERS, "rows": list, "starts": list, "bounds": list, "stops": list, "language": list},
    "item": {**_COMMON, "messages": list, "media": dict},
}  # fmt: skip


@dataclass
class _Found:
    """Problems of one shard, (reason, what), each once; `count` are the samples that were read."""

    where: str
    count: int = 0
    problems: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, key: str, reason: str, what: str) -> None:
        self.problems.setdefault(key, (reason, f"sample {key}: {what}"))


def read_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Decode a shard's samples, or a share of them: how many (`samples`), and `problems` as (reason, what).

    `task`: `store` address, `entry` of the manifest, the version's `recipe`, `normalization` bytes and its digest
    `normalization_sha256`; `share` of the samples, at least one, chosen by `seed`.
    """
    entry: ShardEntry = task["entry"]
    found = _Found(shard_name(entry.sha256))
    try:
        shards = Shards(task["store"], (entry,))
        shards.check(digests=False)
        chosen = _chosen(entry, task["share"], task["seed"])
        _Reading(task, shards, found).read(chosen)
    except DataEngineError as error:
        found.add("*", getattr(error, "reason", "unreadable"), error.what)
    except _DAMAGED as error:
        found.add("*", "sample_damaged", f"the shard does not read: {error!r}")
    return {"samples": found.count, "problems": list(found.problems.values())[:MAX_NAMED]}


def _chosen(entry: ShardEntry, share: float, seed: int) -> list[int]:
    """The numbers of the samples to read: another share for each seed and shard, the same again for the same."""
    count = min(entry.samples, max(1, ceil(share * entry.samples)))
    if count == entry.samples:
        return list(range(count))
    key = int.from_bytes(hashlib.sha256(f"{seed} {entry.sha256}".encode()).digest()[:8], "big")
    return sorted(np.random.default_rng(key).choice(entry.samples, count, replace=False).tolist())


class _Reading:
    def __init__(self, task: dict[str, Any], shards: Shards, found: _Found) -> None:
        recipe, document = task["recipe"], orjson.loads(task["normalization"])
        self.shards, self.found, self.choices = shards, found, Choices.of(recipe, None, None)
        baked = Baked.of(recipe, task["normalization_sha256"])
        target = Target(baked.layout) if baked is not None and baked.layout is not None else None
        form = "absolute" if baked is None else baked.representation
        normalize = baked is None or baked.normalization is not None
        codec = make_codec(form, document if normalize else None)
        self.decoder = Decoder(codec, (), None, "stretch", target, baked)
        strict = task["entry"].split == "train" and "reuse" not in document
        self.bounds = Bounds.of(document) if strict else None
        self.physical_action = baked is None

    def read(self, chosen: Sequence[int]) -> None:
        """Windows and items as they lie there; of segments every window of the recipe besides."""
        segments: list[int] = []
        whole: list[int] = []
        for number in chosen:
            raw = self.shards.read(number)
            self.found.count += 1
            facts = self._members(raw)
            if facts is not None:
                (segments if facts["kind"] == "segment" else whole).append(number)
        for start in range(0, len(whole), BATCH):
            self._decode([self.shards.read(number, ()) for number in whole[start : start + BATCH]])
        if segments and self.choices is not None:
            self._windows(set(segments), self.choices)

    def _windows(self, segments: set[int], choices: Choices) -> None:
        places, reader = SegmentPlaces(self.shards, choices, KINDS), SegmentReader(self.shards, choices)
        batch: list[Place] = []
        for number in range(len(places)):
            place = places.window_of(number)
            if place.sample in segments:
                batch.append(place)
            if batch and (len(batch) == BATCH or number == len(places) - 1):
                self._cut(reader, batch)
                batch = []

    def _cut(self, reader: SegmentReader, batch: Sequence[Place]) -> None:
        try:
            self._decode(list(reader.read(batch, ())))
        except (DataEngineError, *_DAMAGED) as error:
            if len(batch) > 1:
                for place in batch:
                    self._cut(reader, [place])
                return
            key = self.shards.placed(batch[0].sample).key
            self.found.add(key, "sample_damaged", f"the window at step {batch[0].step}: {_told(error)}")

    def _decode(self, raws: Sequence[RawSample | Cut]) -> None:
        """Through the loader: together, and one by one where that fails."""
        try:
            examples = self.decoder.decode(raws)
        except (DataEngineError, *_DAMAGED) as error:
            if len(raws) > 1:
                for raw in raws:
                    self._decode([raw])
                return
            own = raws[0].raw if isinstance(raws[0], Cut) else raws[0]
            self.found.add(own.segment or own.key, getattr(error, "reason", "sample_damaged"), _told(error))
            return
        for raw, example in zip(raws, examples, strict=True):
            for what in self._values(raw, example):
                own = raw.raw if isinstance(raw, Cut) else raw
                self.found.add(own.segment or own.key, "value_impossible", what)

    def _values(self, raw: RawSample | Cut, example: Example) -> Iterator[str]:
        """Finite throughout; the window's own step within what the statistics say they saw."""
        named = ("state", "action", "present", "state_cosine", "action_cosine")
        for name in named:
            values = getattr(example, name)
            if values is not None and not np.isfinite(values).all():
                yield f"{name} holds values that are not finite"
        if example.kind == "item" or self.bounds is None:
            return
        yield from self.bounds.outside("state", example.facts, example.present, example.present_mask)
        if self.physical_action:
            row, mask = _first_action(raw, example.facts)
            yield from self.bounds.outside("action", example.facts, row, mask)

    def _members(self, raw: RawSample) -> dict[str, Any] | None:
        """The members by themselves; the sample's JSON, or None where one of them is damaged."""
        try:
            facts = _facts(raw)
            for name, data in raw.members.items():
                _check_member(name, data, raw)
            _check_media(facts, raw)
            if facts["kind"] == "segment":
                _check_frames(raw)
        except FormatError as error:
            self.found.add(raw.key, error.reason, error.what)
        except EpisodeError as error:
            self.found.add(raw.key, error.reason, error.what)
        except _DAMAGED as error:
            self.found.add(raw.key, "sample_damaged", f"it does not fit together: {error!r}")
        else:
            return facts
        return None


def _told(error: Exception) -> str:
    return error.what if isinstance(error, DataEngineError) else f"it does not fit together: {error!r}"


def _facts(raw: RawSample) -> dict[str, Any]:
    """The JSON with all its fields, each of its type."""
    facts = orjson.loads(raw.members["json"])
    kind = facts.get("kind")
    if facts.get("key") != raw.key or kind not in _FIELDS:
        raise FormatError("sample_damaged", "its JSON is not its own", where=raw.where)
    for name, wanted in _FIELDS[kind].items():
        value = facts.get(name)
        numeric = wanted is float and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, wanted) and not numeric:
            raise FormatError("sample_damaged", f"its JSON has no {name!r}, or of another type", where=raw.where)
    found: dict[str, Any] = facts
    return found


def _check_member(name: str, data: bytes, raw: RawSample) -> None:
    """A picture decodes, a video has frames that can be counted, an array is whole, finite, and a mask is 0 or 1."""
    if name.endswith(IMAGES):
        try:
            images.decode(data)
        except EpisodeError as error:
            raise FormatError(error.reason, f"{name}: {error.what}", where=raw.where) from None
    elif name.endswith(_VIDEOS):
        if video.index(io.BytesIO(data)).frames < 1:
            raise FormatError("video_unreadable", f"{name} has no frame", where=raw.where)
    elif name.endswith(".npy"):
        dtype, shape, payload = parse_npy(data, name, raw.where)
        values = np.frombuffer(payload, dtype).reshape(shape)
        if (name.endswith("_mask.npy") or name == "is_pad.npy") and (values > 1).any():
            raise FormatError("sample_damaged", f"{name} holds other than 0 and 1", where=raw.where)
        if name == "is_pad.npy" and (np.diff(values.astype(np.int8)) < 0).any():
            raise FormatError("sample_damaged", "is_pad goes back from padding to steps", where=raw.where)
    elif name != "json":
        raise FormatError("sample_damaged", f"a member of unknown kind: {name}", where=raw.where)


def _check_media(facts: dict[str, Any], raw: RawSample) -> None:
    """Every view of a window and every medium of an item is there, of the size that the JSON says."""
    if facts["kind"] == "segment":
        return
    told = facts["views"] if facts["kind"] == "window" else facts["media"]
    there = {name.rpartition(".")[0]: name for name in raw.members}
    for name, said in told.items():
        if name not in there:
            raise FormatError("missing_media", f"{name} is not in the sample", where=raw.where)
        member = there[name]
        if member.endswith(IMAGES):
            found = images.sniff(raw.members[member])
            if (found.height, found.width) != (said["height"], said["width"]):
                told_size = f"{found.height} x {found.width}, not {said['height']} x {said['width']}"
                raise FormatError("size_mismatch", f"{member} is {told_size}", where=raw.where)
        elif member.endswith(_VIDEOS) and video.index(io.BytesIO(raw.members[member])).frames != said["frames"]:
            raise FormatError("frame_count_mismatch", f"{member} has not {said['frames']} frames", where=raw.where)


def _check_frames(raw: RawSample) -> None:
    """A segment's numbers fit together, and every frame that a row shows is there."""
    from dataengine.loader.shards import Placed

    numbers = {name: data for name, data in raw.members.items() if not name.endswith(IMAGES)}
    placed = Placed(0, raw.shard, raw.key, {name: (0, len(data)) for name, data in raw.members.items()})
    segment = Segment.parse(placed, numbers)
    for name, view in segment.views.items():
        shown = {int(frame) for frame in view.frames[:, 0] if frame >= 0}
        lost = sorted(shown - view.stored.keys())
        if lost:
            raise FormatError("missing_media", f"frame {lost[0]} of {name} is not in the segment", where=raw.where)


def _first_action(raw: RawSample | Cut, facts: Any) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The action at the window's own step [256] and its mask, as the shard holds it."""
    channels = facts["channels"]["action"]
    wide, mask = np.zeros(256, np.float32), np.zeros(256, np.bool_)
    if not channels:
        return wide, mask
    if isinstance(raw, Cut):
        values, flags = raw.arrays["action"][0], raw.arrays["action_mask"][0]
    else:
        parts = (parse_npy(raw.members[f"{name}.npy"], name, raw.where) for name in ("action", "action_mask"))
        values, flags = (np.frombuffer(data, dtype).reshape(shape)[0] for dtype, shape, data in parts)
    wide[channels], mask[channels] = values, flags.astype(np.bool_)
    return wide, mask
