"""The streams of raw episodes, counted: rows, shapes, ranges, rates and gaps, all of the data themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import images, timeline, video
from dataengine.episode import Media, RawEpisode
from dataengine.errors import BadInput, EpisodeError
from dataengine.evidence.raw import is_clock
from dataengine.inspection.found import Stream

MAX_DECODED = 20_000
"""Pictures that are decoded in all; the rest is counted by its containers' indexes, and that is told."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3}


class Streams:
    """Collects episodes one after the other."""

    def __init__(self) -> None:
        self.found: dict[str, Stream] = {}
        self.steps = 0
        self.frames = 0
        self.decoded = 0

    def add(self, raw: RawEpisode) -> None:
        """Count one episode. Pictures that do not decode are an `EpisodeError`, and the episode is not counted."""
        decoded = {name: self._decode(media) for name, media in raw.media.items()}
        lengths = [self._array(name, array) for name, array in raw.arrays.items()]
        self._share_rates(raw)
        for name, media in raw.media.items():
            self._media(name, media, decoded[name])
            lengths.append(media.frames)
        for name, texts in raw.texts.items():
            self._text(name, "text", len(texts))
        if raw.messages:
            self._text("messages", "conversation", len(raw.messages))
            self.steps += 1
        elif lengths:
            self.steps += max(set(lengths), key=lambda length: (lengths.count(length), length))
        else:
            self.steps += max((len(texts) for texts in raw.texts.values()), default=0)

    def _array(self, name: str, array: NDArray[Any]) -> int:
        shape = list(array.shape[1:])
        stream = self.found.setdefault(name, Stream(name, "array", str(array.dtype), shape))
        stream.varies |= stream.shape != shape or stream.dtype != str(array.dtype)
        stream.episodes += 1
        rows = len(array) if array.ndim else 1
        stream.steps += rows
        _range(stream, array)
        if is_clock(name):
            _note_clock(stream, clock_seconds(name, array))
        return rows

    def _share_rates(self, raw: RawEpisode) -> None:
        """Arrays with a row for each row of a clock have its rate, where the clocks of that length agree."""
        rates: dict[int, set[float | None]] = {}
        for name, array in raw.arrays.items():
            if is_clock(name) and array.ndim:
                rates.setdefault(len(array), set()).add(self.found[name].rate_hz)
        for name, array in raw.arrays.items():
            shared = rates.get(len(array), set()) if array.ndim else set()
            if self.found[name].rate_hz is None and len(shared) == 1:
                self.found[name].rate_hz = next(iter(shared))

    def _media(self, name: str, media: Media, decoded: int) -> None:
        shape = [media.height, media.width, 3]
        stream = self.found.setdefault(name, Stream(name, f"{media.kind} {media.codec}", "uint8", shape))
        stream.varies |= stream.shape != shape
        stream.episodes += 1
        stream.steps += media.frames
        stream.decoded = (stream.decoded or 0) + decoded
        self.frames += media.frames
        if media.kind == "video" or len(media.times_ns) == media.frames:
            times = media.times_ns if len(media.times_ns) == media.frames else video.frame_times(media)
            _note_clock(stream, times / timeline.NS)

    def _text(self, name: str, kind: str, count: int) -> None:
        stream = self.found.setdefault(name, Stream(name, kind, "utf8", []))
        stream.episodes += 1
        stream.steps += count

    def _decode(self, media: Media) -> int:
        """Pictures decoded of one stream: all of them, until the bound is reached."""
        wanted = min(media.frames, max(MAX_DECODED - self.decoded, 0))
        try:
            if media.kind == "images":
                for index in range(wanted):
                    images.decode(media.image(index))
            elif wanted:
                found = sum(1 for _ in video.frames(media, range(wanted), size=(16, 16)))
                if found != wanted:
                    raise EpisodeError("frame_count_mismatch", f"{found} of {wanted} frames decode")
        except BadInput as error:
            raise EpisodeError(error.reason, f"{media.name}: {error.what}") from None
        self.decoded += wanted
        return wanted


def clock_seconds(name: str, array: NDArray[Any]) -> NDArray[np.float64] | None:
    """An array of times in seconds. Its unit is told by its name (`_ns`), else by its steps: s for floats."""
    if array.ndim == 0 or array.size == 0 or array.dtype.kind not in "fiu":
        return None
    flat = array.reshape(len(array), -1)[:, 0]
    if not np.isfinite(flat.astype(np.float64)).all():
        return None
    if array.dtype.kind in "iu":
        flat = flat.astype(np.int64) - int(flat[0])  # nanoseconds since 1970 are no float64
    return flat.astype(np.float64) * clock_scale(name, array.dtype, flat.astype(np.float64))


def clock_scale(name: str, dtype: np.dtype[Any], times: NDArray[np.float64]) -> float:
    """Seconds a unit of a clock: by the ending of its name, else for whole numbers by the size of their steps."""
    scale = _UNITS.get(name.lower().rpartition("_")[2], 1.0)
    if scale == 1.0 and dtype.kind in "iu" and len(times) > 1:
        step = float(np.abs(np.diff(times)).mean())
        scale = next((unit for unit in _UNITS.values() if 1e-3 <= step * unit < 10), 1.0)
    return scale


def _note_clock(stream: Stream, seconds: NDArray[np.float64] | None) -> None:
    if seconds is None:
        return
    steps = np.diff(seconds)
    usual = float(np.median(steps)) if len(steps) else 0.0
    stream.backwards = (stream.backwards or 0) + int((steps <= 0).sum())
    stream.gaps = (stream.gaps or 0) + (int((steps > 1.5 * usual).sum()) if usual > 0 else 0)
    stream.rate_hz = stream.rate_hz or _rate(steps)


def _rate(steps: NDArray[np.float64]) -> float | None:
    """Rows a second: by the usual step, or over the whole stream where rows come in bursts."""
    if len(steps) == 0 or (steps < 0).any() or not steps.any():
        return None
    usual, mean = float(np.median(steps)), float(steps.mean())
    return round(1.0 / (usual if mean / 1.5 < usual < mean * 1.5 else mean), 3)


def _range(stream: Stream, array: NDArray[Any]) -> None:
    if array.dtype.kind not in "fiu" or not array.size:
        return
    finite = array[np.isfinite(array)]
    stream.not_finite += int(array.size - finite.size)
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        stream.low = low if stream.low is None else min(low, stream.low)
        stream.high = high if stream.high is None else max(high, stream.high)


def units_of(mapped: Mapping[str, set[str]], streams: Mapping[str, Stream]) -> None:
    """Write the units that a converter declares for each array into its stream."""
    for name, units in mapped.items():
        if name in streams:
            streams[name].unit = ", ".join(sorted(units))
