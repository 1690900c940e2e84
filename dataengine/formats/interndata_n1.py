"""InternData-N1: LeRobot v2.1 trees of walks through scenes, pictures as files; its three parts.

Upstream: InternRobotics/InternNav @ 7a5c6240, internnav/dataset/navdp_lerobot_dataset.py (VLN-N1) and
internvla_n1_lerobot_dataset.py (VLN-CE), internnav/utils/loader.py (VLN-PE), docs/compatibility.md, and descriptions
of downloaded trees with printed rows. A tree is a trajectory (v0.1) or a scene (v0.5): `meta/info.json`,
`meta/episodes.jsonl`, `meta/tasks.jsonl`, `data/chunk-000/episode_000000.parquet`, and pictures below
`videos/chunk-000/observation.images.rgb`, `0.jpg` in v0.1 and `episode_000000_000.jpg` in v0.5. VLN-N1's parquet files
hold `action` and `observation.camera_extrinsic` (4 x 4 each), `observation.camera_intrinsic` and `index`: there are no
times. VLN-CE's hold an action's number, LeRobot's own columns and, a camera, `pose.<camera>` (4 x 4); its pictures lie
in `observation.images.rgb.<camera>`, where a camera is a height and a tilt (`125cm_30deg`). VLN-PE's hold places and
headings of a robot; its pictures are one stack of raw pixels an episode, and its `info.json` repeats VLN-N1's features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields, files, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.interndata_n1_files import (
    RGB,
    is_wanted,
    listed,
    ordered,
    said_of,
    streams_of,
    texts_of,
    within,
)
from dataengine.formats.interndata_n1_rows import read_columns
from dataengine.formats.npz import read_npy
from dataengine.storage import SourceRoot

INFO = "meta/info.json"
POSE, MOUNT, LENS = "action", "observation.camera_extrinsic", "observation.camera_intrinsic"
SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "n1": {POSE: (4, 4), MOUNT: (4, 4), LENS: (3, 3)},
    "ce": {POSE: ()},
    "pe": {"observation.robot_position": (3,), "observation.robot_orientation": (4,), "observation.robot_yaw": ()},
}
CAMERA_POSE = "pose."
_META = ("episodes", "episodes_stats", "tasks")
MAX_PROBED = 20
MAX_PICTURE = 256 << 20
MAX_STACK = 8 << 30
_EPISODE = re.compile(r"episode_(\d{1,9})\.parquet")


class InterndataN1Format:
    """Trees of InternData-N1 below a folder.

    Options: `part` (n1, ce, pe): the part that the converter knows, others are told as `other_part`; `cameras`
    (VLN-CE): a list of `125cm_0deg` and its like, those whose pictures are read (default all); `pictures`: how raw
    pixels (VLN-PE) are kept.
    """

    name: ClassVar[str] = "interndata_n1"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "InternData-N1 (VLN-N1, VLN-CE): LeRobot v2.1 trees with camera poses, pictures as files"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "interndata_n1",
            "navigation",
            "InternData-N1, VLN-N1 part, v0.1 and v0.5",
            "layout fixture",
            16,
            "after InternRobotics/InternNav @ 7a5c6240, internnav/dataset/navdp_lerobot_dataset.py, utils/loader.py",
        ),
        Layout(
            "interndata_n1_ce",
            "navigation",
            "InternData-N1, VLN-CE part",
            "layout fixture",
            10,
            "after InternRobotics/InternNav @ 7a5c6240, internnav/dataset/internvla_n1_lerobot_dataset.py",
        ),
        Layout(
            "interndata_n1_pe",
            "navigation",
            "InternData-N1, VLN-PE part",
            "layout fixture",
            6,
            "after InternRobotics/InternNav @ 7a5c6240, internnav/utils/loader.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A tree whose `info.json` declares 4 x 4 actions and camera extrinsics, or a pose a camera."""
        for tree in [] if only is not None else _trees(root)[:MAX_PROBED]:
            try:
                kind = _kind(_info(root, tree))
                if kind is not None:
                    stacks = root.glob(within(tree, f"videos/*/{RGB}/*.npy"))
                    layout = "interndata_n1_ce" if kind == "ce" else "interndata_n1_pe" if stacks else "interndata_n1"
                    what = f"{CAMERA_POSE}<camera>" if kind == "ce" else f"action and {MOUNT}"
                    told = f"{within(tree, INFO)}: {what} are declared 4 x 4"
                    return Detection(self.name, 0.97, (told, *stacks[:1]), layout=layout)
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every parquet file of every tree; trees of other data sets are passed over."""
        check_options(options, ("cameras", "pictures", "part"), self.name)
        codec, part = pictures.picture_codec(options), options.get("part")
        if part not in (None, *SHAPES):
            raise SpecError(f"the option `part` is n1, ce or pe, not {part!r}", fix="correct `format.options`")
        cameras = option_names(options, "cameras", ())
        if only is not None:
            raise FormatError("not_a_folder", "InternData-N1 is a folder of trees", where=only)
        trees, ours = _trees(root), False
        for tree in trees:
            try:
                info = _info(root, tree)
                kind = _kind(info)
                if kind is None and _resembles(info):
                    what = f"{within(tree, INFO)} declares InternData-N1's streams, but no poses of 4 x 4 numbers"
                    yield ScanProblem("file", within(tree, INFO), "bad_shape", what)
                if kind is not None:
                    ours = True
                    found = _scan_tree(root, tree, kind, cameras)
                    yield from (_of_part(entry, part, codec) for entry in found)
            except BadInput as error:
                yield ScanProblem("file", within(tree, INFO), error.reason, error.what)
        if ours:
            data = root.glob("**/data/*/episode_*.parquet")
            lost = {"/".join(path.split("/")[:-3]) for path in data} - set(trees)
            for tree in sorted(lost):
                yield ScanProblem("file", within(tree, INFO), "missing_file", f"{tree} holds episodes and no {INFO}")

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One trajectory.

        Arrays, in their stored dtype: `action` [T, 4, 4], `observation.camera_extrinsic` [T, 4, 4],
        `observation.camera_intrinsic` [T, 3, 3] and other numbers of the parquet file; VLN-CE: `action` [T],
        `pose.<camera>` [T, 4, 4], `goal.<camera>` and others; VLN-PE: `observation.robot_position` [T, 3] and others.
        Media: `observation.images.rgb`, in VLN-CE `observation.images.rgb.<camera>`. Texts: `instruction` (and
        `instruction_1` ... where there are several), and of each row `sub_instruction` and `revised_sub_instruction`.
        """
        tree, number, kind = str(ref.locator["tree"]), int(ref.locator["episode"]), str(ref.locator["kind"])
        shown: dict[str, list[str]] = {}
        for path in ref.files[int(ref.locator["first_picture"]) :]:
            shown.setdefault(PurePosixPath(path).parent.name, []).append(path)
        with root.unchanged(*ref.files):
            info = _info(root, tree)
            arrays, unread = read_columns(root, str(ref.locator["parquet"]), SHAPES[kind])
            media = {name: _media(root, name, paths, ref.locator) for name, paths in shown.items()}
            said, ended = said_of(root, tree, number)
            described = tuple(root.describe(path) for path in ref.files)
        rows = len(next(iter(arrays.values())))
        for name, stream in media.items():
            if stream.frames != rows:
                raise EpisodeError("frame_count_mismatch", f"{name}: {stream.frames} pictures for {rows} rows")
        arrays = {name: _camera_pose(name, array) for name, array in arrays.items()}
        texts = texts_of(said, rows)
        whole = [text for name, column in texts.items() if name.startswith("instruction") for text in column]
        told: dict[str, Any] = {"instructions": whole} if len(whole) > 1 else {}
        told |= ended | {"fps": info.get("fps"), "unread": sorted({*unread, *ref.locator["unread"]})}
        digest = RawDigest()
        for name, array in arrays.items():
            digest.add_array(name, array)
        for name, stream in media.items():
            digest.add_bytes(name, stream.digest.encode())
        digest.add_json("texts", {name: list(texts[name]) for name in sorted(texts)})
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            texts=texts,
            attributes=told,
            group=_scene(tree),
        )


