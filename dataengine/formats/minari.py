"""Minari data sets: `<id>/data/metadata.json` beside `main_data.hdf5`, or beside one Arrow or Parquet file an episode.

Upstream: Farama-Foundation/Minari @ 1880118a, `minari/dataset/_storages/`. An episode holds T + 1 observations (the
first is the reset's, the last the one after the last action) and T actions, rewards, terminations and truncations.
Pictures (uint8, both sides 32 px or more) are JPEG unless the set says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, hdf5, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
from dataengine.formats.minari_meta import (
    METADATA,
    STORAGES,
    DataSet,
    Leaf,
    data_sets,
    load,
    parent,
    plain_path,
    python_json,
)
from dataengine.formats.minari_table import Streams, read_table
from dataengine.storage import SourceRoot

_EPISODE = re.compile(r"episode_(\d{1,12})")
_STEPS = ("rewards", "terminations", "truncations")
_MAX_FACTS = 1 << 24


class MinariFormat:
    """Minari data sets, T + 1 observations beside T actions.

    Option `pictures`: raw pixels (of a set without JPEG) as `png` (default) or `jpeg`.
    """

    name: ClassVar[str] = "minari"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Minari data sets of Gymnasium environments: HDF5, Arrow or Parquet"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "minari_hdf5",
            "simulation",
            "Minari, one HDF5 file a data set",
            "real files",
            4,
            "simulation/minari/mujoco/reacher-scripted-v0 and simulation/minari/pusht/circle-v0, by minari 0.5.4",
        ),
        Layout(
            "minari_arrow",
            "simulation",
            "Minari, one Arrow file an episode",
            "real files",
            7,
            "simulation/minari/mujoco/reacher-arrow-v0, by minari 0.5.4",
        ),
        Layout(
            "minari_parquet",
            "simulation",
            "Minari, one Parquet file an episode",
            "writer library",
            5,
            "minari 0.5.4, its storage class, with nested spaces, pictures and infos",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        damaged: Detection | None = None
        for folder in data_sets(root, only)[:20]:
            try:
                found = load(root, folder)
            except BadInput:
                continue
            if found is None:
                continue
            layout = f"minari_{found.storage}"
            try:
                stored = _stored(root, folder, found)
            except BadInput as error:  # claimed all the same, so that a scan can tell what is wrong with it
                told = f"{folder}{METADATA} describes {found.episodes} episodes that cannot be read: {error.reason}"
                damaged = damaged or Detection(self.name, 0.6, (told,), layout=layout)
                continue
            if stored:
                told = f"{folder}{METADATA} describes {found.episodes} episodes kept as {found.storage}"
                return Detection(self.name, 0.95, (told,), layout=layout)
        return damaged

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode of every data set below the root, in the order of folders and numbers.

        Ids are `<dataset_id>#<number>`. A set that holds another number of episodes than it says is told as
        `count_mismatch` beside those that are there.
        """
        check_options(options, ("pictures",), self.name)
        codec = pictures.picture_codec(options)
        seen: set[str] = set()
        for folder in data_sets(root, only):
            path = f"{folder}{METADATA}"
            try:
                found = load(root, folder)
                if found is None:
                    continue
                label = found.name or folder.rstrip("/") or "."
                if label in seen:
                    raise FormatError("duplicate_name", f"{path} describes the data set {label} once more", where=path)
                seen.add(label)
                numbers = _stored(root, folder, found)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            for number in numbers:
                locator = {"folder": folder, "number": number, "pictures": codec}
                yield EpisodeRef(f"{label}#{number}", locator, _files(folder, found, number))
            if len(numbers) != found.episodes:
                what = f"{path} counts {found.episodes} episodes, {len(numbers)} are there"
                yield ScanProblem("file", path, "count_mismatch", what)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        folder, number = str(ref.locator["folder"]), int(ref.locator["number"])
        found = load(root, folder)
        if found is None:
            raise FormatError("missing_key", f"{folder}{METADATA} describes no data set", where=folder)
        paths = _files(folder, found, number)
        with root.unchanged(*paths):
            if found.storage == "hdf5":
                streams, facts, unread = _read_hdf5(root, paths[-1], number, found)
            else:
                streams, facts, unread = _read_part(root, paths, number, found)
            described = tuple(root.describe(path) for path in paths)
        attributes: dict[str, Any] = {"dataset": dict(found.facts), "episode": facts}
        if unread:
            attributes["unread"] = unread
        codec: pictures.PictureCodec = "jpeg" if ref.locator.get("pictures") == "jpeg" else "png"
        return _episode(ref.upstream_id, streams, found, attributes, codec, described)


