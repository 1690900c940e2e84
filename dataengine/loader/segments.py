"""Versions of segments (`samples: {kind: episode}`): which windows there are, and reading them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import FormatError, SpecError
from dataengine.loader.segment import Cut, Cutting, Segment
from dataengine.loader.shards import IMAGES, RawSample, Shards
from dataengine.specs.recipe import PromptSpec, SamplesSpec, Window
from dataengine.transforms.prompts import form_of

KEPT_BYTES = 32 << 20
"""Of segments whose numbers are kept, the latest used."""
Ints = NDArray[np.int64]
GivenWindow = Window | Mapping[str, Any]
GivenPrompt = PromptSpec | Mapping[str, Any] | str


class Place(NamedTuple):
    """A window: its segment's number among the samples in the shards, its step, and which repeat it is.

    Of an item step and repeat are 0, and `is_item` says so.
    """

    sample: int
    step: int
    repeat: int
    is_item: bool


@dataclass(frozen=True)
class Choices:
    """The window and the prompt of each source, by the name that its recipe calls it; picklable."""

    samples: SamplesSpec
    seed: int
    sources: Mapping[str, tuple[Window, PromptSpec]]

    @classmethod
    def of(cls, recipe: Mapping[str, Any], window: GivenWindow | None, prompt: GivenPrompt | None) -> Choices | None:
        """A version's recipe with what is asked for in its place; None for a version of windows.

        Raises:
            SpecError: a window or a prompt is asked for that is none, or of a version of windows.
        """
        spec = SamplesSpec.parse(recipe.get("samples", {}), "the version's recipe")
        if spec.kind == "window":
            if window is not None or prompt is not None:
                raise SpecError(
                    "the shards hold windows, cut and prompted when they were built",
                    where=f"{'window' if window is not None else 'prompt'}=",
                    fix="build with `samples: {kind: episode}`, whose segments the loader windows",
                )
            return None
        sources = {}
        for source in recipe["sources"]:
            own = Window.parse(source.get("window") or recipe["window"], "the version's recipe")
            said = PromptSpec.parse(source.get("prompt") or recipe["prompt"], "the version's recipe")
            sources[source.get("name") or source["converter"]] = _window(own, window), _prompt(said, prompt)
        return cls(spec, recipe["seed"], sources)

    def check(self, source: str, hz: float) -> None:
        """A window that needs more rows than segments hold beside their steps is a `SpecError`."""
        window, (before, after) = self.sources[source][0], self.samples.margins(hz)
        horizon = window.chunk.horizon(hz)
        if horizon > after:
            raise SpecError(
                f"a chunk of {horizon} steps is longer than what segments hold behind their last step, {after}",
                where=f"{source}, at {hz:g} Hz",
                fix=f"build with `samples: {{kind: episode, after: {horizon}}}` or more, or ask for a shorter chunk",
            )
        if window.history - 1 > before:
            raise SpecError(
                f"a history of {window.history} steps needs {window.history - 1} steps before the first of a segment,"
                f" which holds {before}",
                where=f"{source}, at {hz:g} Hz",
                fix=f"build with `samples: {{kind: episode, before: {window.history - 1}}}` or more",
            )

    def cutting(self, source: str, hz: float) -> Cutting:
        """How a source's segments at a rate are cut."""
        window, prompt = self.sources[source]
        return Cutting(window.chunk.horizon(hz), window.history, prompt, form_of(prompt), self.seed)


def _window(own: Window, given: GivenWindow | None) -> Window:
    if given is None or isinstance(given, Window):
        return own if given is None else given
    return Window.parse({**own.canonical(), **given}, "window=")


def _prompt(own: PromptSpec, given: GivenPrompt | None) -> PromptSpec:
    if given is None or isinstance(given, PromptSpec):
        return own if given is None else given
    asked = {"form": given} if isinstance(given, str) else given
    return PromptSpec.parse({**own.canonical(), **asked}, "prompt=")


