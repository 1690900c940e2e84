"""RoboTwin 2.0's and DOMINO's episodes: `<task>/<config>/data/episode<N>.hdf5`, `instructions/episode<N>.json` beside.

Upstream: RoboTwin-Platform/RoboTwin @ 3399fdf7 and H-EmbodVis/DOMINO @ 9fd12713, envs/utils/pkl2hdf5.py (the same
layout); RoboTwin @ cf47ab56 writes another one, XPolicyLab's. Pictures are JPEG strings of fixed length: RGB arrays
that OpenCV's encoder took as BGR. `video/` repeats the head camera and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, hdf5, hdf5_pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

MAX_PROBED = 20
MAX_TEXTS = 1000
CLASSIC, XPOLICYLAB = "robotwin_hdf5", "robotwin_xpolicylab_hdf5"
_PICTURES = re.compile(r"observation/(\w+)/rgb|vision/(\w+)/colors|(third_view_rgb)")
_ROWS = re.compile(r"(joint_action|endpose|state|action)/.+|(observation|vision)/\w+/(\w+_cv|cam2world_gl|\w+_matrix)")


class RobotwinFormat:
    """Episodes of RoboTwin 2.0 and DOMINO: numbers under their own paths, cameras by name, every instruction."""

    name: ClassVar[str] = "robotwin"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "RoboTwin 2.0 and DOMINO: data/episode<N>.hdf5 with instructions/episode<N>.json"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            CLASSIC,
            "simulation",
            "RoboTwin 2.0 and DOMINO: joint_action, endpose, observation/<camera>",
            "layout fixture",
            4,
            "RoboTwin-Platform/RoboTwin @ 3399fdf7 and H-EmbodVis/DOMINO @ 9fd12713, envs/utils/pkl2hdf5.py",
        ),
        Layout(
            XPOLICYLAB,
            "simulation",
            "RoboTwin since XPolicyLab: state, action, vision/<camera>/colors",
            "layout fixture",
            2,
            "RoboTwin-Platform/RoboTwin @ cf47ab56, envs/utils/pkl2hdf5.py, create_xpolicylab_hdf5",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _paths(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    layout = _layout(file)
            except BadInput:
                continue
            if layout is not None:
                told = "joint_action and observation" if layout == CLASSIC else "data_format_version, state and vision"
                return Detection(self.name, 0.9, (f"{path} holds {told}",), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode's file below the root, in the order of the numbers in its path.

        Option `layout`: a file of the other one is a `ScanProblem` `other_layout`. In a folder, HDF5 files of another
        structure are passed over, unless they are named as episodes.
        """
        check_options(options, ("layout",), self.name)
        wanted = options.get("layout")
        if wanted is not None and wanted not in (CLASSIC, XPOLICYLAB):
            raise SpecError(f"the format robotwin has no layout {wanted!r}", fix=f"known: {CLASSIC}, {XPOLICYLAB}")
        paths = _paths(root, only)
        yield from _lost(root, paths) if only is None else ()
        for path in paths:
            try:
                with hdf5.opened(root, path) as file:
                    layout = _layout(file)
                if layout is None and (only is not None or _named_episode(path)):
                    what = f"{path} holds neither joint_action with observation nor state, action and vision"
                    raise FormatError("missing_key", what, where=path)
                if layout is not None and wanted not in (None, layout):
                    what = f"{path} is of the layout {layout}, the converter reads {wanted}"
                    raise FormatError("other_layout", what, where=path)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if layout is not None:
                texts = _texts_of(root, path) if layout == CLASSIC else None
                yield EpisodeRef(path, {"file": path, "texts": texts}, (path, *([texts] if texts else [])))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, beside, digest = str(ref.locator["file"]), ref.locator.get("texts"), RawDigest()
        paths = [path, *([str(beside)] if beside else [])]
        with root.unchanged(*paths):
            with hdf5.opened(root, path) as file:
                attributes, odd = hdf5.attributes(file)
                arrays, media, texts, unread = _content(file, digest)
            if beside:
                texts |= _instructions(root, str(beside))
            described = tuple(root.describe(name) for name in paths)
        _check(arrays, media)
        unread = sorted([*unread, *(f"@{name}" for name in odd)])
        attributes |= {"unread": unread} if unread else {}
        digest.add_json("attributes", attributes)
        digest.add_json("texts", {name: list(values) for name, values in texts.items()})
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


