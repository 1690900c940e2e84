"""One segment, and the windows cut out of it.

What comes out is what a build of windows makes with the same chunk, history and prompt, to the byte: `Segment.cut`
follows `dataengine.shards.samples.WindowEncoder`, and the tests hold both side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine.documents import canonical_json
from dataengine.episode import Language
from dataengine.errors import FormatError
from dataengine.loader.arrays import Form, Window
from dataengine.loader.codec import Layout
from dataengine.loader.npy import parse_npy
from dataengine.loader.shards import IMAGES, Placed, RawSample
from dataengine.shards.npy import npy
from dataengine.specs.prompts import PromptForm
from dataengine.specs.recipe import PromptSpec
from dataengine.transforms.prompts import choose, prompt_facts

_SHARED = (
    "episode_length", "hz", "dt_ns", "embodiment", "control_mode", "labels", "frames", "native_units", "channels",
    "notes", "weight", "family", "source_id", "converter", "episode_uid", "upstream_id",
)  # fmt: skip
_TYPES = {
    "state": "<f4", "state_mask": "|u1", "action": "<f4", "action_mask": "|u1", "action_tail": "<f4",
    "action_last": "<i8", "times": "<i8", "native_ids": "<i8", "frames": "<i8", "poses": "<f8",
}  # fmt: skip
_KEY_UID = 20
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Cutting:
    """How windows are cut out of a source's segments: rows of a chunk and of history, and how a prompt is made."""

    horizon: int
    history: int
    prompt: PromptSpec
    form: PromptForm
    seed: int


class Cut(NamedTuple):
    """A window of a segment: its key, facts, pictures by member name, and its arrays as they lie in a shard."""

    raw: RawSample
    facts: dict[str, Any]
    arrays: Arrays

    def window(self, place: int, layout: Layout) -> tuple[Form, Window]:
        """The same as `arrays.window_of` makes of a window's members."""
        state = self.arrays["state"].shape if layout.state.size else (1, 0)
        action = self.arrays["action"].shape if layout.action.size else (len(self.arrays["is_pad"]), 0)
        left = {name for name, size in (("state", layout.state.size), ("action", layout.action.size)) if not size}
        arrays = {name: a.tobytes() for name, a in self.arrays.items() if name.removesuffix("_mask") not in left}
        return Form(layout, state, action), Window(place, self.raw, self.facts, arrays)

    def members(self) -> dict[str, bytes]:
        """The members that the window has in a version of windows."""
        stored = {name: array for name, array in self.arrays.items() if name != "is_pad" or "action" in self.arrays}
        numbers = {f"{name}.npy": npy(array) for name, array in stored.items()}
        return {"json": canonical_json(self.facts), **dict(sorted({**self.raw.members, **numbers}.items()))}


@dataclass(frozen=True)
class _View:
    """A view of a segment: its facts, each row's (frame, ns to it), its poses or None, and frames' members."""

    facts: Mapping[str, Any]
    frames: NDArray[np.int64]
    poses: NDArray[np.float64] | None
    stored: Mapping[int, str]


