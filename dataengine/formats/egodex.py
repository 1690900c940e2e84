"""EgoDex recordings: `<part>/<task>/<number>.hdf5` with the poses of 68 joints and the camera, and the mp4 beside it.

Layout, as Apple's own scripts read it (apple/ml-egodex: `simple_dataset.py`, `utils/data_utils.py`,
`utils/skeleton_tfs.py`; copies in zhoush210/VITRA @ a24759a1, `utils/`): `camera/intrinsic` [3, 3];
`transforms/<joint>` [N, 4, 4], poses of joint (and of `camera`) in the ARKit origin frame, which stands still on the
ground (y up, m); `confidences/<joint>` [N], in some files only; the root's attributes hold the language. The mp4 has
one frame a row, 30 Hz.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine import video
from dataengine.documents import unknown_name
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, hdf5
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

SUFFIX = ".hdf5"
VIDEO = ".mp4"
CAMERA = "transforms/camera"
INTRINSIC = "camera/intrinsic"
SIDES = ("left", "right")
FINGERS = ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
_DETECTED_FILES = 8
_NUMBER = re.compile(r"\d{1,12}")
_REVERSIBLE = {"1": "llm_description", "2": "llm_description2"}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Options:
    video: str
    min_confidence: float


class EgodexFormat:
    """EgoDex episodes.

    Options: `video`, `required` (default) or `none` (poses alone); `min_confidence` (default 0.0), above which ARKit's
    confidence in a joint must lie for `valid/...` to hold.
    """

    name: ClassVar[str] = "egodex"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "EgoDex: ARKit poses of hands, body and camera (HDF5) with the egocentric video (mp4)"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "egodex",
            "egocentric",
            "EgoDex: part<N>/<task>/<i>.hdf5 with the mp4 of its name",
            "layout fixture",
            6,
            "fixture after Apple's scripts of apple/ml-egodex (simple_dataset.py, visualize_2d.py, utils/), read in "
            "the copies of zhoush210/VITRA @ a24759a1c9052ef90bc90c9ef257c3044536724d",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """An HDF5 file with `transforms/camera` and `camera/intrinsic`."""
        for path in _files(root, only)[:_DETECTED_FILES]:
            try:
                with hdf5.opened(root, path) as file:
                    found = all(_node(file, name) is not None for name in (CAMERA, INTRINSIC))
            except BadInput:
                continue
            if found:
                return Detection(self.name, 0.95, (f"{path} holds {CAMERA} and {INTRINSIC}",), layout="egodex")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a numbered HDF5 file, in natural order, named by its path; nothing is opened.

        One without its mp4 is `missing_media`, an mp4 without HDF5 `missing_file`, another name `unknown_name`.
        """
        chosen = _options(options)
        place = {"video": chosen.video, "min_confidence": chosen.min_confidence}
        paths = _files(root, only)
        for path in paths:
            name = path.removesuffix(SUFFIX)
            pictures = [name + VIDEO] if chosen.video == "required" else []
            if not _NUMBER.fullmatch(PurePosixPath(name).name):
                yield ScanProblem("file", path, "unknown_name", f"{path} is not named by a number, as EgoDex's are")
            elif not all(root.exists(picture) for picture in pictures):
                yield ScanProblem("episode", name, "missing_media", f"{name}{VIDEO} is not there")
            else:
                yield EpisodeRef(name, {"file": path, **place}, (path, *pictures))
        if only is None:
            known = set(paths)
            for path in files.natural(root.glob(f"**/*{VIDEO}")):
                if path.removesuffix(VIDEO) + SUFFIX not in known:
                    name = path.removesuffix(VIDEO)
                    yield ScanProblem("episode", name, "missing_file", f"{path} has no {SUFFIX} beside it")

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode of N rows.

        Arrays: `camera/intrinsic` [3, 3], `transforms/<joint>` [N, 4, 4] and `confidences/<joint>` [N] as stored;
        `valid/<side>Hand` and `valid/<side>Fingertips` (the hand and its five tips) [N] bool, all true in a file
        without confidences; `video_time_s` [N], the frames' own times. Texts: the attributes `llm_description` and
        `llm_description2`, and `instruction`, the one that holds for this episode. The video is `video`.
        """
        path = str(ref.locator["file"])
        with root.unchanged(*ref.files):
            arrays, attributes = _stored(root, path)
            media = _video(root, path) if ref.locator["video"] == "required" else {}
            described = tuple(root.describe(name) for name in ref.files)
        rows = _check_rows(arrays)
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("attributes", attributes)
        for clip in media.values():
            sound = [f"video: {kind}" for kind in video.other_streams(io.BytesIO(clip.payload))]
            attributes |= {"unread": sorted([*attributes.get("unread", ()), *sound])} if sound else {}
            if clip.frames != rows:
                what = f"{rows} rows of poses and {clip.frames} frames in the video"
                raise EpisodeError("frame_count_mismatch", what)
            digest.add_bytes("video", clip.digest.encode())
            arrays["video_time_s"] = clip.times_ns / 1e9
        confident = float(ref.locator["min_confidence"])
        session = attributes.get("session_name")
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays={**arrays, **_valid(arrays, rows, confident)},
            media=media,
            texts=_texts(attributes),
            attributes=attributes,
            group=session if isinstance(session, str) and session else str(PurePosixPath(path).parent),
        )


def _options(options: Mapping[str, Any]) -> _Options:
    check_options(options, ("video", "min_confidence"), EgodexFormat.name)
    kind, least = options.get("video", "required"), options.get("min_confidence", 0.0)
    if kind not in ("required", "none"):
        raise unknown_name("value of `video`", str(kind), ("required", "none"))
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise SpecError(f"the option `min_confidence` is a number from 0 to 1, not {least!r}")
    return _Options(kind, float(least))


def _files(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only.endswith(SUFFIX) else []
    return files.natural(root.glob(f"**/*{SUFFIX}"))


def _node(file: hdf5.Node, name: str) -> hdf5.Node | None:
    group, _, leaf = name.partition("/")
    parent = hdf5.member(file, group)
    return None if parent is None or hasattr(parent, "shape") else hdf5.member(parent, leaf)


def _stored(root: SourceRoot, path: str) -> tuple[Arrays, dict[str, Any]]:
    """Every data set under its path, and the root's attributes; what is no number is named in `unread`."""
    arrays: Arrays = {}
    with hdf5.opened(root, path) as file:
        for name in (CAMERA, INTRINSIC):
            if _node(file, name) is None:
                raise FormatError("missing_key", f"{path} has no {name}: no EgoDex file", where=path)
        attributes, unread = hdf5.attributes(file)
        total = 0
        for name, dataset in hdf5.datasets(file):
            if dataset.dtype.kind not in "fiub":
                unread.append(name)
                continue
            total += hdf5.check(dataset)
            if total > hdf5.MAX_BYTES:
                raise FormatError("claimed_size", f"{path} claims more than {hdf5.MAX_BYTES} bytes", where=path)
            arrays[name] = hdf5.values(dataset)
    return arrays, {**attributes, **({"unread": sorted(unread)} if unread else {})}


