"""Egocentric-10K and -100K: tars of head camera clips of factory workers, with each worker's camera calibration.

Layout, as on the card of builddotai/Egocentric-10K ("Dataset Structure"): `factory_001/workers/worker_001/` with
`intrinsics.json` and `factory001_worker001_part00.tar`, a WebDataset of `factory001_worker001_00000.mp4` (H.265, 30 Hz)
and `.json` (factory_id, worker_id, video_index, duration_sec, width, height, fps, size_bytes, codec). The calibration
is OpenCV's fisheye (card of Egocentric-100K, "Camera Intrinsics"): model, image_width, image_height, fx, fy, cx, cy and
k1 to k4.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from dataengine import timeline, video
from dataengine.documents import Strict, load_json
from dataengine.episode import RawEpisode
from dataengine.errors import BadInput, EpisodeError
from dataengine.formats import fields, files
from dataengine.formats.archive import Member, tar_bytes, tar_members
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.segments_video import MAX_VIDEO, MEDIA, Made, assembled
from dataengine.storage import SourceRoot

INTRINSICS = "intrinsics.json"
_MAX_SIDECAR = 1 << 20
_SHARD = re.compile(r"factory_?\d+_worker_?\d+_part\d+\.tar", re.ASCII)
_MATRIX = ("fx", "fy", "cx", "cy")
_LENS = ("k1", "k2", "k3", "k4")
_CODECS = {"h265": "hevc", "h.265": "hevc", "h264": "h264", "h.264": "h264", "avc": "h264"}


class Options(Strict):
    """`format.options`: whether a worker without `intrinsics.json` is a reason (`required`) or has no camera."""

    intrinsics: Literal["required", "optional"] = "required"


class Egocentric10kFormat:
    """Clips in tars, one episode each; no poses and no words."""

    name: ClassVar[str] = "egocentric_10k"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Egocentric-10K: per-worker tars of H.265 clips with JSON, intrinsics.json (fisheye)"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "egocentric_10k",
            "egocentric",
            "Egocentric-10K: factory_NNN/workers/worker_NNN/*.tar with H.265 clips, intrinsics.json",
            "layout fixture",
            3,
            "after the cards of builddotai/Egocentric-10K (Dataset Structure) and builddotai/Egocentric-100K (Camera "
            "Intrinsics)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A tar with a shard's name, `factory001_worker001_part00.tar`."""
        for path in _shards(root, only)[:1]:
            if _SHARD.fullmatch(path.rpartition("/")[2]):
                told = (f"{path} has the name of a shard",)
                return Detection(self.name, 0.95, told, {"intrinsics": "optional"}, "egocentric_10k")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a clip, by its name in the tar; only headers of the tars are read.

        Problems: a tar that cannot be read, `missing_file` (no calibration, a clip without its JSON), `missing_media`
        (a JSON without its clip), `unknown_name` (another file), `duplicate_episode`.
        """
        told = Options.parse(dict(options), f"options of the format {self.name}")
        seen: dict[str, str] = {}
        for path in _shards(root, only):
            folder = path.rpartition("/")[0]
            beside = f"{folder}/{INTRINSICS}" if folder else INTRINSICS
            calibrated = root.exists(beside)
            if not calibrated and told.intrinsics == "required":
                yield ScanProblem("file", path, "missing_file", f"{beside} is not there")
                continue
            try:
                members = tar_members(root, path)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            used = (path, beside) if calibrated else (path,)
            for entry in _clips(path, members):
                name = entry.upstream_id
                if isinstance(entry, EpisodeRef) and name in seen:
                    yield ScanProblem("episode", name, "duplicate_episode", f"{name} is also in {seen[name]}")
                    continue
                seen[name] = path
                yield replace(entry, files=used) if isinstance(entry, EpisodeRef) else entry

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One clip of T frames.

        Arrays: `time_ns` [T]; with a calibration `intrinsics` [3, 3] (px) and `fisheye` [12]: k1 to k4 of OpenCV's
        fisheye as the first four numbers of Aria's, whose others are 0 then. Attributes: `clip` (the JSON as stored),
        `intrinsics` as stored, `intrinsics_size_wh`, `disagrees` (what the JSON says and the video does not), `unread`.
        """
        path = str(ref.locator["tar"])
        with root.unchanged(*ref.files):
            clip = fields.as_object(
                load_json(_content(root, path, ref.locator["json"], _MAX_SIDECAR), f"{path}:{ref.upstream_id}.json"),
                f"{ref.upstream_id}.json",
            )
            data = _content(root, path, ref.locator["mp4"], MAX_VIDEO)
            media = video.whole(MEDIA, data)
            index = video.index(io.BytesIO(data))
            times = timeline.seconds_to_ns(index.pts * float(index.time_base))
            timeline.check_increasing(times, ref.upstream_id)
            unread = list(video.other_streams(io.BytesIO(data)))
            arrays, camera = _calibration(root, ref)
        attributes: dict[str, Any] = {
            "clip": clip,
            "video_fps": float(index.rate),
            "unread": unread,
            "disagrees": _disagreements(clip, index, len(data)),
            **camera,
        }
        fields.canonical(attributes, ref.upstream_id)
        worker = [fields.as_text(fields.member(clip, key, "the JSON"), key) for key in ("factory_id", "worker_id")]
        made = Made(times, replace(media, times_ns=times), {}, attributes, "/".join(worker))
        return assembled(root, ref, made, arrays)


