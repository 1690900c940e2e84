"""ALOHA's recordings: one `episode_<N>.hdf5` an episode, with `observations` and `action`; and Mobile ALOHA's.

Upstream: tonyzhaozh/act @ 742c753c, record_sim_episodes.py (raw pixels), MarkFzp/mobile-aloha @ 0e403249,
aloha_scripts/record_episodes.py (JPEG rows padded with NULs, `compress_len`, `base_action`), MarkFzp/act-plus-plus @
26bab078, compress_data.py. Row t of the observations is before action t. The files hold no clock and no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, hdf5, hdf5_pictures, hdf5_texts, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.storage import SourceRoot

SUFFIXES = (".hdf5", ".h5")
KEYS = ("observations/qpos", "action")
MAX_PROBED = 20
_IMAGES = "observations/images/"
_ENCODED = ("padded", "rows", "strings")
_PER_ROW = re.compile(r"observations/.+|(base_)?action|rewards?|dones?|timestamps?")
"""Streams of one value a row, in this layout and what others add to it; other data sets may be of any length."""
_LENGTHS = "compress_len"


class AlohaFormat:
    """Episodes of ALOHA and Mobile ALOHA: every numeric data set under its own path, every camera a stream."""

    name: ClassVar[str] = "aloha"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "ALOHA, ACT and Mobile ALOHA: episode_<N>.hdf5 with observations/qpos and action"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "aloha_hdf5",
            "robot",
            "ALOHA and ACT: raw pixels",
            "layout fixture",
            2,
            "tonyzhaozh/act @ 742c753c, record_sim_episodes.py",
        ),
        Layout(
            "mobile_aloha_hdf5",
            "robot",
            "Mobile ALOHA: padded JPEG rows, base_action",
            "layout fixture",
            2,
            "MarkFzp/mobile-aloha @ 0e403249, aloha_scripts/record_episodes.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _paths(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    if not _missing(file):
                        layout, why = _layout(file)
                        return Detection(
                            self.name, 0.9, (f"{path} holds observations/qpos and action", why), layout=layout
                        )
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every HDF5 file below the root with `observations/qpos` and `action`, in the order of their numbers.

        Options: `pictures` (png or jpeg, for raw pixels), `layout` (a file of another one is a `ScanProblem`
        `other_layout`). In a folder, HDF5 files of another structure are passed over, but none
        that is named as an episode or holds part of one.
        """
        check_options(options, ("layout", "pictures"), self.name)
        codec, layout = pictures.picture_codec(options), options.get("layout")
        known = [entry.name for entry in self.layouts]
        if layout is not None and layout not in known:
            raise SpecError(f"the format aloha has no layout {layout!r}", fix=f"known: {', '.join(known)}")
        for path in _paths(root, only):
            try:
                with hdf5.opened(root, path) as file:
                    missing = _missing(file)
                    usable = not missing
                    found = _layout(file)[0] if usable else None
                if usable and layout is not None and found != layout:
                    what = f"{path} is of the layout {found}, the converter reads {layout}"
                    raise FormatError("other_layout", what, where=path)
                if missing and (only is not None or _named_episode(path) or len(missing) < len(KEYS)):
                    raise FormatError("missing_key", f"{path} holds no {' and no '.join(missing)}", where=path)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if usable:
                yield EpisodeRef(path, {"file": path, **({"pictures": codec} if codec != "png" else {})}, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, digest = str(ref.locator["file"]), RawDigest()
        codec = pictures.picture_codec(ref.locator)
        with root.unchanged(path):
            with hdf5.opened(root, path) as file:
                attributes, odd = hdf5.attributes(file)
                arrays, media, texts, unread = _content(file, digest, codec)
            described = (root.describe(path),)
        _check(arrays, media, texts, attributes)
        other = {name for name, lines in texts.items() if len(lines) not in (1, len(arrays["action"]))}
        texts = {name: lines for name, lines in texts.items() if name not in other}
        unread = sorted([*unread, *other, *(f"@{name}" for name in odd)])
        attributes |= {"unread": unread} if unread else {}
        digest.add_json("attributes", attributes)
        if texts:
            digest.add_json("texts", {name: list(lines) for name, lines in texts.items()})
        return RawEpisode(ref.upstream_id, described, digest.hexdigest(), arrays, media, texts, attributes)


def _paths(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() in SUFFIXES else []
    return files.natural(files.ending(root, SUFFIXES))


def _missing(file: h5py.File) -> list[str]:
    """Which of the data sets that every episode has are not in a file."""
    observed = hdf5.member(file, "observations")
    there = {
        "observations/qpos": hdf5.member(observed, "qpos") if isinstance(observed, h5py.Group) else None,
        "action": hdf5.member(file, "action"),
    }
    return [name for name in KEYS if not isinstance(there[name], h5py.Dataset)]


def _named_episode(path: str) -> bool:
    """Whether a file is named as ACT names its episodes: one that lost all is told and not passed over."""
    return re.fullmatch(r"episode_\d+", PurePosixPath(path).stem) is not None


def _layout(file: h5py.File) -> tuple[str, str]:
    """Which layout, and what says so. Pictures decide: raw pixels are RGB, encoded rows most often BGR.

    Recorders of other bodies (AgileX's Cobot Magic) write `base_action` beside raw pixels.
    """
    kinds = _kinds(file)
    if kinds & set(_ENCODED):
        return "mobile_aloha_hdf5", "pictures are encoded, in rows of bytes"
    if "pixels" in kinds:
        return "aloha_hdf5", "pictures are raw pixels"
    if hdf5.member(file, "base_action") is not None:
        return "mobile_aloha_hdf5", "base_action is there"
    return "aloha_hdf5", "no base_action, and pictures are no rows of bytes"


def _kinds(file: h5py.File) -> set[str | None]:
    """How the cameras' pictures are stored; a camera that cannot be read is told when the episode is."""
    observed = hdf5.member(file, "observations")
    images = hdf5.member(observed, "images") if isinstance(observed, h5py.Group) else None
    kinds: set[str | None] = set()
    for name in hdf5.names(images) if isinstance(images, h5py.Group) else []:
        try:
            node = hdf5.member(images, name)
        except BadInput:
            continue
        kinds |= {hdf5_pictures.kind(node)} if isinstance(node, h5py.Dataset) else set()
    return kinds


def _content(
    file: h5py.File, digest: RawDigest, codec: pictures.PictureCodec
) -> tuple[dict[str, NDArray[Any]], dict[str, Media], dict[str, tuple[str, ...]], list[str]]:
    """Numbers, pictures, texts, and the names of what is none of these (depth)."""
    arrays: dict[str, NDArray[Any]] = {}
    media: dict[str, Media] = {}
    texts: dict[str, tuple[str, ...]] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(file):
        pictured = name.startswith(_IMAGES)
        if (pictured and hdf5_pictures.kind(dataset) is None) or (name.startswith("observations/") and "depth" in name):
            unread.append(name)
            continue
        if not pictured and hdf5_texts.holds_texts(dataset):
            texts[name] = hdf5_texts.read(name, dataset)
            continue
        if not pictured and (dataset.dtype.hasobject or dataset.dtype.kind not in "fiub"):
            unread.append(name)
            continue
        total += hdf5_pictures.claimed(dataset) if pictured else hdf5.check(dataset)
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"the file claims more than {hdf5.MAX_BYTES} bytes")
        if pictured:
            camera = name.removeprefix(_IMAGES)
            media[camera] = hdf5_pictures.read(camera, dataset, digest, codec)
        else:
            arrays[name] = hdf5.values(dataset)
            digest.add_array(name, arrays[name])
    return arrays, media, texts, unread


def _check(
    arrays: Mapping[str, NDArray[Any]],
    media: Mapping[str, Media],
    texts: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, Any],
) -> None:
    """There are rows, as many of every stream, and pictures are as long as the file says."""
    rows = {name: len(array) for name, array in arrays.items() if array.ndim and _PER_ROW.fullmatch(name)}
    rows |= {name: stream.frames for name, stream in media.items()}
    rows |= {name: len(lines) for name, lines in texts.items() if _PER_ROW.fullmatch(name)}
    if not rows.get("action"):
        raise EpisodeError("empty_episode", "action holds no rows")
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
        raise EpisodeError("length_mismatch", f"streams of one episode differ in length: {told}")
    lengths = arrays.get(_LENGTHS)
    if lengths is None or not attributes.get("compress"):
        return
    if lengths.ndim != 2 or lengths.shape[1] < rows["action"]:
        raise EpisodeError("bad_shape", f"compress_len is {lengths.shape} for {rows['action']} rows")
    for name, stream in media.items():
        # one row of lengths a camera, in the order of the recorder's own list; a cut file keeps the whole table
        if not any(np.array_equal(row[: stream.frames], np.diff(stream.offsets)) for row in lengths):
            raise EpisodeError("length_mismatch", f"no row of compress_len tells the lengths of {name}'s pictures")
