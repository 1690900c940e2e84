"""RoboMIND's trajectories: `<robot>/<task>/success_episodes/<split>/<id>/data/trajectory.hdf5`.

Upstream: x-humanoid-robomind/x-humanoid-robomind.github.io @ 15eb4925, static/all_robot_h5_info.md (groups and shapes),
static/quick_start.ipynb (how pictures decode), static/RoboMIND_v1_2_instr.csv (a text a task) and
static/language_description_annotation_json (texts of single trajectories, with frame ranges). The texts are no part of
the trajectories' files: they are read where they lie below the same root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
from numpy.typing import NDArray

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import files, hdf5, hdf5_pictures, hdf5_texts, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

NAME = "trajectory.hdf5"
ANCHOR = "success_episodes"
RAW = hdf5_pictures.RawRows(((720, 1280), (480, 640)), "bgr")
"""Raw pixels in the same field as JPEG: told by their length, in the order of OpenCV's decoder (quick_start.ipynb)."""
MAX_PROBED = 20
_RGB, _DEPTH = "observations/rgb_images/", "observations/depth_images/"
_STREAMS = ("puppet/", "master/", "observations/")
_LANGUAGE = "language_raw"
_FRAME = re.compile(r"\w+_(\d{1,9})\.jpg")


class RobomindFormat:
    """Trajectories of RoboMIND 1.x: numbers under their own paths, a stream a camera, texts from the shared tables."""

    name: ClassVar[str] = "robomind"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "RoboMIND 1.x: success_episodes/<split>/<id>/data/trajectory.hdf5"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "robomind_hdf5",
            "robot",
            "RoboMIND 1.x: puppet, master, rgb_images of bytes",
            "layout fixture",
            4,
            "x-humanoid-robomind.github.io @ 15eb4925, static/all_robot_h5_info.md and static/quick_start.ipynb",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _paths(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    if _is_trajectory(file):
                        told = (f"{path} holds puppet and observations/rgb_images",)
                        return Detection(self.name, 0.9, told, layout=self.layouts[0].name)
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every `trajectory.hdf5` below the root, sorted; the simulated Franka's are `unpaired_streams`.

        Options: `robot`, the folder of one body (`h5_franka_3rgb`; a trajectory of another one is passed over);
        `pictures` (png or jpeg), for raw pixels.
        """
        check_options(options, ("pictures", "robot"), self.name)
        codec, robot = pictures.picture_codec(options), options.get("robot")
        shared = _shared_files(root) if only is None else {}
        for path in _paths(root, only):
            if robot is not None and _place(path).get("robot") != robot:
                continue
            try:
                with hdf5.opened(root, path) as file:
                    usable, simulated = _is_trajectory(file), hdf5.member(file, "franka") is not None
                if simulated:
                    what = f"{path}: pictures come at about a quarter of the rate of the joints, without their times"
                    raise FormatError("unpaired_streams", what, where=path)
                if not usable:
                    raise FormatError("missing_key", f"{path} holds no puppet with observations/rgb_images", where=path)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            beside = [shared[key] for key in ("table", _place(path).get("robot")) if key in shared]
            made = {"pictures": codec} if codec != "png" else {}
            yield EpisodeRef(path, {"file": path, "texts": beside, **made}, (path, *beside))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, beside, digest = str(ref.locator["file"]), [str(name) for name in ref.locator["texts"]], RawDigest()
        codec = pictures.picture_codec(ref.locator)
        with root.unchanged(path, *beside):
            with hdf5.opened(root, path) as file:
                attributes, odd = hdf5.attributes(file)
                arrays, media, unread = _content(file, digest, codec)
                texts = _own_text(file)
            rows = _rows(arrays, media)
            for name in beside:
                texts |= _from_table(root, name, path) if name.endswith(".csv") else _annotated(root, name, path, rows)
            described = tuple(root.describe(name) for name in (path, *beside))
        unread = sorted([*unread, *(f"@{name}" for name in odd)])
        attributes |= _place(path) | ({"unread": unread} if unread else {})
        digest.add_json("attributes", attributes)
        digest.add_json("texts", {name: list(values) for name, values in texts.items()})
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


def _paths(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() == ".hdf5" else []
    return root.glob(f"**/{NAME}")


def _shared_files(root: SourceRoot) -> dict[str, str]:
    """The table of instructions as `table`, and each body's annotations under the body's name."""
    tables = root.glob("**/RoboMIND*instr*.csv")
    found = {"table": tables[-1]} if tables else {}
    return found | {PurePosixPath(path).stem: path for path in root.glob("**/h5_*.json")}


def _place(path: str) -> dict[str, str]:
    """`robot`, `task` and `split` out of a trajectory's path, as far as it follows the data set's own."""
    parts = PurePosixPath(path).parts
    if ANCHOR not in parts:
        return {}
    at = parts.index(ANCHOR)
    found = {"robot": parts[at - 2]} if at >= 2 else {}
    found |= {"task": parts[at - 1]} if at >= 1 else {}
    return found | ({"split": parts[at + 1]} if parts[at + 1 : at + 2] and parts[at + 1] in ("train", "val") else {})


def _is_trajectory(file: h5py.File) -> bool:
    observed = hdf5.member(file, "observations")
    if not isinstance(hdf5.member(file, "puppet"), h5py.Group) or not isinstance(observed, h5py.Group):
        return False
    return isinstance(hdf5.member(observed, "rgb_images"), h5py.Group)


def _content(
    file: h5py.File, digest: RawDigest, codec: pictures.PictureCodec
) -> tuple[dict[str, NDArray[Any]], dict[str, Media], list[str]]:
    """Numbers, pictures by camera, and the names of what is neither (depth, strings)."""
    arrays: dict[str, NDArray[Any]] = {}
    media: dict[str, Media] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(file):
        if name.startswith(_RGB) and hdf5_pictures.kind(dataset) is not None:
            camera = name.removeprefix(_RGB)
            total += hdf5_pictures.claimed(dataset)
            media[camera] = hdf5_pictures.read(camera, dataset, digest, codec, RAW)
            total += len(media[camera].payload)
        elif name == _LANGUAGE and h5py.check_string_dtype(dataset.dtype) is not None:
            continue
        elif name.startswith((_RGB, _DEPTH)) or dataset.dtype.kind not in "fiub":
            unread.append(name)
        else:
            total += hdf5.check(dataset)
            arrays[name] = hdf5.values(dataset)
            digest.add_array(name, arrays[name])
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"the file claims more than {hdf5.MAX_BYTES} bytes")
    return arrays, media, unread


def _rows(arrays: Mapping[str, NDArray[Any]], media: Mapping[str, Media]) -> int:
    """How many rows there are, the same of every stream; `language_distilbert` [1, 1, 768] and the like are none."""
    rows = {name: len(array) for name, array in arrays.items() if array.ndim and name.startswith(_STREAMS)}
    rows |= {name: stream.frames for name, stream in media.items()}
    if not any(rows.values()):
        raise EpisodeError("empty_episode", f"no rows in {', '.join(rows) or 'it: the file holds no streams'}")
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
        raise EpisodeError("length_mismatch", f"streams of one trajectory differ in length: {told}")
    return next(iter(rows.values()))


def _own_text(file: h5py.File) -> dict[str, tuple[str, ...]]:
    """`language_raw` and, until a table tells better, `instruction`: the text that releases keep in the file [1]."""
    dataset = hdf5.member(file, _LANGUAGE)
    if not isinstance(dataset, h5py.Dataset) or not hdf5_texts.holds_texts(dataset):
        return {}
    if dataset.size != 1:
        raise EpisodeError("bad_shape", f"{_LANGUAGE} holds {dataset.size} texts, not one")
    (text,) = hdf5_texts.read(_LANGUAGE, dataset)
    return dict.fromkeys((_LANGUAGE, "instruction"), (text,)) if text.strip() else {}


def _from_table(root: SourceRoot, table: str, path: str) -> dict[str, tuple[str, ...]]:
    """`instruction`: the table's text of the trajectory's task; none where the table has none, or several."""
    texts = files.cached(root, table, _table).get(_place(path).get("task", ""), frozenset())
    return {"instruction": tuple(texts)} if len(texts) == 1 else {}


def _table(data: bytes, where: str) -> dict[str, frozenset[str]]:
    texts: dict[str, frozenset[str]] = {}
    for row in files.csv_rows(data, where, ("task", "instruction")):
        text = row["instruction"].strip()
        texts[row["task"]] = texts.get(row["task"], frozenset()) | ({text} if text else set())
    return texts


def _annotated(root: SourceRoot, annotations: str, path: str, rows: int) -> dict[str, tuple[str, ...]]:
    """`task_summary`, one text, and `step`, a text a row (empty between steps), where the trajectory is annotated."""
    listed = files.json_file(root, annotations)
    if not isinstance(listed, list):
        raise FormatError("bad_type", f"{annotations} holds no list", where=annotations)
    place = str(PurePosixPath(path).parent)
    for entry in listed:
        named = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(named, str) and (place == named or place.endswith(f"/{named}")):
            return _spoken(entry.get("response"), f"{annotations}, {named}", rows)
    return {}


def _spoken(response: Any, where: str, rows: int) -> dict[str, tuple[str, ...]]:
    if not isinstance(response, dict) or not isinstance(response.get("steps", []), list):
        raise EpisodeError("bad_type", f"{where}: `response` is no object with a list of `steps`")
    steps = [""] * rows
    for step in response.get("steps", []):
        first, last = (_frame(step, key, where) for key in ("start_frame", "end_frame"))
        text = step.get("step_description")
        if not isinstance(text, str) or not first <= last < rows:
            raise EpisodeError("bad_value", f"{where}: a step from {first} to {last} of {rows} rows, {text!r}")
        if any(steps[first : last + 1]):
            raise EpisodeError("bad_value", f"{where}: two steps hold frame {first} or one behind it")
        steps[first : last + 1] = [text] * (last + 1 - first)
    summary = response.get("task_summary")
    found = {"task_summary": (summary,)} if isinstance(summary, str) and summary.strip() else {}
    return found | ({"step": tuple(steps)} if any(steps) else {})


def _frame(step: Any, key: str, where: str) -> int:
    named = step.get(key) if isinstance(step, dict) else None
    match = _FRAME.fullmatch(named) if isinstance(named, str) else None
    if match is None:
        raise EpisodeError("bad_value", f"{where}: {key} {named!r} names no frame")
    return int(match.group(1))
