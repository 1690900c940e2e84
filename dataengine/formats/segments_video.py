"""Stretches of long videos by time or frame, cut by remux, with each frame's own time.

Times are those of the container (presentation times, as a player shows them), which need not start at 0.
A helper of formats, not a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import timeline, video
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats.base import EpisodeRef
from dataengine.formats.segments_text import ns
from dataengine.storage import SourceRoot

MEDIA = "video"
MAX_VIDEO = 4 << 30
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Made:
    """What an episode consists of: times [T] ns, the video if there is one, texts, attributes, and its group."""

    times: NDArray[np.int64]
    media: Media | None
    texts: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]
    group: str


@dataclass(frozen=True)
class Indexed:
    """A video's packets, its frames' times [n] ns on the container's clock, and the streams that are not read."""

    index: video.VideoIndex
    times: NDArray[np.int64]
    unread: tuple[str, ...]

    @property
    def end(self) -> int:
        """When the last frame is over (ns), by the mean distance of frames."""
        step = round(1e9 / float(self.index.rate)) if self.index.rate else 0
        return int(self.times[-1]) + step


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A path template with `{column}` replaced by the row's text; never a format string.

    `SpecError` for a brace that names no column; `EpisodeError` `missing_column` for one that the row does not have,
    `bad_value` for a value that is no plain text or number.
    """

    def put(match: re.Match[str]) -> str:
        if match[1] not in values:
            fix = f"known: {', '.join(sorted(values))}"
            raise EpisodeError("missing_column", f"no column {match[1]!r} for the path {template!r}", fix=fix)
        value = values[match[1]]
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise EpisodeError("bad_value", f"{match[1]} is {str(value)[:60]!r}, which names no video")
        return str(value)

    if "{" in (left := _FIELD.sub("", template)) or "}" in left:
        raise SpecError(f"the path {template!r} holds a brace that names no column", fix="write {column}")
    return _FIELD.sub(put, template)


def find_video(
    root: SourceRoot, templates: Sequence[str], values: Mapping[str, Any], known: dict[str, bool] | None = None
) -> str | None:
    """The first of the paths that exists below the root; None where none does.

    `known` holds what was looked up before, by path: a table has many rows of one video. Raises what `is_there` raises.
    """
    for template in templates:
        path = filled(template, values)
        there = known.get(path) if known is not None else None
        if there is None:
            there = is_there(root, path)
        if known is not None:
            known[path] = there
        if there:
            return path
    return None


def is_there(root: SourceRoot, path: str) -> bool:
    """Whether the file is there; a path that leaves the root, or a link out of it, raises as `SourceRoot.locate`."""
    try:
        root.locate(path)
    except FormatError as error:
        if error.reason == "missing_file":
            return False
        raise
    return True


def indexed(root: SourceRoot, path: str) -> Indexed:
    """The video's index, demuxed once a process and state of the file; nothing is decoded, nothing is held whole."""
    state = root.locate(path).stat()
    if state.st_size == 0:
        raise EpisodeError("empty_file", f"{path} is empty", where=path)
    return _indexed(root.path, path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _indexed(folder: Path, path: str, size: int, modified: int) -> Indexed:  # noqa: ARG001
    try:
        with SourceRoot(folder).open(path) as file:
            found = video.index(file)
            times = timeline.seconds_to_ns(found.pts * float(found.time_base))
            timeline.check_increasing(times, "its frames")
            return Indexed(found, times, video.other_streams(file))
    except BadInput as error:
        raise EpisodeError(error.reason, f"{path}: {error.what}", where=path) from None


def frame_range(root: SourceRoot, path: str, start: float, stop: float, slack: float) -> tuple[int, int]:
    """First frame and number of frames shown from `start` to `stop` (s on the container's clock, half-open).

    A stop may lie up to `slack` s behind the video's end. Raises `EpisodeError` `bad_span`, `segment_outside_video`,
    `empty_episode` (no frame in it).
    """
    found = indexed(root, path)
    if not 0 <= start < stop:
        raise EpisodeError("bad_span", f"from {start:g} to {stop:g} s is no stretch of a video")
    if ns(start) >= found.end or ns(stop) > found.end + ns(slack):
        what = f"{start:g} to {stop:g} s is wanted, {path} ends at {found.end / 1e9:.3f} s"
        raise EpisodeError("segment_outside_video", what)
    first, last = (int(row) for row in np.searchsorted(found.times, [ns(start), ns(stop)]))
    if first == last:
        raise EpisodeError("empty_episode", f"{path} shows no frame from {start:g} to {stop:g} s")
    return first, last - first


def cut_seconds(root: SourceRoot, path: str, name: str, start: float, stop: float, slack: float) -> Media:
    """The frames of `frame_range`, cut out by remux, with their times in ns. Raises what `video.cut` raises, too."""
    return cut_frames(root, path, name, *frame_range(root, path, start, stop, slack))


def cut_frames(root: SourceRoot, path: str, name: str, first: int, frames: int) -> Media:
    """`frames` frames from `first` on (presentation order, from 0) by remux; `times_ns` on the container's clock."""
    found = indexed(root, path)
    try:
        with root.open(path) as file:
            made = video.cut(name, file, found.index, first, frames)
    except BadInput as error:
        raise EpisodeError(error.reason, f"{path}: {error.what}", where=path) from None
    return replace(made, times_ns=found.times[first : first + frames])


def whole(root: SourceRoot, path: str, name: str) -> Media:
    """The whole file, bytes untouched (its sound with it), with every frame's time."""
    found = indexed(root, path)
    made = video.whole(name, root.read(path, limit=MAX_VIDEO))
    if made.frames != found.index.frames:
        raise FormatError("changed_during_read", f"{path} changed while it was read", where=path)
    return replace(made, times_ns=found.times)


def assembled(
    root: SourceRoot, ref: EpisodeRef, made: Made, arrays: Mapping[str, NDArray[Any]] | None = None
) -> RawEpisode:
    """The raw episode; its digest is over its own times, texts, attributes and packets, no shared file."""
    digest = RawDigest()
    digest.add_array("time_ns", made.times)
    for name, array in sorted((arrays or {}).items()):
        digest.add_array(name, array)
    digest.add_json("attributes", made.attributes)
    digest.add_json("texts", made.texts)
    if made.media is not None:
        digest.add_bytes("video", made.media.digest.encode())
    return RawEpisode(
        upstream_id=ref.upstream_id,
        files=tuple(root.describe(path) for path in ref.files),
        raw_digest=digest.hexdigest(),
        arrays={"time_ns": made.times, **(arrays or {})},
        media={MEDIA: made.media} if made.media is not None else {},
        texts=made.texts,
        attributes=made.attributes,
        group=made.group,
    )