class SegmentPlaces:
    """The windows of a version of segments, and its items, by number: by shard, segment, step and repeat.

    A step that counts `weight` times by the recipe's steps has as many places. Nothing is stored for a window; a run
    of steps takes 48 bytes. `stops` [shards] are the places behind the last one of each shard.
    """

    def __init__(self, shards: Shards, choices: Choices, kinds: Sequence[str]) -> None:
        found: list[Ints] = []
        known: dict[tuple[str, float], int] = {}
        for first, table in shards.tables():
            runs: list[tuple[int, int, int, int, int]] = []
            for row, key in enumerate(table.keys):
                said = table.listed.get(row)
                if said is not None and "window" in kinds:
                    runs += _runs(first + row, said, choices, known, key)
                elif said is None and "item" in kinds:
                    runs.append((first + row, 0, 0, 1, 0))
            found.append(np.array(runs, np.int64).reshape(-1, 5))
        self._runs: Ints = np.concatenate(found)
        sizes = [_sizes(runs) for runs in found]
        self._stops: Ints = np.cumsum(np.concatenate(sizes))
        self.stops: Ints = np.cumsum([int(size.sum()) for size in sizes])

    def __len__(self) -> int:
        return int(self._stops[-1]) if self._stops.size else 0

    def window_of(self, place: int) -> Place:
        """The window at `place`, `0 <= place < len`."""
        number = int(np.searchsorted(self._stops, place, side="right"))
        sample, start, stop, weight, stride = self._runs[number].tolist()
        if not stride:
            return Place(sample, 0, 0, is_item=True)
        first = -(-start // stride)
        size = (-(-stop // stride) - first) * weight
        offset = place - (int(self._stops[number]) - size)
        return Place(sample, (first + offset // weight) * stride, offset % weight, is_item=False)


def _runs(
    sample: int, said: Mapping[str, Any], choices: Choices, known: dict[tuple[str, float], int], key: str
) -> list[tuple[int, int, int, int, int]]:
    """(segment, first step, stop, weight, stride) of its runs; each rate of a source is checked once."""
    try:
        source, hz = said["source"], float(said["hz"])
        if (source, hz) not in known:
            choices.check(source, hz)
            known[source, hz] = choices.sources[source][0].stride
        stride = known[source, hz]
        runs = [(sample, int(start), int(stop), int(weight), stride) for start, stop, weight in said["starts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("index_damaged", f"what it says of the segment is none: {error!r}", where=key) from None
    return [run for run in runs if -(-run[2] // stride) > -(-run[1] // stride)]


def _sizes(runs: Ints) -> Ints:
    """Windows of each run; one of an item."""
    stride = np.maximum(runs[:, 4], 1)
    return np.where(runs[:, 4] > 0, (-(-runs[:, 2] // stride) - -(-runs[:, 1] // stride)) * runs[:, 3], 1)


class SegmentReader:
    """Reads windows out of segments; the numbers of the last segments used stay decoded. Picklable without them."""

    def __init__(self, shards: Shards, choices: Choices) -> None:
        self._shards = shards
        self._choices = choices
        self._forget()

    def _forget(self) -> None:
        self._held: OrderedDict[int, tuple[Segment, Cutting, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self._shards, "choices": self._choices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shards, self._choices = state["shards"], state["choices"]
        self._forget()

    def read(self, places: Sequence[Place], views: tuple[str, ...] | None) -> Iterator[RawSample | Cut]:
        """The samples at `places`, with the pictures of `views` (None: all)."""
        for place in places:
            yield self._shards.read(place.sample, views) if place.is_item else self._cut(place, views)

    def raw(self, place: Place) -> dict[str, bytes]:
        """The members that the sample has in a version of windows, byte for byte."""
        if place.is_item:
            return self._shards.read(place.sample).members
        return self._cut(place, None).members()

    def _cut(self, place: Place, views: tuple[str, ...] | None) -> Cut:
        segment, how, _ = self._segment(place.sample)
        cut = segment.cut(place.step, place.repeat, how)
        shown = segment.pictures(place.step, how, views)
        found = self._shards.members(segment.placed, sorted(set(shown.values())))
        cut.raw.members.update({name: found[member] for name, member in shown.items()})
        return cut

    def _segment(self, sample: int) -> tuple[Segment, Cutting, int]:
        """A segment, how it is cut, and the bytes it was read from."""
        with self._lock:
            held = self._held.get(sample)
            if held is not None:
                self._held.move_to_end(sample)
                return held
        placed = self._shards.placed(sample)
        numbers = [name for name in placed.members if not name.endswith(IMAGES)]
        members = self._shards.members(placed, numbers)
        segment = Segment.parse(placed, members)
        try:
            how = self._choices.cutting(segment.facts["source"], segment.facts["hz"])
        except (KeyError, TypeError) as error:
            told = f"the segment is of no source of the recipe: {error!r}"
            raise FormatError("sample_damaged", told, where=segment.where) from None
        made = segment, how, sum(map(len, members.values()))
        with self._lock:
            if sample not in self._held:
                self._held[sample] = made
                self._bytes += made[2]
            while self._bytes > KEPT_BYTES and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1][2]
        return made
