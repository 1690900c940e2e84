"""Segments: rows of an episode once, with all that any window of them needs (`samples: {kind: episode}`).

A segment is one sample of a shard: its JSON and arrays first, then the frames that its windows can show, in the order
of time. `dataengine.loader.segments` cuts windows out of it that are what `WindowEncoder` makes of the same episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import timeline
from dataengine.documents import canonical_json
from dataengine.embodiment import Card
from dataengine.episode import Episode, View
from dataengine.shards.npy import npy
from dataengine.shards.samples import KEY_UID, identity, rendered, shared_facts, tail_of, view_facts
from dataengine.shards.tar import Sample
from dataengine.specs.recipe import SEGMENT_VERSION, ImageSpec, SamplesSpec
from dataengine.transforms.cameras import pose_rows
from dataengine.transforms.prompts import body_phrase

LISTED = ("hz", "source", "starts")
"""What of a segment's JSON its shard's index repeats: enough to count its windows."""
Run = tuple[int, int, int]


@dataclass(frozen=True)
class SegmentSpec:
    """How one source's episodes become segments; `source` is what the recipe calls it."""

    samples: SamplesSpec
    images: ImageSpec
    card: Card
    source: str


def segment_key(uid: str, start: int) -> str:
    """A segment's key: uid prefix, and the first step of the segment."""
    return f"{uid[:KEY_UID]}-{start:07d}-seg"


