"""Ego4D: videos by their uid, with Goal-Step's steps (goalstep_*.json) or with narrations (narration.json).

Layout of the videos: facebookresearch/Ego4d @ a44f40b3, ego4d/cli (`full_scale/<video_uid>.mp4`,
`video_540ss/<video_uid>.mp4`). Seconds count on the clock of the video file, whose first frame need not be at 0:
Goal-Step's `start_time` 0.0210286458... is 323 / 15360, the first presentation time in a file's own time base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dataengine.documents import Strict
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.ego4d_records import (
    Narration,
    counts,
    entries_of,
    narrations_of,
    passes,
    span_of,
    steps_of,
    summaries_of,
)
from dataengine.formats.segments_text import Span, declared_times, tracks
from dataengine.formats.segments_video import MEDIA, Made, assembled, cut_seconds, find_video, indexed, whole
from dataengine.storage import SourceRoot

KINDS: dict[str, tuple[str, ...]] = {
    "ego4d_goalstep": ("goalstep*.json",),
    "ego4d_narrations": ("narration.json", "narrations.json"),
}
REDACTED = "all_narrations_redacted.json"
"""The narrations of version 2 in one list a video; taken where the file of two passes is not there."""
_BESIDE = ("version", "date", "description", "manifest")
"""Facts of the file that stand beside the videos where these have no key of their own."""
_HEAD = 1 << 16


class Options(Strict):
    """`format.options` of `ego4d`; see docs/formats/ego4d.md."""

    kind: Literal["ego4d_goalstep", "ego4d_narrations"]
    unit: Literal["segment", "video"] = "segment"
    videos: tuple[str, ...] = (
        *("full_scale/{video}.mp4", "video_540ss/{video}.mp4", "{video}.mp4"),
        *("v2/full_scale/{video}.mp4", "v2/video_540ss/{video}.mp4"),
    )
    media: Literal["required", "optional", "none"] = "required"
    fps: float = Field(default=30.0, gt=0, le=1000)
    window_s: tuple[float, float] = (1.0, 1.0)
    tracks: int = Field(default=4, ge=1, le=64)
    slack_s: float = Field(default=0.1, ge=0, le=10)

    @field_validator("window_s")
    @classmethod
    def _forward(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= side <= 3600 for side in value) or sum(value) == 0:
            raise ValueError("seconds before and after a narration, not both 0")
        return value


class Ego4dFormat:
    """Ego4D annotations with or without their videos, one episode a step, a narration, or (`unit: video`) a video."""

    name: ClassVar[str] = "ego4d"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Ego4D: Goal-Step's steps and substeps, or narrations, with or without the videos"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "ego4d_goalstep",
            "egocentric",
            "Ego4D Goal-Step: goalstep_*.json beside full_scale/<video_uid>.mp4",
            "real files",
            1,
            "egocentric/ego4d_goalstep: 134 videos, 3,349 steps, 4,347 substeps; the videos themselves are a fixture",
        ),
        Layout(
            "ego4d_narrations",
            "egocentric",
            "Ego4D narrations: narration.json of two passes beside full_scale/<video_uid>.mp4",
            "layout fixture",
            3,
            "after EGO4D/docs @ fb273bfa, docs/data/annotations-schemas.md (Narrations), and "
            "facebookresearch/Ego4d @ a44f40b3, ego4d/research/clep/preprocess/ego4d_data.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A file with Goal-Step's or the narrations' name and, in its first bytes, their keys."""
        for kind, path in _annotations(root, only, None):
            with root.open(path) as file:
                head = file.read(_HEAD)
            keys = (b'"goal_category"',) if kind == "ego4d_goalstep" else (b'"narration_pass_', b'"narrations"')
            if any(key in head for key in keys):
                unit = "video" if kind == "ego4d_goalstep" else "segment"
                options = {"kind": kind, "unit": unit, "media": "optional"}
                return Detection(self.name, 0.95, (f"{path} holds {kind}'s keys",), options, kind)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a video, step or narration in the files' order; no video is opened.

        Problems: `missing_file`, a file that cannot be read, `duplicate_episode`, `missing_media`, `empty_episode` (a
        video without any step or narration), a record that is none.
        """
        told = Options.parse(dict(options), f"options of the format {self.name}")
        found = list(_annotations(root, only, told.kind))
        if not found:
            names = ", ".join(KINDS[told.kind])
            yield ScanProblem("file", names, "missing_file", f"no file is called {names}")
        seen: set[str] = set()
        for _, path in found:
            try:
                records = _records(root, path, told.kind)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            for uid, record in records:
                if uid in seen:
                    yield ScanProblem("episode", f"{path}:{uid}", "duplicate_episode", f"{uid} stands twice")
                    continue
                seen.add(uid)
                yield from _refs(root, path, uid, record, told)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One video, step or narration of T rows.

        Array `time_ns` [T]: frames' times on the video file's clock, or rows at `fps`. Texts of Goal-Step: `goal` and,
        one a row and track, `step`, `step_2`, ..., `substep`, ...; of narrations: `narration` (without its tag),
        `verbatim`, and with `unit: video` `summary`, each with tracks.
        """
        options = Options.parse(dict(ref.locator["options"]), self.name)
        path, uid = str(ref.locator["file"]), str(ref.locator["uid"])
        with root.unchanged(*ref.files):
            record = dict(_records(root, path, options.kind)).get(uid)
            if record is None:
                raise EpisodeError("missing_key", f"{path} has no video {uid}")
            read = _goalstep if options.kind == "ego4d_goalstep" else _narrations
            return read(root, ref, fields.as_object(record, uid), options)


