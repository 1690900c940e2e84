"""HoloAssist sessions: video, hands, head and eyes of a HoloLens 2 on one clock, and annotated actions and speech.

Layout, as HoloAssist's own README (holoassist.github.io/data_links) lists it: `<session>/Export_py/` with
`Video_pitchshift.mp4` or `Video_compress.mp4`; `Video/` with `Pose_sync.txt`, `VideoMp4Timing.txt`, `Intrinsics.txt`;
`Hands/Left_sync.txt`, `Hands/Right_sync.txt`, `Eyes/Eyes_sync.txt`, `Head/Head_sync.txt`, `IMU/*_sync.txt`; and for all
sessions `data-annotation-trainval-v1_1.json`. The text files are read by `holoassist_tables`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine import video
from dataengine.documents import load_json, unknown_name
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import EpisodeError, FormatError, SpecError
from dataengine.formats import fields, files
from dataengine.formats import holoassist_tables as tables
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.spans import Span, tracks
from dataengine.storage import SourceRoot

POSE = "Video/Pose_sync.txt"
TIMING = "Video/VideoMp4Timing.txt"
INTRINSICS = "Video/Intrinsics.txt"
HANDS = {"left": "Hands/Left_sync.txt", "right": "Hands/Right_sync.txt"}
EYES = "Eyes/Eyes_sync.txt"
HEAD = "Head/Head_sync.txt"
IMU = {name.lower(): f"IMU/{name}_sync.txt" for name in ("Accelerometer", "Gyroscope", "Magnetometer")}
VIDEOS = {"pitchshift": "Video_pitchshift.mp4", "compress": "Video_compress.mp4", "none": ""}
LABELS = {"coarse": "Coarse grained action", "fine": "Fine grained action", "conversation": "Conversation"}
TICK_NS = 100
TICKS_A_SECOND = 10_000_000
_CLOCK_S = 1e-3
_WORDS = ("Verb", "Adjective", "Noun", "adverbial")
Arrays = dict[str, NDArray[Any]]


class HoloassistFormat:
    """HoloAssist sessions.

    Options: `video`, `pitchshift` (default), `compress` or `none`: which mp4; `annotations`, the path of the annotation
    file below the root, or `none` (default: the only `*annotation*.json` directly in the root).
    """

    name: ClassVar[str] = "holoassist"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "HoloAssist sessions: hands, head, eyes (text), video (mp4), actions and speech (JSON)"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "holoassist",
            "egocentric",
            "HoloAssist: <session>/Export_py with synchronised text files and mp4, one annotation JSON",
            "layout fixture",
            19,
            "fixture after HoloAssist's README (holoassist.github.io/data_links), taeinkwon/PyHoloAssist @ "
            "9d0dfe238ff6ac99c510f8ce8a8c0e125317dbae hand_eye_project.py, and microsoft/psi HoloLensCaptureExporter "
            "(Operators.cs @ 0cc1c3d3db11b5375edca9d4c3b87be021bb2e43)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A session's poses and its video's timing."""
        for path in _sessions(root) if only is None else ():
            timing = _beside(path, TIMING)
            if root.exists(path) and root.exists(timing):
                return Detection(self.name, 0.95, (path, timing), {}, "holoassist")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a session, in natural order, named by its folder; nothing is opened.

        Without the annotation file (and without `annotations: none`) there is one problem, `missing_file`, and no ref.
        """
        check_options(options, ("video", "annotations"), self.name)
        kind = options.get("video", "pitchshift")
        if kind not in VIDEOS:
            raise unknown_name("value of `video`", str(kind), VIDEOS)
        sessions = _sessions(root) if only is None else []
        try:
            annotations = _annotations(root, options) if sessions else None
        except FormatError as error:
            yield ScanProblem("file", "annotations", error.reason, error.what)
            return
        for path in sessions:
            folder = PurePosixPath(path).parents[2]
            name = "session" if str(folder) == "." else str(folder)
            needed = [POSE, TIMING, *HANDS.values(), *([VIDEOS[kind]] if kind != "none" else [])]
            missing = [part for part in needed if not root.exists(_beside(path, part))]
            if missing:
                reason = "missing_media" if missing == [VIDEOS[kind]] else "missing_file"
                yield ScanProblem("episode", name, reason, f"{name} has no {' and no '.join(missing)}")
                continue
            more = [part for part in (INTRINSICS, EYES, HEAD, *IMU.values()) if root.exists(_beside(path, part))]
            found = [_beside(path, part) for part in (*needed[1:], *more)]
            locator = {"pose": path, "video": kind, "annotations": annotations, "session": folder.name}
            yield EpisodeRef(name, locator, (path, *found, *([annotations] if annotations is not None else [])))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One session of N rows of a 30 Hz clock.

        Arrays: `clock_s` [N], the seconds of that clock; `pose/matrix` [N, 4, 4], the camera in the world, with
        `pose/ticks` and `pose/time_ns` [N] (ns from the video's start), `pose/valid`; `hands/<side>/<joint>` [N, 4, 4],
        `/active`, `/joints_valid`, `/joints_tracked`, `/wrist_valid`, `/fingertips_valid`; `eyes/origin`, `/direction`,
        `/valid`; `head/matrix`; `imu/<sensor>`; each with its ticks. NaN where nothing was seen. Texts by row:
        `coarse`, `fine`, `conversation` with overlaps in `<name>_2` and so on; `narration` of the whole.
        """
        place = str(ref.locator["pose"])
        with root.unchanged(*ref.files):
            named = {part: root.read(_beside(place, part), tables.MAX_TABLE) for part in _read_parts(ref, place)}
            annotations = ref.locator["annotations"]
            told = _told(root, str(annotations), str(ref.locator["session"])) if annotations is not None else None
            kind = str(ref.locator["video"])
            clip = root.read(_beside(place, VIDEOS[kind])) if kind != "none" else None
            described = tuple(root.describe(name) for name in ref.files)
        first, last = tables.start(named[TIMING], TIMING)
        arrays = _arrays(named, first)
        attributes: dict[str, Any] = {"video_ticks": [first, last]}
        if INTRINSICS in named:
            attributes["intrinsics"] = tables.intrinsics(named[INTRINSICS], INTRINSICS)
        texts, events = _texts(told, arrays["pose/time_ns"] / 1e9) if told is not None else ({}, {})
        attributes.update(events)
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("attributes", attributes)
        media = {} if clip is None else {"video": _filmed(clip)}
        for item in media.values():
            digest.add_bytes("video", item.digest.encode())
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            texts=texts,
            attributes={
                **attributes,
                "unread": sorted([*_unread(root, place, ref.files), *_sound(clip, VIDEOS[kind])]),
            },
        )