def _paths(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() == ".hdf5" else []
    return files.natural(root.glob("**/*.hdf5"))


def _layout(file: h5py.File) -> str | None:
    members = {name: hdf5.member(file, name) for name in hdf5.names(file)}
    groups = {name for name, node in members.items() if isinstance(node, h5py.Group)}
    if {"joint_action", "observation"} <= groups:
        return CLASSIC
    if {"state", "action", "vision"} <= groups and "data_format_version" in members:
        return XPOLICYLAB
    return None


def _named_episode(path: str) -> bool:
    """Whether a file is named as RoboTwin names its episodes: one that lost a group is told and not passed over."""
    return re.fullmatch(r"episode\d+", PurePosixPath(path).stem) is not None


def _texts_of(root: SourceRoot, path: str) -> str | None:
    """The instructions beside `<task>/<config>/data/episode3.hdf5`; None where there are none."""
    place = PurePosixPath(path)
    beside = str(place.parent.parent / "instructions" / f"{place.stem}.json")
    return beside if place.parent.name == "data" and root.exists(beside) else None


def _lost(root: SourceRoot, found: Sequence[str]) -> Iterator[ScanProblem]:
    """Episodes whose instructions are there and whose file is not, beside others that have theirs."""
    folders = {str(PurePosixPath(path).parent) for path in found}
    for beside in root.glob("**/instructions/episode*.json"):
        place = PurePosixPath(beside)
        path = str(place.parent.parent / "data" / f"{place.stem}.hdf5")
        if path not in (*found, *root.refused) and str(PurePosixPath(path).parent) in folders:
            yield ScanProblem("episode", path, "missing_file", f"{beside} is there, {path} is not")


def _instructions(root: SourceRoot, path: str) -> dict[str, tuple[str, ...]]:
    """`seen_0`, `seen_1`, ..., `unseen_0`, ...: each list of the file in its own order."""
    found = load_json(root.read(path, limit=16 << 20), path)
    if not isinstance(found, dict) or not {"seen", "unseen"} & found.keys():
        raise FormatError("missing_key", f"{path} holds no lists `seen` and `unseen`", where=path)
    return _numbered({name: found[name] for name in ("seen", "unseen") if name in found}, path)


def _numbered(lists: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    texts: dict[str, tuple[str, ...]] = {}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise FormatError("bad_type", f"{where}: `{name}` is no list of texts", where=where)
        if len(values) > MAX_TEXTS:
            raise FormatError("claimed_size", f"{where}: `{name}` holds {len(values)} texts", where=where)
        texts |= {f"{name}_{number}": (value,) for number, value in enumerate(values)}
    return texts


def _content(
    file: h5py.File, digest: RawDigest
) -> tuple[dict[str, NDArray[Any]], dict[str, Media], dict[str, tuple[str, ...]], list[str]]:
    """Numbers, pictures, texts of the file itself, and the names of what is not read (depth, masks, point clouds)."""
    arrays: dict[str, NDArray[Any]] = {}
    media: dict[str, Media] = {}
    texts: dict[str, tuple[str, ...]] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(file):
        shown = _PICTURES.fullmatch(name)
        if name == "instructions":
            texts = _numbered({"instruction": load_json(_text(dataset).encode(), name)}, name)
        elif shown is not None and hdf5_pictures.kind(dataset) == "strings":
            total += hdf5_pictures.claimed(dataset)
            camera = next(part for part in shown.groups() if part)
            media[camera] = hdf5_pictures.read(camera, dataset, digest, "png")
        elif dataset.dtype.kind not in "fiub" or _is_unread(name):
            unread.append(name)
        else:
            total += hdf5.check(dataset)
            arrays[name] = hdf5.values(dataset)
            digest.add_array(name, arrays[name])
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"the file claims more than {hdf5.MAX_BYTES} bytes")
    return arrays, media, texts, unread


def _is_unread(name: str) -> bool:
    return name == "pointcloud" or name.rpartition("/")[2] in (
        "depth",
        "depths",
        "rgb",
        "colors",
        "mesh_segmentation",
        "actor_segmentation",
    )


def _text(dataset: h5py.Dataset) -> str:
    hdf5.check(dataset, texts=True)
    value = hdf5.values(dataset)
    if value.ndim:
        raise FormatError("bad_shape", f"{dataset.name} is {value.shape}, not one text")
    found = value.item()
    return found.decode("utf-8") if isinstance(found, bytes) else str(found)


def _check(arrays: Mapping[str, NDArray[Any]], media: Mapping[str, Media]) -> None:
    """There are rows, as many of every stream."""
    rows = {name: len(array) for name, array in arrays.items() if array.ndim and _ROWS.fullmatch(name)}
    rows |= {name: stream.frames for name, stream in media.items()}
    if not any(rows.values()):
        raise EpisodeError("empty_episode", f"no rows in {', '.join(rows) or 'it: the file holds no streams'}")
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
        raise EpisodeError("length_mismatch", f"streams of one episode differ in length: {told}")
