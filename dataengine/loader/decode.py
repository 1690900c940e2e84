"""Samples to examples. Windows of one layout are decoded together: numpy's cost per call is shared by all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from dataengine import images
from dataengine.errors import EpisodeError, FormatError, SpecError
from dataengine.loader.arrays import Form, Window, stacked, vectors, window_of
from dataengine.loader.baked import Baked, check_facts
from dataengine.loader.codec import Codec, Layout, Numbers, wide
from dataengine.loader.examples import Bools, Example, Floats, Pixels
from dataengine.loader.layouts import Target
from dataengine.loader.segment import Cut
from dataengine.loader.shards import IMAGES, RawSample
from dataengine.schema import WIDTH

_Masked = tuple[Floats, Bools]


@dataclass(frozen=True)
class Decoder:
    """How samples become examples; picklable. `baked`: the shards hold what the codec makes, so it makes nothing."""

    codec: Codec
    views: tuple[str, ...] | None
    image_size: tuple[int, int] | None
    image_fit: images.Fit
    target: Target | None = None
    baked: Baked | None = None

    def decode(self, samples: Iterable[RawSample | Cut]) -> list[Example]:
        """Examples in the order of `samples`; a damaged one is a `FormatError` with its shard and key."""
        found: dict[int, Example] = {}
        groups: dict[Form, list[Window]] = {}
        for place, raw in enumerate(samples):
            if isinstance(raw, Cut):
                form, window = raw.window(place, self.codec.layout(raw.facts, raw.raw.where))
                groups.setdefault(form, []).append(window)
                continue
            facts = parse_facts(raw)
            if facts["kind"] == "item":
                found[place] = _item(raw, facts, self._widths())
                continue
            check_facts(facts, self.baked, raw.where)
            if self._in_layout is not None:
                found[place] = self._dense(raw, facts, self._in_layout)
                continue
            layout = self.codec.layout(facts, raw.where)
            form, window = window_of(place, raw, facts, layout, baked=self.baked is not None)
            groups.setdefault(form, []).append(window)
        for form, windows in groups.items():
            found |= self._windows(form, windows)
        return [found[place] for place in range(len(found))]

    def _windows(self, form: Form, windows: list[Window]) -> dict[int, Example]:
        layout, (numbers, is_pad, now) = form.layout, stacked(form, windows)
        try:
            ready = numbers if form.baked else self.codec.forward(layout, numbers)
            placed_in = placed(self.target, layout, ready, windows[0].facts, is_pad)
        except EpisodeError as error:
            for window in windows if len(windows) > 1 else ():
                self._windows(form, [window])  # raises for the one that is damaged
            raise FormatError(error.reason, error.what, where=windows[0].raw.where) from None
        (states, state_masks), (actions, action_masks) = placed_in
        state_cosines = None if ready.state_cosine is None else wide(ready.state_cosine, layout.state_runs)
        action_cosines = None if ready.action_cosine is None else wide(ready.action_cosine, layout.action_runs)
        present = wide(now, layout.state_runs)
        present_masks = wide(numbers.state_mask[:, -1], layout.state_runs)
        return {
            window.place: Example(
                key=window.raw.key,
                kind="window",
                facts=window.facts,
                state=states[row],
                state_mask=state_masks[row],
                action=actions[row],
                action_mask=action_masks[row],
                is_pad=is_pad[row],
                present=present[row],
                present_mask=present_masks[row],
                images=self._images(window.raw),
                prompt=window.facts["prompt"]["text"],
                state_cosine=None if state_cosines is None else state_cosines[row],
                action_cosine=None if action_cosines is None else action_cosines[row],
            )
            for row, window in enumerate(windows)
        }

    @property
    def _in_layout(self) -> Target | None:
        """The layout that the shards' own vectors are in."""
        return self.target if self.baked is not None and self.baked.layout is not None else None

    def _dense(self, raw: RawSample, facts: Mapping[str, Any], target: Target) -> Example:
        """A window of a version in a layout, as it lies in its shard."""
        return Example(
            key=raw.key,
            kind="window",
            facts=facts,
            **vectors(raw, target.layout),
            images=self._images(raw),
            prompt=facts["prompt"]["text"],
        )

    def _widths(self) -> tuple[int, int]:
        if self.target is None:
            return WIDTH, WIDTH
        return self.target.layout.width("state"), self.target.layout.width("action")

    def _images(self, raw: RawSample) -> dict[str, Pixels]:
        result = {}
        members = {name.rpartition(".")[0]: name for name in raw.members if name.endswith(IMAGES)}
        named = {name: name for name in members}
        if self.target is not None and self._in_layout is None:
            named = self.target.images(members)
        for name, shown in named.items():
            extension = members[name]
            data = raw.members[extension]
            try:
                pixels = images.decode(data)
            except EpisodeError as error:
                raise FormatError(error.reason, f"{extension}: {error.what}", where=raw.where) from None
            result[shown] = images.resize(pixels, self.image_size, self.image_fit) if self.image_size else pixels
        return result


def placed(
    target: Target | None, layout: Layout, ready: Numbers, facts: Mapping[str, Any], is_pad: Bools
) -> tuple[_Masked, _Masked]:
    """State and action of windows, each with its mask, in the unified vector or in a layout (`target`).

    Raises:
        EpisodeError: `bad_rotation`.
        SpecError: the layout has no place for what normalization made.
    """
    state = wide(ready.state, layout.state_runs), wide(ready.state_mask, layout.state_runs)
    action = wide(ready.action, layout.action_runs), wide(ready.action_mask, layout.action_runs)
    if target is None:
        return state, action
    if ready.state_cosine is not None or ready.action_cosine is not None:
        raise SpecError(
            f"layout {target.layout.name} has no place for the cosines of angles normalized by `sincos`",
            fix="load with normalize=False, or build with another method",
        )
    return target.windows(facts, state, action, is_pad)


def parse_facts(raw: RawSample) -> dict[str, Any]:
    """The JSON of a sample; `FormatError` `sample_damaged` when it is missing, unreadable or another sample's."""
    try:
        facts = orjson.loads(raw.members["json"])
    except (KeyError, orjson.JSONDecodeError):
        raise FormatError("sample_damaged", "the sample's JSON is missing or unreadable", where=raw.where) from None
    if not isinstance(facts, dict) or facts.get("key") != raw.key or facts.get("kind") not in ("window", "item"):
        raise FormatError("sample_damaged", "the sample's JSON is not this sample's", where=raw.where)
    return facts


def _item(raw: RawSample, facts: Mapping[str, Any], widths: tuple[int, int]) -> Example:
    """A vision-language item: its media as they came, one masked row of state and action."""
    zeros = [np.zeros((1, width), np.float32) for width in (*widths, WIDTH)]
    masks = [np.zeros((1, width), np.bool_) for width in (*widths, WIDTH)]
    return Example(
        key=raw.key,
        kind="item",
        facts=facts,
        state=zeros[0],
        state_mask=masks[0],
        action=zeros[1],
        action_mask=masks[1],
        is_pad=np.ones(1, np.bool_),
        present=zeros[2][0],
        present_mask=masks[2][0],
        messages=facts["messages"],
        media={name.rpartition(".")[0]: data for name, data in raw.members.items() if name != "json"},
    )