def _sessions(root: SourceRoot) -> list[str]:
    """The path that `Pose_sync.txt` has in every session, also in one that lost it but has its timing or a hand."""
    found: dict[str, None] = {}
    for part in (POSE, TIMING, *HANDS.values()):
        paths = root.glob(f"**/Export_py/{part}")
        found.update(dict.fromkeys(f"{path.removesuffix(part)}{POSE}" for path in paths))
    return files.natural(found)


def _beside(pose: str, name: str) -> str:
    """A path of the session whose `Pose_sync.txt` is given."""
    return str(PurePosixPath(pose).parents[1] / name)


def _annotations(root: SourceRoot, options: Mapping[str, Any]) -> str | None:
    wanted = options.get("annotations")
    if wanted == "none":
        return None
    if wanted is not None and not isinstance(wanted, str):
        raise SpecError(f"the option `annotations` is a path or none, not {wanted!r}")
    found = [wanted] if wanted is not None else root.glob("*annotation*.json")
    if len(found) != 1 or not root.exists(found[0]):
        told = f"{len(found)} files *annotation*.json" if wanted is None else f"no file {wanted}"
        raise FormatError("missing_file", f"{told} in the root: give `annotations`, its path or none")
    return found[0]


def _read_parts(ref: EpisodeRef, place: str) -> list[str]:
    parts = (POSE, TIMING, INTRINSICS, *HANDS.values(), EYES, HEAD, *IMU.values())
    return [part for part in parts if _beside(place, part) in ref.files]


def _unread(root: SourceRoot, place: str, read: tuple[str, ...]) -> list[str]:
    """What else stands directly in the session's folders (frames of depth are not listed one by one)."""
    folder = _beside(place, "")
    prefix = "" if folder == "." else f"{folder}/"
    found = [path for pattern in ("*", "*/*.txt") for path in root.glob(f"{prefix}{pattern}") if path not in read]
    return sorted(path.removeprefix(prefix) for path in found)


def _sound(clip: bytes | None, name: str) -> list[str]:
    """Streams of the mp4 beside its pictures, which are not read."""
    return [] if clip is None else [f"{name}: {kind}" for kind in video.other_streams(io.BytesIO(clip))]


def _arrays(named: Mapping[str, bytes], first: int) -> Arrays:
    """All streams, row by row on one clock: another number of rows, or another clock, is no session."""
    pose, matrices = tables.poses(named[POSE], POSE)
    arrays: Arrays = {
        "clock_s": pose.seconds,
        "pose/matrix": matrices,
        "pose/valid": np.isfinite(matrices).all(axis=(1, 2)),
        **_timed("pose", pose.ticks, first),
    }
    if (np.diff(pose.ticks) < 0).any():
        raise EpisodeError("time_not_increasing", f"{POSE}: time goes back")
    for side, name in HANDS.items():
        table, hand = tables.hand(named[name], name)
        _check_clock(pose, table, name)
        arrays.update({f"hands/{side}/{part}": values for part, values in hand.items()})
        arrays[f"hands/{side}/ticks"] = table.ticks
    widths = {EYES: ("eyes", 7), HEAD: ("head", 16), **{path: (f"imu/{name}", 3) for name, path in IMU.items()}}
    for path, (name, width) in widths.items():
        if path in named:
            table = tables.table(named[path], width, path)
            _check_clock(pose, table, path)
            arrays.update(_parts(name, table))
    return arrays


