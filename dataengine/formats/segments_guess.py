"""Whether a folder holds videos with a table of segments, by the header of its tables; or nothing but videos.

A helper of formats, not a format.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dataengine.errors import BadInput
from dataengine.formats import files
from dataengine.formats import segments_table as table
from dataengine.storage import SourceRoot

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".m4v", ".mov")
OTHER_VIDEOS = (".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ogv", ".vob")
"""Videos in containers that are not read: named, never passed over."""
EPIC_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration")
_VIDEO = (
    *("video_id", "video_uid", "video", "video_path", "video_name", "video_file", "video_filename"),
    *("filename", "file_name", "file"),
)
_START = (
    *("start", "start_s", "start_sec", "start_seconds", "start_time", "start_timestamp", "begin", "begin_time"),
    *("t_start", "start_frame"),
)
_STOP = (
    *("stop", "end", "stop_s", "end_s", "stop_sec", "end_sec", "stop_seconds", "end_seconds", "stop_time", "end_time"),
    *("stop_timestamp", "end_timestamp", "t_stop", "t_end", "stop_frame", "end_frame"),
)
_TEXT = (
    *("text", "narration", "narration_text", "caption", "description", "instruction", "sentence", "label"),
    *("action", "task", "query", "annotation"),
)
_BETWEEN = re.compile(r"[\s,]*\{")
_HARMLESS = (".md", ".txt", ".pdf", ".html")
_HEAD = 1 << 16
_WHOLE = 1 << 23
_TRIED = 8


@dataclass(frozen=True)
class Guess:
    """What was found, and the options that read it as far as the header tells them."""

    layout: str
    confidence: float
    evidence: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def guess(root: SourceRoot, only: str | None) -> Guess | None:
    """EPIC-KITCHENS' tables, another table at the root that names videos, starts and stops, or videos alone."""
    epic = [only] if only is not None else root.glob("**/EPIC_100_*.csv")[:_TRIED]
    for path in epic:
        rows = _first_rows(root, path, ",")
        if rows and set(EPIC_COLUMNS) <= set(rows[0]):
            return Guess("epic_kitchens", 0.95, (f"{path} has EPIC-KITCHENS' columns",), _epic(root, path))
    levels = ("*", "*/*")
    tables = [only] if only is not None else [p for at in levels for end in table.SUFFIXES for p in root.glob(at + end)]
    for path in tables[:_TRIED]:
        found = _table(root, path)
        if found is not None:
            return found
    return _videos_alone(root, only)


def _epic(root: SourceRoot, path: str) -> dict[str, Any]:
    columns = {"id": "narration_id", "video": "video_id", "start": "start_timestamp", "stop": "stop_timestamp"}
    told: dict[str, Any] = {"tables": [path], "columns": {**columns, "text": "narration"}, "times": "clock"}
    beside = f"{path.rpartition('/')[0]}/EPIC_100_video_info.csv".lstrip("/")
    lie = ["{participant_id}/videos/{video_id}.MP4", "EPIC-KITCHENS/{participant_id}/videos/{video_id}.MP4"]
    lie += ["{video_id}.MP4", "{participant_id}/videos/{video_id}.mp4", "{video_id}.mp4"]
    if not root.exists(beside):
        return {**told, "videos": lie}
    info = {"file": beside, "video": "video_id", "fps": "fps", "duration": "duration"}
    return {**told, "videos": lie, "media": "optional", "info": info}


def _table(root: SourceRoot, path: str) -> Guess | None:
    for delimiter in {".csv": ",;\t|", ".tsv": "\t"}.get(path[-4:], " "):
        rows = _first_rows(root, path, delimiter)
        picked = _picked(rows[0]) if rows else None
        if picked is not None:
            break
    else:
        key = _member(root, path) if path.endswith(".json") else None
        rows = _first_rows(root, path, " ", key) if key is not None else []
        picked = _picked(rows[0]) if rows else None
        if picked is None:
            return None
        return _told(root, path, picked, rows, {"rows": key})
    plain = delimiter in " ," or path.endswith(".tsv")
    return _told(root, path, picked, rows, {} if plain else {"delimiter": delimiter})


