"""Ego-Exo4D: takes seen by glasses and by cameras around, frame i of every video at one moment, with annotations.

EGO4D/Ego-Exo4D-docs @ aa763b1c: docs/data/metadata.md (takes.json), docs/data/takes.md (frame aligned videos),
docs/data/downscaled_takes.md, docs/annotations/keystep.md, atomic_descriptions.md, ego_pose.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dataengine.documents import Strict
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.egoexo4d_hands import boxes_of, joints_of
from dataengine.formats.segments_text import Span, declared_times, tracks
from dataengine.formats.segments_video import cut_frames, frame_range, indexed, is_there, whole
from dataengine.storage import SourceRoot

TAKES = "takes.json"
EGO = "ego_rgb"
ANNOTATED = {
    "keystep": "annotations/keystep_*.json",
    "atomic": "annotations/atomic_descriptions_*.json",
    "boxes": "annotations/ego_pose/ego_pose_gt_anno_*.json",
}
_HANDS = "annotations/ego_pose/*/hand/annotation/"
_HEAD = 1 << 16
_TAKE_FACTS = (
    *("take_name", "take_uid", "task_name", "parent_task_name", "university_name", "physical_setting_uid"),
    *("participant_uid", "best_exo", "task_start_sec", "task_end_sec", "duration_sec", "is_narrated"),
)


class Options(Strict):
    """`format.options` of `egoexo4d`; see docs/formats/egoexo4d.md."""

    unit: Literal["take", "segment"] = "take"
    cameras: tuple[str, ...] = ()
    size: Literal["full", "448"] = "full"
    media: Literal["required", "optional", "none"] = "required"
    fps: float = Field(default=30.0, gt=0, le=1000)
    window_s: tuple[float, float] = (1.0, 1.0)
    tracks: int = Field(default=4, ge=1, le=64)
    slack_s: float = Field(default=0.1, ge=0, le=10)


class Egoexo4dFormat:
    """Ego-Exo4D takes: the glasses' RGB video, chosen cameras around, keysteps, descriptions and sparse hands."""

    name: ClassVar[str] = "egoexo4d"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Ego-Exo4D: takes.json, frame aligned videos, keysteps, atomic descriptions, sparse hands"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "egoexo4d",
            "egocentric",
            "Ego-Exo4D: takes.json, takes/<name>/frame_aligned_videos/*.mp4, annotations/",
            "layout fixture",
            7,
            "after EGO4D/Ego-Exo4D-docs @ aa763b1c, docs/data/metadata.md, takes.md, docs/annotations/*.md, and "
            "EGO4D/ego-exo4d-egopose @ 2494c0d1, handpose/data_preparation (boxes)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """`takes.json` whose first bytes name frame aligned videos and takes."""
        if only not in (None, TAKES) or not root.exists(TAKES):
            return None
        with root.open(TAKES) as file:
            head = file.read(_HEAD)
        if b'"take_uid"' not in head and b'"frame_aligned_videos"' not in head:
            return None
        return Detection(self.name, 0.95, (f"{TAKES} lists takes",), {"media": "optional"}, "egoexo4d")

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a take, or a keystep of one, in the order of `takes.json`; no video is opened.

        Problems: `missing_file`, `duplicate_episode`, `missing_media`, `empty_episode` (a take without keysteps, where
        those are wanted), a file or a take that cannot be read.
        """
        told = Options.parse(dict(options), f"options of the format {self.name}")
        if only not in (None, TAKES):
            return
        try:
            takes = fields.as_list(files.json_file(root, TAKES), TAKES)
            known = {kind: _annotated(root, kind) for kind in ANNOTATED}
        except BadInput as error:
            yield ScanProblem("file", error.where or TAKES, error.reason, error.what)
            return
        seen: set[str] = set()
        for number, take in enumerate(takes):
            name = f"take {number}"
            try:
                record = fields.as_object(take, name)
                name = fields.as_text(fields.member(record, "take_name", name), "take_name")
                if name in seen:
                    raise EpisodeError("duplicate_episode", f"{name} stands twice in {TAKES}")
                seen.add(name)
                yield from _refs(root, number, record, told, known)
            except BadInput as error:
                yield ScanProblem("episode", name, error.reason, error.what)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One take, or one keystep of it, of T frames.

        Arrays: `time_ns` [T]; `hands/*` and `boxes/*` of the take's annotated frames (see `egoexo4d_hands`), frame
        numbers counted in the whole take. Media: `ego_rgb` and the cameras of the option. Texts: `task`; by row
        `keystep`, `keystep_description` and `description`, each with tracks.
        """
        options = Options.parse(dict(ref.locator["options"]), self.name)
        with root.unchanged(*ref.files):
            return _read(root, ref, options)


def _annotated(root: SourceRoot, kind: str) -> dict[str, str]:
    """The file of every take that has annotations of a kind."""
    found: dict[str, str] = {}
    for path in root.glob(ANNOTATED[kind]):
        for uid in _by_take(root, path, kind):
            found.setdefault(uid, path)
    return found


def _by_take(root: SourceRoot, path: str, kind: str) -> Mapping[str, Any]:
    body = files.json_file(root, path)
    inner = body.get("annotations") if isinstance(body, dict) and kind != "boxes" else body
    if not isinstance(inner, dict):
        raise FormatError("bad_type", f"{path} holds no annotations by take", where=path)
    return inner


def _refs(
    root: SourceRoot, number: int, take: Mapping[str, Any], options: Options, known: Mapping[str, Mapping[str, str]]
) -> Iterator[EpisodeRef]:
    name, uid = (fields.as_text(fields.member(take, key, "the take"), key) for key in ("take_name", "take_uid"))
    videos = {} if options.media == "none" else _videos(take, options)
    missing = {media: path for media, path in videos.items() if not is_there(root, path)}
    if missing and options.media == "required":
        raise EpisodeError("missing_media", f"{name}: {', '.join(missing.values())} is not there")
    # The glasses' video tells the times: without it the cameras around are left out with it.
    videos = {} if EGO in missing else {media: path for media, path in videos.items() if media not in missing}
    told = {kind: paths[uid] for kind, paths in known.items() if uid in paths}
    hands = [path for path in root.glob(f"{_HANDS}{uid}.json") if uid.replace("-", "").isalnum()]
    if hands:
        told["hands"] = hands[0]
    # Tables that say nothing of this take were read for it, too.
    tables = [path for kind in ANNOTATED for path in root.glob(ANNOTATED[kind])]
    used = tuple(dict.fromkeys([TAKES, *tables, *told.values(), *videos.values()]))
    locator = {"take": number, "uid": uid, "videos": videos, "told": told, "options": options.canonical()}
    if options.unit == "take":
        yield EpisodeRef(name, {**locator, "part": None}, used)
        return
    steps = _segments(root, told, uid)
    if not steps:
        raise EpisodeError("empty_episode", f"{name} has no keysteps")
    for part in range(len(steps)):
        yield EpisodeRef(f"{name}/keystep_{part:03d}", {**locator, "part": part}, used)


def _videos(take: Mapping[str, Any], options: Options) -> dict[str, str]:
    """Paths of the glasses' RGB video and of the chosen cameras, by media name."""
    folder = fields.as_text(fields.member(take, "root_dir", "the take"), "root_dir")
    cameras = fields.as_object(fields.member(take, "frame_aligned_videos", "the take"), "frame_aligned_videos")
    glasses = [name for name in cameras if name.startswith("aria") and "rgb" in fields.as_object(cameras[name], name)]
    if len(glasses) != 1:
        raise EpisodeError("missing_stream", f"{len(glasses)} cameras of the take are glasses with RGB")
    wanted = {EGO: (glasses[0], "rgb"), **{name: (name, "0") for name in options.cameras}}
    found = {}
    for media, (camera, stream) in wanted.items():
        if camera not in cameras:
            raise EpisodeError("missing_stream", f"no camera {camera!r}, the take has {', '.join(sorted(cameras))}")
        streams = fields.as_object(cameras[camera], camera)
        entry = fields.as_object(fields.member(streams, stream, camera), camera)
        path = fields.as_text(fields.member(entry, "relative_path", camera), "relative_path")
        if options.size == "448":
            path = path.replace("frame_aligned_videos/", "frame_aligned_videos/downscaled/448/", 1)
        found[media] = f"{folder}/{path}"
    return found


