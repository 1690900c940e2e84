"""VITRA episodes: one pickled .npy an episode with hands, camera and texts, and the videos they were taken from.

Layout, as in microsoft/VITRA's `data/data.md`: `<dataset>_<video>_ep_<number>.npy`, a pickled dict in an object array.
It is read without unpickling (see `unpickle`). Hands are MANO reconstructions, both in the MANO_RIGHT model (the left
one mirrored in x); `extrinsics` take world points to the camera; frames are counted in the full video, and the
reconstruction belongs to the *undistorted* video, which users make themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine import video
from dataengine.documents import unknown_name
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.unpickle import is_object_npy, read_object_npy
from dataengine.storage import SourceFile, SourceRoot

MAX_EPISODE = 1 << 28
MAX_TEXTS = 1024
MAX_ASPECT_ERROR = 0.05
VIDEO_SUFFIXES = (".mp4", ".MP4", ".webm", ".mkv")
VIDEO_KINDS = ("full", "clip", "none")
HANDS = ("right", "left")
_HEAD = 4096
_DETECTED_FILES = 8
_HAND_SHAPES: dict[str, tuple[int, ...]] = {
    "global_orient_camspace": (3, 3),
    "global_orient_worldspace": (3, 3),
    "hand_pose": (15, 3, 3),
    "transl_camspace": (3,),
    "transl_worldspace": (3,),
    "joints_camspace": (21, 3),
    "joints_worldspace": (21, 3),
}
_FACTS = ("avg_speed", "total_rotvec_degree", "total_transl_dist")
_READ = (
    *("extrinsics", "intrinsics", "video_decode_frame", "video_name", *_FACTS),
    *("anno_type", "text", "text_rephrase", *HANDS),
)
Arrays = dict[str, NDArray[Any]]


class VitraFormat:
    """VITRA hand episodes.

    Options: `video_roots`, folders in which `<video_name>.mp4` (MP4, webm, mkv) is looked up, in order (default the
    root and `videos`); `video`: `full` (default: frames are counted in the whole video), `clip` (the file holds
    exactly the episode's frames), or `none` (metadata alone: no frames, and no clock).
    """

    name: ClassVar[str] = "vitra"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "VITRA episodes (.npy): MANO hands, camera poses and texts of egocentric videos"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "vitra_npy",
            "egocentric",
            "VITRA: Ego4D clips with MANO hands, a pickled dict in .npy",
            "real files",
            2,
            "egocentric/vitra_ego4d_mano",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A .npy file with a pickled object that has VITRA's keys."""
        for path in _files(root, only)[:_DETECTED_FILES]:
            with root.open(path) as file:
                head = file.read(_HEAD)
            if is_object_npy(head) and _named(root, path):
                return Detection(self.name, 0.95, (path,))
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a file, named by it; files that hold no pickled object are problems."""
        check_options(options, ("video", "video_roots"), self.name)
        kind = options.get("video", "full")
        if kind not in VIDEO_KINDS:
            raise unknown_name("value of `video`", str(kind), VIDEO_KINDS)
        place = {"video": kind, "video_roots": list(option_names(options, "video_roots", (".", "videos")))}
        seen: dict[str, str] = {}
        for path in _files(root, only):
            name = PurePosixPath(path).stem
            problem = _problem(root, path)
            if problem is not None:
                yield ScanProblem("file", path, *problem)
            elif name in seen:
                yield ScanProblem("episode", path, "duplicate_episode", f"{name} is also {seen[name]}")
            else:
                seen[name] = path
                yield EpisodeRef(name, {"path": path, **place}, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode of T frames.

        Arrays: `extrinsics` [T, 4, 4] (world to camera), `intrinsics` [3, 3], `video_decode_frame` [T]; for `right` and
        `left` `<hand>/beta` [10], `/global_orient_camspace`, `/global_orient_worldspace` [T, 3, 3], `/hand_pose`
        [T, 15, 3, 3], `/transl_camspace`, `/transl_worldspace` [T, 3], `/joints_camspace`, `/joints_worldspace`
        [T, 21, 3], `/kept_frames` [T] (0 or 1); `frame_time_ns` [T] where there is a video. Metres. Texts by step:
        `text/primary` and `text/other` (of the hand named by `anno_type`, and the other one).
        """
        path = str(ref.locator["path"])
        with root.unchanged(path):
            data = root.read(path, limit=MAX_EPISODE)
            files = [root.describe(path)]
        found = read_object_npy(data, path)
        if not isinstance(found, dict):
            raise FormatError("not_an_episode", f"{path} holds no dict", where=path)
        arrays = _arrays(found)
        digest = RawDigest()
        digest.add_bytes("episode", data)
        media: dict[str, Media] = {}
        if ref.locator["video"] != "none":
            clip, times, file = _video(root, ref, found, arrays)
            media, arrays["frame_time_ns"] = {"video": clip}, times
            files.append(file)
            digest.add_bytes("video", clip.digest.encode())
        rows = len(arrays["extrinsics"])
        primary = _primary(found)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=tuple(files),
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            texts={
                "text/primary": _texts(found, primary, rows),
                "text/other": _texts(found, _other(primary), rows),
            },
            attributes=_attributes(found, arrays, primary),
            # Episodes of one video belong to one side of a split.
            group=_video_name(found),
        )


