"""Rows of a table of segments, as the converter's options say: names, times, values under their columns' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dataengine.documents import Strict
from dataengine.errors import EpisodeError
from dataengine.formats import fields
from dataengine.formats import segments_table as table


class Columns(Strict):
    """Names of the table's columns. Without `id` a segment is named by its video and its times."""

    video: str
    start: str
    stop: str
    text: str
    id: str | None = None
    group: str | None = None


class VideoInfo(Strict):
    """A second table with one row a video: its column of names, of frames a second, and of the duration in s."""

    file: str
    video: str
    fps: str
    duration: str | None = None


class Options(Strict):
    """`format.options` of `video_segments`; see docs/formats/video_segments.md."""

    tables: tuple[str, ...] = ()
    rows: str | None = None
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    columns: Columns | None = None
    times: Literal["seconds", "clock", "minutes", "frames"] = "seconds"
    first_frame: Literal[0, 1] = 0
    stop_frame: Literal["inclusive", "exclusive"] = "inclusive"
    numbers: tuple[str, ...] = ()
    literals: tuple[str, ...] = ()
    texts: Mapping[str, str] = Field(default_factory=dict)
    videos: tuple[str, ...] = ("{video}",)
    media: Literal["required", "optional", "none"] = "required"
    fps: float | None = Field(default=None, gt=0, le=1000)
    info: VideoInfo | None = None
    unit: Literal["segment", "video"] = "segment"
    tracks: int = Field(default=4, ge=1, le=64)
    slack_s: float = Field(default=0.1, ge=0, le=10)

    @model_validator(mode="after")
    def _complete(self) -> Options:
        if bool(self.tables) != (self.columns is not None):
            raise ValueError("`tables` and `columns` go together; without both, every video is one episode")
        if self.tables and self.media != "required" and self.fps is None and self.info is None:
            raise ValueError("rows without a video need a rate: give `fps`, or `info` with a column of it")
        if self.texts.keys() & {"text"}:
            raise ValueError("the stream `text` is the text column's")
        return self


_TIMES = {"seconds": table.number, "clock": table.clock_seconds, "minutes": table.minute_seconds}


@dataclass(frozen=True)
class Segment:
    """A row with its names and times: `start`, `stop` in s, or frames from 0 (half-open) with `frames`."""

    name: str
    video: str
    start: float
    stop: float
    frames: tuple[int, int] | None
    row: dict[str, Any]


def columns_of(options: Options) -> Columns:
    """The columns' names, which every table has."""
    if options.columns is None:
        raise EpisodeError("missing_key", "the options name no columns")
    return options.columns


def names_of(row: table.Row, options: Options) -> tuple[str, str]:
    """The segment's name and the video's."""
    columns = columns_of(options)
    video_name = table.label(row, columns.video)
    if columns.id is not None:
        return table.label(row, columns.id), video_name
    start, stop = (table.cell(row, name) for name in (columns.start, columns.stop))
    return f"{video_name}/{start}-{stop}", video_name


def segment_of(row: table.Row, options: Options, fps: float | None) -> Segment:
    """The row with its times; every column under its own name, empty ones as None."""
    columns = columns_of(options)
    name, video_name = names_of(row, options)
    ends = [(table.cell(row, column), column) for column in (columns.start, columns.stop)]
    frames = None
    if options.times == "frames":
        first, last = (table.whole_number(value, column) - options.first_frame for value, column in ends)
        frames = (first, last + (1 if options.stop_frame == "inclusive" else 0))
        start, stop = (frame / fps if fps else float(frame) for frame in frames)
    else:
        read = _TIMES[options.times]
        start, stop = (read(value, column) for value, column in ends)
    if not 0 <= start < stop:
        raise EpisodeError("bad_span", f"{name} goes from {ends[0][0]!r} to {ends[1][0]!r}")
    plain = {column: _value(value, column, options) for column, value in row.items()}
    fields.canonical(plain, name)
    return Segment(name, video_name, start, stop, frames, plain)


def _value(value: Any, column: str, options: Options) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if column in options.numbers:
        found = table.number(value, column)
        return int(found) if found.is_integer() and abs(found) < 1 << 53 else found
    if column in options.literals and isinstance(value, str):
        return table.literal(value, column)
    return fields.as_text(value, column) if isinstance(value, str) else value


def on_clock(made: Segment, times: NDArray[np.int64], name: str) -> Segment:
    """A segment that counts frames, by its frames' own times."""
    if made.frames is None:
        return made
    first, stop = made.frames
    if stop > len(times):
        raise EpisodeError("frame_count_mismatch", f"{made.name}: frame {stop - 1} of {name}, which has {len(times)}")
    after = int(times[stop]) if stop < len(times) else int(times[-1]) + 1
    return Segment(made.name, made.video, int(times[first]) / 1e9, after / 1e9, made.frames, made.row)


def text_of(made: Segment, column: str) -> str:
    """A column's text; an empty cell says nothing."""
    value = table.cell(made.row, column)
    return "" if value is None else fields.as_text(value, column)


def times_told(made: Segment) -> dict[str, Any]:
    """The segment's times as attributes, in the source's unit."""
    if made.frames is not None:
        return {"frames": list(made.frames)}
    return {"start_s": made.start, "stop_s": made.stop}