def _told(
    root: SourceRoot, path: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
) -> Guess | None:
    folder = path.rpartition("/")[0]
    # Of several videos of one name the one beside the table.
    films = sorted(root.files(), key=lambda name: not name.startswith(f"{folder}/" if folder else ""))
    places = [place for row in rows if (place := _place(films, row.get(columns["video"]))) is not None]
    if folder and all(place.startswith(f"{folder}/") for place in places):
        return None  # a table with its videos beside it, or with none here, is a data set of its own
    first = rows[0]
    if str(columns["start"]).strip().lower().endswith("_frame"):
        times, how = "frames", "times are frames by their names"
    else:
        times = table.written_as(first[columns["start"]])
        how = f"times are taken as {times}" + (" (say `frames` where they are)" if times == "seconds" else "")
    options = {
        "tables": [path],
        "columns": dict(columns),
        "times": times,
        "videos": list(dict.fromkeys(places)) or ["{video}", "{video}.mp4"],
        **more,
    }
    said = f"{path} names {', '.join(columns.values())}; {how}"
    return Guess("video_table", 0.6 if "/" not in path else 0.5, (said,), options)


def _picked(row: Mapping[str, Any]) -> dict[str, str] | None:
    """The columns of the video, start, stop and text, by their names in whatever case; None where one is missing."""
    names = {name.strip().lower().replace(" ", "_"): name for name in reversed(list(row)) if isinstance(name, str)}
    found = {
        role: next((names[name] for name in known if name in names), None)
        for role, known in {"video": _VIDEO, "start": _START, "stop": _STOP, "text": _TEXT}.items()
    }
    if None in found.values():
        return None
    columns = {role: str(name) for role, name in found.items()}
    frames = [columns[role].strip().lower().endswith("_frame") for role in ("start", "stop")]
    return columns if frames[0] == frames[1] else None


def _place(films: Sequence[str], name: Any) -> str | None:
    """Where the video of that name lies, as a path with `{video}` in it; None where it is not found."""
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        return None
    for path in films:
        ending = path[path.rfind(".") :]
        if ending.lower() not in VIDEO_SUFFIXES:
            continue
        for known, left in ((path, ""), (path[: -len(ending)], ending)):
            folder = known.removesuffix(str(name))
            if (
                known.endswith(str(name))
                and (not folder or folder.endswith("/"))
                and not set(folder + left) & set("{}")
            ):
                return f"{folder}{{video}}{left}"
    return None


def _first_rows(root: SourceRoot, path: str, delimiter: str, key: str | None = None) -> Sequence[Mapping[str, Any]]:
    """Up to 8 rows of a table by its first bytes, values as they stand; without any, its header as a row of itself."""
    if not path.endswith(table.SUFFIXES):
        return []
    try:
        if key is not None:
            found = [*table.table_rows(root, path, key)[:_TRIED]]
            return [row for row in found if not isinstance(row, table.Damaged)]
        with root.open(path) as file:
            head = file.read(_HEAD)
        text = head.decode("utf-8-sig", errors="replace")
        if path.endswith(".json"):
            return _objects(text)
        if path.endswith(".jsonl"):
            return _objects(f"[{text}")
        rows = list(islice(_parsed(text, delimiter), _TRIED + 1))
    except BadInput:
        return []
    if not rows:
        return []
    header = rows[0]
    full = [dict(zip(header, row, strict=True)) for row in rows[1:] if len(row) == len(header)]
    return full or [dict(zip(header, header, strict=True))]


def _parsed(text: str, delimiter: str) -> Iterator[list[str]]:
    """Rows until the text ends or is no CSV any more (it may end in the middle of a row)."""
    try:
        yield from table.parted(text, delimiter)
    except csv.Error:
        return


def _objects(text: str) -> list[Mapping[str, Any]]:
    """The first objects of a list of them, as far as the text goes."""
    found: list[Mapping[str, Any]] = []
    at = len(text) - len(text.lstrip())
    if not text[at:].startswith("["):
        return []
    decoder = json.JSONDecoder()
    while len(found) < _TRIED and (start := _BETWEEN.match(text, at + 1)) is not None:
        try:
            row, at = decoder.raw_decode(text, start.end() - 1)
        except (ValueError, RecursionError):
            break
        found.append(row)
        at -= 1
    return found


def _member(root: SourceRoot, path: str) -> str | None:
    """The only member of a JSON object that is a list of objects with columns of segments; None for large files."""
    try:
        whole = files.json_file(root, path) if root.size(path) <= _WHOLE else None
    except BadInput:
        return None
    if not isinstance(whole, dict):
        return None
    lists = [key for key, rows in whole.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    fitting = [key for key in lists if _picked(whole[key][0]) is not None]
    return fitting[0] if len(fitting) == 1 else None


def _videos_alone(root: SourceRoot, only: str | None) -> Guess | None:
    names = [only] if only is not None else root.glob("*")
    videos = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
    harmless = (*_HARMLESS, *OTHER_VIDEOS)
    others = [name for name in names if name not in videos and not name.lower().endswith(harmless) and "." in name]
    if not videos or others or (only is None and root.glob("*/*")):
        return None
    return Guess("single_clip", 0.3, (f"{len(videos)} videos and no table",))
