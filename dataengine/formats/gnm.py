"""Trajectories as GNM and ViNT keep them: `<trajectory>/{0.jpg, 1.jpg, ..., traj_data.pkl}`.

Upstream: robodhruv/visualnav-transformer @ dca79815, README.md (Data Processing), train/process_bags.py and
train/process_recon.py. The pickle holds a dict: `position` [T, 2] (m, odometry) and `yaw` [T] or [T, 1] (rad, positive
to the left); it is read without unpickling. Picture i belongs to row i. There is no clock: rosbags were sampled at 4 Hz
at most, and pieces in which the robot drove backwards were cut out (`_0`, `_1` behind the bag's name).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats import files, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.unpickle import read_pickle
from dataengine.storage import SourceRoot

DATA = "traj_data.pkl"
MAX_PICKLE = 256 << 20
_PIECE = re.compile(r"_\d+$")


class GnmFormat:
    """Trajectory folders of GNM and ViNT. Option `names`: a pattern (`*Spot*`) of the folders' names to read."""

    name: ClassVar[str] = "gnm"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "GNM and ViNT: folders of 0.jpg, 1.jpg, ... with traj_data.pkl"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "gnm_folder",
            "navigation",
            "GNM and ViNT trajectories: pictures with odometry",
            "layout fixture",
            9,
            "after robodhruv/visualnav-transformer @ dca79815, train/process_bags.py and train/process_recon.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A folder with `traj_data.pkl` and `0.jpg`."""
        for path in _trajectories(root, only):
            first = str(PurePosixPath(path).with_name("0.jpg"))
            if root.exists(first):
                return Detection(self.name, 0.9, (path, first), layout="gnm_folder")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every folder with a `traj_data.pkl`, sorted by path."""
        check_options(options, ("names",), self.name)
        pattern = options.get("names", "*")
        if not isinstance(pattern, str):
            raise SpecError(f"the option `names` is a pattern, not {pattern!r}", fix="correct `format.options`")
        for folder in _without_data(root, only):
            if fnmatchcase(PurePosixPath(folder).name, pattern):
                yield ScanProblem("episode", folder, "missing_file", f"it holds 0.jpg and no {DATA}")
        for path in _trajectories(root, only):
            folder = path.rpartition("/")[0]
            name = folder or root.path.name
            if not fnmatchcase(PurePosixPath(name).name, pattern):
                continue
            try:
                shown = files.numbered(root, folder, (".jpg",))
            except BadInput as error:
                yield ScanProblem("episode", name, error.reason, error.what)
                continue
            wanted = [f"{number}.jpg" for number in range(len(shown))]
            if not shown or [PurePosixPath(picture).name for picture in shown] != wanted:
                what = f"the pictures are not 0.jpg to {len(shown) - 1}.jpg" if shown else "it holds no picture"
                yield ScanProblem("episode", name, "missing_media", what)
            else:
                yield EpisodeRef(_identity(folder), {"data": path}, (path, *shown), {"frames": len(shown)})

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One trajectory: arrays `position` [T, 2], `yaw` [T] or [T, 1] and others of T rows; media `images`, JPEG."""
        path, shown = ref.files[0], ref.files[1:]
        with root.unchanged(*ref.files):
            values = read_pickle(root.read(path, limit=MAX_PICKLE), path)
            media = pictures.encoded("images", [root.read(picture, limit=MAX_PICKLE) for picture in shown])
            described = tuple(root.describe(name) for name in ref.files)
        arrays, unread = _arrays(values, len(shown))
        digest = RawDigest()
        for name, array in arrays.items():
            digest.add_array(name, array)
        digest.add_bytes("images", media.digest.encode())
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media={"images": media},
            attributes={"unread": unread} if unread else {},
            group=_PIECE.sub("", ref.upstream_id),
        )


def _trajectories(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).name == DATA else []
    return root.glob(f"**/{DATA}")


def _without_data(root: SourceRoot, only: str | None) -> list[str]:
    """Folders of pictures counted from 0, beside trajectories, that lost their numbers; other folders are not ours."""
    if only is not None:
        return []
    folders = {path.rpartition("/")[0] for path in _trajectories(root, only)}
    beside = {folder.rpartition("/")[0] for folder in folders if folder}
    shown = (path.rpartition("/")[0] for path in root.glob("**/0.jpg"))
    return sorted(
        folder for folder in shown if folder not in folders and folder and folder.rpartition("/")[0] in beside
    )


def _identity(folder: str) -> str:
    """The folder below the root; a root that is itself a trajectory has no name that would stay."""
    return folder or "trajectory"


def _arrays(values: Any, frames: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The pickle's arrays, rows checked against the pictures, and the names of what is no array of numbers."""
    if not isinstance(values, dict):
        raise EpisodeError("bad_type", f"{DATA} holds no dict")
    arrays, unread = {}, []
    for name, value in sorted((str(key), value) for key, value in values.items()):
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            arrays[name] = value
        else:
            unread.append(f"{DATA}: {name}")
    for name, widths in (("position", ((frames, 2),)), ("yaw", ((frames,), (frames, 1)))):
        if name not in arrays:
            raise EpisodeError("missing_key", f"{DATA} holds no array {name!r}")
        shape = arrays[name].shape
        if shape in widths:
            continue
        if shape[:1] != (frames,) and shape[1:] in {width[1:] for width in widths}:
            raise EpisodeError("frame_count_mismatch", f"{name} holds {shape[0]} rows for {frames} pictures")
        raise EpisodeError("bad_shape", f"{name} has the shape {shape}")
    for name in ("position", "yaw"):
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise EpisodeError("bad_value", f"{name} holds {arrays[name].dtype}, or a number that is not finite")
    return arrays, unread
