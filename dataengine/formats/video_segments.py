"""Plain videos and one table that says what is seen when: EPIC-KITCHENS-100, and any CSV or JSON of segments.

The converter's options name the columns, the unit of their times and where the videos lie; nothing is guessed. A
segment is cut out of its video by remux. EPIC-KITCHENS-100: epic-kitchens/epic-kitchens-100-annotations @ ea8b4045,
README.md (columns), EPIC_100_video_info.csv (duration and rate of every video).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError
from dataengine.formats import files
from dataengine.formats import segments_table as table
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.segments_guess import OTHER_VIDEOS, VIDEO_SUFFIXES, guess
from dataengine.formats.segments_text import Span, declared_times, tracks
from dataengine.formats.segments_video import (
    MEDIA,
    Made,
    assembled,
    cut_frames,
    cut_seconds,
    find_video,
    indexed,
    whole,
)
from dataengine.formats.video_segments_rows import (
    Options,
    Segment,
    columns_of,
    names_of,
    on_clock,
    segment_of,
    text_of,
    times_told,
)
from dataengine.storage import SourceRoot


@dataclass
class _Scan:
    """What one pass has seen: names, rows by video, and which paths of videos are there."""

    names: dict[str, str] = field(default_factory=dict)
    there: dict[str, bool] = field(default_factory=dict)
    videos: dict[str, list[tuple[str, int]]] = field(default_factory=dict)


class VideoSegmentsFormat:
    """Videos with a table of segments, one episode a segment or (`unit: video`) a video."""

    name: ClassVar[str] = "video_segments"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "videos with a CSV or JSON table of timed segments (EPIC-KITCHENS-100), or videos alone"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "epic_kitchens",
            "egocentric",
            "EPIC-KITCHENS-100: EPIC_100_*.csv (segments), EPIC_100_video_info.csv, <P>/videos/<P>_<n>.MP4",
            "real files",
            2,
            "egocentric/epic_kitchens_100: 9,668 validation segments of 138 videos, rates of 700 videos; the videos "
            "themselves are a fixture",
        ),
        Layout(
            "video_table",
            "egocentric",
            "videos beside one CSV, TSV, JSON or JSON Lines table of segments",
            "layout fixture",
            2,
            "egocentric/ego4d_clip_lavila (a real mp4) with a table that a test writes",
        ),
        Layout(
            "single_clip",
            "egocentric",
            "videos alone, one episode each",
            "real files",
            1,
            "egocentric/ego4d_clip_lavila: 60 frames, one keyframe, sound",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A table with columns of videos, starts and stops; or nothing but videos."""
        found = guess(root, only)
        if found is None:
            return None
        return Detection(self.name, found.confidence, found.evidence, found.options, found.layout)

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a row of the tables, in their order (or a video, in the order of first rows); no video is opened.

        Problems: `missing_file`, a table that cannot be read, `duplicate_episode`, `missing_media`, a row without a
        name.
        """
        told = Options.parse(dict(options), f"options of the format {self.name}")
        if told.columns is None:
            yield from _clips(root, only)
            return
        if told.info is not None and not root.exists(told.info.file):
            yield ScanProblem("file", told.info.file, "missing_file", f"{told.info.file} is not there")
            return
        seen = _Scan()
        for path in _tables(root, only, told):
            if path.startswith("?"):
                yield ScanProblem("file", path[1:], "missing_file", f"no table {path[1:]}")
                continue
            try:
                rows = table.table_rows(root, path, told.rows, told.delimiter)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if not rows:
                yield ScanProblem("file", path, "no_episodes", f"{path} has a header and no rows")
            for number, row in enumerate(rows):
                found = _row_ref(root, path, number, row, told, seen)
                if found is not None:
                    yield found
        for name, places in seen.videos.items():
            yield _video_ref(root, name, places, told, seen)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One segment or one video of T rows.

        Array `time_ns` [T]: the frames' times in the video (s x 1e9 on the container's clock), or, without the video,
        times at the declared rate. Texts `text` (and those of `texts`), one for the episode, or one a row and track.
        """
        with root.unchanged(*ref.files):
            if "clip" in ref.locator:
                made = _read_clip(root, ref)
            else:
                options = Options.parse(dict(ref.locator["options"]), self.name)
                read = _read_segment if options.unit == "segment" else _read_video
                made = read(root, ref, options)
        return made


