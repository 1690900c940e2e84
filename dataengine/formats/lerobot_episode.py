"""What LeRobot's layouts share when an episode is read: its frames in a file of several, its texts, its digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dataengine import timeline, video
from dataengine.episode import Declared, RawDigest
from dataengine.errors import BadInput, EpisodeError
from dataengine.formats.lerobot_meta import Info, load_tasks
from dataengine.formats.lerobot_rows import Rows
from dataengine.storage import SourceRoot
from dataengine.transforms.language import check_text


def check_owner(rows: Rows, place: Mapping[str, Any]) -> None:
    """A text column and the task texts would share a name; a camera cannot be a column and a video."""
    both = sorted(set(rows.media) & set(place["videos"]))
    if both or ("task" in rows.texts and "task_index" in rows.arrays):
        raise EpisodeError("name_conflict", f"two streams are called {both[0] if both else 'task'!r}")


@contextmanager
def located(path: str) -> Iterator[None]:
    """Name the file in a `BadInput` of the block that names none."""
    try:
        yield
    except BadInput as error:
        raise type(error)(error.reason, error.what, where=error.where or path, fix=error.fix) from None


def first_frame(found: video.VideoIndex, place: Mapping[str, Any], rows: int, fps: float) -> int:
    """The frame at `from`, by presentation time; its `rows` frames must end where the next episode starts.

    `to` only checks: LeRobot writes N / fps there, other writers (N - 1) / fps.
    """
    times = found.times_ns / timeline.NS
    period = float(np.median(np.diff(times))) if found.frames > 1 else 1 / fps
    if not period > 0:
        raise EpisodeError("video_without_times", "the video's frames share one time: no range can be found in it")
    first = _frames_before(times, place["from"], period)
    if first >= found.frames or abs(times[first] - place["from"]) > period / 2:
        raise EpisodeError("frame_count_mismatch", f"no frame stands at {place['from']} s, where the episode starts")
    span = (place["to"] - place["from"]) / period
    if not rows - 1.5 < span < rows + 0.5:
        raise EpisodeError("frame_count_mismatch", f"{rows} rows, but from_ and to_timestamp span {span:.1f} frames")
    if place["next"] is not None and first + rows > _frames_before(times, place["next"], period):
        raise EpisodeError(
            "frame_count_mismatch", f"{rows} frames from {place['from']} s reach into the episode at {place['next']} s"
        )
    return first


def _frames_before(times: Any, seconds: float, period: float) -> int:
    return int(np.searchsorted(times, seconds - period / 2))


def add_tasks(
    rows: Rows, root: SourceRoot, info: Info, modality: Mapping[str, Any] | None, listed: Sequence[str] | None
) -> None:
    """`texts["task"]`: the task's text at each row, by `task_index`; likewise the annotations that `modality` names.

    A task that the listing of episodes does not give this one is `task_mismatch`: one of the two is another's.
    """
    named = {"task": "task_index"}
    if modality is not None:
        named |= {part["original_key"]: part["original_key"] for part in modality["annotation"].values()}
    for name, column in named.items():
        indices = rows.arrays.get(column)
        if indices is None:
            continue
        if indices.dtype.kind not in "iu" or indices.size != rows.count:
            raise EpisodeError("bad_type", f"{column} holds {indices.dtype} {indices.shape}, not one task a row")
        tasks = load_tasks(root, info)
        wanted = [int(index) for index in indices.reshape(rows.count)]
        unknown = sorted(set(wanted) - set(tasks))
        if unknown:
            raise EpisodeError("missing_task", f"{column} {unknown[0]} has no text in {info.tasks_file}")
        rows.texts[name] = tuple(tasks[index] for index in wanted)
    other = sorted(set(rows.texts.get("task", ())) - set(listed)) if listed is not None else []
    if other:
        check_text(other[0], f"a task in {info.tasks_file}")
        told = ", ".join(repr(text) for text in list(listed or ())[:3]) or "none"
        raise EpisodeError("task_mismatch", f"rows are of the task {other[0]!r}, the listing gives the episode {told}")


def attributes_of(rows: Rows, info: Info, absent: list[str]) -> dict[str, Any]:
    """What gives the numbers their meaning; totals and paths change with the neighbours and stay out."""
    used = rows.arrays.keys() | rows.media.keys() | rows.texts.keys()
    features = {name: dict(feature) for name, feature in info.features.items() if name in used}
    about = {"fps": info.fps, "robot_type": info.robot_type, "features": features}
    return {"info": about, "absent_media": absent, "skipped_columns": [*rows.skipped, *info.depth]}


def declared_of(rows: Rows, info: Info) -> dict[str, Declared]:
    """What info.json says of the streams. `fps` is the rate of rows and of frames; `timestamp` holds seconds.

    A shape of (1,) is stored as plain numbers. Pictures are declared [height, width, channels] in any order (LeRobot
    has written channels first and last): sides that are no count of channels are taken.
    """
    found: dict[str, Declared] = {}
    for name, feature in info.features.items():
        shape = tuple(feature["shape"])
        if name in rows.media:
            sides = tuple(size for size in shape if size not in (1, 3, 4))
            found[name] = Declared(info.fps, shape=sides if len(sides) == 2 else None)
        elif name in rows.arrays:
            hz = info.fps if name == "timestamp" else None
            found[name] = Declared(hz, feature["dtype"], () if shape == (1,) else shape)
    return found


def digest_of(rows: Rows, attributes: Mapping[str, Any]) -> str:
    """The digest of an episode's rows, texts and packets, whatever files they lie in."""
    digest = RawDigest()
    digest.add_json("attributes", attributes)
    for name in sorted(rows.arrays):
        digest.add_array(f"array/{name}", rows.arrays[name])
    for name in sorted(rows.texts):
        digest.add_json(f"text/{name}", rows.texts[name])
    for name in sorted(rows.media):
        media = rows.media[name]
        range_ = [media.first_frame, media.frames, media.offsets.tolist()]
        digest.add_json(f"media/{name}", [media.kind, media.codec, media.digest, range_])
    return digest.hexdigest()
