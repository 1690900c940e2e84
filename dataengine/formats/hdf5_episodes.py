"""HDF5 logs of one's own: any tree of data sets, a file or a numbered group an episode.

Data sets of numbers are arrays under their path (`robot/joint_positions`), whatever their number of rows; the converter
says what they mean. Pictures are stacks [T, H, W, 3] uint8 of raw pixels, or rows of encoded pictures (of variable
length, of fixed strings, or padded with NUL) that begin as JPEG, PNG or WebP do. Texts are data sets of strings, and
text attributes under `@name`. Upstream: no recorder in particular; HDF5 as h5py writes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import files, hdf5, hdf5_pictures, hdf5_texts, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.storage import SourceRoot

SUFFIXES = (".h5", ".hdf5", ".hdf")
FILE = "file"
_NUMBERED = re.compile(r"(.*?)\d+", re.DOTALL)
_PROBED = 4
_FEWEST_ROWS = 2
_ENCODED = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")


class Hdf5EpisodesFormat:
    """Episodes in HDF5 files of any tree.

    Options: `episodes`, `file` (the whole file is one) or a pattern of group paths, each of which is one (`demo_*`,
    `data/*`); by default the groups whose names end in a number, of the root or of one group below it, where nothing
    else of the root has rows; else the file. `leave_out`: patterns of data sets that are not read (named in `unread`).
    `pictures`: raw pixels as `png` (default) or `jpeg`.
    """

    name: ClassVar[str] = "hdf5_episodes"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "HDF5 logs of one's own: any tree, a file or a numbered group an episode"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "hdf5_file",
            "robot",
            "any HDF5 tree of data sets, one file an episode",
            "writer library",
            2,
            "h5py 3.16.0; the trees are made up",
        ),
        Layout(
            "hdf5_groups",
            "robot",
            "any HDF5 tree of data sets, a numbered group an episode",
            "writer library",
            1,
            "h5py 3.16.0; the trees are made up",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """HDF5 files in which several data sets have as many rows. Every layout of a name is surer of its files."""
        for path in _paths(root, only)[:_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    units = _units(file, None)
                    rows = _rows(_at(file, units[0]))
            except BadInput:
                continue
            shared = [name for name, count in rows.items() if count == max(rows.values())]
            if len(shared) < _FEWEST_ROWS or max(rows.values()) < _FEWEST_ROWS:
                continue
            where = f"{path}#{units[0]}" if units[0] else path
            told = f"{where} holds {len(shared)} data sets of {max(rows.values())} rows: {', '.join(shared[:6])}"
            more = [f"{len(units)} numbered groups in {path}"] if units[0] else []
            return Detection(self.name, 0.15, (told, *more), layout="hdf5_groups" if units[0] else "hdf5_file")
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every file, or every group of it that is an episode, in natural order. Only names are read."""
        check_options(options, ("episodes", "leave_out", "pictures"), self.name)
        wanted = options.get("episodes")
        if wanted is not None and not (isinstance(wanted, str) and wanted.strip("/")):
            raise SpecError(
                "the option `episodes` is `file` or a pattern of group paths", fix="correct `format.options`"
            )
        made = {"pictures": pictures.picture_codec(options), "leave_out": list(option_names(options, "leave_out", ()))}
        for path in _paths(root, only):
            try:
                with hdf5.opened(root, path) as file:
                    units = _units(file, wanted)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            if not units:
                yield ScanProblem("file", path, "missing_key", f"{path} holds no group {wanted}")
            for unit in units:
                locator = {"file": path, "group": unit, **made}
                yield EpisodeRef(f"{path}#{unit}" if unit else path, locator, (path,))

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        asked = ref.locator
        path, group, digest = str(asked["file"]), str(asked["group"]), RawDigest()
        with root.unchanged(path):
            with hdf5.opened(root, path) as file:
                node = _at(file, group)
                found = _Found(digest, "jpeg" if asked["pictures"] == "jpeg" else "png", tuple(asked["leave_out"]))
                if group:
                    found.take_attributes(file, "/@")
                found.take_attributes(node, "@")
                for name, dataset in hdf5.datasets(node):
                    found.take(name, dataset)
            described = (root.describe(path),)
        if not any(len(array) for array in found.arrays.values() if array.ndim) and not found.media:
            raise EpisodeError("empty_episode", f"{group or path} holds no rows of numbers and no pictures")
        if found.unread:
            found.attributes["unread"] = sorted(found.unread)
        digest.add_json("attributes", found.attributes)
        digest.add_json("texts", {name: list(texts) for name, texts in sorted(found.texts.items())})
        return RawEpisode(
            ref.upstream_id, described, digest.hexdigest(), found.arrays, found.media, found.texts, found.attributes
        )


