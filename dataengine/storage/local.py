"""Results on a local disk: written to a temporary file on the same filesystem, flushed, and linked into place when
absent, so that a name either holds the whole content or does not exist."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataengine.errors import StorageError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """An `OSError` of the block as a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            "the disk is full" if full else f"cannot write: {error.strerror or error}",
            where=str(path),
            fix="free space and run the same command again: finished work is kept"
            if full
            else "name a folder that you may write to",
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it; a `StorageError` says why not."""
    if path.exists() and not path.is_dir():
        raise StorageError(f"{path} is a file, not a folder", fix="name a new or empty folder")
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """sha256 of a file, read once in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def irregular(root: Path) -> Iterator[tuple[str, str]]:
    """(name, what) of everything below a folder that is no regular file: folders, links, special files."""
    with os.scandir(root) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = Path(entry.path)
        if entry.is_symlink():
            yield entry.name, "a link"
        elif entry.is_dir(follow_symlinks=False):
            yield entry.name, "a folder"
            yield from ((f"{entry.name}/{inner}", what) for inner, what in irregular(name))
        elif not entry.is_file(follow_symlinks=False):
            yield entry.name, "a special file"


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe that nobody writes to would hold the reader for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


class LocalBackend:
    """A folder on a local disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, name: str) -> str:
        """Where a name lies, for people."""
        return str(self.root / name)

    def staging(self) -> Path:
        """A folder for temporary files from which `create` can link."""
        folder = self.root / "staging"
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def size(self, name: str) -> int | None:
        """Bytes of a regular file; None where there is none."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def age(self, name: str) -> float | None:
        """Seconds since a file was written or renewed; None where there is none."""
        try:
            return time.time() - (self.root / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def renew(self, name: str) -> None:
        """Set a file's age to 0; one that is gone stays gone."""
        try:
            os.utime(self.root / name)
        except FileNotFoundError:
            return

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or `length` of them from `start`; a missing one is a `StorageError`."""
        try:
            with open(self.root / name, "rb", opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StorageError("no regular file", where=self.at(name), fix="run verify")
                file.seek(start)
                return file.read() if length is None else file.read(length)
        except OSError as error:
            raise StorageError(f"cannot read: {error.strerror}", where=self.at(name), fix="run verify") from None

    def names(self, prefix: str) -> list[str]:
        """Files below a folder (`""`: the root), at any depth, sorted."""
        found = []
        for folder, inner, files in os.walk(self.root / prefix):
            inner.sort()
            place = Path(folder).relative_to(self.root)
            found += [(place / name).as_posix() for name in files]
        return sorted(found)

    def create(self, name: str, staged: Path) -> bool:
        """Link a flushed file into place. False when something stands there already."""
        target = self.root / name
        with explained(target):
            while True:
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(staged, target)
                    fsync_folder(target.parent)
                except FileExistsError:
                    return False
                except FileNotFoundError:
                    if not staged.exists():
                        raise
                    continue  # another process removed the folder that was empty
                return True

    def remove(self, name: str) -> None:
        """Remove a file, and the folders that it leaves empty; one that is gone is no error."""
        path = self.root / name
        with explained(path):
            path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The file itself."""
        yield self.root / name
