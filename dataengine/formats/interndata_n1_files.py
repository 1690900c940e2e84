"""Files of InternData-N1 beside its parquet files: streams of pictures, and what is said. A part of `interndata_n1`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from dataengine.documents import load_json
from dataengine.errors import BadInput, EpisodeError
from dataengine.formats import fields, files
from dataengine.storage import SourceRoot

RGB = "observation.images.rgb"
SEPARATOR = "<INSTRUCTION_SEP>"
_PARTS = ("sub_instruction", "revised_sub_instruction")
_ENDED = ("finish_status", "fail_reason")
_SHOWN = re.compile(r"(?:episode_\d{1,9}_)?(\d{1,9})\.(?:jpg|png)")


def within(tree: str, path: str) -> str:
    """A path of a tree below the root."""
    return f"{tree}/{path}" if tree else path


def streams_of(root: SourceRoot, videos: str, episode: str, *, alone: bool) -> dict[str, list[str]]:
    """Files of an episode by the folder of their stream; without a name of the episode only in a tree of one."""
    found: dict[str, list[str]] = {}
    paths = root.glob(f"{videos}/*/{episode}_*") + root.glob(f"{videos}/*/{episode}.*")
    if alone:
        paths += [path for path in root.glob(f"{videos}/*/*") if not PurePosixPath(path).name.startswith("episode_")]
    for path in paths:
        found.setdefault(PurePosixPath(path).parent.name, []).append(path)
    return found


def is_wanted(stream: str, kind: str, cameras: tuple[str, ...]) -> bool:
    """Whether a stream of files holds the pictures that are read."""
    if kind != "ce":
        return stream == RGB
    camera = stream.removeprefix(f"{RGB}.")
    return camera != stream and (not cameras or camera in cameras)


def ordered(streams: Mapping[str, list[str]]) -> tuple[list[str], str | None]:
    """Pictures of every stream in the order of their numbers, or why there is no such order."""
    paths_in_order: list[str] = []
    for name, paths in streams.items():
        found: dict[int, str] = {}
        for path in paths:
            match = _SHOWN.fullmatch(PurePosixPath(path).name)
            if match is None:
                return [], f"{path} is no picture"
            if found.setdefault(int(match.group(1)), path) != path:
                return [], f"{path} and {found[int(match.group(1))]} have one number"
        if sorted(found) != list(range(len(found))):
            return [], f"{name}: the pictures do not count from 0 to {len(found) - 1}"
        paths_in_order += [found[number] for number in range(len(found))]
    return paths_in_order, None


def said_of(root: SourceRoot, tree: str, episode: int) -> tuple[list[Any], dict[str, Any]]:
    """What is said of an episode, and how it ended where that is told.

    `tasks` of its row in episodes.jsonl; else the tasks that its row in episodes_stats.jsonl counts (VLN-PE, as
    upstream's loader finds them), which also tell `finish_status` and `fail_reason`; else the only task there is.
    """
    row = _row(root, within(tree, "meta/episodes.jsonl"), episode)
    tasks = _lines(root, within(tree, "meta/tasks.jsonl"))
    span = _row(root, within(tree, "meta/episodes_stats.jsonl"), episode).get("task_index")
    if isinstance(span, dict):
        first, last = (fields.as_whole(span.get(name), f"task_index.{name}") for name in ("min", "max"))
        tasks = tuple(t for t in tasks if first <= fields.as_whole(t.get("task_index"), "task_index") <= last)
    elif len(tasks) != 1:
        tasks = ()
    ended = {name: tasks[0][name] for name in _ENDED if tasks and tasks[0].get(name) is not None}
    told = fields.as_list(row.get("tasks", []), "tasks")
    return told or [task.get("task", task.get("instruction_text")) for task in tasks], ended


def listed(root: SourceRoot, tree: str) -> list[int]:
    """Numbers of the episodes that episodes.jsonl lists, sorted; none where it cannot be read, which reading tells."""
    try:
        rows = _lines(root, within(tree, "meta/episodes.jsonl"))
    except BadInput:
        return []
    return sorted({number for row in rows if type(number := row.get("episode_index")) is int and number >= 0})


def _row(root: SourceRoot, path: str, episode: int) -> dict[str, Any]:
    """The row of an episode in a file of lines; empty where there is none."""
    rows = [row for row in _lines(root, path) if row.get("episode_index") == episode]
    if len(rows) > 1:
        raise EpisodeError("duplicate_episode", f"{path} lists the episode {episode} {len(rows)} times")
    return rows[0] if rows else {}


def texts_of(said: list[Any], rows: int) -> dict[str, tuple[str, ...]]:
    """Text streams: `instruction` of the whole, and of each row what its part is told and told in other words.

    A task is a text (several instructions of the same walk between `<INSTRUCTION_SEP>`), or an object with
    `sum_instruction`, or one with `sub_instruction`, `revised_sub_instruction` and `sub_indexes` (first and last row).
    """
    whole: list[str] = []
    parts: dict[str, list[str]] = {}
    for task in said:
        if not isinstance(task, dict):
            whole += [part for part in fields.as_text(task, "a task").split(SEPARATOR) if part.strip()]
            continue
        if "sum_instruction" in task:
            whole.append(fields.as_text(task["sum_instruction"], "sum_instruction"))
        for name in _PARTS:
            if name in task:
                first, last = _span(task, rows)
                column = parts.setdefault(name, [""] * rows)
                column[first : last + 1] = [fields.as_text(task[name], name)] * (last + 1 - first)
    texts = {f"instruction_{k}" if k else "instruction": (text,) for k, text in enumerate(whole)}
    return texts | {name: tuple(column) for name, column in parts.items()}


def _span(task: Mapping[str, Any], rows: int) -> tuple[int, int]:
    """The first and the last row of a part."""
    found = fields.as_whole_array(fields.member(task, "sub_indexes", "a task"), "sub_indexes").tolist()
    if len(found) != 2 or not 0 <= found[0] <= found[1] < rows:
        raise EpisodeError("bad_value", f"sub_indexes {found} are no rows of {rows}")
    return found[0], found[1]


def _lines(root: SourceRoot, path: str) -> tuple[dict[str, Any], ...]:
    return files.cached(root, path, _parsed) if root.exists(path) else ()


def _parsed(data: bytes, path: str) -> tuple[dict[str, Any], ...]:
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            found.append(fields.as_object(load_json(line, f"{path}:{number}"), f"{path}:{number}"))
    return tuple(found)