def _shards(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.endswith(".tar") else []
    return files.natural(root.glob("**/*.tar"))


def _clips(path: str, members: tuple[Member, ...]) -> Iterator[EpisodeRef | ScanProblem]:
    """A ref for every clip with its JSON, in the tar's order; files are given by `scan`."""
    by_stem: dict[str, dict[str, Member]] = {}
    for member in members:
        stem, _, kind = member.name.rpartition(".")
        if kind not in ("mp4", "json") or not stem:
            yield ScanProblem("file", f"{path}:{member.name[:200]}", "unknown_name", "neither a clip nor its JSON")
            continue
        by_stem.setdefault(stem, {})[kind] = member
    for stem, parts in by_stem.items():
        if "mp4" not in parts:
            yield ScanProblem("episode", f"{path}:{stem}", "missing_media", f"{stem}.json has no clip")
        elif "json" not in parts:
            yield ScanProblem("episode", f"{path}:{stem}", "missing_file", f"{stem}.mp4 has no JSON")
        else:
            places = {kind: [part.name, part.offset, part.size] for kind, part in parts.items()}
            yield EpisodeRef(stem.rpartition("/")[2], {"tar": path, **places}, ())


def _content(root: SourceRoot, path: str, place: Any, limit: int) -> bytes:
    name, offset, size = place
    if size > limit:
        raise EpisodeError("file_too_large", f"{path}:{name} holds {size} bytes, more than {limit}")
    if size == 0:
        raise EpisodeError("empty_file", f"{path}:{name} is empty")
    return tar_bytes(root, path, Member(str(name), int(offset), int(size)))


def _calibration(root: SourceRoot, ref: EpisodeRef) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays and attributes of the worker's `intrinsics.json`; none where there is no such file."""
    found = [path for path in ref.files if path.endswith(INTRINSICS)]
    if not found:
        return {}, {}
    told = fields.as_object(files.json_file(root, found[0]), found[0])
    model = fields.as_text(fields.member(told, "model", found[0]), "model")
    if model != "fisheye":
        raise EpisodeError("bad_value", f"{found[0]} is of the model {model[:40]!r}, not fisheye")
    numbers = {key: fields.as_number(fields.member(told, key, found[0]), key) for key in (*_MATRIX, *_LENS)}
    size = [fields.as_whole(fields.member(told, key, found[0]), key) for key in ("image_width", "image_height")]
    if numbers["fx"] <= 0 or numbers["fy"] <= 0 or min(size) <= 0:
        raise EpisodeError("bad_value", f"{found[0]}: focal lengths and sizes are positive")
    matrix = np.array([[numbers["fx"], 0, numbers["cx"]], [0, numbers["fy"], numbers["cy"]], [0, 0, 1]])
    lens = np.array([*(numbers[key] for key in _LENS), *[0.0] * 8])
    return {"intrinsics": matrix, "fisheye": lens}, {"intrinsics": told, "intrinsics_size_wh": size}


def _disagreements(clip: Mapping[str, Any], index: video.VideoIndex, size: int) -> list[str]:
    """Keys of the JSON that the video contradicts: they are told, the video is believed."""
    step = 1 / float(index.rate) if index.rate else 0.0
    seen: dict[str, str | float] = {
        "width": index.width,
        "height": index.height,
        "fps": float(index.rate),
        "duration_sec": index.frames * step,
        "size_bytes": size,
        "codec": index.codec,
    }
    return [key for key, value in seen.items() if key in clip and not _same(key, clip[key], value, step)]


def _same(key: str, said: Any, value: str | float, step: float) -> bool:
    """Whether the JSON says what is so, a duration to two frames."""
    if isinstance(value, str):
        return isinstance(said, str) and _CODECS.get(said.lower(), said.lower()) == value
    if isinstance(said, bool) or not isinstance(said, int | float):
        return False
    return abs(float(said) - value) <= (2 * step if key == "duration_sec" else 0.01)