def _segments(root: SourceRoot, told: Mapping[str, str], uid: str) -> list[Any]:
    if "keystep" not in told:
        return []
    record = fields.as_object(_by_take(root, told["keystep"], "keystep").get(uid, {}), uid)
    return fields.as_list(fields.member(record, "segments", uid), "segments")


def _spans(record: Mapping[str, Any], name: str, key: str) -> Span:
    start, stop = (fields.as_number(fields.member(record, end, name), f"{name}.{end}") for end in _ENDS)
    if not 0 <= start < stop:
        raise EpisodeError("bad_span", f"{name} goes from {start} to {stop} s")
    value = record.get(key)
    return Span(name, start, stop, "" if value is None else fields.as_text(value, f"{name}.{key}"))


_ENDS = ("start_time", "end_time")


def _descriptions(root: SourceRoot, told: Mapping[str, str], uid: str, options: Options) -> tuple[list[Span], Any]:
    """What annotators said about moments, each with the window that the converter declares; and all they left."""
    if "atomic" not in told:
        return [], []
    spans = []
    given = fields.as_list(_by_take(root, told["atomic"], "atomic").get(uid, []), uid)
    for number, value in enumerate(given):
        annotation = fields.as_object(value, f"annotation {number}")
        if annotation.get("rejected") is True:
            continue
        for place, entry in enumerate(fields.as_list(annotation.get("descriptions", []), "descriptions")):
            name = f"annotation_{number}/{place:04d}"
            said = fields.as_object(entry, name)
            at = fields.as_number(fields.member(said, "timestamp", name), f"{name}.timestamp")
            text = fields.as_text(fields.member(said, "text", name), f"{name}.text")
            if at < 0:
                raise EpisodeError("bad_value", f"{name} is at {at} s")
            spans.append(Span(name, max(0.0, at - options.window_s[0]), at + options.window_s[1], text))
    return spans, given