def _of_part(entry: EpisodeRef | ScanProblem, part: str | None, codec: str) -> EpisodeRef | ScanProblem:
    """A ref with the codec of raw pictures; one of another part than the converter reads is a problem."""
    if isinstance(entry, ScanProblem):
        return entry
    if part is not None and entry.locator["kind"] != part:
        what = f"it is of VLN-{str(entry.locator['kind']).upper()}, the converter reads VLN-{part.upper()}"
        return ScanProblem("episode", entry.upstream_id, "other_part", what)
    return replace(entry, locator={**entry.locator, "pictures": codec})


def _media(root: SourceRoot, name: str, paths: list[str], locator: Mapping[str, Any]) -> Media:
    """Pictures as files, bytes untouched, or VLN-PE's one stack of raw pixels."""
    if locator["kind"] != "pe":
        return pictures.encoded(name, [root.read(path, limit=MAX_PICTURE) for path in paths])
    stack = read_npy(root.read(paths[0], limit=MAX_STACK), paths[0])
    if stack.ndim != 4:
        raise EpisodeError("bad_shape", f"{paths[0]} holds {stack.shape}, not [T, H, W, 3]")
    return pictures.from_pixels(name, stack, pictures.picture_codec(locator))


def _trees(root: SourceRoot) -> list[str]:
    """Folders with a `meta/info.json`, sorted; `""` is the root."""
    return [path.removesuffix(INFO).rstrip("/") for path in root.glob(f"**/{INFO}")]


