"""Pictures beside a table: folders of them, and files that a column names.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from glob import escape
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.episode import Media
from dataengine.errors import EpisodeError, SpecError
from dataengine.formats import files, pictures
from dataengine.formats.table_columns import Column
from dataengine.storage import SourceRoot

MAX_BYTES = 4 << 30
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_STAMP = re.compile(r"(\d+(?:\.\d+)?)$")
_FIX = "correct `format.options`"

Entry = Mapping[str, str]


def checked(given: Any) -> dict[str, dict[str, str]]:
    """The option `images`: by stream a pattern of files, `{files, times}`, or `{column, folder, clock, times}`."""
    if not isinstance(given, Mapping):
        raise SpecError("the option `images` gives pictures by the name of a stream", fix=_FIX)
    made = {}
    for name, told in given.items():
        entry = {"files": told} if isinstance(told, str) else told
        texts = isinstance(entry, Mapping) and all(isinstance(value, str) for value in entry.values())
        keys = set(entry) if texts else set()
        allowed = keys in ({"files"}, {"files", "times"}) or {"column"} <= keys <= {
            "column",
            "folder",
            "times",
            "clock",
        }
        if not allowed or entry.get("times", "s") not in _UNITS or ("clock" in keys and "times" not in keys):
            what = (
                f"the pictures {name!r} are a pattern, {{files, times: ns|us|ms|s}} or {{column, folder, clock, times}}"
            )
            raise SpecError(what, fix=_FIX)
        made[str(name)] = dict(entry)
    return made


@dataclass(frozen=True)
class Place:
    """Where an episode's tables are: the folder that patterns start from, what `{stem}` and `{episode}` mean."""

    folder: str
    stem: str
    episode: str | None = None

    def fill(self, pattern: str) -> str:
        """A pattern or path from the root, as it stands (`..` taken out)."""
        filled = pattern.replace("{stem}", self.stem).replace("{episode}", self.episode or "")
        return posixpath.normpath(posixpath.join(self.folder, filled))

    def glob(self, pattern: str) -> str:
        """A pattern from the root in which the words mean themselves."""
        words = Place(escape(self.folder), escape(self.stem), escape(self.episode or ""))
        return words.fill(pattern)


def listed(root: SourceRoot, place: Place, entry: Entry) -> list[str]:
    """The files of a pattern in the order of the numbers in their names; `missing_media` where there is none."""
    pattern = place.glob(entry["files"])
    found = files.natural(root.glob(pattern))
    if not found:
        raise EpisodeError("missing_media", f"{pattern} is no file's name")
    return found


def stream(root: SourceRoot, name: str, paths: Sequence[str], entry: Entry, columns: Mapping[str, Column]) -> Media:
    """A stream of the files, bytes untouched; with `times`, the names (or the column `clock`) are times of that unit.

    Raises `EpisodeError` `missing_file` for a hole in the numbers, `bad_timestamp`, `file_too_large`, `mixed_pictures`.
    """
    if sum(map(root.size, paths)) > MAX_BYTES:
        raise EpisodeError("file_too_large", f"the pictures of {name} take more than {MAX_BYTES} bytes")
    stamps = (
        _clock(columns, entry) if "clock" in entry else _stamps(paths, entry["times"]) if "times" in entry else None
    )
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


def named(root: SourceRoot, place: Place, entry: Entry, columns: Mapping[str, Column]) -> list[str]:
    """The file of each row, as its column names it: from the table's folder, else from the root; or by `folder`.

    Raises `EpisodeError` `missing_column`, `bad_type`, `missing_media`, `path_outside_root`.
    """
    cells = columns.get(entry["column"])
    if cells is None:
        raise EpisodeError("missing_column", f"there is no column {entry['column']!r}")
    if not isinstance(cells, tuple):
        raise EpisodeError("bad_type", f"the column {entry['column']} holds no names of files")
    base = _base(root, place, entry, cells)
    found = []
    for row, cell in enumerate(cells):
        name = PurePosixPath(cell).name if "folder" in entry else cell
        path = posixpath.normpath(posixpath.join(base, name)) if name else ""
        if not name or PurePosixPath(path).is_absolute() or path.startswith(".."):
            reason = "path_outside_root" if name else "missing_media"
            fix = "`folder` takes the names alone, from a folder of yours" if name else "a row without a picture"
            raise EpisodeError(reason, f"row {row} names the picture {cell!r}", fix=fix)
        if not root.exists(path):
            raise EpisodeError("missing_media", f"{path} (row {row}) is not there")
        found.append(path)
    return found


def _base(root: SourceRoot, place: Place, entry: Entry, cells: tuple[str, ...]) -> str:
    if "folder" in entry:
        return place.fill(entry["folder"])
    first = posixpath.normpath(posixpath.join(place.folder, cells[0])) if cells else ""
    return place.folder if first.startswith("..") or not first or root.exists(first) else ""


def _clock(columns: Mapping[str, Column], entry: Entry) -> NDArray[np.int64]:
    """The column `clock` in ns."""
    told = columns.get(entry["clock"])
    if not isinstance(told, np.ndarray) or told.ndim != 1 or not np.isfinite(told.astype(np.float64)).all():
        raise EpisodeError("bad_timestamp", f"the column {entry['clock']!r} holds no time for each picture")
    scale = _UNITS[entry["times"]]
    times = told.astype(np.int64) * scale if told.dtype.kind in "iu" else np.rint(told * scale).astype(np.int64)
    return _growing(times, f"the column {entry['clock']}")


def _growing(times: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    if (np.diff(times) <= 0).any():
        raise EpisodeError("bad_timestamp", f"the times of {what} do not grow")
    return times


def _stamps(paths: Sequence[str], unit: str) -> NDArray[np.int64]:
    found = []
    for path in paths:
        told = _STAMP.search(PurePosixPath(path).stem)
        exact = Fraction(told[1]) * _UNITS[unit] if told is not None else Fraction(1, 2)
        if exact.denominator != 1 or exact >= 1 << 63:
            raise EpisodeError("bad_timestamp", f"{path} has no time in {unit} in its name")
        found.append(int(exact))
    return _growing(np.array(found, np.int64), f"the pictures from {paths[0]} on")
