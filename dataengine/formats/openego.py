"""OpenEgo demonstrations: one folder with hand joints (HDF5), actions in seconds (JSON), facts, and perhaps a video.

Layout, as in physicalinc/openego (README.md "Dataset Structure", openego/data/openego.py): `<benchmark>/demo_<k>/` with
`joints.hdf5` (`left_hand`, `right_hand` [N, 21, 3] in the camera's frame, m; `<hand>_visibility` [N] or [N, 21];
`joint_names`; `intrinsics` [3, 3]), `metadata.hdf5` (`fps`, `num_frames`, `width`, `height`, `duration`),
`original_metadata.hdf5` of the data set it came from, `annotation.json` (`task`, `actions`) and `video.mp4`. The part
EgoDex keeps its own layout and is not read here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine import video
from dataengine.documents import load_json, unknown_name
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, files, hdf5
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.spans import Span, tracks
from dataengine.storage import SourceRoot

JOINTS = "joints.hdf5"
METADATA = "metadata.hdf5"
ORIGINAL = "original_metadata.hdf5"
ANNOTATION = "annotation.json"
VIDEO = "video.mp4"
HANDS = ("left_hand", "right_hand")
VIDEOS = ("required", "none")
_JOINTS = 21
_DETECTED = 8
_FACTS = ("fps", "num_frames", "width", "height", "duration")
Arrays = dict[str, NDArray[Any]]


class OpenegoFormat:
    """OpenEgo demonstrations. Option `video`: `required` (default) or `none`, for hands and text without videos."""

    name: ClassVar[str] = "openego"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "OpenEgo demonstrations: 21 joints a hand in the camera's frame, actions in seconds, video"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "openego",
            "egocentric",
            "OpenEgo: <benchmark>/demo_<k>/ with joints.hdf5, metadata.hdf5, annotation.json",
            "real files",
            4,
            "egocentric/openego_hocap (HO-Cap demo_0000 of physicalinc/openego @ e753da6c, without its video)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A folder with `joints.hdf5` that holds both hands, and `annotation.json` beside it."""
        for path in _demos(root, only)[:_DETECTED]:
            try:
                with hdf5.opened(root, path) as file:
                    found = all(hdf5.member(file, hand) is not None for hand in HANDS)
            except BadInput:
                continue
            if found and root.exists(_beside(path, ANNOTATION)):
                evidence = (f"{path} holds both hands", _beside(path, ANNOTATION))
                options = {} if root.exists(_beside(path, VIDEO)) else {"video": "none"}
                return Detection(self.name, 0.95, evidence, options, "openego")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a folder with `joints.hdf5`, in natural order, named by the folder; nothing is opened."""
        check_options(options, ("video",), self.name)
        kind = options.get("video", "required")
        if kind not in VIDEOS:
            raise unknown_name("value of `video`", str(kind), VIDEOS)
        for path in _demos(root, only):
            folder = str(PurePosixPath(path).parent)
            name = "demo" if folder == "." else folder
            needed = [JOINTS, ANNOTATION, METADATA, *([VIDEO] if kind == "required" else [])]
            missing = [part for part in needed if not root.exists(_beside(path, part))]
            if missing:
                reason = "missing_media" if missing == [VIDEO] else "missing_file"
                yield ScanProblem("episode", name, reason, f"{folder} has no {' and no '.join(missing)}")
                continue
            found = [_beside(path, part) for part in (*needed[1:], ORIGINAL) if root.exists(_beside(path, part))]
            yield EpisodeRef(name, {"file": path, "video": kind}, (path, *found))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One demonstration of N rows.

        Arrays: `left_hand`, `right_hand` [N, 21, 3] m, `<hand>_visibility` as stored, `<hand>_valid` [N] bool (visible
        in every joint, and not all zeros), `intrinsics` [3, 3]; with a video `video_time_s` [N]. Texts: `task`;
        `action` and `action_2` of every row, empty where none is (`action_2` holds what overlaps another action).
        """
        path = str(ref.locator["file"])
        with root.unchanged(*ref.files):
            arrays, names = _hands(root, path)
            facts = _scalars(root, _beside(path, METADATA))
            original = _scalars(root, _beside(path, ORIGINAL)) if _beside(path, ORIGINAL) in ref.files else {}
            annotation = load_json(root.read(_beside(path, ANNOTATION), limit=hdf5.MAX_ATTRIBUTE_BYTES), ANNOTATION)
            media = _video(root, path) if ref.locator["video"] == "required" else {}
            described = tuple(root.describe(name) for name in ref.files)
        rows, rate = _checked(arrays, facts)
        told = fields.as_object(annotation, ANNOTATION)
        texts = _texts(told, rows, rate)
        attributes = {
            **{name: facts[name] for name in _FACTS if name in facts},
            "joint_names": names,
            "original": original,
            "actions": told["actions"],
        }
        digest = RawDigest()
        for name, array in sorted(arrays.items()):
            digest.add_array(name, array)
        digest.add_json("attributes", attributes)
        digest.add_json("task", texts["task"])
        for clip in media.values():
            sound = video.other_streams(io.BytesIO(clip.payload))
            attributes |= {"unread": [f"{VIDEO}: {kind}" for kind in sound]} if sound else {}
            if clip.frames != rows:
                what = f"{rows} rows of joints and {clip.frames} frames in the video"
                raise EpisodeError("frame_count_mismatch", what)
            digest.add_bytes("video", clip.digest.encode())
            arrays["video_time_s"] = clip.times_ns / 1e9
        subject = original.get("subject_id")
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays={**arrays, **{f"{hand}_valid": _valid(arrays, hand) for hand in HANDS}},
            media=media,
            texts=texts,
            attributes=attributes,
            group=subject if isinstance(subject, str) and subject else ref.upstream_id,
        )