def _scene(tree: str) -> str:
    """The scene of a tree: v0.1 has one a trajectory, within its scene's folder."""
    place = PurePosixPath(tree)
    return str(place.parent if place.name.startswith("trajectory_") else place)


def _info(root: SourceRoot, tree: str) -> Mapping[str, Any]:
    return fields.as_object(files.json_file(root, within(tree, INFO)), INFO)


def _kind(info: Mapping[str, Any]) -> str | None:
    """Which part of InternData-N1 the features are of: `n1`, `ce`, or none."""
    features = info.get("features")
    declared = features if isinstance(features, dict) else {}
    square = {name for name, one in declared.items() if isinstance(one, dict) and one.get("shape") == [4, 4]}
    if {POSE, MOUNT} <= square:
        return "n1"
    return "ce" if any(name.startswith(CAMERA_POSE) for name in square) else None


def _resembles(info: Mapping[str, Any]) -> bool:
    """Whether features are named as InternData-N1 names them, whatever they are declared to be."""
    features = info.get("features")
    return isinstance(features, dict) and any(name == MOUNT or name.startswith(CAMERA_POSE) for name in features)


def _camera_pose(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """A camera's poses as [T, 4, 4], however they are nested; other arrays as they are."""
    if not name.startswith(CAMERA_POSE):
        return array
    if array.size != 16 * len(array) or not np.isfinite(array).all():
        raise EpisodeError("bad_shape", f"{name} holds {array.shape}, or numbers that are not finite")
    return array.reshape(len(array), 4, 4)


def _scan_tree(root: SourceRoot, tree: str, kind: str, cameras: tuple[str, ...]) -> Iterator[EpisodeRef | ScanProblem]:
    parquets = files.natural(root.glob(within(tree, "data/*/episode_*.parquet")))
    there = {PurePosixPath(parquet).stem for parquet in parquets}
    for number in listed(root, tree):
        if f"episode_{number:06d}" not in there:
            what = "meta/episodes.jsonl lists it, and it has no parquet file"
            yield ScanProblem("episode", within(tree, f"episode_{number:06d}"), "missing_file", what)
    metas = [path for path in (within(tree, f"meta/{m}.jsonl") for m in _META) if root.exists(path)]
    for parquet in parquets:
        place = PurePosixPath(parquet)
        match = _EPISODE.fullmatch(place.name)
        if match is None:
            yield ScanProblem("file", parquet, "unknown_name", "the file is not named episode_<number>.parquet")
            continue
        upstream, videos = within(tree, place.stem), within(tree, f"videos/{place.parent.name}")
        streams = streams_of(root, videos, place.stem, alone=len(parquets) == 1)
        wanted = {name for name in streams if is_wanted(name, kind, cameras)}
        part = "pe" if kind == "n1" and streams.get(RGB, [""])[0].endswith(".npy") else kind
        shown, why = (streams[RGB], None) if part == "pe" else ordered({name: streams[name] for name in sorted(wanted)})
        missing = sorted({f"{RGB}.{camera}" for camera in cameras if kind == "ce"} - wanted)
        if why is not None or missing or not shown:
            yield ScanProblem("episode", upstream, "missing_media", why or f"no pictures of {missing or RGB}")
            continue
        before = (within(tree, INFO), *metas, parquet)
        locator = {"tree": tree, "episode": int(match.group(1)), "kind": part, "parquet": parquet}
        locator |= {"first_picture": len(before), "unread": sorted(set(streams) - wanted)}
        yield EpisodeRef(upstream, locator, (*before, *shown))
