"""Pictures beside a table: folders of them, and files that a column names.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from glob import escape
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dataengine.episode import Media
from dataengine.errors import EpisodeError, FormatError, SpecError
from dataengine.formats import files, pictures
from dataengine.formats.table_columns import Column
from dataengine.storage import SourceRoot

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
MAX_BYTES = 4 << 30
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_STAMP = re.compile(r"(\d+(?:\.\d+)?)$")
_LENGTHS = {19: "ns", 16: "us", 13: "ms"}
"""Digits of a time since 1970 in each unit."""
_FIX = "correct `format.options`"

Entry = Mapping[str, str]


def checked(given: Any) -> dict[str, dict[str, str]]:
    """The option `images`: by stream a pattern of files, or `{files, times}`, or `{column, folder}`."""
    if not isinstance(given, Mapping):
        raise SpecError("the option `images` gives pictures by the name of a stream", fix=_FIX)
    made = {}
    for name, told in given.items():
        entry = {"files": told} if isinstance(told, str) else told
        texts = isinstance(entry, Mapping) and all(isinstance(value, str) for value in entry.values())
        allowed = ({"files"}, {"files", "times"}, {"column"}, {"column", "folder"})
        if not texts or set(entry) not in allowed or entry.get("times", "s") not in _UNITS:
            what = f"the pictures {name!r} are a pattern, {{files, times: ns|us|ms|s}} or {{column, folder}}"
            raise SpecError(what, fix=_FIX)
        made[str(name)] = dict(entry)
    return made


def at(path: str, pattern: str, episode: str | None) -> str:
    """A pattern from the table's folder; `{stem}` is the table's own name, `{episode}` the episode's."""
    place = PurePosixPath(path)
    filled = pattern.replace("{stem}", escape(place.stem)).replace("{episode}", escape(episode or ""))
    return posixpath.normpath(str(place.parent / filled))


def listed(root: SourceRoot, path: str, entry: Entry, episode: str | None) -> list[str]:
    """The files of a pattern in the order of the numbers in their names; `missing_media` where there is none."""
    pattern = at(path, entry["files"], episode)
    found = files.natural(root.glob(pattern))
    if not found:
        raise EpisodeError("missing_media", f"{pattern} is no file's name", where=path)
    return found


def stream(root: SourceRoot, name: str, paths: Sequence[str], times: str | None) -> Media:
    """A stream of the files, bytes untouched; with `times`, the names are times of that unit.

    Raises `EpisodeError` `missing_file` for a hole in the numbers, `bad_timestamp`, `file_too_large`, `mixed_pictures`.
    """
    if sum(map(root.size, paths)) > MAX_BYTES:
        raise EpisodeError("file_too_large", f"the pictures of {name} take more than {MAX_BYTES} bytes")
    stamps = None if times is None else _stamps(paths, times)
    media = pictures.encoded(name, [root.read(path) for path in paths])
    return media if stamps is None else replace(media, times_ns=stamps)


def check_whole(paths: Sequence[str]) -> None:
    """`missing_file` where the numbers of files in a row have a hole: all behind it would be a row late."""
    stems = [_STAMP.search(PurePosixPath(path).stem) for path in paths]
    numbers = [int(found[1]) for found in stems if found is not None and found[1].isdecimal()]
    whole = len(numbers) == len(paths)
    steps = [after - before for before, after in pairwise(numbers)] if whole else []
    for number, step in enumerate(steps):
        if step != min(steps):
            what = f"the numbers of the pictures go from {paths[number]} to {paths[number + 1]}"
            fix = "bring the picture back, or say `times: ns|us|ms|s` if the names are times"
            raise EpisodeError("missing_file", what, fix=fix)


def named(root: SourceRoot, path: str, entry: Entry, columns: Mapping[str, Column], episode: str | None) -> list[str]:
    """The file of each row, as its column names it: from the table's folder, else from the root; or by `folder`.

    Raises `EpisodeError` `missing_column`, `bad_type`, `missing_media`, `path_outside_root`.
    """
    cells = columns.get(entry["column"])
    if cells is None:
        raise EpisodeError("missing_column", f"there is no column {entry['column']!r}", where=path)
    if not isinstance(cells, tuple):
        raise EpisodeError("bad_type", f"the column {entry['column']} holds no names of files", where=path)
    base = _base(root, path, entry, cells, episode)
    found = []
    for row, cell in enumerate(cells):
        name = PurePosixPath(cell).name if "folder" in entry else cell
        place = posixpath.normpath(posixpath.join(base, name)) if name else ""
        if not name or PurePosixPath(place).is_absolute() or place.startswith(".."):
            reason = "path_outside_root" if name else "missing_media"
            fix = "`folder` takes the names alone, from a folder of yours" if name else "a row without a picture"
            raise EpisodeError(reason, f"row {row} names the picture {cell!r}", where=path, fix=fix)
        if not root.exists(place):
            raise EpisodeError("missing_media", f"{place} (row {row}) is not there", where=path)
        found.append(place)
    return found


