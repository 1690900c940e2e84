"""Source files: opened below one root, as regular files only, never through a link that leaves it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dataengine.errors import FormatError, MissingError
from dataengine.storage.listing import Folder, Kind, Listing, matches, walk
from dataengine.storage.local import sha256_file
from dataengine.storage.mirror import mirror_at

CHUNK = 1 << 20
_SETTLED_NS = 2_000_000_000
_REMEMBERED = 4096
_hashed: dict[tuple[Path, tuple[int, int, int]], str] = {}
"""Digests of this process by resolved path and state, the oldest first."""


@dataclass(frozen=True)
class SourceFile:
    """A source file as it was when read: path below the root, sha256, size."""

    path: str
    sha256: str
    bytes: int


@dataclass
class SourceRoot:
    """Reads files below one folder. Picklable; digests are cached per process and per file state.

    `refused` tells (reason, what) of everything that `glob` came across and left out, by its path below the root.
    """

    path: Path
    refused: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False, compare=False)
    _digests: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.path = self.path.resolve()
        self._mirror = mirror_at(self.path)
        self._listing: Listing | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_listing": None}

    def locate(self, relative: str) -> Path:
        """The local path of a file below the root; `FormatError` when it is missing, special or outside."""
        if relative.startswith("/") or ".." in relative.split("/") or "\0" in relative:
            raise FormatError("path_outside_root", f"{relative!r} leaves the source folder", where=relative)
        if self._mirror is not None:
            self._mirror.fetch(str(PurePosixPath(relative)))
        try:  # strings: this is done for every file of a source, and `Path` takes five times as long
            resolved = os.path.realpath(f"{self.path}/{relative}", strict=True)
            mode = Path(resolved).stat().st_mode
        except FileNotFoundError:
            raise FormatError("missing_file", f"{relative} does not exist", where=relative) from None
        except OSError as error:  # not the error's own text: it holds this machine's path
            told = "its links go round in a circle" if error.errno == errno.ELOOP else error.strerror
            raise FormatError("unreadable_file", f"cannot open {relative}: {told}", where=relative) from None
        if not f"{resolved}/".startswith(f"{self.path}/".replace("//", "/")):
            what = f"{relative} is a link out of the source folder: copy the file there, or ingest where it lies"
            raise FormatError("path_outside_root", what, where=relative)
        if not stat.S_ISREG(mode):
            raise FormatError("not_a_regular_file", f"{relative} is not a regular file", where=relative)
        return Path(resolved)

    def exists(self, relative: str) -> bool:
        """Whether a regular file of that name can be opened below the root."""
        if self._mirror is not None:
            return relative in self._mirror.files
        if self._listing is not None and self._listing.has_file(relative):
            return True
        try:
            self.locate(relative)
        except FormatError:
            return False
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies there at all."""
        return not any(self.path.iterdir())

    @contextmanager
    def listed(self) -> Iterator[None]:
        """Within the block searches and `exists` go by one walk of the root, taken here; files are opened as ever."""
        before = self._listing
        if before is None and self._mirror is None:
            self._listing = Listing(walk(self.path))
        try:
            yield
        finally:
            self._listing = before

    def glob(self, pattern: str) -> list[str]:
        """Relative paths of regular files that match, sorted; what matches and is none is noted in `refused`."""
        if self._mirror is not None:
            return self._mirror.glob(pattern)
        if pattern.startswith("**/"):
            return self._found(pattern)
        if self._listing is None or self._listing.has_links:
            return self._searched(pattern)
        return self._admitted(pattern, self._listing.matches(pattern))

    def _found(self, pattern: str) -> list[str]:
        """What a pattern of any depth matches, by a walk or the one that is there."""
        links = False

        def folders() -> Iterator[Folder]:
            nonlocal links
            for folder in self._folders():
                links = links or bool(folder.links)
                yield folder

        found = self._admitted(pattern, matches(folders(), pattern))
        return self._searched(pattern) if links else found

    def _folders(self) -> Iterator[Folder]:
        """All, with a note of those that a search below the root does not enter."""
        for folder in walk(self.path) if self._listing is None else self._listing.folders:
            self._refuse_folders(folder)
            yield folder

    def _admitted(self, pattern: str, found: Iterable[tuple[str, Kind]]) -> list[str]:
        anything = pattern.rpartition("/")[2] in ("*", "**")
        return sorted(path for path, kind in found if self._admits(path, kind, anything))

    def files(self) -> list[str]:
        """Relative paths of all regular files, sorted; links out of the root are noted in `refused`, never followed."""
        if self._mirror is not None:
            return self._mirror.glob("**/*")
        found: list[str] = []
        for folder in self._folders():
            entries = (entry for entry in folder.entries() if entry[0].removeprefix(folder.path) not in folder.links)
            found += (path for path, kind in entries if self._admits(path, kind, anything=True))
        return sorted(found)

    def _searched(self, pattern: str) -> list[str]:
        """By `Path.glob`, which alone knows where it enters links to folders."""

        def kinds() -> Iterator[tuple[str, Kind]]:
            for path in self.path.glob(pattern):
                folder = path.is_dir() and not path.is_symlink()
                yield path.relative_to(self.path).as_posix(), "folder" if folder else "odd"

        return self._admitted(pattern, kinds())

    def _admits(self, relative: str, kind: Kind, anything: bool) -> bool:
        """Whether it is a regular file below the root; why it is none is noted. Of folders, if asked for by name."""
        if kind == "file" or (kind == "folder" and anything):
            return kind == "file"
        try:
            self.locate(relative)
        except FormatError as error:
            self.refused[relative] = error.reason, error.what
            return False
        return True

    def _refuse_folders(self, folder: Folder) -> None:
        """Note the folder if it is unreadable, and its links to folders out of the root."""
        if folder.closed is not None:
            relative = folder.path.rstrip("/") or "."
            self.refused[relative] = "unreadable_file", f"cannot open the folder {relative}: {folder.closed}"
        for name in folder.links:
            relative = folder.path + name
            if not (self.path / relative).resolve().is_relative_to(self.path):
                what = f"{relative} is a link to a folder outside the source, which is not searched"
                self.refused[relative] = "path_outside_root", what

    def open(self, relative: str) -> BinaryIO:
        """Open for reading, without following a link that was put there meanwhile."""
        path = self.locate(relative)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise FormatError("unreadable_file", f"cannot open {relative}: {error.strerror}", where=relative) from None
        return os.fdopen(descriptor, "rb")

    def read(self, relative: str, limit: int = 1 << 34) -> bytes:
        """The whole file; empty files and files over `limit` bytes are a `FormatError`."""
        with self.open(relative) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FormatError("empty_file", f"{relative} is empty", where=relative)
            if size > limit:
                raise FormatError("file_too_large", f"{relative} holds {size} bytes, more than {limit}", where=relative)
            return file.read()

    def size(self, relative: str) -> int:
        if self._mirror is not None and relative in self._mirror.files:
            return self._mirror.files[relative][0]
        if self._listing is not None and self._listing.has_file(relative):
            with suppress(FileNotFoundError):  # gone since: told below
                return Path(f"{self.path}/{relative}").lstat().st_size
        return self.locate(relative).stat().st_size

    def describe(self, relative: str) -> SourceFile:
        """The file's digest and size now."""
        path = self.locate(relative)
        state = path.stat()
        key = (relative, state.st_size, state.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = _digest(path, _state(path))
        return SourceFile(relative, self._digests[key], state.st_size)

    @contextmanager
    def unchanged(self, *relatives: str) -> Iterator[None]:
        """Raise `FormatError` `changed_during_read` when a file changes while the block reads it."""
        before = {relative: _state(self.locate(relative)) for relative in relatives}
        yield
        for relative, state in before.items():
            if _state(self.locate(relative)) != state:
                raise FormatError("changed_during_read", f"{relative} changed while it was read", where=relative)


def _digest(path: Path, state: tuple[int, int, int]) -> str:
    """The file's digest; one that was hashed before in this process, by whatever root, is not hashed again.

    A file that was written just now could be written again without its times telling, so it is never remembered.
    """
    settled = time.time_ns() - state[1] > _SETTLED_NS
    key = (path, state)
    found = _hashed.get(key) if settled else None
    if found is None:
        found = sha256_file(path)
        if settled:
            while len(_hashed) >= _REMEMBERED:
                del _hashed[next(iter(_hashed))]
            _hashed[key] = found
    return found


def _state(path: Path) -> tuple[int, int, int]:
    now = path.stat()
    return now.st_size, now.st_mtime_ns, now.st_ino


def root_and_files(path: Path) -> tuple[SourceRoot, str | None]:
    """The root for a given path: a folder itself, or a file's folder together with the file's name."""
    if path.is_dir():
        return SourceRoot(path), None
    mirror = mirror_at(path.parent)
    if path.is_file() or (mirror is not None and path.name in mirror.files):
        return SourceRoot(path.parent), path.name
    what = f"neither a file nor a folder: {path}" if path.exists() else f"no such file or folder: {path}"
    raise MissingError(what, fix="check the path")