def _tables(root: SourceRoot, only: str | None, options: Options) -> list[str]:
    """Paths of the tables; a name that is not there comes as `?name`, and all patterns where they find nothing."""
    if only is not None:
        return [only] if only.endswith(table.SUFFIXES) else []
    found: dict[str, None] = {}
    missing = []
    for pattern in options.tables:
        paths = root.glob(pattern)
        found.update(dict.fromkeys(paths))
        if not paths:
            missing.append(pattern)
    named = [pattern for pattern in missing if not found or not set(pattern) & set("*?[")]
    return [*found, *(f"?{pattern}" for pattern in named)]


def _clips(root: SourceRoot, only: str | None) -> Iterator[EpisodeRef | ScanProblem]:
    paths = [only] if only is not None else files.natural(root.glob("**/*"))
    seen: dict[str, str] = {}
    for path in paths:
        name = path.rpartition(".")[0]
        if path.lower().endswith(OTHER_VIDEOS):
            what = f"{path} is a video in a container that is not read; remux it into an MP4 or Matroska file"
            yield ScanProblem("file", path, "unsupported_video", what)
        elif path.lower().endswith(VIDEO_SUFFIXES) and name in seen:
            yield ScanProblem("episode", path, "duplicate_episode", f"{name} is also {seen[name]}")
        elif path.lower().endswith(VIDEO_SUFFIXES):
            seen[name] = path
            yield EpisodeRef(name, {"clip": path}, (path,))


def _row_ref(
    root: SourceRoot, path: str, number: int, row: table.Row | table.Damaged, options: Options, seen: _Scan
) -> EpisodeRef | ScanProblem | None:
    """The ref of a row, a problem, or None where the row only adds to its video's episode."""
    place = f"{path}:row {number + 1}"
    if isinstance(row, table.Damaged):
        return ScanProblem("episode", place, row.reason, row.what)
    try:
        name, video_name = names_of(row, options)
        if name in seen.names:
            more = (
                "" if columns_of(options).id else "; two rows of one stretch need a column `id` that tells them apart"
            )
            raise EpisodeError("duplicate_episode", f"{name} is also {seen.names[name]}{more}")
        seen.names[name] = place
        if options.unit == "video":
            seen.videos.setdefault(video_name, []).append((path, number))
            return None
        return _with_media(root, name, [(path, number)], row, options, seen)
    except BadInput as error:
        return ScanProblem("episode", place, error.reason, error.what)


def _video_ref(
    root: SourceRoot, name: str, places: Sequence[tuple[str, int]], options: Options, seen: _Scan
) -> EpisodeRef | ScanProblem:
    try:
        return _with_media(root, name, places, _row_at(root, *places[0], options), options, seen)
    except BadInput as error:
        return ScanProblem("episode", name, error.reason, error.what)


def _with_media(
    root: SourceRoot, name: str, places: Sequence[tuple[str, int]], row: table.Row, options: Options, seen: _Scan
) -> EpisodeRef:
    found = None
    if options.media != "none":
        values = {**row, "video": table.label(row, columns_of(options).video)}
        found = find_video(root, options.videos, values, seen.there)
        if found is None and options.media == "required":
            raise EpisodeError("missing_media", f"{name}: no video at {', '.join(options.videos)}")
    info = [options.info.file] if options.info is not None else []
    used = dict.fromkeys([*(path for path, _ in places), *info, *([found] if found else [])])
    locator = {
        "options": options.canonical(),
        "rows": [[path, number] for path, number in places],
        "video": found,
    }
    return EpisodeRef(name, locator, tuple(used))


def _info(root: SourceRoot, video_name: str, options: Options) -> tuple[float | None, float | None, Any]:
    """Frames a second, duration (s) and the row of the table of videos; `missing_key` for a video it does not have."""
    told = options.info
    if told is None:
        return options.fps, None, None
    every = table.table_rows(root, told.file)
    rows = [row for row in every if not isinstance(row, table.Damaged) and row.get(told.video) == video_name]
    if len(rows) != 1:
        raise EpisodeError("missing_key" if not rows else "duplicate_name", f"{told.file}: {len(rows)} x {video_name}")
    duration = table.number(table.cell(rows[0], told.duration), told.duration) if told.duration is not None else None
    return table.number(table.cell(rows[0], told.fps), told.fps), duration, dict(rows[0])


