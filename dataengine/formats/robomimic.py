"""robosuite's raw demonstrations and robomimic's HDF5: one file, a group `data`, one group `demo_<k>` an episode.

Upstream: robosuite (scripts/collect_human_demonstrations.py: `states` and `actions`, row t is the state before the
action of row t, env_info as JSON) and robomimic (docs/datasets/overview: `obs`, `next_obs`, `rewards`, `dones`,
env_args as JSON, `mask/<filter>` lists of demos). LIBERO, MimicGen, RoboCasa and Isaac Lab write the same shape with
their own attributes and groups (`robomimic_layouts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields, files, hdf5, pictures
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.robomimic_layouts import LAYOUTS, NAMES, instruction, layout_of
from dataengine.storage import SourceRoot

SUFFIXES = (".hdf5", ".h5")
MAX_PROBED = 20
_DEMO = re.compile(r"demo_(\d{1,12})")
_CHANGING = {"date", "time", "total", "num_demos", "timestamp", "readable_timestamp"}
"""Attributes of `data` that speak of the file, not of an episode."""
_JSON = {"env_info", "env_args", "problem_info", "ep_meta", "camera_info"}
_NEXT_OBS = "next_obs/"
_STEPS = re.compile(r"rewards|dones|robot_states|actions_abs|action_dict/.+|next_obs/.+")
"""Streams of one value an action."""


class RobomimicFormat:
    """Demonstrations of robosuite, robomimic and their relatives, every numeric data set under its own path."""

    name: ClassVar[str] = "robomimic"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = (
        "HDF5 demonstrations (data/demo_*): robosuite, robomimic, LIBERO, MimicGen, RoboCasa, Isaac Lab"
    )
    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        for path in _files(root, only)[:MAX_PROBED]:
            try:
                with hdf5.opened(root, path) as file:
                    demos = _demos(file)
                    if demos:
                        found = _layout(file, path, demos[0])
                        evidence = [f"{path} holds {len(demos)} demos in data"]
                        if found is None:
                            return Detection(self.name, 0.6, tuple(evidence))
                        return Detection(self.name, 0.9, (*evidence, found[1]), layout=found[0])
            except BadInput:
                continue
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every demo of every HDF5 file below the root that holds `data/demo_*`, in file and number order.

        Option `filter_key`: only the demos that `mask/<filter_key>` lists. Options `env` (a name or a list of names)
        and `layout`: the environment whose state layout and the layout whose conventions the converter knows; a file
        of another one is a `ScanProblem` `other_environment` or `other_layout`, as is one that is no readable HDF5
        (`unreadable_file`). In a folder, HDF5 files of another structure are passed over. Option `rows: bottom_up`:
        the pictures' first row is their lowest, as OpenGL gives them, and they are read from the last to the first;
        `pictures`: png or jpeg.
        """
        check_options(options, ("filter_key", "env", "layout", "pictures", "rows"), self.name)
        key, wanted, made = _name(options, "filter_key"), _wanted(options), _made(options)
        for path in _files(root, only):
            try:
                with hdf5.opened(root, path) as file:
                    demos = _demos(file)
                    if demos:
                        _check_kind(file, path, demos[0], wanted)
                    entries = list(_entries(file, path, demos, key, made)) if demos else []
                if not demos and only is not None:
                    raise FormatError("missing_key", f"{path} holds no data/demo_<k>", where=path)
            except BadInput as error:
                place = f" ({error.where})" if error.where not in (None, path) else ""
                entries = [ScanProblem("file", path, error.reason, f"{error.what}{place}")]
            yield from entries

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        path, demo = str(ref.locator["file"]), str(ref.locator["demo"])
        digest = RawDigest()
        with root.unchanged(path):
            with hdf5.opened(root, path) as file:
                group = _demo(file, demo)
                found, unread = _stored(group)
                attributes = _attributes(file["data"], group, path, unread)
                _check_rows(found, attributes["demo"])
                told = layout_of(attributes, attributes["demo"], group)
                arrays, media = _read(found, digest, ref.locator)
            files = (root.describe(path),)
        text = instruction(told[0], attributes, attributes["demo"], path) if told is not None else None
        digest.add_json("attributes", attributes)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            media=media,
            texts={"instruction": (text,)} if text is not None else {},
            attributes=attributes,
        )


