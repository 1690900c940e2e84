"""robosuite's raw demonstrations and robomimic's HDF5: one file, a group `data`, one group `demo_<k>` an episode.

Upstream: robosuite (scripts/collect_human_demonstrations.py: `states` and `actions`, row t is the state before the
action of row t, env_info as JSON) and robomimic (docs/datasets/overview: `obs`, `next_obs`, `rewards`, `dones`,
env_args as JSON, `mask/<filter>` lists of demos). LIBERO and Isaac Lab write the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import Media, RawDigest, RawEpisode, images_media
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields, hdf5
from dataengine.formats.base import Detection, EpisodeRef, ScanProblem, check_options
from dataengine.storage import SourceRoot

SUFFIXES = (".hdf5", ".h5")
MAX_PROBED = 20
_DEMO = re.compile(r"demo_(\d{1,12})")
_CHANGING = {"date", "time", "total"}
"""Attributes of `data` that speak of the file, not of an episode."""
_JSON = {"env_info", "env_args", "problem_info", "ep_meta"}
_NEXT_OBS = "next_obs/"


class RobomimicFormat:
    """Demonstrations of robosuite, robomimic and their relatives, every numeric data set under its own path."""

    name: ClassVar[str] = "robomimic"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "robosuite and robomimic HDF5 demonstrations (data/demo_*), also LIBERO, Isaac Lab"

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _files(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    demos = _demos(file)
                    if demos:
                        kind = "robomimic" if hdf5.member(_demo(file, demos[0]), "obs") else "robosuite"
                        return Detection(self.name, 0.9, (f"{path} holds {len(demos)} demos in the {kind} layout",))
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every demo of every HDF5 file below the root that holds `data/demo_*`, in file and number order.

        Option `filter_key`: only the demos that `mask/<filter_key>` lists. Option `env`: the environment whose state
        layout the converter knows; a file of another one is a `ScanProblem` `other_environment`, as is one that is no
        readable HDF5 (`unreadable_file`). In a folder, HDF5 files of another structure are passed over.
        """
        check_options(options, ("filter_key", "env"), self.name)
        key, env = _name(options, "filter_key"), _name(options, "env")
        for path in _files(root, only):
            try:
                with hdf5.opened(root, path) as file:
                    demos = _demos(file)
                    if demos and env is not None and _environment(file, path) != env:
                        what = f"{path} was recorded in {_environment(file, path)}, the converter reads {env}"
                        raise FormatError("other_environment", what, where=path)
                    entries = list(_entries(file, path, demos, key)) if demos else []
                if not demos and only is not None:
                    raise FormatError("missing_key", f"{path} holds no data/demo_<k>", where=path)
            except BadInput as error:
                entries = [ScanProblem("file", path, error.reason, error.what)]
            yield from entries

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, demo = str(ref.locator["file"]), str(ref.locator["demo"])
        with root.unchanged(path):
            with hdf5.opened(root, path) as file:
                group = _demo(file, demo)
                stored, unread = _stored(group)
                attributes = _attributes(file["data"], group, path, unread)
            files = (root.describe(path),)
        _check_rows(stored, attributes["demo"])
        digest = RawDigest()
        for name, array in stored.items():
            digest.add_array(name, array)
        digest.add_json("attributes", attributes)
        media = {name: _pictures(name, array) for name, array in stored.items() if _is_picture(name, array)}
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest.hexdigest(),
            arrays={name: array for name, array in stored.items() if name not in media},
            media=media,
            attributes=attributes,
        )


def _name(options: Mapping[str, Any], option: str) -> str | None:
    value = options.get(option)
    if value is not None and not isinstance(value, str):
        raise SpecError(f"the option `{option}` is a name, not {value!r}", where="format robomimic")
    return value


def _environment(file: h5py.File, path: str) -> str | None:
    """The environment a file was recorded in: robosuite's `env`, or `env_name` of robomimic's `env_args`."""
    shared = _described(hdf5.attributes(file["data"])[0], path)
    named = shared.get("env")
    if named is None and isinstance(shared.get("env_args"), dict):
        named = shared["env_args"].get("env_name")
    return named if isinstance(named, str) else None


def _files(root: SourceRoot, only: str | None) -> list[str]:
    if only is not None:
        return [only] if PurePosixPath(only).suffix.lower() in SUFFIXES else []
    return sorted(path for suffix in SUFFIXES for path in root.glob(f"**/*{suffix}"))


def _demos(file: h5py.File) -> list[str]:
    """Names of the demos in the order of their numbers; none when the file has another structure."""
    data = hdf5.member(file, "data")
    if not isinstance(data, h5py.Group):
        return []
    matches = [match for match in map(_DEMO.fullmatch, data) if match is not None]
    return [match.group() for match in sorted(matches, key=lambda match: (int(match.group(1)), match.group()))]


