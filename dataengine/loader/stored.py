"""What a data set reads: the samples of a split by number, as they lie in the shards or cut out of segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import unknown_name
from dataengine.loader.decode import parse_facts
from dataengine.loader.examples import Kind
from dataengine.loader.segment import Cut
from dataengine.loader.segments import Choices, SegmentPlaces, SegmentReader
from dataengine.loader.shards import RawSample, Shards, view_of

KINDS: tuple[Kind, ...] = get_args(Kind)


class Stored(Protocol):
    """The samples of a split by number, `0 <= place < len`; picklable."""

    @property
    def stops(self) -> NDArray[np.int64]:
        """[shards] the place behind the last sample of each."""

    @property
    def partly(self) -> bool:
        """Whether some of what the shards hold is left out."""

    def __len__(self) -> int: ...

    def read(self, places: Sequence[int], views: tuple[str, ...] | None) -> Iterable[RawSample | Cut]:
        """The samples at `places`, with the pictures of `views` (None: all)."""

    def raw(self, place: int) -> dict[str, bytes]:
        """A sample's members by extension."""


class WholeSamples:
    """Samples as they lie in the shards; `chosen` are those of the wanted kinds, None for all."""

    def __init__(self, shards: Shards, chosen: NDArray[np.int64] | None) -> None:
        self._shards = shards
        self._chosen = chosen

    @property
    def stops(self) -> NDArray[np.int64]:
        return self._shards.stops if self._chosen is None else np.searchsorted(self._chosen, self._shards.stops)

    @property
    def partly(self) -> bool:
        return self._chosen is not None

    def __len__(self) -> int:
        return self._shards.samples if self._chosen is None else len(self._chosen)

    def read(self, places: Sequence[int], views: tuple[str, ...] | None) -> Iterable[RawSample | Cut]:
        return [self._shards.read(self._place(place), views) for place in places]

    def raw(self, place: int) -> dict[str, bytes]:
        return self._shards.read(self._place(place)).members

    def _place(self, place: int) -> int:
        return place if self._chosen is None else int(self._chosen[place])


class SegmentSamples:
    """Windows cut out of segments, and items. A stride may leave a source without any, so it counts as `partly`."""

    partly = True

    def __init__(self, places: SegmentPlaces, reader: SegmentReader) -> None:
        self._places = places
        self._reader = reader

    @property
    def stops(self) -> NDArray[np.int64]:
        return self._places.stops

    def __len__(self) -> int:
        return len(self._places)

    def read(self, places: Sequence[int], views: tuple[str, ...] | None) -> Iterable[RawSample | Cut]:
        return self._reader.read([self._places.window_of(place) for place in places], views)

    def raw(self, place: int) -> dict[str, bytes]:
        return self._reader.raw(self._places.window_of(place))


def stored_samples(shards: Shards, choices: Choices | None, kinds: Sequence[str]) -> Stored:
    """The samples of these kinds; `choices` says how segments are cut, None for shards that hold windows.

    Raises:
        SpecError: no such kind; a chunk or a history is longer than what segments hold beside their steps.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise unknown_name("kind", unknown[0] if unknown else "", KINDS)
    if choices is None:
        return WholeSamples(shards, _chosen(shards, kinds))
    return SegmentSamples(SegmentPlaces(shards, choices, kinds), SegmentReader(shards, choices))


def wanted_views(shards: Shards, views: Sequence[str] | None) -> tuple[str, ...] | None:
    """The wanted views, each of which must be somewhere in the shards."""
    if views is None:
        return None
    there: set[str] = set()
    for _, table in shards.tables():
        there |= {view for extension in table.extensions if (view := view_of(extension)) is not None}
        if there.issuperset(views):
            return tuple(views)
    raise unknown_name("view", next(view for view in views if view not in there), there)


def _chosen(shards: Shards, kinds: Sequence[str]) -> NDArray[np.int64] | None:
    """Places of the samples of these kinds; None when that is all of them."""
    if set(kinds) == set(KINDS):
        return None
    places = []
    for first, table in shards.tables():
        is_window = table.having(("action.npy", "state.npy"))
        for row in np.flatnonzero(~is_window).tolist():  # an item, or a window of images alone: its JSON tells
            is_window[row] = parse_facts(shards.read(first + row))["kind"] == "window"
        places.append(first + np.flatnonzero(is_window == (kinds[0] == "window")))
    return np.concatenate(places)
