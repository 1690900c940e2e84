"""A store of results: names that hold a whole content or do not exist, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from dataengine.credentials import refuse_credentials
from dataengine.errors import ConflictError, StorageError
from dataengine.storage.local import LocalBackend, explained, sha256_file


class Backend(Protocol):
    """Where a store keeps its files; see `LocalBackend` for what each method does."""

    def at(self, name: str) -> str: ...

    def staging(self) -> Path: ...

    def size(self, name: str) -> int | None: ...

    def age(self, name: str) -> float | None: ...

    def renew(self, name: str) -> None: ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes: ...

    def names(self, prefix: str) -> list[str]: ...

    def create(self, name: str, staged: Path) -> bool: ...

    def remove(self, name: str) -> None: ...

    def local(self, name: str) -> AbstractContextManager[Path]: ...


Writers = Literal["conditional", "single"]
Place = Path | str
"""A local folder, or `s3://BUCKET/PREFIX`. A `Path` of the latter, which has lost a slash, means the same."""


def remote(place: Place) -> str | None:
    """The address `s3://BUCKET/PREFIX` of a place that is not on a local disk; None for one that is."""
    text = str(place)
    if not text.startswith("s3:/"):
        return None
    refuse_credentials(text, "an address on S3")
    return f"s3://{text.removeprefix('s3:').strip('/')}"


def backend_of(place: Place, writers: Writers = "conditional") -> Backend:
    """The backend for a local folder, or for `s3://BUCKET/PREFIX`.

    `writers` "single" is for a store that ignores conditions, and for one writer at a time.
    """
    address = remote(place)
    if address is None:
        return LocalBackend(Path(place))
    from dataengine.storage.s3 import S3Backend

    return S3Backend(address, writers)


class Store:
    """A folder of results. `staging/` below it holds temporary files only."""

    def __init__(self, root: Place, writers: Writers = "conditional") -> None:
        self.address = remote(root) or str(root)
        self.writers = writers
        self.backend = backend_of(root, writers)

    @property
    def is_local(self) -> bool:
        return isinstance(self.backend, LocalBackend)

    @property
    def root(self) -> Path:
        """The folder on a local disk; a `StorageError` for a store elsewhere."""
        if not isinstance(self.backend, LocalBackend):
            raise StorageError("this works on a local disk only", where=self.address, fix="copy it to a local folder")
        return self.backend.root

    def path(self, name: str) -> Path:
        """Where a name lies on a local disk."""
        return self.root / name

    def at(self, name: str) -> str:
        """Where a name lies, for people."""
        return self.backend.at(name)

    def exists(self, name: str) -> bool:
        return self.backend.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        return self.backend.size(name)

    def read(self, name: str) -> bytes:
        """The content of `name`; a missing one is a `StorageError`."""
        return self.backend.read(name)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        self.backend.remove(name)

    def local(self, name: str) -> AbstractContextManager[Path]:
        """The file on a local disk for as long as the context lasts."""
        return self.backend.local(name)

    def names(self, prefix: str, pattern: str = "*") -> list[str]:
        """Names of the files directly in a folder, sorted."""
        found = (name for name in self.backend.names(prefix) if name.count("/") == prefix.count("/") + 1)
        return [name for name in found if fnmatchcase(name.rpartition("/")[2], pattern)]

    def files(self) -> list[str]:
        """Every file of the store outside `staging/`, sorted."""
        return [name for name in self.backend.names("") if not name.startswith("staging/")]

    @contextmanager
    def writer(self, label: str) -> Iterator[StagedFile]:
        """A temporary file to write into; `StagedFile.publish` gives it its name, else it is removed."""
        path = self.backend.staging() / staged_name(label)
        with explained(path):
            handle = path.open("xb")
        staged = StagedFile(self.backend, path, handle)
        try:
            yield staged
        finally:
            handle.close()
            with suppress(FileNotFoundError):
                path.unlink()

    def publish(self, name: str, data: bytes) -> bool:
        """Create `name` with `data`. True when created, False when it stood there with the same bytes.

        Raises `ConflictError` when it stands there with other bytes.
        """
        with self.writer("doc") as staged:
            staged.write(data)
            return staged.publish(name)


def staged_name(label: str) -> str:
    """A name below `staging/` that tells whose it is: `label.host.process.random`."""
    return f"{label}.{_host()}.{os.getpid()}.{os.urandom(6).hex()}"


def staged_by(name: str) -> int | None:
    """The process of this host that made a name below `staging/`; None for another host's."""
    parts = name.split(".")
    return int(parts[-2]) if len(parts) >= 4 and parts[-3] == _host() and parts[-2].isdigit() else None


@cache
def _host() -> str:
    """The host and what numbers its processes: containers of one host count their processes each from 1."""
    space = Path("/proc/self/ns/pid")
    numbered_by = str(space.readlink()) if space.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {numbered_by}".encode()).hexdigest()[:8]


class StagedFile:
    """A file being written; its sha256 and size grow with it."""

    def __init__(self, backend: Backend, path: Path, handle: BinaryIO) -> None:
        self._backend = backend
        self._path = path
        self._handle = handle
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with explained(self._path):
            self._handle.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def publish(self, name: str) -> bool:
        """Flush, then create `name` if absent. True when created, False when the same bytes stood there."""
        with explained(self._path):
            self._handle.flush()
            os.fsync(self._handle.fileno())
        if self._backend.create(name, self._path):
            return True
        if self._backend.size(name) != self.bytes or self._digest(name) != self.sha256:
            raise ConflictError(f"{name} exists with other content", where=self._backend.at(name), fix="run verify")
        return False

    def _digest(self, name: str) -> str:
        with self._backend.local(name) as path:
            return sha256_file(path)
