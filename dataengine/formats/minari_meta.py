"""What a Minari data set says of itself: `metadata.json`, the spaces in it, and which data sets lie below a folder.

Upstream: Farama-Foundation/Minari @ 1880118a, `minari/dataset/minari_storage.py` and `minari/serialization.py`. Spaces
are JSON texts inside the JSON; bounds may be Python's `Infinity`, which is no JSON and is read as null here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.documents import load_json
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.storage import SourceRoot

STORAGES = {"hdf5": "main_data.hdf5", "arrow": "part-0.arrow", "parquet": "part-0.parquet"}
METADATA = "metadata.json"
MAX_METADATA = 1 << 28
_DEPTHS = ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
_SPACES = ("observation_space", "action_space")
_CHANGING = {"total_episodes", "total_steps", "dataset_size", "data_format"}
"""Fields that count the whole set, or say how it is stored: nothing that gives an episode's numbers a meaning."""
_PERSONAL = {"author", "author_email", "contact"}
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)
_MOST_BOUNDS = 256
_IMAGE_SIDE = 32
_INDEX = re.compile(r"_index_(\d+)")


@dataclass(frozen=True)
class Leaf:
    """One stream of a space: `kind` is Minari's name of the space, `shape` one row's, `image` one kept as a JPEG."""

    kind: str
    shape: tuple[int, ...]
    image: bool


@dataclass(frozen=True)
class DataSet:
    """A data set: its storage, its streams by path (`observations/agent_pos`), and the facts for the attributes."""

    storage: str
    name: str
    episodes: int
    leaves: Mapping[str, Leaf]
    facts: Mapping[str, Any]