def _files(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".npy") else []
    return root.glob("**/*.npy")


def _named(root: SourceRoot, path: str) -> bool:
    try:
        data = root.read(path, limit=MAX_EPISODE)
    except BadInput:
        return False
    return all(name in data for name in (b"video_decode_frame", b"kept_frames", b"joints_worldspace"))


def _problem(root: SourceRoot, path: str) -> tuple[str, str] | None:
    with root.open(path) as file:
        head = file.read(_HEAD)
    if not head:
        return "empty_file", f"{path} is empty"
    return None if is_object_npy(head) else ("not_an_object", f"{path} is no .npy file with one pickled object")


def _member(value: Mapping[str, Any], name: str, where: str = "the episode") -> Any:
    return fields.member(value, name, where)


def _array(value: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of numbers in its own dtype, of exactly this shape; only the first size may be -1."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise EpisodeError("bad_type", f"{name} is no array of numbers")
    fits = value.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, value.shape, strict=True))
    if not fits:
        raise EpisodeError("bad_shape", f"{name} is {value.shape}, not {shape}")
    return value


def _flags(value: Any, name: str, rows: int) -> NDArray[Any]:
    """`kept_frames`, an array or a list of 0 and 1."""
    array = np.array([fields.as_whole(item, name) for item in value]) if isinstance(value, list) else value
    found = _array(array, name, (rows,))
    if not np.isin(found, (0, 1)).all():
        raise EpisodeError("bad_value", f"{name} holds other values than 0 and 1")
    return found


def _arrays(episode: Mapping[str, Any]) -> Arrays:
    extrinsics = _array(_member(episode, "extrinsics"), "extrinsics", (-1, 4, 4))
    rows = len(extrinsics)
    if rows == 0:
        raise EpisodeError("empty_episode", "the episode holds no frame")
    frames = _member(episode, "video_decode_frame")
    frames = np.array([fields.as_whole(item, "video_decode_frame") for item in frames]) if _is_list(frames) else frames
    arrays = {
        "extrinsics": extrinsics,
        "intrinsics": _array(_member(episode, "intrinsics"), "intrinsics", (3, 3)),
        "video_decode_frame": _array(frames, "video_decode_frame", (rows,)),
    }
    for hand in HANDS:
        told = _mapping(_member(episode, hand), hand)
        for name, shape in _HAND_SHAPES.items():
            arrays[f"{hand}/{name}"] = _array(_member(told, name, hand), f"{hand}/{name}", (rows, *shape))
        arrays[f"{hand}/beta"] = _array(_member(told, "beta", hand), f"{hand}/beta", (10,))
        kept = _flags(_member(told, "kept_frames", hand), f"{hand}/kept_frames", rows)
        arrays[f"{hand}/kept_frames"] = kept
        for name in _HAND_SHAPES:
            held = np.isfinite(arrays[f"{hand}/{name}"].reshape(rows, -1)).all(axis=1) | (kept == 0)
            if not held.all():
                what = (
                    f"{hand}/{name} of row {int(held.argmin())} is not finite, where kept_frames says the hand is seen"
                )
                raise EpisodeError("bad_value", what)
    return arrays


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EpisodeError("bad_type", f"{name} is no dict")
    return value


def _video_name(episode: Mapping[str, Any]) -> str:
    name = fields.as_text(_member(episode, "video_name"), "video_name")
    if not name.strip() or "/" in name or "\\" in name or name.startswith("."):
        raise EpisodeError("bad_value", f"the video's name {name[:60]!r} is no file name")
    return name


def _primary(episode: Mapping[str, Any]) -> str:
    hand = fields.as_text(_member(episode, "anno_type"), "anno_type")
    if hand not in HANDS:
        raise EpisodeError("bad_value", f"anno_type is {hand[:40]!r}, neither right nor left")
    return hand


def _other(hand: str) -> str:
    return HANDS[1 - HANDS.index(hand)]


def _spans(episode: Mapping[str, Any], key: str, hand: str) -> list[tuple[Any, int, int]]:
    """Entries (what is said, start, stop) of a hand under `text` or `text_rephrase`."""
    entries = _mapping(_member(episode, key), key).get(hand) or []
    if not isinstance(entries, list) or len(entries) > MAX_TEXTS:
        raise EpisodeError("bad_type", f"{key}/{hand} is no list of at most {MAX_TEXTS} texts")
    found = []
    for entry in entries:
        if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[1], tuple) or len(entry[1]) != 2:
            raise EpisodeError("bad_type", f"{key}/{hand} holds an entry that is no (text, (start, end))")
        start, stop = (fields.as_whole(edge, f"{key}/{hand}: a span's edge") for edge in entry[1])
        found.append((entry[0], start, stop))
    return found