def _annotations(root: SourceRoot, only: str | None, kind: str | None) -> Iterator[tuple[str, str]]:
    for name, patterns in KINDS.items():
        if kind not in (None, name):
            continue
        found = [path for pattern in patterns for path in root.glob(f"**/{pattern}") if only in (None, path)]
        if name == "ego4d_narrations" and not found:
            found = [path for path in root.glob(f"**/{REDACTED}") if only in (None, path)]
        yield from ((name, path) for path in found)


def _records(root: SourceRoot, path: str, kind: str) -> list[tuple[str, Any]]:
    """(video_uid, record) in the file's order."""
    found = files.json_file(root, path)
    if kind == "ego4d_goalstep":
        videos = found.get("videos") if isinstance(found, dict) else None
        if not isinstance(videos, list):
            raise FormatError("bad_type", f"{path} has no list of videos", where=path)
        named = [video.get("video_uid") if isinstance(video, dict) else None for video in videos]
        return [(uid if isinstance(uid, str) else f"video {k}", videos[k]) for k, uid in enumerate(named)]
    if not isinstance(found, dict):
        raise FormatError("bad_type", f"{path} is no object of videos", where=path)
    # Some releases put the videos under a key of their own, beside a version.
    inner = found.get("videos", found)
    if not isinstance(inner, dict):
        raise FormatError("bad_type", f"{path}: `videos` is no object", where=path)
    return [(uid, record) for uid, record in inner.items() if "videos" in found or uid not in _BESIDE]


def _refs(root: SourceRoot, path: str, uid: str, record: Any, options: Options) -> Iterator[EpisodeRef | ScanProblem]:
    try:
        names = _names(fields.as_object(record, uid), options)
        if not names:
            raise EpisodeError("empty_episode", f"{uid} has neither steps nor narrations")
        if options.kind == "ego4d_goalstep":
            fields.as_text(fields.member(record, "video_uid", uid), "video_uid")
        found = None if options.media == "none" else find_video(root, options.videos, {"video": uid})
        if found is None and options.media == "required":
            raise EpisodeError("missing_media", f"{uid}: no video at {', '.join(options.videos)}")
    except BadInput as error:
        yield ScanProblem("episode", f"{path}:{uid}", error.reason, error.what)
        return
    locator = {"file": path, "uid": uid, "video": found, "options": options.canonical()}
    for name in names if options.unit == "segment" else [""]:
        used = (path, *([found] if found else []))
        yield EpisodeRef(f"{uid}/{name}" if name else uid, {**locator, "part": name}, used)