def _read(root: SourceRoot, ref: EpisodeRef, options: Options) -> RawEpisode:
    told, uid, part = ref.locator["told"], str(ref.locator["uid"]), ref.locator["part"]
    take = fields.as_object(fields.as_list(files.json_file(root, TAKES), TAKES)[ref.locator["take"]], uid)
    if take.get("take_uid") != uid:
        raise EpisodeError("changed_during_read", f"take {ref.locator['take']} is no longer {uid}")
    steps = [fields.as_object(step, "a keystep") for step in _segments(root, told, uid)]
    named = [(f"keystep_{k:03d}", step) for k, step in enumerate(steps)]
    shown = named if part is None else named[part : part + 1]
    asked = None if part is None else _spans(shown[0][1], shown[0][0], "step_name")
    media, times, frames, unread = _media(root, ref, take, asked, options)
    arrays: dict[str, Any] = {"time_ns": times}
    if "hands" in told:
        arrays |= joints_of(files.json_file(root, told["hands"]), frames)
    if "boxes" in told:
        arrays |= boxes_of(_by_take(root, told["boxes"], "boxes").get(uid), frames)
    said, given = _descriptions(root, told, uid, options)
    within = [span for span in said if asked is None or (span.start < asked.stop and span.stop > asked.start)]
    texts: dict[str, tuple[str, ...]] = {"task": (fields.as_text(take.get("task_name") or "", "task_name"),)}
    without: list[str] = []
    for stream, spans in (
        ("keystep", [_spans(step, name, "step_name") for name, step in shown]),
        ("keystep_description", [_spans(step, name, "step_description") for name, step in shown]),
        ("description", within),
    ):
        made, missed = tracks(stream, spans, times, options.tracks)
        texts |= made
        without += missed if stream != "keystep_description" else []
    attributes = {
        **{key: take[key] for key in _TAKE_FACTS if key in take},
        "media": "video" if media else "absent",
        **({"absent": gone} if (gone := _absent(options, media)) else {}),
        "keysteps": [step for _, step in shown],
        "descriptions": given if part is None else [span.name for span in within],
        "segments_without_rows": without,
        "window_s": list(options.window_s),
        "unread": unread,
    }
    fields.canonical(attributes, uid)
    return _assembled(root, ref, arrays, media, texts, attributes)


def _media(
    root: SourceRoot, ref: EpisodeRef, take: Mapping[str, Any], asked: Span | None, options: Options
) -> tuple[dict[str, Media], Any, int | None, list[str]]:
    """Videos, times [T] ns, frames of the whole take, and streams that are not read."""
    paths: dict[str, str] = dict(ref.locator["videos"])
    cameras = take.get("frame_aligned_videos")
    unread = {f"camera {name}" for name in cameras if name not in paths} if isinstance(cameras, dict) else set()
    if not paths:
        end = fields.as_number(fields.member(take, "duration_sec", "the take"), "duration_sec")
        span = (asked.start, asked.stop) if asked is not None else (0.0, end)
        return {}, declared_times(*span, options.fps), None, sorted(unread)
    counts = {path: indexed(root, path).index.frames for path in paths.values()}
    if len(set(counts.values())) != 1:
        raise EpisodeError("frame_count_mismatch", f"aligned videos have {counts}")
    for path in paths.values():
        unread |= {f"{path.rpartition('/')[2]}: {kind}" for kind in indexed(root, path).unread}
    if asked is None:
        media = {name: whole(root, path, name) for name, path in paths.items()}
    else:
        first, count = frame_range(root, paths[EGO], asked.start, asked.stop, options.slack_s)
        media = {name: cut_frames(root, path, name, first, count) for name, path in paths.items()}
    return media, media[EGO].times_ns, next(iter(counts.values())), sorted(unread)


def _absent(options: Options, media: Mapping[str, Media]) -> list[str]:
    """Cameras that were asked for and are not in an episode that shows the glasses' video."""
    return sorted(set(options.cameras) - media.keys()) if media else []


def _assembled(
    root: SourceRoot,
    ref: EpisodeRef,
    arrays: Mapping[str, Any],
    media: Mapping[str, Media],
    texts: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, Any],
) -> RawEpisode:
    digest = RawDigest()
    for name, array in sorted(arrays.items()):
        digest.add_array(name, array)
    digest.add_json("attributes", attributes)
    digest.add_json("texts", [texts, {name: item.digest for name, item in media.items()}])
    place = attributes.get("physical_setting_uid")
    return RawEpisode(
        upstream_id=ref.upstream_id,
        files=tuple(root.describe(path) for path in ref.files),
        raw_digest=digest.hexdigest(),
        arrays=arrays,
        media=media,
        texts=texts,
        attributes=attributes,
        # Takes of one place stay together: the cameras around it stand still.
        group=f"setting {place}" if place and isinstance(place, int | str) else str(ref.locator["uid"]),
    )
