"""Listing a folder: every file below it in one walk, and patterns matched as `Path.glob` does, without a walk each."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

Kind = Literal["file", "folder", "odd"]
_WILD = re.compile(r"[*?[]")
_GROUP = re.compile(r"\[(!?)(\]?[^]]*)\]")


@dataclass
class Folder:
    """One folder's names. `path` ends in a slash, or is empty for the root.

    `odd` holds what is neither a regular file nor a folder: links, pipes, sockets; `links` those of them that lead to
    folders. `closed` says why its names could not be read.
    """

    path: str
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    closed: str | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """Those of `files`, to look one up."""
        return frozenset(self.files)

    def entries(self) -> Iterator[tuple[str, Kind]]:
        """(path below the root, kind) of all that is in it."""
        yield from ((self.path + name, "file") for name in self.files)
        yield from ((self.path + name, "folder") for name in self.folders)
        yield from ((self.path + name, "odd") for name in self.odd)


def walk(root: Path) -> Iterator[Folder]:
    """Every folder below `root`, itself first; no link is entered."""
    waiting = [""]
    while waiting:
        folder = Folder(waiting.pop())
        try:
            with os.scandir(root / folder.path) as entries:
                for entry in entries:
                    _add(folder, entry)
        except OSError as error:
            folder.closed = error.strerror or str(error)
        waiting.extend(f"{folder.path}{name}/" for name in folder.folders)
        yield folder


def _add(folder: Folder, entry: os.DirEntry[str]) -> None:
    if entry.is_file(follow_symlinks=False):
        folder.files.append(entry.name)
    elif entry.is_dir(follow_symlinks=False):
        folder.folders.append(entry.name)
    else:
        folder.odd.append(entry.name)
        if _leads_to_folder(entry):
            folder.links.append(entry.name)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes round in a circle
        return False


class Listing:
    """The folders below a root as they were when it was made; about 70 bytes a file.

    `has_links` tells of links to folders, which `Path.glob` enters by some patterns and a walk never does.
    """

    def __init__(self, folders: Iterable[Folder]) -> None:
        self._folders = {folder.path: folder for folder in folders}
        self._paths = sorted(self._folders)
        self.has_links = any(folder.links for folder in self._folders.values())

    def has_file(self, path: str) -> bool:
        """Whether a regular file of that path was there."""
        above, slash, name = path.rpartition("/")
        folder = self._folders.get(above + slash)
        return folder is not None and name in folder.names

    @property
    def folders(self) -> Iterator[Folder]:
        """All, in the order of their paths."""
        return (self._folders[path] for path in self._paths)

    def matches(self, pattern: str) -> Iterator[tuple[str, Kind]]:
        """As `matches` of all folders, but those that the pattern spells out are looked up."""
        parent, slash, _ = pattern.rpartition("/")
        wild = _WILD.search(parent)
        if wild is None:
            found = self._folders.get(parent + slash)
            return matches(() if found is None else (found,), pattern)
        above = parent[: wild.start()]
        return matches(self._below(above[: above.rfind("/") + 1]), pattern)

    def _below(self, above: str) -> Iterator[Folder]:
        for path in islice(self._paths, bisect_left(self._paths, above), None):
            if not path.startswith(above):
                break
            yield self._folders[path]


def matches(folders: Iterable[Folder], pattern: str) -> Iterator[tuple[str, Kind]]:
    """(path, kind) of every file, folder and odd thing in `folders` that a pattern of `Path.glob` matches."""
    parent, slash, last = pattern.rpartition("/")
    inside = re.compile(_joined(parent) if slash else "", re.DOTALL)
    name = re.compile(_part(last), re.DOTALL)
    for folder in folders:
        if inside.fullmatch(folder.path):
            for path, kind in folder.entries():
                if name.fullmatch(path, len(folder.path)):
                    yield path, kind


@lru_cache(maxsize=1024)
def translated(pattern: str) -> re.Pattern[str]:
    """A pattern of `Path.glob` for paths: `*`, `?` and `[...]` stay within a name, `**/` is any depth."""
    return re.compile(_joined(pattern).removesuffix("/"), re.DOTALL)


def _joined(pattern: str) -> str:
    """Each part with a slash behind it."""
    return "".join("(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in pattern.split("/"))


def _part(part: str) -> str:
    """The regular expression of one name, as `fnmatch` reads it, but that nothing stands for a slash."""
    found, at = "", 0
    while at < len(part):
        group = _GROUP.match(part, at)
        if group is not None:
            inner = re.sub(r"([\\\[\]^&~|])", r"\\\1", group[2])
            found += f"(?!/)[{'^' if group[1] else ''}{inner}]"
            at = group.end()
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(part[at], re.escape(part[at]))
            at += 1
    return found