def _entries(file: h5py.File, path: str, demos: list[str], key: str | None) -> Iterator[EpisodeRef | ScanProblem]:
    wanted = _filtered(file, key) if key is not None else set(demos)
    for name in demos:
        if name in wanted:
            yield EpisodeRef(f"{path}#{name}", {"file": path, "demo": name}, (path,))
    for name in sorted(wanted - set(demos)):
        yield ScanProblem("episode", f"{path}#{name}", "missing_key", f"mask/{key} lists {name}, data has none")
    for name in sorted(set(hdf5.names(file["data"])) - set(demos)):
        yield ScanProblem("episode", f"{path}#{name}", "unknown_name", f"data/{name} is not named demo_<k>")


def _filtered(file: h5py.File, key: str) -> set[str]:
    masks = hdf5.member(file, "mask")
    listed = hdf5.member(masks, key) if isinstance(masks, h5py.Group) else None
    if not isinstance(listed, h5py.Dataset):
        raise FormatError("missing_key", f"the file has no mask/{key}")
    hdf5.check(listed, texts=True)
    listing = np.ravel(hdf5.values(listed))
    return set(hdf5.names(name.decode() if isinstance(name, bytes) else str(name) for name in listing))


def _demo(file: h5py.File, demo: str) -> h5py.Group:
    data = hdf5.member(file, "data")
    group = hdf5.member(data, demo) if isinstance(data, h5py.Group) else None
    if not isinstance(group, h5py.Group):
        raise EpisodeError("missing_key", f"data/{demo} is no group")
    return group


def _stored(group: h5py.Group) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The demo's data sets by relative path, and those left unread: pictures of `next_obs`, which repeat `obs`."""
    stored: dict[str, NDArray[Any]] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(group):
        total += hdf5.check(dataset)
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"{group.name} claims more than {hdf5.MAX_BYTES} bytes")
        if name.startswith(_NEXT_OBS) and _is_picture(name.removeprefix("next_"), dataset):
            unread.append(name)
        else:
            stored[name] = hdf5.values(dataset)
    return stored, unread


def _is_picture(name: str, array: Any) -> bool:
    """Whether this is a stack of RGB pictures [T, H, W, 3] uint8 among the observations."""
    return name.startswith("obs/") and array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3


def _pictures(name: str, pixels: NDArray[np.uint8]) -> Media:
    """Raw pixels [T, H, W, 3] as PNG, which is lossless; the digest is over the pixels, whatever the encoder."""
    if 0 in pixels.shape or pixels.shape[1] * pixels.shape[2] > images.MAX_PIXELS:
        raise EpisodeError("bad_shape", f"{name} is a stack of pictures of the shape {pixels.shape}")
    made = images_media(name, "png", [images.encode(frame, "png") for frame in pixels], *pixels.shape[1:3])
    return replace(made, digest=sha256_bytes(np.ascontiguousarray(pixels).tobytes()))


def _attributes(data: h5py.Group, demo: h5py.Group, path: str, unread: list[str]) -> dict[str, Any]:
    """Attributes of `data` (JSON parsed), those of the demo under `demo`, and what was left `unread`."""
    shared, odd = hdf5.attributes(data)
    own, odd_too = hdf5.attributes(demo)
    result = _described({name: value for name, value in shared.items() if name not in _CHANGING}, path)
    result["demo"] = _described(own, path)
    left = sorted([*unread, *(f"@data/{name}" for name in odd), *(f"@demo/{name}" for name in odd_too)])
    return result | ({"unread": left} if left else {})


def _described(attributes: Mapping[str, Any], path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in attributes.items():
        if name in _JSON and isinstance(value, str):
            where = f"{path}, attribute {name}"
            result[name] = load_json(value.encode(), where)
            fields.canonical(result[name], where)
        elif name == "model_file" and isinstance(value, str) and value.lstrip().startswith("<"):
            result["model_file_sha256"] = sha256_bytes(value.encode())
        else:
            result[name] = value
    return result


def _check_rows(stored: Mapping[str, NDArray[Any]], demo: Mapping[str, Any]) -> None:
    """A demo has rows, as many as it says itself."""
    rows = {name: len(array) for name, array in stored.items() if array.ndim}
    if not any(rows.values()):
        raise EpisodeError("empty_episode", f"no rows in {', '.join(rows) or 'it: the demo holds no data sets'}")
    declared = demo.get("num_samples")
    if isinstance(declared, int) and "actions" in rows and declared != rows["actions"]:
        what = f"num_samples is {declared}, actions has {rows['actions']} rows"
        raise EpisodeError("length_mismatch", what)
