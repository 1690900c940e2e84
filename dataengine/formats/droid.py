"""DROID's raw episodes: a folder with `trajectory.h5`, `metadata_<uuid>.json` and `recordings/MP4/<serial>.mp4`.

Upstream: droid-dataset/droid @ 1548722f, droid/trajectory_utils/trajectory_writer.py (every entry of a time step is a
data set that grows by one row), droid/trajectory_utils/misc.py (collect_trajectory; load_trajectory pairs frame i with
row i), droid/postprocessing/parse.py and schema.py (the metadata; which camera is `wrist`, `ext1`, `ext2`) and
util/svo2mp4.py (`<serial>.mp4` shows the left eye, `<serial>-stereo.mp4` both).
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine import video
from dataengine.documents import load_json
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields, files, hdf5
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

TRAJECTORY = "trajectory.h5"
MAX_PROBED = 5
MAX_VIDEO = 4 << 30
ANNOTATIONS = ("language_instruction1", "language_instruction2", "language_instruction3")
_VIDEOS = "observation/videos/"
_CAMERA_TYPE = "observation/camera_type"
_TASK = "current_task"


class DroidFormat:
    """Episodes of DROID's raw release, every numeric data set under its own path; cameras by the role they play.

    Options: `annotations`, the path of DROID's language annotations (JSON, by the episode's uuid), and `success`: true
    for the episodes below a folder `success` alone.
    """

    name: ClassVar[str] = "droid"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "DROID raw: trajectory.h5, metadata_<uuid>.json and recordings/MP4"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "droid_raw",
            "robot",
            "DROID raw: HDF5 trajectory, metadata and MP4 recordings of one episode a folder",
            "layout fixture",
            10,
            "after droid-dataset/droid @ 1548722f, droid/trajectory_utils/trajectory_writer.py, misc.py "
            "(collect_trajectory), droid/postprocessing/schema.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A `trajectory.h5` with `action` and `observation/robot_state`."""
        for path in _trajectories(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    observed = hdf5.member(file, "observation")
                    if (
                        isinstance(hdf5.member(file, "action"), h5py.Group)
                        and isinstance(observed, h5py.Group)
                        and isinstance(hdf5.member(observed, "robot_state"), h5py.Group)
                    ):
                        told = f"{path} holds action and observation/robot_state"
                        return Detection(self.name, 0.95, (told,), layout="droid_raw")
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every folder with a `trajectory.h5`, by its metadata's uuid, or by its path where it has no metadata.

        `ambiguous_file` for a folder with metadata of two episodes, `duplicate_episode` for one uuid in two folders,
        `missing_file` for a folder with metadata and no trajectory.
        """
        check_options(options, ("annotations", "success"), self.name)
        annotations, success = options.get("annotations"), options.get("success", False)
        if not isinstance(annotations, str | None) or not isinstance(success, bool):
            raise SpecError("`annotations` is a path, `success` true or false", where="format droid")
        found = []
        for path in _trajectories(root, only):
            folder = path.rpartition("/")[0]
            if success and "success" not in folder.split("/"):
                continue
            metadata = root.glob(_below(folder, "metadata_*.json"))
            names = [name.rpartition("metadata_")[2].removesuffix(".json") for name in metadata]
            found.append((path, folder, metadata, names[0] if names else folder or path))
        repeated = Counter(name for _, _, _, name in found)
        if only is None:
            yield from _without_trajectory(root, {folder for _, folder, _, _ in found}, success)
        for path, folder, metadata, name in found:
            if len(metadata) > 1:
                yield ScanProblem(
                    "episode", folder or path, "ambiguous_file", f"{folder} holds {len(metadata)} metadata"
                )
            elif repeated[name] > 1:
                yield ScanProblem("episode", folder or path, "duplicate_episode", f"{name} lies in two folders")
            else:
                videos = [file for file in root.glob(_below(folder, "recordings/MP4/*.mp4")) if _is_left(file)]
                shared = [annotations] if annotations is not None else []
                locator = {"file": path, "metadata": metadata, "videos": videos, "annotations": annotations}
                yield EpisodeRef(name, locator, (path, *metadata, *videos, *shared))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, videos = str(ref.locator["file"]), [str(name) for name in ref.locator["videos"]]
        with root.unchanged(*ref.files):
            with hdf5.opened(root, path) as file:
                arrays, unread = _stored(file)
                attributes, odd = hdf5.attributes(file)
            rows = _rows(arrays)
            metadata = [_metadata(root, str(name)) for name in ref.locator["metadata"]]
            cameras = _cameras(arrays)
            for path_of, record in zip(ref.locator["metadata"], metadata, strict=True):
                _check_metadata(str(path_of), record, ref.upstream_id, rows, cameras)
            media = _media(root, videos, cameras, rows)
            texts = _texts(attributes, metadata, _annotations(root, ref))
            described = tuple(root.describe(name) for name in ref.files)
        folder = path.rpartition("/")[0]
        unread += [f"@{name}" for name in odd] + _left_out(root, folder, videos)
        told = attributes | {"cameras": cameras, "unread": sorted(unread)}
        if metadata:
            told["metadata"] = metadata[0]
        digest = RawDigest()
        for name, array in arrays.items():
            digest.add_array(name, array)
        digest.add_json("attributes", told)
        digest.add_json("texts", [texts, {name: item.digest for name, item in media.items()}])
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            texts={name: (text,) for name, text in texts.items()},
            attributes=told,
        )


def _trajectories(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if only == TRAJECTORY else []
    return root.glob(f"**/{TRAJECTORY}")


def _without_trajectory(root: SourceRoot, folders: set[str], success: bool) -> Iterator[ScanProblem]:
    """Folders with an episode's metadata whose `trajectory.h5` is missing."""
    for path in root.glob("**/metadata_*.json"):
        folder = path.rpartition("/")[0]
        if folder not in folders and (not success or "success" in folder.split("/")):
            what = f"{folder or 'the folder'} holds an episode's metadata and no {TRAJECTORY}"
            yield ScanProblem("episode", folder or path, "missing_file", what)


def _below(folder: str, name: str) -> str:
    """A pattern below a folder whose own name may hold the signs of a pattern."""
    return f"{glob.escape(folder)}/{name}" if folder else name


def _is_left(path: str) -> bool:
    return not path.endswith("-stereo.mp4")


def _left_out(root: SourceRoot, folder: str, videos: list[str]) -> list[str]:
    """Recordings that are not read: SVO files (they need the camera maker's SDK), stereo pictures."""
    found = root.glob(_below(folder, "recordings/**/*.*"))
    return [path.removeprefix(f"{folder}/") for path in found if path not in videos]


def _stored(file: h5py.File) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Numeric data sets by path; texts and videos in the file (never written by the released code) are left."""
    arrays: dict[str, NDArray[Any]] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(file):
        if name.startswith(_VIDEOS) or h5py.check_string_dtype(dataset.dtype) is not None:
            unread.append(name)
            continue
        total += hdf5.check(dataset)
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"the trajectory claims more than {hdf5.MAX_BYTES} bytes")
        arrays[name] = hdf5.values(dataset)
    return arrays, unread


def _rows(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Rows of the trajectory; upstream's writer adds one to every data set a step."""
    if not any(name.startswith("action/") for name in arrays):
        raise EpisodeError("missing_stream", "the trajectory holds no action: recording stopped before it began")
    counts = {name: len(array) if array.ndim else -1 for name, array in arrays.items()}
    common = Counter(counts.values()).most_common(1)[0][0]
    for name, count in counts.items():
        if count != common:
            raise EpisodeError("length_mismatch", f"{name} has {count} rows, other data sets have {common}")
    if common <= 0:
        raise EpisodeError("empty_episode", "the trajectory has no rows")
    return common


def _cameras(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Serial numbers by role, as upstream's parse.py assigns them: type 0 is the wrist's, the others by serial."""
    roles: dict[str, str] = {}
    outside = ["ext2", "ext1"]
    serials = sorted(name.rpartition("/")[2] for name in arrays if name.startswith(f"{_CAMERA_TYPE}/"))
    for serial in serials:
        kinds = np.unique(arrays[f"{_CAMERA_TYPE}/{serial}"])
        if len(kinds) != 1:
            raise EpisodeError("bad_value", f"{_CAMERA_TYPE}/{serial} changes on the way")
        role = "wrist" if kinds[0] == 0 else (outside.pop() if outside else "")
        if not role or role in roles:
            raise EpisodeError("bad_value", f"more cameras than a wrist's and two others: {', '.join(serials)}")
        roles[role] = serial
    return dict(sorted(roles.items()))


def _media(root: SourceRoot, videos: list[str], cameras: Mapping[str, str], rows: int) -> dict[str, Media]:
    """The left eye's recording of each camera, by role, frame i for row i."""
    roles = {serial: role for role, serial in cameras.items()}
    media = {}
    for path in videos:
        serial = path.rpartition("/")[2].removesuffix(".mp4")
        if serial not in roles:
            raise EpisodeError("unknown_name", f"{path}: the trajectory knows no camera {serial}")
        try:
            made = video.whole(roles[serial], root.read(path, limit=MAX_VIDEO))
        except EpisodeError as error:
            raise EpisodeError(error.reason, f"{path}: {error.what}") from error
        if made.frames != rows:
            raise EpisodeError("frame_count_mismatch", f"{path} holds {made.frames} frames for {rows} rows")
        media[roles[serial]] = made
    return dict(sorted(media.items()))


def _metadata(root: SourceRoot, path: str) -> dict[str, Any]:
    found = fields.as_object(load_json(root.read(path, limit=1 << 24), path), path)
    fields.canonical(found, path)
    return found


def _check_metadata(path: str, record: Mapping[str, Any], uuid: str, rows: int, cameras: Mapping[str, str]) -> None:
    """What the metadata say of the trajectory is so: upstream's parse.py takes all of it from `trajectory.h5`."""
    named, length = record.get("uuid", uuid), record.get("trajectory_length", rows)
    if named != uuid:
        raise EpisodeError("bad_value", f"{path} is of the episode {named!r}, its name is of {uuid}")
    if length != rows:
        raise EpisodeError(
            "length_mismatch", f"{path}: trajectory_length is {length!r}, the trajectory has {rows} rows"
        )
    for role, serial in cameras.items():
        told = record.get(f"{role}_cam_serial", serial)
        if str(told) != serial:
            raise EpisodeError("bad_value", f"{path}: the camera {role} is {told!r}, the trajectory says {serial}")


def _annotations(root: SourceRoot, ref: EpisodeRef) -> dict[str, Any]:
    """What the language annotations say about this episode: nothing where they do not name it."""
    path = ref.locator["annotations"]
    if path is None:
        return {}
    found = fields.as_object(files.json_file(root, str(path)), str(path))
    return fields.as_object(found.get(ref.upstream_id, {}), f"{path}: {ref.upstream_id}")


def _texts(
    attributes: Mapping[str, Any], metadata: list[dict[str, Any]], annotations: Mapping[str, Any]
) -> dict[str, str]:
    """The task as it was named when recording, and the instructions that were written afterwards; no empty ones."""
    told = {_TASK: (metadata[0] if metadata else attributes).get(_TASK, attributes.get(_TASK, ""))}
    told |= {name: annotations[name] for name in ANNOTATIONS if name in annotations}
    texts = {name: fields.as_text(value, name) for name, value in told.items()}
    return {name: text for name, text in texts.items() if text.strip()}
