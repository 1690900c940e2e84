"""Replay buffers in zarr: diffusion_policy's folders, and UMI's `dataset.zarr.zip`.

One store holds many episodes end to end: `data/<name>` has one row a step, `meta/episode_ends` the row behind each
episode's last. Upstream: diffusion_policy/common/replay_buffer.py, the same in real-stanford/diffusion_policy @
5ba07ac6 and real-stanford/universal_manipulation_interface @ d095ba95; UMI's streams are made by its
scripts_slam_pipeline/07_generate_replay_buffer.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import archive_zip, pictures, zarr_arrays
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.zarr_arrays import FolderStore, Store, ZarrArray, ZipStore
from dataengine.storage import SourceRoot

MAX_EPISODES = 1 << 20
MAX_PROBED = 5
ENDS = "meta/episode_ends"
_METADATA = (".zarray", "zarr.json")
_NODE = re.compile(r"(data|meta)/([^/]{1,200})/(?:\.zarray|\.zgroup|zarr\.json)")
_PICTURE = re.compile(r"img|image|rgb")
_LEFT = re.compile(r"depth|point_?cloud")
_UMI = frozenset(("robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"))


class ReplayZarrFormat:
    """Episodes of zarr replay buffers (zarr version 2 and 3, folder or ZIP), every array under its own name.

    Option `pictures`: `png` (the default, lossless) or `jpeg` (quality 95), what decoded pictures are kept as.
    """

    name: ClassVar[str] = "replay_zarr"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "zarr replay buffers: UMI's dataset.zarr.zip, diffusion_policy's *.zarr"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "umi_zarr",
            "robot",
            "UMI: replay buffer in a zarr ZIP, pictures in JPEG XL",
            "writer library",
            1,
            "written by zarr 3.4.2 (version 2), numcodecs 0.17.1 and imagecodecs 2026.10.10, arrays as in "
            "real-stanford/universal_manipulation_interface @ d095ba95, 07_generate_replay_buffer.py",
            extra="umi",
        ),
        Layout(
            "diffusion_policy_zarr",
            "simulation",
            "diffusion_policy: replay buffer in a zarr folder or ZIP",
            "writer library",
            22,
            "written by zarr 3.4.2 (versions 2 and 3) and numcodecs 0.17.1, arrays as in "
            "real-stanford/diffusion_policy @ 5ba07ac6, demo_pusht.py and common/replay_buffer.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A store with `meta/episode_ends` and arrays below `data`."""
        for label, store in _stores(root, only, MAX_PROBED):
            try:
                names = _names(store, "data")
            except BadInput:
                continue
            if names:
                layout = "umi_zarr" if set(names) >= _UMI else "diffusion_policy_zarr"
                told = f"{label or 'the folder'} holds meta/episode_ends and data/{', data/'.join(names[:3])}"
                return Detection(self.name, 0.95, (told,), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode of every store, in the order of the stores' names; a damaged store is one problem.

        In a folder, archives without `meta/episode_ends` are passed over. Options: `pictures`, png or jpeg for
        raw ones; `missing_chunks`, refuse (default) or fill, where the writer left out chunks of fill values (zarr 3).
        """
        check_options(options, ("pictures", "missing_chunks"), self.name)
        asked = options.get("missing_chunks", "refuse")
        if asked not in ("refuse", "fill"):
            raise SpecError(f"the option `missing_chunks` is refuse or fill, not {asked!r}", fix="correct it")
        codec = pictures.picture_codec(options)
        found = list(_stores(root, only, None))
        if not found and only is not None:
            yield ScanProblem("file", only, *_why_none(root, only))
        for label, store in found:
            try:
                yield from list(_entries(store, label, codec, filling=asked == "fill"))
            except BadInput as error:
                yield ScanProblem("file", label or ENDS, error.reason, error.what)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        store = _store(root, ref.locator)
        for path in ref.files:
            if not root.exists(path):
                raise zarr_arrays.missing_chunk(path)
        with root.unchanged(*ref.files):
            ends = _ends(store)
            number = int(ref.locator["episode"])
            if number >= len(ends):
                raise FormatError("changed_during_read", f"{ENDS} lists {len(ends)} episodes")
            start, stop = int(ends[number - 1]) if number else 0, int(ends[number])
            arrays, media, unread, filled = {}, {}, _beside(store), list[str]()
            for array in _arrays(store, int(ends[-1]), filling=bool(ref.locator["filling"])):
                name = array.name.removeprefix("data/")
                if _is_left(array):
                    unread.append(array.name)
                elif _is_picture(array):
                    media[name] = _pictures(name, array, start, stop, ref.locator["pictures"])
                else:
                    arrays[name] = array.rows(start, stop)
                filled += [] if _is_left(array) else array.left_out(start, stop)
            files = tuple(root.describe(path) for path in ref.files)
        attributes = {"unread": sorted(unread)} | ({"filled": sorted(filled)} if filled else {})
        digest = RawDigest()
        for name, values in arrays.items():
            digest.add_array(name, values)
        digest.add_json("media", {name: [item.digest, item.frames] for name, item in media.items()})
        digest.add_json("attributes", attributes)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            attributes=attributes,
        )


def _stores(root: SourceRoot, only: str | None, most: int | None) -> Iterator[tuple[str, Store]]:
    """Stores as (path below the root, store); an archive that cannot be listed holds none, but for `only`."""
    if only is None:
        ends = {path.rpartition(ENDS)[0] for name in _METADATA for path in root.glob(f"**/{ENDS}/{name}")}
        for prefix in sorted(ends):
            yield prefix.rstrip("/"), FolderStore(root, prefix)
    archives = root.glob("**/*.zip") if only is None else [only] if only.endswith(".zip") else []
    for path in archives[:most]:
        try:
            members = archive_zip.zip_members(root, path)
        except BadInput:
            continue
        endings = tuple(f"{ENDS}/{name}" for name in _METADATA)
        inside = {name.rpartition(ENDS)[0] for name in members if name.endswith(endings)}
        for prefix in sorted(prefix for prefix in inside if not prefix or prefix.endswith("/")):
            yield f"{path}/{prefix}".rstrip("/"), ZipStore(root, path, prefix)


def _why_none(root: SourceRoot, path: str) -> tuple[str, str]:
    if not path.endswith(".zip"):
        return "unknown_layout", f"{path} is no archive `.zip`; a folder of zarr is named as a folder"
    try:
        archive_zip.zip_members(root, path)
    except BadInput as error:
        return error.reason, error.what
    return "missing_key", f"{path} holds no {ENDS}"


def _store(root: SourceRoot, locator: Mapping[str, Any]) -> Store:
    path, prefix = locator["archive"], str(locator["prefix"])
    return FolderStore(root, prefix) if path is None else ZipStore(root, str(path), prefix)


def _names(store: Store, group: str) -> list[str]:
    """Names of the arrays of `data` or `meta`."""
    return [name for name in _nodes(store, group) if not _is_group(store, f"{group}/{name}")]


def _nodes(store: Store, group: str) -> list[str]:
    """Names of the arrays and of the groups of `data` or `meta`."""
    found = (_NODE.fullmatch(name) for name in store.names())
    return sorted({match[2] for match in found if match is not None and match[1] == group})


def _is_group(store: Store, name: str) -> bool:
    """Whether a node is a group. One whose metadata are no JSON is taken for an array, and refused as one."""
    if store.has(f"{name}/.zarray"):
        return False
    where = f"{name}/zarr.json"
    if not store.has(where):
        return True
    try:
        told = load_json(store.read(where, limit=zarr_arrays.MAX_METADATA), where)
    except BadInput:
        return False
    return isinstance(told, dict) and told.get("node_type") == "group"


def _beside(store: Store) -> list[str]:
    """What is not read: arrays of `meta` beside the ends, and groups below `data` and `meta`."""
    groups = [f"data/{name}" for name in _nodes(store, "data") if _is_group(store, f"data/{name}")]
    return groups + [f"meta/{name}" for name in _nodes(store, "meta") if name != "episode_ends"]


def _ends(store: Store) -> NDArray[np.int64]:
    """Ends of the episodes, increasing.

    Raises `FormatError` `bad_shape`, `bad_type`, `empty_file` (no episode), `bad_value` (an end before the one
    before it), `claimed_size`, and those of `zarr_arrays`.
    """
    array = zarr_arrays.open_array(store, ENDS)
    if len(array.shape) != 1 or array.dtype.kind not in "iu":
        raise FormatError("bad_type", f"{ENDS} is no list of whole numbers", where=ENDS)
    if array.shape[0] > MAX_EPISODES:
        raise FormatError("claimed_size", f"{ENDS} claims {array.shape[0]} episodes", where=ENDS)
    if array.shape[0] == 0:
        raise FormatError("empty_file", f"{ENDS} lists no episode", where=ENDS)
    ends = array.rows(0, array.shape[0]).astype(np.int64)
    if ends[0] < 0 or (np.diff(ends) < 0).any():
        raise FormatError("bad_value", f"{ENDS} does not increase", where=ENDS)
    return ends


def _arrays(store: Store, rows: int, *, filling: bool) -> list[ZarrArray]:
    """The arrays of `data`, each with as many rows as the last episode's end says (upstream asserts the same)."""
    arrays = [zarr_arrays.open_array(store, f"data/{name}", filling=filling) for name in _names(store, "data")]
    if not arrays:
        raise FormatError("missing_stream", "the store has no arrays below data")
    for array in arrays:
        if array.shape[0] != rows:
            what = f"{array.name} has {array.shape[0]} rows, the last episode ends at {rows}"
            raise FormatError("length_mismatch", what, where=array.name)
    return arrays


def _entries(store: Store, label: str, codec: str, *, filling: bool) -> Iterator[EpisodeRef | ScanProblem]:
    ends = _ends(store)
    arrays = _arrays(store, int(ends[-1]), filling=filling)
    listed = zarr_arrays.open_array(store, ENDS)
    place = {"archive": store.path if isinstance(store, ZipStore) else None, "prefix": getattr(store, "prefix", "")}
    start = 0
    for number, stop in enumerate(ends.tolist()):
        name = f"{label}#episode_{number}" if label else f"episode_{number}"
        if stop == start:
            yield ScanProblem("episode", name, "empty_episode", f"{ENDS} ends it where it begins, at row {start}")
            continue
        needed = [_metadata_name(array) for array in (listed, *arrays)] + listed.chunk_names(0, len(ends))
        for array in arrays:
            names = [] if _is_left(array) else array.chunk_names(start, stop)
            needed += [name for name in names if not filling or store.has(name)]
        locator = {**place, "episode": number, "pictures": codec, "filling": filling}
        yield EpisodeRef(name, locator, store.files(needed), {"rows": stop - start})
        start = stop


def _metadata_name(array: ZarrArray) -> str:
    second = f"{array.name}/.zarray"
    return second if array.store.has(second) else f"{array.name}/zarr.json"


def _is_left(array: ZarrArray) -> bool:
    """Depth, point clouds, and stacks of more than one picture a row."""
    return len(array.shape) > 4 or _LEFT.search(array.name.removeprefix("data/")) is not None


def _is_picture(array: ZarrArray) -> bool:
    """RGB pictures [T, H, W, 3]: bytes, or floats under a picture's name."""
    if len(array.shape) != 4 or array.shape[3] != 3:
        return False
    return array.dtype == np.uint8 or (array.dtype.kind == "f" and _PICTURE.search(array.name) is not None)


def _pictures(name: str, array: ZarrArray, start: int, stop: int, codec: pictures.PictureCodec) -> Media:
    """Decoded pictures, encoded once. The digest of JPEG XL is over its own bytes, else over the pixels."""
    values = array.rows(start, stop)
    if values.dtype != np.uint8:
        values = _whole(name, values)
    made = pictures.from_pixels(name, values, codec)
    if array.codec is None or array.codec[0] != zarr_arrays.JPEG_XL:
        return made
    packed = (sha256_bytes(array.packed(key)) for key in array.chunk_names(start, stop))
    edges = f"{start % array.chunks[0]} {stop - start}" if array.chunks[0] > 1 else ""
    return replace(made, digest=sha256_bytes("\n".join([edges, *packed]).encode()))


def _whole(name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Floats that are bytes in truth, as diffusion_policy keeps PushT's pictures: whole numbers of 0 to 255."""
    with np.errstate(invalid="ignore"):
        made: NDArray[np.uint8] = values.astype(np.uint8)
    if not (made == values).all():
        told = f"{name} holds pictures as {values.dtype} that are no whole numbers of 0 to 255"
        raise EpisodeError("bad_value", told)
    return made