def _check_rows(arrays: Arrays) -> int:
    """The rows of `transforms/camera`; every transform and confidence has as many, and the shape of its kind."""
    rows = len(arrays[CAMERA]) if arrays[CAMERA].ndim else 0
    if rows == 0:
        raise EpisodeError("empty_episode", f"{CAMERA} holds no rows")
    shapes: dict[str, tuple[int, ...]] = {"transforms/": (rows, 4, 4), "confidences/": (rows,), INTRINSIC: (3, 3)}
    for name, array in arrays.items():
        wanted = next((shape for prefix, shape in shapes.items() if name.startswith(prefix)), array.shape)
        if array.shape != wanted:
            reason = "length_mismatch" if array.shape[1:] == wanted[1:] and array.ndim == len(wanted) else "bad_shape"
            raise EpisodeError(reason, f"{name} is {array.shape}, not {wanted}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EpisodeError("bad_value", f"{name} holds a number that is not finite")
    return rows


def _valid(arrays: Arrays, rows: int, least: float) -> Arrays:
    """Where ARKit is sure of a hand, and of the hand with its five tips."""
    made: Arrays = {}
    for side in SIDES:
        parts = {"Hand": (f"{side}Hand",), "Fingertips": (f"{side}Hand", *(f"{side}{name}Tip" for name in FINGERS))}
        for part, joints in parts.items():
            held = np.ones(rows, np.bool_)
            for joint in joints:
                if f"transforms/{joint}" not in arrays:
                    held[:] = False
                elif f"confidences/{joint}" in arrays:
                    held &= arrays[f"confidences/{joint}"] > least
            made[f"valid/{side}{part}"] = held
    return made


def _texts(attributes: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Both descriptions as they are, and `instruction`: of a reversible task the one that was done."""
    texts = {name: attributes[name] for name in _REVERSIBLE.values() if isinstance(attributes.get(name), str)}
    which = "1"
    if attributes.get("llm_type") == "reversible":
        which = str(attributes.get("which_llm_description"))
        if which not in _REVERSIBLE or _REVERSIBLE[which] not in texts:
            what = f"a reversible task whose which_llm_description is {which[:40]!r}, of {sorted(texts)}"
            raise EpisodeError("bad_value", what)
    chosen = texts.get(_REVERSIBLE[which])
    return {name: (text,) for name, text in {**texts, "instruction": chosen}.items() if text is not None}


def _video(root: SourceRoot, path: str) -> dict[str, Media]:
    found = video.whole("video", root.read(path.removesuffix(SUFFIX) + VIDEO))
    return {"video": replace(found, times_ns=video.frame_times(found))}