def _stored(root: SourceRoot, folder: str, found: DataSet) -> list[int]:
    """Numbers of the episodes that are there, sorted."""
    name = STORAGES[found.storage]
    if found.storage != "hdf5":
        parts = (parent(path).rstrip("/").rpartition("/")[2] for path in root.glob(f"{folder}*/{name}"))
        return sorted(int(part) for part in parts if part.isdecimal() and str(int(part)) == part)
    with hdf5.opened(root, f"{folder}{name}") as file:
        matches = (_EPISODE.fullmatch(name) for name in hdf5.names(file))
        return sorted(int(match[1]) for match in matches if match is not None and str(int(match[1])) == match[1])


def _files(folder: str, found: DataSet, number: int) -> tuple[str, ...]:
    name = STORAGES[found.storage]
    if found.storage == "hdf5":
        return f"{folder}{METADATA}", f"{folder}{name}"
    return f"{folder}{METADATA}", f"{folder}{number}/{METADATA}", f"{folder}{number}/{name}"


def _read_part(
    root: SourceRoot, paths: tuple[str, ...], number: int, found: DataSet
) -> tuple[Streams, dict[str, Any], list[str]]:
    """Streams, facts and unread names of an episode kept as a table of its own."""
    facts = python_json(root.read(paths[1], limit=_MAX_FACTS), paths[1])
    facts = dict(fields.as_object(facts, paths[1]))
    fields.canonical(facts, paths[1])
    steps = _checked_steps(facts, number, paths[1])
    streams, unread = read_table(root, paths[2], found.leaves, steps)
    return streams, facts, unread


def _checked_steps(facts: Mapping[str, Any], number: int, where: str) -> int:
    """The episode's own count of actions, once it names itself as its place does."""
    if facts.get("id", number) != number:
        raise EpisodeError("wrong_episode", f"{where} says it is episode {facts['id']}, not {number}")
    steps = fields.as_whole(fields.member(facts, "total_steps", where), f"{where}, total_steps")
    if steps < 1:
        raise EpisodeError("empty_episode", f"{where} counts {steps} steps")
    return steps


def _read_hdf5(root: SourceRoot, path: str, number: int, found: DataSet) -> tuple[Streams, dict[str, Any], list[str]]:
    with hdf5.opened(root, path) as file:
        group = hdf5.member(file, f"episode_{number}")
        if not isinstance(group, h5py.Group):
            raise EpisodeError("missing_key", f"{path} holds no group episode_{number}")
        flat, odd = hdf5.attributes(group)
        unread = [f"@{name}" for name in odd]
        streams: Streams = {}
        total = 0
        for name, dataset in hdf5.datasets(group):
            plain = plain_path(name)
            value = _value(dataset, found.leaves.get(plain), info=plain.startswith("infos/"))
            if value is None:
                unread.append(plain)
                continue
            streams[plain] = value
            total += value.nbytes if isinstance(value, np.ndarray) else sum(map(len, value))
            if total > hdf5.MAX_BYTES:
                raise FormatError("claimed_size", f"{path} holds an episode of more than {hdf5.MAX_BYTES} bytes")
    facts: dict[str, Any] = {}
    for name, entry in flat.items():
        if name.startswith("options/"):
            facts.setdefault("options", {})[name.removeprefix("options/")] = entry
        else:
            facts[name] = entry
    _checked_steps(facts, number, f"{path}, episode_{number}")
    return streams, facts, sorted(unread)