def _parts(name: str, table: tables.Table) -> Arrays:
    if name == "eyes":
        valid = (table.values[:, 6] == 1) & np.isfinite(table.values[:, :6]).all(axis=1)
        made: Arrays = {"origin": table.values[:, :3], "direction": table.values[:, 3:6], "valid": valid}
    elif name == "head":
        made = {"matrix": table.values.reshape(-1, 4, 4)}
    else:
        return {name: table.values, f"{name}_ticks": table.ticks}
    return {f"{name}/{part}": values for part, values in {**made, "ticks": table.ticks}.items()}


def _timed(name: str, ticks: NDArray[np.int64], first: int) -> Arrays:
    """Ticks, and ns from the video's start: since the year 1 they would not fit 64 bits."""
    return {f"{name}/ticks": ticks, f"{name}/time_ns": (ticks - first) * TICK_NS}


def _check_clock(pose: tables.Table, other: tables.Table, name: str) -> None:
    if len(pose.seconds) != len(other.seconds):
        raise EpisodeError("length_mismatch", f"{name} has {len(other.seconds)} rows, {POSE} {len(pose.seconds)}")
    off = np.abs(pose.seconds - other.seconds)
    if off.max() > _CLOCK_S:
        raise EpisodeError("time_mismatch", f"{name}: row {int(off.argmax())} is {off.max():.3f} s off {POSE}")


def _filmed(data: bytes) -> Media:
    """The mp4 with its frames' times: frame i is i / rate behind the start, whatever its own times are."""
    found = video.whole("video", data)
    rate: Fraction = video.index(io.BytesIO(data)).rate
    if rate <= 0:
        raise EpisodeError("bad_rate", "the video declares no frame rate")
    ticks = np.array(
        [(frame * rate.denominator * TICKS_A_SECOND) // rate.numerator for frame in range(found.frames)], np.int64
    )
    return replace(found, times_ns=ticks * TICK_NS)


def _parse_annotations(data: bytes, where: str) -> dict[str, dict[str, Any] | None]:
    """Annotations by session; None for one that is annotated twice."""
    found: dict[str, dict[str, Any] | None] = {}
    for entry in fields.as_list(load_json(data, where), where):
        told = fields.as_object(entry, where)
        name = fields.as_text(fields.member(told, "video_name", where), f"{where}: video_name")
        found[name] = None if name in found else told
    return found


def _told(root: SourceRoot, path: str, session: str) -> dict[str, Any]:
    found = files.cached(root, path, _parse_annotations)
    if session not in found:
        raise EpisodeError("missing_annotation", f"{path} does not annotate {session}")
    told = found[session]
    if told is None:
        raise EpisodeError("duplicate_name", f"{path} annotates {session} more than once", where=path)
    return told


def _texts(told: Mapping[str, Any], times: NDArray[np.float64]) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Texts by row, and the events as they stand; their seconds count from the video's start."""
    spans: dict[str, list[Span]] = {name: [] for name in LABELS}
    narration: list[str] = []
    events = fields.as_list(fields.member(told, "events", "the annotation"), "events")
    for number, entry in enumerate(events):
        where = f"events[{number}]"
        event = fields.as_object(entry, where)
        label = fields.as_text(fields.member(event, "label", where), f"{where}.label")
        attributes = fields.as_object(fields.member(event, "attributes", where), f"{where}.attributes")
        if label == "Narration":
            told_long = [value for key, value in attributes.items() if key.lower().startswith("long")]
            narration += [fields.as_text(value, f"{where}.attributes") for value in told_long]
        name = next((name for name, known in LABELS.items() if known == label), None)
        text = _text(name, attributes, where) if name is not None else ""
        if name is not None and text:
            ends = [fields.as_number(fields.member(event, key, where), f"{where}.{key}") for key in ("start", "end")]
            if ends[1] < ends[0]:
                raise EpisodeError("bad_value", f"{where} goes from {ends[0]} to {ends[1]} s")
            start, stop = np.searchsorted(times, ends, side="left").tolist()
            spans[name].append((start, stop, text))
    texts = {key: track for name, found in spans.items() for key, track in tracks(name, found, len(times)).items()}
    fields.canonical(events, "events")
    return {**texts, "narration": (" ".join(narration),)}, {"task_type": told.get("taskType"), "events": events}


def _text(name: str, attributes: Mapping[str, Any], where: str) -> str:
    """What an event says, in the annotators' words: a sentence, the words of a fine action, or what was said."""
    if name == "fine":
        words = [fields.as_text(attributes.get(key, "none"), f"{where}.{key}") for key in _WORDS]
        return " ".join(word for word in words if word not in ("", "none"))
    key = "Action sentence" if name == "coarse" else "Transcription"
    return fields.as_text(fields.member(attributes, key, where), f"{where}.{key}")