def _rows_of(root: SourceRoot, ref: EpisodeRef, options: Options) -> list[table.Row]:
    return [_row_at(root, path, number, options) for path, number in ref.locator["rows"]]


def _row_at(root: SourceRoot, path: str, number: int, options: Options) -> table.Row:
    rows = table.table_rows(root, path, options.rows, options.delimiter)
    row = rows[number] if number < len(rows) else None
    if row is None or isinstance(row, table.Damaged):
        raise EpisodeError("missing_key", f"{path} has no row {number + 1}")
    return row


def _read_segment(root: SourceRoot, ref: EpisodeRef, options: Options) -> RawEpisode:
    (row,) = _rows_of(root, ref, options)
    fps, _, info = _info(root, table.label(row, columns_of(options).video), options)
    made = segment_of(row, options, fps)
    if made.name != ref.upstream_id:
        raise EpisodeError("changed_during_read", f"the row of {ref.upstream_id} is now {made.name}")
    path = ref.locator["video"]
    if path is None:
        media, times = None, declared_times(made.start, made.stop, _rate(fps))
    elif made.frames is not None:
        media = cut_frames(root, path, MEDIA, made.frames[0], made.frames[1] - made.frames[0])
        times = media.times_ns
    else:
        media = cut_seconds(root, path, MEDIA, made.start, made.stop, options.slack_s)
        times = media.times_ns
    columns = {"text": columns_of(options).text, **options.texts}
    texts = {stream: (text_of(made, column),) for stream, column in columns.items()}
    attributes = {**_attributes(root, path, fps, info, made), "segment": made.row, **times_told(made)}
    attributes["missing"] = sorted(column for column, value in made.row.items() if value is None)
    return assembled(root, ref, Made(times, media, texts, attributes, _group([made], options)))


def _read_video(root: SourceRoot, ref: EpisodeRef, options: Options) -> RawEpisode:
    rows = _rows_of(root, ref, options)
    fps, duration, info = _info(root, ref.upstream_id, options)
    segments = [segment_of(row, options, fps) for row in rows]
    path = ref.locator["video"]
    if path is None:
        media, end = None, max([duration or 0.0, *(made.stop for made in segments)])
        times = declared_times(0.0, end, _rate(fps))
    else:
        media = whole(root, path, MEDIA)
        times = media.times_ns
        segments = [on_clock(made, times, ref.upstream_id) for made in segments]
    texts: dict[str, tuple[str, ...]] = {}
    without: list[str] = []
    for stream, column in {"text": columns_of(options).text, **options.texts}.items():
        spans = [Span(made.name, made.start, made.stop, text_of(made, column)) for made in segments]
        found, without = tracks(stream, spans, times, options.tracks)
        texts |= found
    attributes = {
        **_attributes(root, path, fps, info, segments[0]),
        "segments": [{"name": made.name, **times_told(made), "segment": made.row} for made in segments],
        "segments_without_rows": without,
    }
    return assembled(root, ref, Made(times, media, texts, attributes, _group(segments, options)))


def _rate(fps: float | None) -> float:
    if fps is None:
        raise EpisodeError("missing_media", "the video is not there, and no rate is declared")
    return fps


def _attributes(root: SourceRoot, path: str | None, fps: float | None, info: Any, made: Segment) -> dict[str, Any]:
    told: dict[str, Any] = {"video": made.video, "media": "absent" if path is None else "video"}
    if fps is not None:
        told["declared_fps"] = fps
    if info is not None:
        told["video_info"] = info
    if path is not None:
        found = indexed(root, path)
        told["unread"] = list(found.unread)
        told["video_fps"] = float(found.index.rate)
    return told


def _group(segments: Sequence[Segment], options: Options) -> str:
    column = columns_of(options).group
    return table.label(segments[0].row, column) if column is not None else segments[0].video


def _read_clip(root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
    path = str(ref.locator["clip"])
    found = indexed(root, path)
    media = whole(root, path, MEDIA)
    attributes = {
        "video": ref.upstream_id,
        "media": "video",
        "video_fps": float(found.index.rate),
        "keyframes": len(found.index.keyframes),
        "unread": list(found.unread),
    }
    return assembled(root, ref, Made(media.times_ns, media, {}, attributes, ref.upstream_id))
