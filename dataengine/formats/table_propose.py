"""What `inspect` proposes for tables of one's own, by the names of columns and what lies beside them.

A helper of `table_episodes`, not a format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dataengine.errors import BadInput
from dataengine.formats import files, table_files
from dataengine.formats import table_columns as columns_of
from dataengine.formats.table_columns import CLOCK, Column, rows_by
from dataengine.formats.table_files import Head
from dataengine.formats.table_pictures import Place, named
from dataengine.storage import SourceRoot

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
EPISODE = re.compile(
    r"(?:.*[_./ ])?(?:episode|traj|trajectory|demo|demonstration|rollout|trial)"
    r"(?:[_ ]?(?:id|idx|index|no|num|number|name))?"
)
_LENGTHS = {19: "ns", 16: "us", 13: "ms"}
"""Digits of a time since 1970 in each unit."""
_DEEP = 3
_MANY = 12
_SMALL = 1 << 20


def for_a_table(root: SourceRoot, path: str, head: Head, clock: str, tables: Sequence[str]) -> dict[str, Any]:
    """Options for tables like this one, each an episode or several."""
    at = PurePosixPath(path)
    place = Place(str(at.parent), at.stem)
    apart = next((name for name in head.columns if EPISODE.fullmatch(name.lower())), None)
    groups = columns_of.side_by_side([name for name in head.singles if name not in (apart, clock)])
    parents = [PurePosixPath(one).parent for one in tables]
    others = frozenset(parents) - {at.parent, *at.parent.parents}
    beside = _Beside(root, place, parents.count(at.parent) == 1, others)
    images = _named(root, place, head.columns) or beside.pictures(head.rows)
    videos = beside.videos() if apart is None else {}
    videos = {} if videos == {"video": "{stem}.mp4"} else videos
    found = {"episodes": apart, "groups": groups, "images": images, "videos": videos, **head.options}
    return {name: value for name, value in found.items() if value}


def for_folders(root: SourceRoot, tables: Sequence[str]) -> dict[str, Any]:
    """Options for folders that are an episode each, where a folder's tables have different columns and names.

    A JSON object without rows (`meta.json`) beside one table is enough: the instruction may stand in it.
    """
    for folder in list(PurePosixPath(tables[0]).parents)[:_DEEP] if tables else ():
        inside = [path for path in tables if folder in PurePosixPath(path).parents][: _MANY + 1]
        heads = dict(_heads(root, inside)) if 2 <= len(inside) <= _MANY else {}
        # Without digits: run_0.csv and run_1.csv are two episodes, whatever their columns.
        names = {re.sub(r"\d", "", path) for path in heads}
        different = {tuple(head.columns) for head in heads.values()}
        clocks = [rows_by(head.numbers) for head in heads.values()]
        apart = len(names) == len(different) == len(heads)
        if any(clocks) and apart and (len(heads) > 1 or any(_says(root, path) for path in inside if path not in heads)):
            return _for_folder(root, str(folder), heads)
    return {}


def _for_folder(root: SourceRoot, folder: str, heads: Mapping[str, Head]) -> dict[str, Any]:
    groups: dict[str, list[str]] = {}
    images: dict[str, Any] = {}
    options: dict[str, str] = {}
    place = Place(folder, PurePosixPath(folder).name)
    for path, head in heads.items():
        prefix = table_files.prefix(folder, path)
        side = columns_of.side_by_side(head.singles)
        groups |= {f"{prefix}{name}": [f"{prefix}{one}" for one in members] for name, members in side.items()}
        options |= head.options
        columns = {f"{prefix}{name}": column for name, column in head.columns.items()}
        images |= {name: entry | _clocked(entry, columns) for name, entry in _named(root, place, columns).items()}
    beside = _Beside(root, place, True, frozenset())
    depth = len(PurePosixPath(folder).parts)
    found = {"folders": "/".join("*" * depth) or ".", "groups": groups, "images": images or beside.pictures(None)}
    found |= {"videos": beside.videos(), **options}
    return {name: value for name, value in found.items() if value}


def _says(root: SourceRoot, path: str) -> bool:
    """Whether a file is a JSON object that holds no table."""
    try:
        small = table_files.is_json(path) and root.size(path) < _SMALL
        return small and table_files.facts(root, path) is not None
    except BadInput:
        return False


def _heads(root: SourceRoot, paths: Sequence[str]) -> Iterator[tuple[str, Head]]:
    for path in paths:
        try:
            head = table_files.head(root, path)
        except BadInput:
            continue
        if head.numbers and not _says(root, path):
            yield path, head


def _named(root: SourceRoot, place: Place, columns: Mapping[str, Column | None]) -> dict[str, dict[str, str]]:
    """Columns that name pictures, which are there."""
    found: dict[str, dict[str, str]] = {}
    for name, column in columns.items():
        if not isinstance(column, tuple) or not column or not column[0].lower().endswith(PICTURES):
            continue
        for entry in ({"column": name}, {"column": name, "folder": PurePosixPath(name).parent.as_posix()}):
            try:
                named(root, place, entry, {name: column[:1]})
            except BadInput:
                continue
            found.setdefault(_short(name), entry)
    return found


def _short(column: str) -> str:
    """A stream's name for a column of pictures: its own, or its table's where that says nothing."""
    parts = [part for part in column.split("/") if part not in ("filename", "file", "path", "data", "name")]
    return parts[-1] if parts else column


def _clocked(entry: Mapping[str, str], columns: Mapping[str, Column | None]) -> dict[str, str]:
    """Times of pictures that have rows of their own: in their names, or in a column beside."""
    cells = columns[entry["column"]]
    unit = _unit(cells) if isinstance(cells, tuple) else None
    if unit is not None:
        return {"times": unit}
    table = entry["column"].rpartition("/")[0]
    numbers = {name: one for name, one in columns.items() if isinstance(one, np.ndarray) and one.ndim == 1 and len(one)}
    clock = next((name for name in numbers if name.rpartition("/")[0] == table and CLOCK.fullmatch(name.lower())), None)
    if clock is None:
        return {}
    whole = numbers[clock].dtype.kind in "iu"
    told = _LENGTHS.get(len(str(int(numbers[clock][0])))) if whole else "s"
    return {"clock": clock, "times": told} if told is not None else {}


@dataclass(frozen=True)
class _Beside:
    """What lies below the folder of an episode: all of it is the episode's, or (not `alone`) what bears its name.

    `others`: folders of other tables, whose pictures are theirs.
    """

    root: SourceRoot
    place: Place
    alone: bool
    others: frozenset[PurePosixPath]

    def _below(self, endings: Sequence[str]) -> Iterator[tuple[PurePosixPath, str]]:
        """Files, and their path from the folder with `{stem}` for the episode's name."""
        folder = PurePosixPath(self.place.folder)
        word = re.compile(rf"(?<![^_./-]){re.escape(self.place.stem)}(?![^_./-])") if self.place.stem else None
        for path in files.ending(self.root, endings):
            at = PurePosixPath(path)
            if folder not in at.parents or self.others & set(at.parents):
                continue
            inside = at.relative_to(folder).as_posix()
            pattern = word.sub("{stem}", inside) if word is not None else inside
            if self.alone or pattern != inside:
                yield at, pattern

    def pictures(self, rows: int | None) -> dict[str, Any]:
        """Folders of pictures by stream: as many as there are `rows` (None: unknown), or with times for names."""
        held: dict[str, list[PurePosixPath]] = {}
        for at, pattern in self._below(PICTURES):
            held.setdefault(pattern.rpartition("/")[0], []).append(at)
        found: dict[str, Any] = {}
        for folder, inside in held.items():
            endings = {at.suffix for at in inside}
            times = _unit([at.name for at in inside])
            fits = times is not None or rows in (None, len(inside))
            if not folder or len(endings) > 1 or "depth" in folder.lower() or not fits:
                continue
            pattern = f"{folder}/*{endings.pop()}"
            found[_name(folder, found, "frames")] = pattern if times is None else {"files": pattern, "times": times}
        return found

    def videos(self) -> dict[str, str]:
        """Videos by stream."""
        found: dict[str, str] = {}
        for _, pattern in self._below(VIDEOS):
            found[_name(pattern[: pattern.rindex(".")], found, "video")] = pattern
        return found


def _name(pattern: str, taken: Mapping[str, Any], usual: str) -> str:
    """A stream's name out of a pattern without `{stem}`: its last word, or all where that is taken."""
    words = [word for word in re.sub(r"[/_.-]?\{stem\}[/_.-]?", "/", pattern).split("/") if word] or [usual]
    return words[-1] if words[-1] not in taken else "_".join(words)


def _unit(names: Sequence[str]) -> str | None:
    """The unit of the times since 1970 that are files' names, where they are."""
    told = {PurePosixPath(name).stem for name in names}
    if told and all(re.fullmatch(r"\d{10}\.\d{1,9}", stem) for stem in told):
        return "s"
    lengths = {len(stem) if stem.isdecimal() else 0 for stem in told}
    return _LENGTHS.get(lengths.pop()) if len(lengths) == 1 else None