def python_json(data: bytes, where: str) -> Any:
    """JSON as Python's `json.dumps` writes it: numbers that are not finite become null; else as strict as any."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", f"{where} is not UTF-8 text", where=where) from None
    plain = _TOKENS.sub(lambda found: found[0] if found[0].startswith('"') else "null", text)
    return load_json(plain.encode(), where)


def data_sets(root: SourceRoot, only: str | None) -> list[str]:
    """Folders below the root (`""`: itself) that hold a data set's metadata, sorted; episodes' own are left out."""
    if only is not None:
        return [""] if only in {METADATA, *STORAGES.values()} and root.exists(METADATA) else []
    found = {path.removesuffix(METADATA) for depth in _DEPTHS for path in root.glob(f"{depth}{METADATA}")}
    inner = {
        folder for folder in found if folder.rstrip("/").rpartition("/")[2].isdecimal() and parent(folder) in found
    }
    return sorted(found - inner)


def parent(folder: str) -> str:
    """The folder above one, both with their slash at the end."""
    head, slash, _ = folder.rstrip("/").rpartition("/")
    return head + slash


def load(root: SourceRoot, folder: str) -> DataSet | None:
    """The data set of a folder, None when its `metadata.json` is of something else."""
    path = f"{folder}{METADATA}"
    if root.size(path) > MAX_METADATA:
        raise FormatError("file_too_large", f"{path} is larger than any metadata", where=path)
    return files.cached(root, path, _parse)


def _parse(data: bytes, where: str) -> DataSet | None:
    if not data:
        raise FormatError("empty_file", f"{where} is empty", where=where)
    found = python_json(data, where)
    if not isinstance(found, dict) or not set(_SPACES) & set(found):
        return None
    lost = {"total_episodes", *_SPACES} - set(found)
    if lost:
        raise FormatError("missing_key", f"{where} has no {' and no '.join(sorted(lost))}", where=where)
    try:
        return _data_set(found, where)
    except EpisodeError as error:
        raise FormatError(error.reason, error.what, where=where) from None


def _data_set(found: Mapping[str, Any], where: str) -> DataSet:
    storage = fields.as_text(found.get("data_format", "hdf5"), f"{where}, data_format")
    if storage not in STORAGES:
        raise FormatError("unknown_storage", f"{where}: the storage {storage!r} is not known", where=where)
    leaves: dict[str, Leaf] = {}
    facts: dict[str, Any] = {}
    for name, value in found.items():
        if name in _SPACES or (name == "env_spec" and isinstance(value, str)):
            facts[name] = python_json(fields_text(value, f"{where}, {name}").encode(), f"{where}, {name}")
        elif name not in _CHANGING | _PERSONAL:
            facts[name] = value
    for name in _SPACES:
        side = "observations" if name == "observation_space" else "actions"
        leaves |= dict(_leaves(facts[name], side))
        facts[name] = _told(facts[name])
    fields.canonical(facts, where)
    episodes = fields.as_whole(found["total_episodes"], f"{where}, total_episodes")
    named = found.get("dataset_id")
    return DataSet(storage, fields.as_text(named, where) if named else "", episodes, leaves, facts)


def fields_text(value: Any, name: str) -> str:
    """A text of any length (the bounds of pictures are long), or `bad_type`."""
    if not isinstance(value, str):
        raise EpisodeError("bad_type", f"{name} is no text that holds JSON")
    return value


def _leaves(space: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    """The streams of a serialized space; parts of a tuple are named by their number."""
    space = fields.as_object(space, path)
    kind = fields.as_text(fields.member(space, "type", path), path)
    if kind == "Dict":
        for name, inner in fields.as_object(fields.member(space, "subspaces", path), path).items():
            yield from _leaves(inner, f"{path}/{name}")
    elif kind == "Tuple":
        for number, inner in enumerate(fields.as_list(fields.member(space, "subspaces", path), path)):
            yield from _leaves(inner, f"{path}/{number}")
    elif kind in ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text"):
        shape = _shape(space, kind, path)
        yield path, Leaf(kind, shape, kind == "Box" and _is_image(space, shape))
    else:
        raise EpisodeError("unknown_space", f"{path} is a space of the type {kind!r}")


def _shape(space: Mapping[str, Any], kind: str, path: str) -> tuple[int, ...]:
    if kind == "Box":
        listed = fields.as_list(fields.member(space, "shape", path), path)
    elif kind == "MultiBinary":
        size = fields.member(space, "n", path)
        listed = size if isinstance(size, list) else [size]
    elif kind == "MultiDiscrete":
        listed = list(np.shape(np.array(fields.as_list(fields.member(space, "nvec", path), path), object)))
    else:
        listed = []
    shape = tuple(fields.as_whole(size, path) for size in listed)
    if any(size < 0 or size >= 1 << 31 for size in shape) or len(shape) > 8:
        raise EpisodeError("bad_shape", f"{path} has the shape {shape}")
    return shape


def _is_image(space: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Minari's own rule for what it keeps as JPEG (`is_image_space`)."""
    if len(shape) not in (2, 3) or min(shape[:2]) < _IMAGE_SIDE or space.get("dtype") != "uint8":
        return False
    return _only(space.get("low")) == {0} and _only(space.get("high")) == {255}


def _only(bounds: Any) -> set[Any]:
    """The different numbers in nested lists, up to three of them."""
    found: set[Any] = set()
    waiting = [bounds]
    while waiting and len(found) < 3:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        else:
            found.add(item if isinstance(item, int | float) else None)
    return found


def _told(space: Any) -> Any:
    """A space for the attributes: bounds that are all one number as that number, long lists of bounds left out."""
    if not isinstance(space, dict):
        return space
    result: dict[str, Any] = {}
    for name, value in space.items():
        if name == "subspaces":
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            result[name] = {str(key): _told(part) for key, part in inner}
        elif name in ("low", "high") and isinstance(value, list):
            found = _only(value)
            if len(found) == 1:
                result[name] = found.pop()
            elif np.size(np.array(value, object)) <= _MOST_BOUNDS:
                result[name] = value
        else:
            result[name] = value
    return result


def plain_path(path: str) -> str:
    """A path in the HDF5 file with parts of tuples (`_index_0`) named by their number, as the tables have them."""
    return "/".join(found[1] if (found := _INDEX.fullmatch(part)) else part for part in path.split("/"))