def _demos(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only == JOINTS else []
    """Paths of `joints.hdf5`, also where only the other files of a demonstration are left."""
    told = [path for path in root.glob(f"**/{METADATA}") if root.exists(_beside(path, ANNOTATION))]
    return files.natural({*root.glob(f"**/{JOINTS}"), *(_beside(path, JOINTS) for path in told)})


def _beside(path: str, name: str) -> str:
    return str(PurePosixPath(path).parent / name)


def _hands(root: SourceRoot, path: str) -> tuple[Arrays, list[str]]:
    """The numbers of `joints.hdf5`, and its joint names, which are wrong."""
    arrays: Arrays = {}
    with hdf5.opened(root, path) as file:
        for name in ("intrinsics", *HANDS, *(f"{hand}_visibility" for hand in HANDS)):
            node = hdf5.member(file, name)
            if node is None or not hasattr(node, "shape"):
                raise FormatError("missing_key", f"{path} has no {name}", where=path)
            hdf5.check(node)
            arrays[name] = hdf5.values(node)
        names = hdf5.member(file, "joint_names")
        return arrays, _plain(names) if names is not None and hasattr(names, "shape") else []


def _plain(node: hdf5.Node) -> Any:
    """A small data set as plain JSON: texts, numbers, or lists of them."""
    textual = node.dtype.kind in "SO"
    if hdf5.check(node, texts=textual) > hdf5.MAX_ATTRIBUTE_BYTES:
        raise FormatError("claimed_size", f"{node.name} is larger than any description")
    found = hdf5.values(node).tolist()

    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(item) for item in value]
        return fields.as_text(value.decode(), node.name) if isinstance(value, bytes) else value

    return text(found)


def _scalars(root: SourceRoot, path: str) -> dict[str, Any]:
    with hdf5.opened(root, path) as file:
        found = {name: _plain(node) for name, node in hdf5.datasets(file)}
    fields.canonical(found, path)
    return found


def _checked(arrays: Arrays, facts: Mapping[str, Any]) -> tuple[int, float]:
    """Rows and rate; every array fits, and the rows are as many as the metadata say."""
    rows = len(arrays[HANDS[0]]) if arrays[HANDS[0]].ndim else 0
    if rows == 0:
        raise EpisodeError("empty_episode", f"{HANDS[0]} holds no rows")
    for hand in HANDS:
        seen = arrays[f"{hand}_visibility"]
        if arrays[hand].shape[1:] != (_JOINTS, 3) or seen.shape[1:] not in ((), (_JOINTS,)):
            raise EpisodeError("bad_shape", f"{hand} is {arrays[hand].shape}, its visibility {seen.shape}")
        if len(arrays[hand]) != rows or len(seen) != rows:
            raise EpisodeError("length_mismatch", f"{hand} has {len(arrays[hand])} rows, its visibility {len(seen)}")
        if not np.isin(seen, (0, 1)).all():
            raise EpisodeError("bad_value", f"{hand}_visibility holds other values than 0 and 1")
        if not np.isfinite(arrays[hand]).all():
            raise EpisodeError("bad_value", f"{hand} holds a number that is not finite")
    if arrays["intrinsics"].shape != (3, 3):
        raise EpisodeError("bad_shape", f"intrinsics are {arrays['intrinsics'].shape}, not 3 x 3")
    if "num_frames" in facts and fields.as_whole(facts["num_frames"], "num_frames") != rows:
        raise EpisodeError("length_mismatch", f"num_frames is {facts['num_frames']}, the hands have {rows} rows")
    rate = fields.as_number(fields.member(facts, "fps", METADATA), "fps")
    if not 0 < rate < 1e4:
        raise EpisodeError("bad_rate", f"fps is {rate}")
    return rows, rate


def _valid(arrays: Arrays, hand: str) -> NDArray[np.bool_]:
    """Rows [N] in which a hand is seen as a whole. A missing hand is stored as zeros, which are no position."""
    seen = arrays[f"{hand}_visibility"].reshape(len(arrays[hand]), -1).all(axis=1)
    return np.asarray(seen & arrays[hand].any(axis=(1, 2)), np.bool_)


def _texts(annotation: Mapping[str, Any], rows: int, rate: float) -> dict[str, tuple[str, ...]]:
    """The task, and the actions of every row: rows round(start fps) to round(end fps), as upstream's `Action` takes."""
    task = fields.as_text(fields.member(annotation, "task", ANNOTATION), "task")
    spans: list[Span] = []
    for number, entry in enumerate(fields.as_list(fields.member(annotation, "actions", ANNOTATION), "actions")):
        where = f"actions[{number}]"
        action = fields.as_object(entry, where)
        label = fields.as_text(fields.member(action, "label", where), f"{where}.label")
        span = [fields.as_number(fields.member(action, name, where), f"{where}.{name}") for name in _SPAN]
        if not 0 <= span[0] <= span[1]:
            raise EpisodeError("bad_value", f"{where} goes from {span[0]} to {span[1]} s")
        start, stop = (min(round(second * rate), rows) for second in span)
        spans.append((start, stop, label))
    return {"task": (task,), **tracks("action", spans, rows)}


_SPAN = ("start_timestamp", "end_timestamp")


def _video(root: SourceRoot, path: str) -> dict[str, Media]:
    found = video.whole("video", root.read(_beside(path, VIDEO)))
    return {"video": replace(found, times_ns=video.frame_times(found))}
