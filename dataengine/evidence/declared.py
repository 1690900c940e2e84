"""Streams against what the source's own metadata says of them: rate, element type, shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dataengine import timeline, video
from dataengine.episode import Declared, RawEpisode
from dataengine.evidence.verdict import Verdict

RATE = 0.01
"""Relative. Rates are written rounded (29.97 as 30), and times in the milliseconds of some containers."""


class DeclaredEvidence:
    """Collects where the streams of episodes are not what is declared of them."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._different: dict[str, list[str]] = {}

    def add(self, raw: RawEpisode) -> None:
        """Compare one episode. Broken media raise an `EpisodeError`."""
        for name, declared in raw.declared.items():
            if name not in raw.arrays and name not in raw.media:
                continue
            self._seen[name] = self._seen.get(name, 0) + 1
            different = "; ".join(_differences(raw, name, declared))
            if different:
                self._different.setdefault(name, []).append(f"{raw.upstream_id}: {different}")

    def verdicts(self) -> Iterator[Verdict]:
        """A warning for each stream that is not as declared, and one word for all others."""
        for name, different in sorted(self._different.items()):
            says = f"{len(different)} of {self._seen[name]} episodes are not what the metadata says; {different[0]}"
            fix = "a converter goes by the data: find out which of the two is right, and correct the metadata"
            yield Verdict("declared", name, "warning", says, fix, ("wrong_metadata",))
        sound = self._seen.keys() - self._different.keys()
        if sound:
            says = f"{len(sound)} streams have the rate, element type and shape that the metadata declares"
            yield Verdict("declared", "all other streams" if self._different else "all streams", "ok", says, "")


def _differences(raw: RawEpisode, name: str, declared: Declared) -> Iterator[str]:
    if name in raw.arrays:
        array = raw.arrays[name]
        if declared.dtype is not None and declared.dtype != array.dtype.name:
            yield f"{declared.dtype} is declared, stored is {array.dtype.name}"
        if declared.shape is not None and declared.shape != array.shape[1:]:
            yield f"the shape {list(declared.shape)} is declared, stored is {list(array.shape[1:])}"
        yield from _other_rate(array.reshape(-1), declared.hz)
        return
    media = raw.media[name]
    if declared.shape is not None and sorted(declared.shape) != sorted((media.height, media.width)):
        height, width = declared.shape
        yield f"pictures {height} high and {width} wide are declared, they are {media.height} by {media.width}"
    if declared.hz is not None and media.kind == "video":
        yield from _other_rate(video.frame_times(media) / timeline.NS, declared.hz)


def _other_rate(seconds: NDArray[np.generic], hz: float | None) -> Iterator[str]:
    if hz is None or len(seconds) < 3 or seconds.dtype.kind not in "fiu":
        return
    usual = float(np.median(np.diff(seconds.astype(np.float64))))
    if np.isfinite(usual) and usual > 0 and abs(usual * hz - 1) > RATE:
        yield f"{hz:g} Hz are declared, times say {1 / usual:.4g}"