def _texts(episode: Mapping[str, Any], hand: str, rows: int) -> tuple[str, ...]:
    """The text of a hand at each step, "" where there is none. A span (0, 0) covers no step."""
    steps = [""] * rows
    for said, start, stop in _spans(episode, "text", hand):
        text = fields.as_text(said, f"text/{hand}")
        if not 0 <= start <= stop <= rows:
            raise EpisodeError("bad_span", f"text/{hand} spans {start}..{stop} of {rows} steps")
        if any(steps[start:stop]):
            raise EpisodeError("overlapping_text", f"text/{hand}: two texts hold for one step")
        steps[start:stop] = [text] * (stop - start)
    return tuple(steps)


def _attributes(episode: Mapping[str, Any], arrays: Arrays, primary: str) -> dict[str, Any]:
    texts, rephrased = [], []
    for hand in HANDS:
        for said, start, stop in _spans(episode, "text", hand):
            texts.append({"hand": hand, "text": fields.as_text(said, "text"), "span": [start, stop]})
        for many, start, stop in _spans(episode, "text_rephrase", hand) if "text_rephrase" in episode else ():
            told = [fields.as_text(text, "text_rephrase") for text in fields.as_list(many, "text_rephrase")[:MAX_TEXTS]]
            rephrased.append({"hand": hand, "texts": told, "span": [start, stop]})
    intrinsics = arrays["intrinsics"].astype(np.float64)
    if not np.isfinite(intrinsics).all():
        raise EpisodeError("bad_value", "intrinsics hold a number that is not finite")
    return {
        "video_name": _video_name(episode),
        "primary_hand": primary,
        "text": texts,
        "text_rephrase": rephrased,
        # K belongs to an image twice as large as its principal point, whatever the video's size.
        "intrinsics": {"matrix": intrinsics.tolist(), "size_wh": (2 * intrinsics[:2, 2]).tolist()},
        **{name: fields.as_number(episode[name], name) for name in _FACTS if episode.get(name) is not None},
        "unread": _unread(episode),
    }


def _unread(episode: Mapping[str, Any]) -> list[str]:
    """Members of the episode and of its hands that are not read: a segment's number, ranges of movement, ..."""
    found = [str(name)[:80] for name in episode if name not in _READ]
    for hand in HANDS:
        kept = (*_HAND_SHAPES, "beta", "kept_frames")
        found += [f"{hand}/{str(name)[:80]}" for name in episode[hand] if name not in kept]
    return sorted(found)


def _video(
    root: SourceRoot, ref: EpisodeRef, episode: Mapping[str, Any], arrays: Arrays
) -> tuple[Media, NDArray[np.int64], SourceFile]:
    """The episode's frames, their times (ns from the first) and the file they came from."""
    path = _find(root, _video_name(episode), ref.locator["video_roots"])
    with root.unchanged(path):
        file = root.describe(path)
        found = _video_index(root.path, path, file.sha256)
        first, rows = _frames(arrays, ref.locator["video"], found.frames, path)
        if (first, rows) == (0, found.frames):
            clip = video.whole("video", root.read(path))
        else:
            with root.open(path) as stream:
                clip = video.cut("video", stream, found, first, rows)
    _check_aspect(arrays["intrinsics"], clip)
    times = found.times_ns[first : first + rows]
    return clip, times - times[0], file


def _find(root: SourceRoot, name: str, folders: list[str]) -> str:
    for folder in folders:
        for suffix in VIDEO_SUFFIXES:
            path = str(PurePosixPath(folder) / f"{name}{suffix}")
            if root.exists(path):
                return path
    raise EpisodeError(
        "missing_media",
        f"no video {name} in {', '.join(folders)}",
        fix="lay the undistorted videos there, or set the format's option `video: none`",
    )


@lru_cache(maxsize=16)
def _video_index(folder: Path, path: str, sha256: str) -> video.VideoIndex:  # noqa: ARG001 - the key
    """Demux a video once, not once an episode."""
    with SourceRoot(folder).open(path) as file:
        return video.index(file)


def _frames(arrays: Arrays, kind: str, available: int, path: str) -> tuple[int, int]:
    """First frame and count in the file. Upstream decodes all from the first to the last listed frame."""
    wanted = arrays["video_decode_frame"].astype(np.int64)
    if wanted[0] < 0 or (np.diff(wanted) != 1).any():
        raise EpisodeError("bad_value", "video_decode_frame does not count single frames upwards")
    first = 0 if kind == "clip" else int(wanted[0])
    if first + len(wanted) > available or (kind == "clip" and available != len(wanted)):
        raise EpisodeError(
            "frame_count_mismatch",
            f"{path} holds {available} frames, wanted are {first}..{first + len(wanted) - 1}",
            fix="video_decode_frame counts in the full video; for files cut to their episode set `video: clip`",
        )
    return first, len(wanted)


def _check_aspect(intrinsics: NDArray[Any], clip: Media) -> None:
    """A video of another shape than the camera's image is not the one that was reconstructed."""
    across, down = float(intrinsics[0, 2]), float(intrinsics[1, 2])
    if not (across > 0 and down > 0) or abs(clip.width / clip.height * down / across - 1) > MAX_ASPECT_ERROR:
        raise EpisodeError(
            "aspect_mismatch", f"the video is {clip.width}x{clip.height}, the camera's centre {across:g}, {down:g}"
        )