def listed(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an index says of a sample beside its members, out of its JSON: None for all but segments."""
    return {name: document.get(name) for name in LISTED} if document.get("kind") == "segment" else None


def segment_sample(
    episode: Episode,
    spec: SegmentSpec,
    start: int,
    runs: Sequence[Run],
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Sample:
    """The segment of an episode that begins at step `start`.

    Args:
        episode: behind the recipe's steps, with its media.
        spec: margins, images, card and source.
        start: the first step of the plan's unit; it names the segment.
        runs: which steps may start a window, `(first, stop, weight)`, increasing and disjoint.
        bounds: [T] between which rows (half-open) the window that starts at a step may read.
    """
    return _Segment(episode, spec, runs, bounds).sample(segment_key(episode.uid, start))


@dataclass(frozen=True)
class _Segment:
    episode: Episode
    spec: SegmentSpec
    runs: Sequence[Run]
    bounds: tuple[NDArray[np.int64], NDArray[np.int64]]

    @cached_property
    def margins(self) -> tuple[int, int]:
        return self.spec.samples.margins(self.episode.hz)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The steps that may start a window."""
        return np.concatenate([np.arange(low, high) for low, high, _ in self.runs])

    @cached_property
    def rows(self) -> tuple[int, int]:
        """The rows that are stored: those that a window may read within the margins."""
        first, stop = self.bounds
        before, after = self.margins
        low = max(int(first[self.starts].min()), int(self.starts[0]) - before)
        return low, min(int(stop[self.starts].max()), int(self.starts[-1]) + after)

    @cached_property
    def views(self) -> list[tuple[View, ImageSpec]]:
        stored = ((view, self.spec.images.of(view.name)) for view in self.episode.views)
        return [(view, images_of) for view, images_of in stored if images_of is not None]

    @cached_property
    def stops(self) -> list[int]:
        """Where windows of the segment end at the latest, each once."""
        return sorted({int(stop) for stop in self.bounds[1][self.starts]})

    def sample(self, key: str) -> Sample:
        document, arrays, pictures = self._document(key), self._arrays(), []
        for view, images_of in self.views:
            arrays[f"{view.name}.frames"], found = self._frames(view, images_of)
            pictures += found
            arrays |= self._poses(view)
        members = [("json", canonical_json(document))]
        members += sorted((f"{name}.npy", npy(array)) for name, array in arrays.items())
        return Sample(key, (*members, *(member for _, member in sorted(pictures))), listed(document))

    def _document(self, key: str) -> dict[str, Any]:
        episode, first, last = self.episode, int(self.starts[0]), int(self.starts[-1])
        native = {"native_params": episode.native_action["params"]} if episode.native_action else {}
        return {
            **shared_facts(episode),
            **identity(episode, key, "segment"),
            **native,
            "source": self.spec.source,
            "segment_version": SEGMENT_VERSION,
            "rows": list(self.rows),
            "starts": [list(run) for run in self.runs],
            "bounds": self._bounds(),
            "stops": self.stops,
            "robot_tag": self.spec.card.robot_tag,
            "body": body_phrase(self.spec.card, episode),
            "views": {view.name: view_facts(episode, view, images_of) for view, images_of in self.views},
            "language": [
                {
                    "text": text.text,
                    "source": text.source,
                    "level": text.level,
                    "span": list(text.span),
                    "confidence": text.confidence,
                }
                for text in episode.language
                if text.span[0] <= last and text.span[1] > first
            ],
        }

    def _bounds(self) -> list[list[int]]:
        """`[start, stop, first row, last row + 1]` for windows that start at `start <= s < stop`; without gaps."""
        first, stop = (bound[self.starts] for bound in self.bounds)
        changes = [0, *(np.flatnonzero((np.diff(first) != 0) | (np.diff(stop) != 0)) + 1).tolist()]
        edges = [*self.starts[changes].tolist(), int(self.starts[-1]) + 1]
        return [[a, b, int(first[at]), int(stop[at])] for at, (a, b) in zip(changes, pairwise(edges), strict=True)]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        episode, rows = self.episode, slice(*self.rows)
        found: dict[str, NDArray[Any]] = {"times": episode.times_ns[rows].astype(np.int64)}
        for side, slots in (("state", episode.state), ("action", episode.action)):
            if slots is not None:
                found[side] = slots.values[rows]
                found[f"{side}_mask"] = slots.mask[rows].astype(np.uint8)
        if episode.action is not None:
            tails = [tail_of(episode.action, stop, "action") for stop in self.stops]
            found["action_last"] = np.stack([last for last, _ in tails])
            found["action_tail"] = np.stack([tail for _, tail in tails]).astype(np.float32)
        if episode.native_action:
            found["native_ids"] = np.asarray(episode.native_action["ids"][rows]).astype(np.int64)
        return found

    def _shown(self) -> NDArray[np.bool_]:
        """[rows] Whether a window can show the row's picture: its first step, or history of it."""
        low, _ = self.rows
        first, (before, _) = self.bounds[0][self.starts], self.margins
        edges = np.zeros(int(self.starts[-1]) - low + 2, np.int64)
        np.add.at(edges, np.maximum(first, self.starts - before) - low, 1)
        np.add.at(edges, self.starts + 1 - low, -1)
        return np.cumsum(edges[:-1]) > 0

    def _frames(
        self, view: View, spec: ImageSpec
    ) -> tuple[NDArray[np.int64], list[tuple[tuple[int, str], tuple[str, bytes]]]]:
        """Each row's (frame, ns from the row to it), -1 where none is stored; and the frames, by time and view."""
        media, low = self.episode.media[view.media], self.rows[0]
        shown = self._shown()
        times = self.episode.times_ns[low : low + len(shown)]
        frames = timeline.nearest(times, media.times_ns)
        table = np.stack([np.where(shown, frames, -1), np.where(shown, media.times_ns[frames] - times, 0)], axis=1)
        wanted = sorted({int(frame) for frame in frames[shown]})
        found = [
            ((int(media.times_ns[frame]), view.name), (f"{view.name}.{frame:07d}.{extension}", data))
            for frame, (extension, data) in rendered(media, wanted, spec, view).items()
        ]
        return table.astype(np.int64), found

    def _poses(self, view: View) -> dict[str, NDArray[Any]]:
        """Where the view's camera is at each step that may start a window, NaN where that is not known."""
        found = pose_rows(self.episode, view)
        if found is None:
            return {}
        steps = slice(int(self.starts[0]), int(self.starts[-1]) + 1)
        poses, known = found[0][steps].astype(np.float64), found[1][steps]
        if known.all() and (poses == poses[0]).all():
            return {f"{view.name}.poses": poses[:1]}
        return {f"{view.name}.poses": np.where(known[:, None, None], poses, np.nan)}