def _value(dataset: h5py.Dataset, leaf: Leaf | None, *, info: bool) -> NDArray[Any] | list[bytes] | list[str] | None:
    """A data set's content: an array, rows of JPEG bytes, or texts; None for an info of another type."""
    if h5py.check_string_dtype(dataset.dtype) is not None:
        hdf5.check(dataset, texts=True)
        if dataset.ndim != 1:
            return None
        return [row.decode() if isinstance(row, bytes) else str(row) for row in dataset[()]]
    if leaf is not None and leaf.image and dataset.dtype.hasobject:
        return hdf5.byte_rows(dataset)
    if info and (dataset.dtype.kind not in "fiub" or dataset.shape is None):
        return None
    hdf5.check(dataset)
    values = hdf5.values(dataset)
    if leaf is not None and leaf.image and values.ndim == 2 and values.dtype == np.uint8 and len(leaf.shape) > 1:
        return [row.tobytes() for row in values]  # JPEGs that happen to have one length
    return values


def _episode(
    upstream_id: str,
    streams: Streams,
    found: DataSet,
    attributes: dict[str, Any],
    codec: pictures.PictureCodec,
    described: tuple[Any, ...],
) -> RawEpisode:
    steps = int(attributes["episode"]["total_steps"])
    _check_streams(streams, found.leaves, steps)
    arrays: dict[str, NDArray[Any]] = {}
    media: dict[str, Media] = {}
    texts: dict[str, tuple[str, ...]] = {}
    digest = RawDigest()
    for name, value in sorted(streams.items()):
        leaf = found.leaves.get(name)
        if isinstance(value, np.ndarray):
            digest.add_array(name, value)
            if leaf is not None and leaf.image and value.shape[3:] == (3,):
                media[name] = pictures.from_pixels(name, value, codec)
            else:
                arrays[name] = value
        elif leaf is not None and leaf.image:
            media[name] = _checked_size(
                pictures.encoded(name, [row for row in value if isinstance(row, bytes)]), leaf, len(value)
            )
            digest.add_bytes(name, media[name].digest.encode())
        else:
            texts[name] = tuple(fields.as_text(text, name) for text in value)
            digest.add_json(name, list(texts[name]))
    digest.add_json("attributes", attributes)
    return RawEpisode(
        upstream_id=upstream_id,
        files=described,
        raw_digest=digest.hexdigest(),
        arrays=arrays,
        media=media,
        texts=texts,
        attributes=attributes,
    )


def _checked_size(media: Media, leaf: Leaf, rows: int) -> Media:
    if (media.height, media.width) != leaf.shape[:2] or media.frames != rows:
        what = f"{media.frames} of {rows} pictures of {media.height} x {media.width} px, the space says {leaf.shape}"
        raise EpisodeError("bad_shape", f"{media.name}: {what}")
    return media


def _check_streams(streams: Streams, leaves: Mapping[str, Leaf], steps: int) -> None:
    """Every stream that the spaces name is there, with one row an observation (T + 1) or one a step (T)."""
    for name in (*leaves, *_STEPS):
        if name not in streams:
            raise EpisodeError("missing_stream", f"the episode has no {name}")
        rows = steps + 1 if name.startswith("observations") else steps
        value = streams[name]
        count = len(value) if not isinstance(value, np.ndarray) or value.ndim else 0
        if count != rows:
            raise EpisodeError("length_mismatch", f"{name} holds {count} rows, {steps} steps need {rows}")
        shape = leaves[name].shape if name in leaves else ()
        if isinstance(value, np.ndarray) and value.shape[1:] != shape:
            raise EpisodeError("bad_shape", f"{name} holds rows {value.shape[1:]}, its space says {shape}")