def _name(options: Mapping[str, Any], option: str) -> str | None:
    value = options.get(option)
    if value is not None and not isinstance(value, str):
        raise SpecError(f"the option `{option}` is a name, not {value!r}", where="format robomimic")
    return value


def _made(options: Mapping[str, Any]) -> dict[str, str]:
    """How pictures are made, as far as it is not as usual: what `read` finds in the locator."""
    codec, rows = pictures.picture_codec(options), options.get("rows", "top_down")
    if rows not in ("top_down", "bottom_up"):
        raise SpecError(f"the option `rows` is top_down or bottom_up, not {rows!r}", where="format robomimic")
    return {**({"pictures": codec} if codec != "png" else {}), **({"rows": rows} if rows != "top_down" else {})}


def _wanted(options: Mapping[str, Any]) -> tuple[tuple[str, ...], str | None, bool]:
    """Environments (none: any), layout, and whether pictures must be bottom up."""
    named, layout = options.get("env", ()), _name(options, "layout")
    envs = option_names({"env": [named] if isinstance(named, str) else named}, "env", ())
    if layout is not None and layout not in NAMES:
        raise SpecError(f"the format robomimic has no layout {layout!r}", fix=f"known: {', '.join(NAMES)}")
    return envs, layout, options.get("rows") == "bottom_up"


def _check_kind(file: h5py.File, path: str, demo: str, wanted: tuple[tuple[str, ...], str | None, bool]) -> None:
    """The file is of the environment, the layout and the order of rows that the converter reads."""
    envs, layout, bottom_up = wanted
    if envs and _environment(file, path) not in envs:
        what = f"{path} was recorded in {_environment(file, path)}, the converter reads {' or '.join(envs)}"
        raise FormatError("other_environment", what, where=path)
    if layout is not None:
        found = _layout(file, path, demo)
        if found is None or found[0] != layout:
            what = f"{path} is of the layout {found[0] if found else 'of nobody known'}, the converter reads {layout}"
            raise FormatError("other_layout", what, where=path)
    if bottom_up:
        told = hdf5.attributes(file["data"])[0].get("macros_image_convention", "opengl")
        if told != "opengl":
            what = f"{path} says its pictures follow {told}, the converter reads them bottom up, as opengl's are"
            raise FormatError("other_convention", what, where=path)


def _layout(file: h5py.File, path: str, demo: str) -> tuple[str, str] | None:
    group = _demo(file, demo)
    attributes = _attributes(file["data"], group, path, [])
    return layout_of(attributes, attributes["demo"], group)


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
    return files.ending(root, SUFFIXES)


def _demos(file: h5py.File) -> list[str]:
    """Names of the demos in the order of their numbers; none when the file has another structure."""
    data = hdf5.member(file, "data")
    if not isinstance(data, h5py.Group):
        return []
    matches = [match for match in map(_DEMO.fullmatch, data) if match is not None]
    return [match.group() for match in sorted(matches, key=lambda match: (int(match.group(1)), match.group()))]


def _entries(
    file: h5py.File, path: str, demos: list[str], key: str | None, made: Mapping[str, str]
) -> Iterator[EpisodeRef | ScanProblem]:
    wanted = _filtered(file, key) if key is not None else set(demos)
    for name in demos:
        if name in wanted:
            yield EpisodeRef(f"{path}#{name}", {"file": path, "demo": name, **made}, (path,))
    for name in sorted(wanted - set(demos)):
        yield ScanProblem("episode", f"{path}#{name}", "missing_key", f"mask/{key} lists {name}, data has none")
    for name in sorted(set(hdf5.names(file["data"])) - set(demos)):
        yield ScanProblem("episode", f"{path}#{name}", "unknown_name", f"data/{name} is not named demo_<k>")
    told = hdf5.integer(file["data"], "num_demos")
    if told is not None and told != len(demos):
        # LIBERO's; `total` counts rows, and writers are known to get it wrong (Isaac Lab)
        what = f"num_demos is {told}, data holds {len(demos)} demos"
        yield ScanProblem("episode", f"{path}#num_demos", "count_mismatch", what)


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