@dataclass
class _Found:
    """What an episode holds, as its data sets are read one by one."""

    digest: RawDigest
    codec: pictures.PictureCodec
    leave_out: tuple[str, ...]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    media: dict[str, Media] = field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    _bytes: int = 0

    def take_attributes(self, node: hdf5.Node, mark: str) -> None:
        """Texts and lists of texts as texts, other plain values as attributes; `mark` tells whose they are."""
        plain, odd = hdf5.attributes(node)
        for name, value in plain.items():
            several = isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)
            if isinstance(value, str) or several:
                self.texts[f"{mark}{name}"] = tuple(value) if several else (value,)
            else:
                self.attributes[f"{mark}{name}"] = value
        self.unread += [f"{mark}{name}" for name in odd]

    def take(self, name: str, dataset: h5py.Dataset) -> None:
        """Read a data set for what it is, or name it as unread."""
        if any(fnmatchcase(name, pattern) for pattern in self.leave_out):
            self.unread.append(name)
        elif _is_pictures(dataset):
            self._count(hdf5_pictures.claimed(dataset))
            self.media[name] = hdf5_pictures.read(name, dataset, self.digest, self.codec)
        elif hdf5_texts.holds_texts(dataset):
            self.texts[name] = hdf5_texts.read(name, dataset)
            self._count(sum(map(len, self.texts[name])))
        elif dataset.dtype.kind in "fiub":
            self._count(hdf5.check(dataset))
            values = hdf5.values(dataset)
            if values.ndim:
                self.arrays[name] = values
                self.digest.add_array(name, values)
            elif np.isfinite(values):
                self.attributes[name] = values.item()
            else:
                self.unread.append(name)
        else:
            self.unread.append(name)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"the episode claims more than {hdf5.MAX_BYTES} bytes")


def _paths(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() in SUFFIXES else []
    return files.natural(files.ending(root, SUFFIXES))


def _groups(node: hdf5.Node) -> dict[str, hdf5.Node]:
    found = {name: hdf5.member(node, name) for name in hdf5.names(node)}
    return {name: member for name, member in found.items() if isinstance(member, h5py.Group)}


def _units(file: h5py.File, wanted: str | None) -> list[str]:
    """The paths of the groups that are episodes, in natural order; "" is the whole file."""
    if wanted == FILE:
        return [""]
    if wanted is not None:
        levels = wanted.strip("/").split("/")
        found = [("", file)]
        for level in levels:
            found = [
                (f"{path}/{name}".lstrip("/"), group)
                for path, node in found
                for name, group in _groups(node).items()
                if fnmatchcase(name, level)
            ]
        return files.natural([path for path, _ in found])
    return _numbered(file) or [""]


def _numbered(file: h5py.File) -> list[str]:
    """Groups with names of one stem and a number, which hold all that has rows."""
    tops = _groups(file)
    for prefix, node in (("", file), *((f"{name}/", group) for name, group in tops.items())):
        stems = Counter(
            match[1] for name in (tops if node is file else _groups(node)) if (match := _NUMBERED.fullmatch(name))
        )
        if len(stems) != 1:
            continue
        (stem,) = stems
        inside = [name for name in _groups(node) if name.startswith(stem) and _NUMBERED.fullmatch(name)]
        units = files.natural([f"{prefix}{name}" for name in inside])
        owned = [f"{unit}/" for unit in units]
        rows = _rows(file)
        if rows and all(name.startswith(tuple(owned)) for name in rows):
            return [unit for unit in units if any(name.startswith(f"{unit}/") for name in rows)]
    return []


def _rows(node: hdf5.Node) -> dict[str, int]:
    """Rows of the data sets below a node that have several."""
    shapes = {name: dataset.shape or () for name, dataset in hdf5.datasets(node)}
    return {name: int(shape[0]) for name, shape in shapes.items() if shape and shape[0] >= _FEWEST_ROWS}


def _at(file: h5py.File, group: str) -> hdf5.Node:
    node: hdf5.Node = file
    for name in filter(None, group.split("/")):
        node = hdf5.member(node, name)
        if not isinstance(node, h5py.Group):
            raise FormatError("missing_key", f"{group} is no group of the file")
    return node


def _is_pictures(dataset: h5py.Dataset) -> bool:
    """Raw pixels by their shape; other rows of bytes when the first begins as an encoded picture does."""
    kind = hdf5_pictures.kind(dataset)
    if kind is None or kind == "pixels" or not dataset.shape or not dataset.shape[0]:
        return kind == "pixels"
    if kind != "rows":
        hdf5.check(dataset, texts=dataset.dtype.kind == "S")
        first = dataset[0]
        return (first.tobytes() if isinstance(first, np.ndarray) else bytes(first)).startswith(_ENCODED)
    return hdf5.first_row(dataset).startswith(_ENCODED)
