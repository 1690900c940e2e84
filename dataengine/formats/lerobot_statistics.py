"""What a LeRobot data set says of the numbers of each episode: `meta/episodes_stats.jsonl`, or v3.0's listing.

A helper of the formats `lerobot` and `lerobot_lance`. Nothing of it goes into a digest: it is there to be compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataengine.documents import load_json
from dataengine.episode import Told
from dataengine.errors import FormatError
from dataengine.formats.lerobot_meta import open_parquet, read_groups
from dataengine.storage import SourceRoot

STATS = "meta/episodes_stats.jsonl"
PARTS = ("min", "max", "mean", "count")
_MAX_BYTES = 1 << 31
_EPISODE = re.compile(rb'\s*\{\s*"episode_index"\s*:\s*(\d{1,9})\b')


def told_of(root: SourceRoot, episode: int, names: Sequence[str], listing: str | None) -> Mapping[str, Told]:
    """What is told of the arrays `names` of one episode, where anything is; a damaged file tells nothing."""
    stats: Any = None
    try:
        if listing is not None:
            row = _listed(*_state(root, listing)).get(episode, {})
            stats = {name: {part: row.get(f"stats/{name}/{part}") for part in PARTS} for name in names}
        elif root.exists(STATS):
            stats = _line(root, episode).get("stats")
        else:
            return {}
    except FormatError:
        return {}
    found = {name: _told(stats.get(name)) for name in names} if isinstance(stats, dict) else {}
    return {name: told for name, told in found.items() if told is not None}


def _state(root: SourceRoot, relative: str) -> tuple[str, str, int, int]:
    state = root.locate(relative).stat()
    return str(root.path), relative, state.st_size, state.st_mtime_ns


def _line(root: SourceRoot, episode: int) -> Mapping[str, Any]:
    start, stop = _lines(*_state(root, STATS)).get(episode, (0, 0))
    with root.open(STATS) as file:
        file.seek(start)
        value = load_json(file.read(stop - start), f"{STATS}, episode {episode}") if stop > start else {}
    return value if isinstance(value, dict) and value.get("episode_index") == episode else {}


@lru_cache(maxsize=4)
def _lines(place: str, relative: str, size: int, changed: int) -> Mapping[int, tuple[int, int]]:  # noqa: ARG001 - the key
    """Where each episode's line lies: a large data set has hundreds of megabytes of them, and one is wanted."""
    found: dict[int, tuple[int, int]] = {}
    at = 0
    for line in SourceRoot(Path(place)).read(relative, _MAX_BYTES).splitlines(keepends=True):
        match = _EPISODE.match(line)
        if match is not None:
            found.setdefault(int(match[1]), (at, at + len(line)))
        at += len(line)
    return found


@lru_cache(maxsize=4)
def _listed(place: str, relative: str, size: int, changed: int) -> Mapping[int, Mapping[str, Any]]:  # noqa: ARG001
    with open_parquet(SourceRoot(Path(place)), relative) as opened:
        names = opened.schema_arrow.names
        wanted = [name for name in names if name.startswith("stats/") and name.rpartition("/")[2] in PARTS]
        wanted = [name for name in wanted if "images" not in name]
        table = read_groups(opened, range(opened.num_row_groups), ["episode_index", *wanted], relative)
    return {row["episode_index"]: row for row in table.to_pylist()}


def _told(value: Any) -> Told | None:
    """Numbers of each column, flat; None where they are no numbers."""
    parts = [_numbers(value.get(part)) for part in PARTS] if isinstance(value, dict) else []
    if len(parts) != len(PARTS) or any(part is None for part in parts):
        return None
    low, high, mean, count = (tuple(part or ()) for part in parts)
    return Told(low, high, mean, int(count[0])) if count and len(low) == len(high) == len(mean) else None


def _numbers(value: Any) -> list[float] | None:
    items = value if isinstance(value, list) else [value]
    plain = all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    return [float(item) for item in items] if plain else None