def _names(record: Mapping[str, Any], options: Options) -> list[str]:
    """Names of a video's steps or narrations, by their places, which is all that is certain of a damaged record."""
    if options.kind == "ego4d_goalstep":
        return [f"step_{k:03d}" for k in range(len(fields.as_list(record.get("segments", []), "segments")))]
    return [f"{named}/{k:05d}" for named in passes(record) for k in range(len(entries_of(record, named)))]


def _goalstep(root: SourceRoot, ref: EpisodeRef, record: Mapping[str, Any], options: Options) -> RawEpisode:
    uid, part = str(ref.locator["uid"]), str(ref.locator["part"])
    shown = steps_of(record, part or None)
    video = span_of(record, uid, "goal_description")
    wanted = shown[0].span if part else video
    made = _frames(root, ref, wanted, options)
    texts: dict[str, tuple[str, ...]] = {"goal": (video.text,)}
    inner = [sub for step in shown for sub in step.substeps]
    found, without = tracks("step", [step.span for step in shown], made.times, options.tracks)
    subs, none = tracks("substep", inner, made.times, options.tracks)
    told = {key: value for key, value in record.items() if key != "segments"}
    attributes = {
        **made.attributes,
        "goal": told,
        ("step" if part else "steps"): shown[0].record if part else [step.record for step in shown],
        "counts": counts(shown, None if part else video),
        "segments_without_rows": [*without, *none],
    }
    fields.canonical(attributes, uid)
    return assembled(root, ref, Made(made.times, made.media, texts | found | subs, attributes, uid))


def _narrations(root: SourceRoot, ref: EpisodeRef, record: Mapping[str, Any], options: Options) -> RawEpisode:
    uid, part = str(ref.locator["uid"]), str(ref.locator["part"])
    said = list(narrations_of(record, part or None))
    spans = {narration.name: _window(narration, options) for narration in said}
    texts: dict[str, tuple[str, ...]]
    if part:
        made = _frames(root, ref, spans[part], options)
        texts = {"narration": (said[0].plain,), "verbatim": (said[0].text,)}
        attributes = {**made.attributes, "narration": said[0].record, "who": said[0].who}
    else:
        summaries = list(summaries_of(record))
        end = max(span.stop for span in (*spans.values(), *summaries))
        made = _frames(root, ref, Span(uid, 0.0, end, ""), options)
        plain, without = tracks("narration", list(spans.values()), made.times, options.tracks)
        whole_text = [Span(n.name, spans[n.name].start, spans[n.name].stop, n.text) for n in said]
        verbatim, _ = tracks("verbatim", whole_text, made.times, options.tracks)
        summed, _ = tracks("summary", summaries, made.times, options.tracks)
        texts = plain | verbatim | summed
        attributes = {**made.attributes, "record": dict(record), "segments_without_rows": without}
    attributes |= {"window_s": list(options.window_s), "status": record.get("status")}
    fields.canonical(attributes, uid)
    return assembled(root, ref, Made(made.times, made.media, texts, attributes, uid))


def _window(narration: Narration, options: Options) -> Span:
    """The stretch around a narration's moment that the converter declares; it begins no earlier than the video."""
    before, after = options.window_s
    return Span(narration.name, max(0.0, narration.at - before), narration.at + after, narration.plain)


def _frames(root: SourceRoot, ref: EpisodeRef, span: Span, options: Options) -> Made:
    """The video's frames in a span (all of them for a whole video), or rows at the declared rate."""
    path, uid = ref.locator["video"], str(ref.locator["uid"])
    if path is None:
        told = {"video": uid, "media": "absent", "declared_fps": options.fps}
        return Made(declared_times(span.start, span.stop, options.fps), None, {}, told, uid)
    found = indexed(root, path)
    told = {"video": uid, "media": "video", "video_fps": float(found.index.rate), "unread": list(found.unread)}
    if ref.locator["part"]:
        media = cut_seconds(root, path, MEDIA, span.start, span.stop, max(options.slack_s, options.window_s[1]))
    else:
        media = whole(root, path, MEDIA)
    return Made(media.times_ns, media, {}, told, uid)
