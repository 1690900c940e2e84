"""Habitat's episode files: `*.json.gz` with `episodes` of ObjectNav, PointNav or rearrangement.

Upstream: facebookresearch/habitat-lab @ 0fb6f43f, habitat/datasets/object_nav/object_nav_dataset.py (one file a scene
below `content/`, goals kept once a category under `<scene file>_<category>`), datasets/pointnav and
datasets/rearrange/rearrange_dataset.py. An episode is a start with goals, and no trajectory; human demonstrations of
ObjectNav (Ram81/habitat-web @ 92b1c3df, task/scripts/data/parse_objectnav_dataset.py) add `reference_replay`: actions
by name, a placeholder STOP before the first, and the agent's state after each action, or none.
The world is y up (m). **The order of `start_rotation` differs from set to set**, so a converter must tell it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import orjson

from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, SpecError
from dataengine.formats import fields, files
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.habitat_episodes_parts import (
    TOLD,
    Order,
    Parsed,
    add_goals,
    add_replay,
    kind_of,
    objects_of,
    order_of,
    parse,
    start_of,
    unread_of,
)
from dataengine.storage import SourceRoot

SUFFIX = ".json.gz"
HEAD = 1 << 16
MAX_PROBED = 20
_KINDS = ("objectnav", "pointnav", "rearrange")
_FIRST = re.compile(r'"episodes"\s*:\s*\[\s*(?=\{)')


class HabitatEpisodesFormat:
    """Episodes of Habitat's data sets.

    Option `quaternion` (mandatory): `xyzw` or `wxyz`, the order of `start_rotation`; an episode that contradicts it is
    refused. Option `kinds`: of objectnav, pointnav, rearrange, those to read (default all).
    """

    name: ClassVar[str] = "habitat_episodes"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "Habitat ObjectNav (with human demonstrations), PointNav and rearrangement episodes"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "habitat_objectnav",
            "navigation",
            "Habitat ObjectNav, one file a scene, with the actions of human demonstrations",
            "layout fixture",
            2,
            "after facebookresearch/habitat-lab @ 0fb6f43f, object_nav_dataset.py, and Ram81/habitat-web @ 92b1c3df, "
            "task/scripts/data/parse_objectnav_dataset.py",
        ),
        Layout(
            "habitat_rearrange",
            "navigation",
            "Habitat rearrangement episodes: a start, objects and their goals",
            "real files",
            1,
            "demo.json.gz of habitat-lab's examples, 2 episodes (navigation/habitat_rearrange)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A file whose first episode has a start and is none of VLN's; which kind it is, and its quaternion's order."""
        for path in _paths(root, only)[:MAX_PROBED]:
            first = _first_episode(root, path)
            kind = kind_of(first) if first is not None else None
            order = order_of(first.get("start_rotation")) if first is not None else None
            if kind is None or order is None:
                continue
            layout = {"rearrange": "habitat_rearrange", "objectnav": "habitat_objectnav"}.get(kind)
            told = f"{path}: {kind} episodes, start_rotation {order}"
            return Detection(self.name, 0.85, (told,), {"quaternion": order}, layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode of every file, in the order of the files; files without episodes are passed over."""
        check_options(options, ("quaternion", "kinds"), self.name)
        order, kinds = options.get("quaternion"), option_names(options, "kinds", _KINDS)
        if order not in ("xyzw", "wxyz"):
            raise SpecError("the option `quaternion` is xyzw or wxyz", fix="sets differ: look, and say which it is")
        for path in _paths(root, only):
            try:
                if only is None and not _is_ours(root, path):
                    continue
                parsed = files.cached(root, path, parse)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            yield from _scan_file(path, parsed, str(order), kinds)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode.

        Arrays (float64, m, Habitat's world): `start_position` [3], `start_rotation` [4] in the source's order,
        `goal_positions` [G, 3] where goals are told. A demonstration adds `actions` [T] int64 (without the placeholder
        STOP before them) and, where states were recorded, `agent_position` [T, 3] and `agent_rotation` [T, 4] after
        each action, and `locations` [F+1, 3]: the start, and those positions after each MOVE_FORWARD. Rearrangement:
        `start_position` [1, 3], `start_rotation` [1, 4] (its only row), `rigid_objs` [N, 4, 4], `targets` [M, 4, 4].
        """
        path, key = str(ref.locator["file"]), str(ref.locator["episode_id"])
        with root.unchanged(path):
            parsed = files.cached(root, path, parse)
            described = (root.describe(path),)
        found = parsed.entries.get(key, ("missing_key", f"{path} holds no episode {key}"))
        if isinstance(found, tuple):
            raise EpisodeError(*found, where=path)
        episode = orjson.loads(found)
        kind = kind_of(episode)
        if kind is None:
            raise EpisodeError("unknown_layout", f"the episode {key} is of no known kind")
        digest = RawDigest()
        digest.add_bytes("episode", found)
        scene = fields.as_text(fields.member(episode, "scene_id", "the episode"), "scene_id")
        order: Order = "wxyz" if ref.locator["quaternion"] == "wxyz" else "xyzw"
        arrays = start_of(episode, order)
        told: dict[str, Any] = {"scene_id": scene, "kind": kind, "quaternion": order}
        told |= {name: episode[name] for name in TOLD if episode.get(name) is not None}
        texts: dict[str, tuple[str, ...]] = {}
        if kind == "rearrange":
            arrays = {name: array[None] for name, array in arrays.items()} | objects_of(episode, told)
        else:
            add_goals(episode, parsed, scene, into=arrays, told=told, digest=digest)
            add_replay(episode, arrays, told)
        unread = unread_of(episode, kind)
        if unread:
            told["unread"] = unread
        if "object_category" in episode:
            texts["object_category"] = (fields.as_text(episode["object_category"], "object_category"),)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            texts=texts,
            attributes=told,
            group=scene,
        )