@dataclass(frozen=True)
class Segment:
    """A segment's JSON and arrays, checked against each other, and where its frames lie.

    `first` is the row of the episode that its arrays begin with; `start` and `stop` bound the steps of its windows.
    """

    placed: Placed
    facts: Mapping[str, Any]
    arrays: Arrays
    views: Mapping[str, _View]
    texts: Sequence[tuple[Language, Mapping[str, Any]]]
    _prompts: dict[Any, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        return f"{self.placed.shard}: {self.placed.key}"

    @classmethod
    def parse(cls, placed: Placed, members: Mapping[str, bytes]) -> Segment:
        """A segment out of its JSON and arrays; `FormatError` `sample_damaged` where they are not one segment's."""
        where = f"{placed.shard}: {placed.key}"
        facts = _document(placed.key, members, where)
        try:
            arrays = _arrays(members, where)
            _check(facts, arrays)
            stored: dict[str, dict[int, str]] = {}
            for name in placed.members:
                if name.endswith(IMAGES):
                    view, frame, _ = name.split(".")
                    stored.setdefault(view, {})[int(frame)] = name
            views = {
                name: _View(view, arrays[f"{name}.frames"], arrays.get(f"{name}.poses"), stored.get(name, {}))
                for name, view in facts["views"].items()
            }
            texts = [(Language(**{**text, "span": tuple(text["span"])}), text) for text in facts["language"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise FormatError("sample_damaged", f"the segment does not fit together: {error!r}", where=where) from None
        return cls(placed, facts, arrays, views, texts)

    def cut(self, step: int, repeat: int, how: Cutting) -> Cut:
        """The window that starts at `step`, without its pictures."""
        low, high, stop = self._bounds(step)
        facts, key = self.facts, f"{self.facts['episode_uid'][:_KEY_UID]}-{step:07d}-{repeat:03d}"
        document = {name: facts[name] for name in _SHARED}
        document |= {
            "kind": "window",
            "key": key,
            "horizon": how.horizon,
            "views": {name: self._view_at(view, step) for name, view in self.views.items()},
            "step": step,
            "is_first": step == 0,
            "is_last": step == facts["episode_length"] - 1,
            "timestamp_ns": int(self.arrays["times"][step - facts["rows"][0]]),
            "offsets_ns": {name: int(view.frames[step - facts["rows"][0], 1]) for name, view in self.views.items()},
            **self._said(step, repeat, how),
        }
        if high != facts["episode_length"]:
            document["stop"] = high
        if "native_ids" in self.arrays:
            ids = self._rows("native_ids", step, min(step + how.horizon, high))
            document["native_action"] = {"ids": ids.tolist(), "params": facts["native_params"]}
        arrays: Arrays = {}
        if "state" in self.arrays:
            arrays |= self._state(step, low, how.history)
        if "action" in self.arrays:
            arrays |= self._action(step, how.horizon, stop)
        arrays["is_pad"] = (np.arange(step, step + how.horizon) >= high).astype(np.uint8)
        return Cut(RawSample(self.placed.shard, key, {}, self.placed.key), document, arrays)

    def pictures(self, step: int, how: Cutting, views: Sequence[str] | None) -> dict[str, str]:
        """The member of each picture of the window at `step` by the name that it has in a window's sample."""
        low, found = self._bounds(step)[0], {}
        for name, view in self.views.items():
            if views is not None and name not in views:
                continue
            for back in range(min(how.history, step - low + 1)):
                frame = int(view.frames[step - back - self.facts["rows"][0], 0])
                member = view.stored.get(frame)
                if member is None:
                    what = f"frame {frame} of {name}, which step {step} shows, is missing"
                    raise FormatError("sample_damaged", what, where=self.where)
                extension = member.rpartition(".")[2]
                found[f"{name}.{extension}" if back == 0 else f"{name}.m{back}.{extension}"] = member
        return found

    def _bounds(self, step: int) -> tuple[int, int, int]:
        """(first row, last row + 1) that the window at `step` may read, and the number of that end among `stops`."""
        bounds = self.facts["bounds"]
        _, _, low, high = bounds[bisect_right(bounds, step, key=lambda bound: bound[0]) - 1]
        return low, high, self.facts["stops"].index(high)

    def _rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        first = self.facts["rows"][0]
        return self.arrays[name][start - first : max(start, stop) - first]

    def _state(self, step: int, low: int, history: int) -> Arrays:
        """As `WindowEncoder` makes it: rows before the first that may be read are 0 and masked."""
        begin = max(low, step - history + 1)
        values, mask = self._rows("state", begin, step + 1), self._rows("state_mask", begin, step + 1)
        missing = history - len(values)
        if missing:
            empty = (missing, values.shape[1])
            values = np.concatenate([np.zeros(empty, np.float32), values])
            mask = np.concatenate([np.zeros(empty, np.uint8), mask])
        return {"state": values, "state_mask": mask}

    def _action(self, step: int, horizon: int, stop: int) -> Arrays:
        """As `WindowEncoder` makes it: behind its last valid row a column holds what stands behind the end."""
        last, tail = self.arrays["action_last"][stop], self.arrays["action_tail"][stop]
        end = min(step + horizon, self.facts["stops"][stop])
        values, mask = self._rows("action", step, end), self._rows("action_mask", step, end)
        beyond = step + horizon - end
        if beyond:
            values = np.concatenate([values, np.broadcast_to(tail, (beyond, len(tail)))])
            mask = np.concatenate([mask, np.zeros((beyond, len(tail)), np.uint8)])
        if last.size and step + horizon - 1 > last.min():
            values = np.where(np.arange(step, step + horizon)[:, None] > last, tail, values)
        return {"action": values, "action_mask": mask}

    def _view_at(self, view: _View, step: int) -> Mapping[str, Any]:
        if view.poses is None:
            return view.facts
        pose = view.poses[0] if len(view.poses) == 1 else view.poses[step - self.facts["starts"][0][0]]
        if np.isnan(pose[0, 0]):
            return view.facts
        return {**view.facts, "camera": {**view.facts["camera"], "T_base_camera": pose.tolist()}}

    def _said(self, step: int, repeat: int, how: Cutting) -> dict[str, Any]:
        covering = [(text, entry) for text, entry in self.texts if text.span[0] <= step < text.span[1]]
        texts, facts = [text for text, _ in covering], self.facts
        instruction = choose(texts, how.prompt, how.seed, facts["episode_uid"], step, repeat)
        asked = (instruction, how.horizon, how.form.title)
        prompt = self._prompts.get(asked)
        if prompt is None:
            prompt = self._prompts[asked] = prompt_facts(
                how.form,
                robot_tag=facts["robot_tag"],
                body=facts["body"],
                hz=facts["hz"],
                chunk=how.horizon,
                instruction=instruction,
            )
        return {"language": [entry for _, entry in covering], "prompt": prompt}


def _document(key: str, members: Mapping[str, bytes], where: str) -> dict[str, Any]:
    try:
        facts = orjson.loads(members["json"])
    except (KeyError, orjson.JSONDecodeError):
        raise FormatError("sample_damaged", "the segment's JSON is missing or unreadable", where=where) from None
    if not isinstance(facts, dict) or facts.get("key") != key or facts.get("kind") != "segment":
        raise FormatError("sample_damaged", "the segment's JSON is not this segment's", where=where)
    missing = [name for name in _SHARED if name not in facts]
    if missing:
        raise FormatError("sample_damaged", f"the segment's JSON has no {missing[0]!r}", where=where)
    return facts


def _arrays(members: Mapping[str, bytes], where: str) -> Arrays:
    """Every array by name; one of another type than it has, or an unknown one, is a `FormatError`."""
    found: Arrays = {}
    for member, data in members.items():
        if not member.endswith(".npy"):
            continue
        name = member.removesuffix(".npy")
        dtype, shape, payload = parse_npy(data, name, where)
        if dtype != _TYPES.get(name.rpartition(".")[2]):
            raise FormatError("sample_damaged", f"{name} is of type {dtype}", where=where)
        found[name] = np.frombuffer(payload, dtype).reshape(shape)
    return found


def _check(facts: Mapping[str, Any], arrays: Arrays) -> None:
    """Shapes and numbers agree; else a `ValueError`, `KeyError` or `TypeError`."""
    (low, high), starts, stops = facts["rows"], facts["starts"], facts["stops"]
    first, last = starts[0][0], starts[-1][1] - 1
    rows, steps = high - low, last + 1 - first
    if not 0 <= low <= first <= last < high <= facts["episode_length"]:
        raise ValueError(f"rows {low}..{high} for the steps {first}..{last}")
    expected: dict[str, tuple[int, ...]] = {"times": (rows,)}
    for side, count in ((side, len(facts["channels"][side])) for side in ("state", "action")):
        if count or side in arrays:
            expected |= {side: (rows, count), f"{side}_mask": (rows, count)}
            if side == "action":
                expected |= {"action_last": (len(stops), count), "action_tail": (len(stops), count)}
    expected |= {f"{name}.frames": (last + 1 - low, 2) for name in facts["views"]}
    expected |= {"native_ids": (rows,)} if "native_params" in facts else {}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
    for name in (name for name in arrays if name.endswith(".poses")):
        if arrays[name].shape not in ((1, 4, 4), (steps, 4, 4)):
            raise ValueError(f"{name} is {arrays[name].shape} for {steps} steps")
    at = first
    for begin, end, lowest, highest in facts["bounds"]:
        if begin != at or end <= begin or highest not in stops or not lowest <= highest <= facts["episode_length"]:
            raise ValueError(f"the bounds of steps {begin}..{end}")
        at = end
    if at != last + 1:
        raise ValueError(f"the bounds end at step {at}")