def _base(root: SourceRoot, path: str, entry: Entry, cells: tuple[str, ...], episode: str | None) -> str:
    if "folder" in entry:
        place = PurePosixPath(path)
        folder = entry["folder"].replace("{stem}", place.stem).replace("{episode}", episode or "")
        return posixpath.normpath(str(place.parent / folder))
    beside = str(PurePosixPath(path).parent)
    first = posixpath.normpath(posixpath.join(beside, cells[0])) if cells else ""
    return beside if first.startswith("..") or not first or root.exists(first) or beside == "." else ""


def _stamps(paths: Sequence[str], unit: str) -> Any:
    found = []
    for path in paths:
        told = _STAMP.search(PurePosixPath(path).stem)
        exact = Fraction(told[1]) * _UNITS[unit] if told is not None else Fraction(1, 2)
        if exact.denominator != 1 or exact >= 1 << 63:
            raise EpisodeError("bad_timestamp", f"{path} has no time in {unit} in its name")
        found.append(int(exact))
    times = np.array(found, np.int64)
    if (np.diff(times) <= 0).any():
        raise EpisodeError("bad_timestamp", f"the times in the names of {paths[0]} and its neighbours do not grow")
    return times


def propose(
    root: SourceRoot, path: str, columns: Mapping[str, Column | None], rows: int | None, tables: Sequence[str]
) -> Mapping[str, str | dict[str, str]]:
    """What the option `images` may say of the table at `path` with so many `rows` (None: unknown)."""
    found: dict[str, dict[str, str]] = {}
    for name, column in columns.items():
        if isinstance(column, tuple) and column and column[0].lower().endswith(SUFFIXES):
            entry = {"column": name}
            try:
                named(root, path, entry, {name: column[:1]}, None)
            except (EpisodeError, FormatError):
                continue
            found[PurePosixPath(name).name] = entry
    return {**found} or _folders(root, path, rows, tables)


def _folders(root: SourceRoot, path: str, rows: int | None, tables: Sequence[str]) -> dict[str, str | dict[str, str]]:
    """Folders of pictures that belong to a table: below its own folder where that has no other, or of its name."""
    place = PurePosixPath(path)
    alone = sum(PurePosixPath(one).parent == place.parent for one in tables) == 1
    others = {PurePosixPath(one).parent for one in tables} - {place.parent}
    held: dict[PurePosixPath, list[str]] = {}
    for picture in files.ending(root, SUFFIXES):
        folder = PurePosixPath(picture).parent
        if folder != place.parent and place.parent in folder.parents:
            held.setdefault(folder, []).append(picture)
    found: dict[str, str | dict[str, str]] = {}
    for folder, inside in held.items():
        parts = folder.relative_to(place.parent).parts
        if others & {folder, *folder.parents} - set(place.parents) or (not alone and place.stem not in parts):
            continue
        endings = {PurePosixPath(one).suffix for one in inside}
        times = _unit(inside)
        if len(endings) > 1 or "depth" in folder.name.lower() or (times is None and rows not in (None, len(inside))):
            continue
        pattern = "/".join("{stem}" if part == place.stem else part for part in parts) + f"/*{endings.pop()}"
        own = [part for part in parts if part != place.stem] or ["frames"]
        name = own[-1] if own[-1] not in found else "_".join(own)
        found[name] = pattern if times is None else {"files": pattern, "times": times}
    return found


def propose_videos(root: SourceRoot, path: str, tables: Sequence[str]) -> dict[str, str]:
    """What the option `videos` may say of the table at `path`: empty where only `<stem>.mp4` lies beside it."""
    place = PurePosixPath(path)
    alone = sum(PurePosixPath(one).parent == place.parent for one in tables) == 1
    others = {PurePosixPath(one).parent for one in tables} - {place.parent, *place.parents}
    found: dict[str, str] = {}
    for video in files.ending(root, VIDEOS):
        at = PurePosixPath(video)
        if place.parent not in at.parents or others & set(at.parents):
            continue
        inside = str(at.relative_to(place.parent))
        pattern = re.sub(rf"(?<![^_./-]){re.escape(place.stem)}(?![^_./-])", "{stem}", inside)
        if alone or pattern != inside:
            words = re.sub(r"[/_.-]?\{stem\}[/_.-]?", "/", pattern[: pattern.rindex(".")])
            own = [word for word in words.split("/") if word] or ["video"]
            found[own[-1] if own[-1] not in found else "_".join(own)] = pattern
    return {} if found == {"video": "{stem}.mp4"} else found


def _unit(paths: Sequence[str]) -> str | None:
    """The unit of the times since 1970 that are files' names, where they are."""
    told = {PurePosixPath(path).stem for path in paths}
    if all(re.fullmatch(r"\d{10}\.\d{1,9}", stem) for stem in told):
        return "s"
    lengths = {len(stem) if stem.isdecimal() else 0 for stem in told}
    return _LENGTHS.get(lengths.pop()) if len(lengths) == 1 else None