def _paths(root: SourceRoot, only: str | None) -> list[str]:
    paths = [only] if only is not None else root.glob(f"**/*{SUFFIX}")
    return [path for path in paths if path.endswith(SUFFIX)]


def _head(root: SourceRoot, path: str) -> str | None:
    """The first 64 KiB and more of what a gzip file holds, as text; None where it is no gzip."""
    try:
        with root.open(path) as file:
            data = zlib.decompressobj(wbits=31).decompress(file.read(HEAD), HEAD * 4)
    except (BadInput, zlib.error):
        return None
    return data.decode("utf-8", errors="replace")


def _first_episode(root: SourceRoot, path: str) -> dict[str, Any] | None:
    """The first episode of a file, where it stands near the beginning; else read from the whole (bounded) file."""
    text = _head(root, path)
    if text is None or not text.lstrip().startswith("{"):
        return None
    match = _FIRST.search(text)
    if match is None:
        return _first_of_all(root, path) if '"goals_by_category"' in text else None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, match.end())
    except (ValueError, RecursionError):
        return _first_of_all(root, path)
    return value if isinstance(value, dict) else None


def _first_of_all(root: SourceRoot, path: str) -> dict[str, Any] | None:
    try:
        entries = files.cached(root, path, parse).entries
    except BadInput:
        return None
    first = next((entry for entry in entries.values() if isinstance(entry, bytes)), None)
    found: dict[str, Any] | None = None if first is None else orjson.loads(first)
    return found


def _is_ours(root: SourceRoot, path: str) -> bool:
    """Whether a file of a folder may hold our episodes: damaged ones may, files of other data sets may not."""
    text = _head(root, path)
    if text is None or not text.strip():
        return True
    match = _FIRST.search(text)
    if match is None:
        return '"goals_by_category"' in text
    return '"start_position"' in text[match.end() :] and '"instruction"' not in text[match.end() :]


def _scan_file(path: str, parsed: Parsed, order: str, kinds: tuple[str, ...]) -> Iterator[EpisodeRef | ScanProblem]:
    stem = path.removesuffix(SUFFIX)
    for row, reason, what in parsed.problems:
        yield ScanProblem("episode", f"{stem}/row {row}", reason, what)
    for key, entry in parsed.entries.items():
        times = parsed.repeated[key]
        kind = kind_of(orjson.loads(entry)) if isinstance(entry, bytes) else None
        if times > 1:
            what = f"the episode id {key} stands {times} times in {path}"
            for row in range(times):
                yield ScanProblem("episode", f"{stem}/{key} ({row + 1} of {times})", "duplicate_episode", what)
        elif isinstance(entry, bytes) and kind is None:
            yield ScanProblem("episode", f"{stem}/{key}", "unknown_layout", "no start, or an episode of another task")
        elif kind is None or kind in kinds:
            yield EpisodeRef(f"{stem}/{key}", {"file": path, "episode_id": key, "quaternion": order}, (path,))
