"""Which bags lie below a root: folders with a metadata.yaml and its storage files, and single files.

Upstream: rosbag2_storage (ros2/rosbag2, src/rosbag2_storage/metadata_io.cpp): `rosbag2_bagfile_information`.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dataengine.documents import load_yaml
from dataengine.errors import BadInput, FormatError, SpecError
from dataengine.formats.base import ScanProblem
from dataengine.formats.rosbag_db3 import Db3
from dataengine.formats.rosbag_mcap import Mcap
from dataengine.formats.rosbag_model import Storage
from dataengine.formats.rosbag_packed import PACKED, is_packed, kind_of
from dataengine.formats.rosbag_ros1 import Ros1
from dataengine.storage import SourceRoot

METADATA = "metadata.yaml"
_HEAD = 4096
_STORAGES: Mapping[str, type[Mcap | Db3 | Ros1]] = {".mcap": Mcap, ".db3": Db3, ".bag": Ros1}
_IDENTIFIERS = {"mcap": ".mcap", "sqlite3": ".db3"}
SUFFIXES = (*_STORAGES, *(f"{kind}{packed}" for kind in _IDENTIFIERS.values() for packed in PACKED))


@dataclass(frozen=True)
class Bag:
    """One bag: its storage files in order, its metadata.yaml where it has one."""

    name: str
    files: tuple[str, ...]
    metadata: str | None = None
    declared: int | None = None
    """Messages that the metadata.yaml counts."""


@dataclass(frozen=True)
class Metadata:
    """What metadata.yaml declares: storage files (below the root), messages a topic, whether each is compressed."""

    files: tuple[str, ...]
    counts: Mapping[str, int]
    compressed: bool = False


def storage(root: SourceRoot, path: str, *, recover: bool) -> Storage:
    """The reader of a storage file, by its name's ending."""
    return _STORAGES[kind_of(path)](root, path, recover=recover)


def bags(root: SourceRoot, only: str | None) -> Iterator[Bag | ScanProblem]:
    """Every bag, sorted by name; what a metadata.yaml lists belongs to its bag and is none by itself."""
    if only is not None and PurePosixPath(only).name != METADATA:
        if only.lower().endswith(SUFFIXES):
            yield Bag(only, (only,))
        return
    taken: set[str] = set()
    found: dict[str, Bag | ScanProblem] = {}
    for path in [only] if only is not None else root.glob(f"**/{METADATA}"):
        folder = str(PurePosixPath(path).parent)
        try:
            told = read_metadata(root, path)
        except BadInput as error:
            found[path] = ScanProblem("file", path, error.reason, error.what)
            taken |= {
                file
                for suffix in SUFFIXES
                for file in root.glob(f"{folder}/*{suffix}" if folder != "." else f"*{suffix}")
            }
            continue
        if told is not None:
            name = "bag" if folder == "." else folder
            found[name] = Bag(name, told.files, path, sum(told.counts.values()))
            taken |= set(told.files)
            # rosbag2 unpacks a file beside itself when it plays it.
            taken |= {file[: file.rindex(".")] for file in told.files if is_packed(file)}
    if only is None:
        singles = sorted(path for suffix in SUFFIXES for path in root.glob(f"**/*{suffix}"))
        found |= {path: Bag(path, (path,)) for path in singles if path not in taken}
    for name in sorted(found):
        yield found[name]


def read_metadata(root: SourceRoot, path: str) -> Metadata | None:
    """What a bag's metadata.yaml declares; None where the file is another program's.

    Raises `FormatError`: `bad_value`, `unsupported_compression`, `path_outside_root`.
    """
    with root.open(path) as file:
        if b"rosbag2_bagfile_information" not in file.read(_HEAD):
            return None
    try:
        document = load_yaml(root.locate(path))
    except SpecError as error:
        raise FormatError("yaml_invalid", f"{path}: {error.what}", where=path) from None
    told = document.get("rosbag2_bagfile_information") if isinstance(document, dict) else None
    if told is None:
        return None
    if not isinstance(told, dict):
        raise FormatError("bad_type", f"{path} declares no bag", where=path)
    mode, codec = (str(told.get(f"compression_{part}") or "none").lower() for part in ("mode", "format"))
    if (mode, codec) not in (("none", "none"), ("message", "zstd"), ("file", "zstd")):
        what = f"{path}: the bag is compressed by {mode} with {codec!r}"
        raise FormatError("unsupported_compression", what, where=path, fix="`ros2 bag convert` writes it plain")
    if told.get("storage_identifier") not in _IDENTIFIERS:
        what = f"{path}: the storage {told.get('storage_identifier')!r} is not known"
        raise FormatError("unknown_storage", what, where=path)
    suffix, packed = _IDENTIFIERS[told["storage_identifier"]], mode == "file"
    folder = PurePosixPath(path).parent
    files = []
    for name in _list(told, "relative_file_paths", path):
        # Foxy and older wrote the bag's own folder before the name.
        pure = PurePosixPath(str(name))
        if pure.is_absolute() or ".." in pure.parts or (kind_of(pure.name), is_packed(pure.name)) != (suffix, packed):
            raise FormatError("path_outside_root", f"{path} lists {name!r}, no storage file beside it", where=path)
        files.append(str(folder / pure) if root.exists(str(folder / pure)) else str(folder / pure.name))
    if not files or len(set(files)) != len(files):
        raise FormatError("bad_value", f"{path} lists no storage file, or one twice", where=path)
    return Metadata(tuple(files), _counts(told, path), mode == "message")


def _counts(told: Mapping[str, Any], path: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in _list(told, "topics_with_message_count", path):
        count = entry.get("message_count") if isinstance(entry, dict) else None
        topic = entry.get("topic_metadata") if isinstance(entry, dict) else None
        name = topic.get("name") if isinstance(topic, dict) else None
        if not isinstance(count, int) or isinstance(count, bool) or not isinstance(name, str):
            raise FormatError("bad_value", f"{path} has a topic without a name or a count", where=path)
        counts[name] = counts.get(name, 0) + count
    if sum(counts.values()) != told.get("message_count"):
        what = f"{path} declares {told.get('message_count')} messages, and {sum(counts.values())} in all topics"
        raise FormatError("count_mismatch", what, where=path)
    return counts


def _list(told: Mapping[str, Any], name: str, path: str) -> list[Any]:
    value = told.get(name)
    if not isinstance(value, list):
        raise FormatError("bad_type", f"{path} has no list {name}", where=path)
    return value
