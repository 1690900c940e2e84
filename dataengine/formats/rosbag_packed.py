"""Storage files of ROS 2 bags that were compressed as a whole (`ros2 bag record --compression-mode file`).

Upstream: rosbag2_compression_zstd (ros2/rosbag2, src/rosbag2_compression_zstd/zstd_compressor.cpp) writes one zstd
frame into `<file>.zstd` beside the file, which it then deletes.

A helper of the format `rosbag`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow

from dataengine.errors import FormatError
from dataengine.formats.rosbag_model import RATIO, SMALL
from dataengine.storage import SourceRoot
from dataengine.storage.local import explained

PACKED = (".zstd", ".zst")
_PIECE = 1 << 20


def kind_of(path: str) -> str:
    """The ending that names a storage: `.db3` of `run_0.db3` and of `run_0.db3.zstd`; lower case."""
    pure = PurePosixPath(path.lower())
    return PurePosixPath(pure.stem).suffix if pure.suffix in PACKED else pure.suffix


def is_packed(path: str) -> bool:
    """Whether a storage file is compressed as a whole, by its name."""
    return path.lower().endswith(PACKED)


@contextmanager
def unpacked(root: SourceRoot, path: str, most: int | None = None) -> Iterator[tuple[SourceRoot, str]]:
    """A storage file as its reader wants it: itself, or a copy of it that is inflated in a temporary folder.

    `most` bounds the copy, which then holds the beginning of the file. Raises `FormatError` `claimed_size`,
    `unreadable_file`; `StorageError` where the temporary folder is full.
    """
    if not is_packed(path):
        yield root, path
        return
    with tempfile.TemporaryDirectory(prefix="dataengine-bag-") as folder:
        name = path[: path.rindex(".")]
        copy = Path(folder) / name
        with explained(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
        with root.open(path) as file, copy.open("wb") as target:
            limit = max(SMALL, RATIO * root.size(path))
            for piece in _inflated(file, path):
                with explained(copy):
                    target.write(piece)
                    target.flush()
                if target.tell() > limit:
                    raise FormatError("claimed_size", f"{path} inflates beyond {limit} bytes", where=path)
                if most is not None and target.tell() >= most:
                    break
        yield SourceRoot(Path(folder)), name


def _inflated(file: BinaryIO, path: str) -> Iterator[bytes]:
    try:
        with pyarrow.input_stream(file, compression="zstd") as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except (OSError, ValueError, EOFError, MemoryError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError("unreadable_file", f"{path} does not inflate: {told}", where=path) from None