def _stored(group: h5py.Group) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """The demo's data sets by relative path, and those left unread: texts, and pictures of `next_obs` (as `obs`)."""
    stored: dict[str, h5py.Dataset] = {}
    unread, total = [], 0
    for name, dataset in hdf5.datasets(group):
        if h5py.check_string_dtype(dataset.dtype) is not None and name != "actions":
            unread.append(name)
            continue
        total += hdf5.check(dataset)
        if total > hdf5.MAX_BYTES:
            raise FormatError("claimed_size", f"{group.name} claims more than {hdf5.MAX_BYTES} bytes")
        if name.startswith(_NEXT_OBS) and _is_picture(name.removeprefix("next_"), dataset):
            unread.append(name)
        else:
            stored[name] = dataset
    return stored, unread


def _read(
    stored: Mapping[str, h5py.Dataset], digest: RawDigest, made: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Media]]:
    """Values of the data sets; stacks of pictures are encoded block by block, and never lie in memory as a whole."""
    arrays: dict[str, NDArray[Any]] = {}
    media: dict[str, Media] = {}
    for name, dataset in stored.items():
        if not _is_picture(name, dataset):
            arrays[name] = hdf5.values(dataset)
            digest.add_array(name, arrays[name])
            continue
        if 0 in dataset.shape:
            raise EpisodeError("bad_shape", f"{name} is a stack of pictures of the shape {dataset.shape}")
        turned = -1 if made.get("rows") == "bottom_up" else 1
        hashed = digest.blocks(name, dataset.shape, hdf5.blocks(dataset))
        frames = (frame[::turned] for block in hashed for frame in block)
        media[name] = pictures.from_pixels(name, frames, pictures.picture_codec(made))
    return arrays, media


def _is_picture(name: str, array: Any) -> bool:
    """Whether this is a stack of RGB pictures [T, H, W, 3] uint8 among the observations."""
    return name.startswith("obs/") and array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3


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


def _check_rows(stored: Mapping[str, h5py.Dataset], demo: Mapping[str, Any]) -> None:
    """A demo has rows, as many as it says itself, and its streams have as many as `actions`."""
    rows = {name: dataset.shape[0] for name, dataset in stored.items() if dataset.shape}
    if not any(rows.values()):
        raise EpisodeError("empty_episode", f"no rows in {', '.join(rows) or 'it: the demo holds no data sets'}")
    declared = demo.get("num_samples")
    if isinstance(declared, int) and "actions" in rows and declared != rows["actions"]:
        what = f"num_samples is {declared}, actions has {rows['actions']} rows"
        raise EpisodeError("length_mismatch", what)
    if "actions" in rows:
        _check_streams(rows, {name for name, dataset in stored.items() if _is_picture(name, dataset)})


def _check_streams(rows: Mapping[str, int], shown: set[str]) -> None:
    """What has one value a step has as many rows as `actions`.

    Observations and states may have one more, of the moment after the last action, where all observations have it.
    """
    steps = rows["actions"]
    observed = {name: count for name, count in rows.items() if name.startswith("obs/")}
    seen = steps + 1 if set(observed.values()) == {steps + 1} else steps
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(observed, (seen,))
    wanted |= {name: (steps,) for name in rows if _STEPS.fullmatch(name)}
    wanted |= {name: (steps, steps + 1) for name in rows if name == "states" or name.startswith("states/")}
    for name, counts in sorted(wanted.items()):
        if rows[name] not in counts:
            reason = "frame_count_mismatch" if name in shown else "length_mismatch"
            raise EpisodeError(reason, f"{name} has {rows[name]} rows, not {counts[0]}: actions has {steps}")
