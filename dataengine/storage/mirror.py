"""Source files that lie elsewhere: a local folder that fills itself, file by file, as they are read.

`s3://` is read with the usual AWS environment; any other address (`hf://`, `gs://`, `https://`, ...) through fsspec and
the package that brings the protocol. The folder holds a list of what is there (names, sizes, entity tags), taken once;
a file that is another one by the time it is fetched is refused.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import orjson

from dataengine.credentials import refuse_credentials
from dataengine.errors import FormatError, MissingError, SpecError, StorageError
from dataengine.storage.listing import translated

MARKER = ".dataengine-mirror.json"
PIECE = 16 << 20
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*):/{1,2}(.*)$", re.DOTALL)


class _Reader(Protocol):
    def listed(self) -> dict[str, tuple[int, str]]: ...

    def read(self, name: str, start: int, length: int) -> bytes: ...

    def state(self, name: str) -> tuple[int, str] | None: ...


class _S3Reader:
    def __init__(self, address: str) -> None:
        from dataengine.storage.s3 import S3Backend

        self._backend = S3Backend(address)

    def listed(self) -> dict[str, tuple[int, str]]:
        return self._backend.states()

    def read(self, name: str, start: int, length: int) -> bytes:
        return self._backend.read(name, start, length)

    def state(self, name: str) -> tuple[int, str] | None:
        return self._backend.state(name)


class _FsspecReader:
    def __init__(self, address: str) -> None:
        import fsspec

        scheme = address.partition(":")[0]
        try:
            self._fs, self._base = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise SpecError(
                f"{scheme}:// needs a package that is not installed: {error.name or error}",
                fix=f"pip install fsspec[{scheme}]",
            ) from None
        except ValueError:
            raise SpecError(f"{scheme}:// is no protocol that fsspec knows", where=address) from None

    def listed(self) -> dict[str, tuple[int, str]]:
        found = self._fs.find(self._base, detail=True)
        cut = len(self._base.rstrip("/")) + 1
        return {name[cut:]: (int(info["size"]), _tag(info)) for name, info in found.items() if name[cut:]}

    def read(self, name: str, start: int, length: int) -> bytes:
        return bytes(self._fs.cat_file(f"{self._base}/{name}" if name else self._base, start, start + length))

    def state(self, name: str) -> tuple[int, str] | None:
        try:
            info = self._fs.info(f"{self._base}/{name}" if name else self._base)
        except FileNotFoundError:
            return None
        return (int(info["size"]), _tag(info)) if info["type"] == "file" else None


def _tag(info: Mapping[str, Any]) -> str:
    """What a file system tells that changes with the content."""
    for key in ("ETag", "etag", "blob_id", "sha256", "md5Hash", "mtime", "LastModified", "last_modified"):
        if info.get(key):
            return str(info[key])
    return ""


def address_of(path: Path | str) -> str | None:
    """The address of a source that is not on a local disk; None for one that is. A `Path` has lost a slash of it."""
    match = _SCHEME.match(str(path))
    if match is None or (isinstance(path, Path) and path.exists()):
        return None
    refuse_credentials(str(path), "the address of a source")
    return f"{match.group(1)}://{match.group(2).rstrip('/')}"


@lru_cache(maxsize=16)
def _reader(address: str, _process: int) -> _Reader:
    return _S3Reader(address) if address.startswith("s3://") else _FsspecReader(address)


@contextmanager
def local_source(path: Path) -> Iterator[Path]:
    """A local path for a source: the path itself, or a folder (or file in it) that fills itself from elsewhere."""
    address = address_of(path)
    if address is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dataengine-source-") as folder:
        target = Path(folder) / (address.rpartition("/")[2] or "source")
        try:
            listed = _reader(address, os.getpid()).listed()
            if listed:
                yield _marked(target, address, listed)
                return
            parent, _, name = address.rpartition("/")
            state = _reader(parent, os.getpid()).state(name)
        except (OSError, StorageError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"cannot list the source: {error}", where=address) from None
        if state is None:
            raise MissingError(f"no such file or folder: {address}", fix="check the address")
        yield _marked(Path(folder) / "source", parent, {name: state}) / name


def _marked(target: Path, address: str, listed: Mapping[str, tuple[int, str]]) -> Path:
    for name in listed:
        if name.startswith("/") or ".." in name.split("/"):
            raise FormatError("path_outside_root", f"{name!r} leaves the source", where=name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / MARKER).write_bytes(orjson.dumps({"address": address, "files": listed}))
    return target


class Mirror:
    """What a mirror's folder knows of the source that fills it."""

    def __init__(self, folder: Path) -> None:
        document = orjson.loads((folder / MARKER).read_bytes())
        self.folder = folder
        self.address: str = document["address"]
        self.files: Mapping[str, tuple[int, str]] = document["files"]

    def fetch(self, name: str) -> None:
        """Bring a file into the folder; nothing happens when it is there, or is none of the source's."""
        target = self.folder / name
        if name not in self.files or target.is_file():
            return
        size, tag = self.files[name]
        reader = _reader(self.address, os.getpid())
        partial = target.with_name(f"{target.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
        try:
            with partial.open("wb") as file:
                for start in range(0, size, PIECE):
                    file.write(reader.read(name, start, min(PIECE, size - start)))
            if partial.stat().st_size != size or list(reader.state(name) or ()) != [size, tag]:
                raise FormatError("changed_during_read", f"{name} changed while it was fetched", where=name)
            partial.replace(target)
        except FileNotFoundError:
            raise FormatError("missing_file", f"{name} is gone", where=name) from None
        finally:
            partial.unlink(missing_ok=True)

    def glob(self, pattern: str) -> list[str]:
        """Names that match a pattern as `Path.glob` understands it."""
        matches = translated(pattern)
        return sorted(name for name in self.files if matches.fullmatch(name))


@lru_cache(maxsize=16)
def mirror_at(folder: Path) -> Mirror | None:
    """The mirror of a folder, or None for an ordinary one."""
    return Mirror(folder) if (folder / MARKER).is_file() else None
