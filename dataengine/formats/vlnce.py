"""VLN-CE (R2R in continuous environments): `<split>/<split>.json.gz` with `<split>/<split>_gt.json.gz` beside it.

The first holds `episodes` (start, goals, instruction, reference path), the second an object keyed by the episode's id
as a string, with the actions that were taken and the agent's location at the start and after each forward step.
Both are in Habitat's world (metres, y up; quaternions xyzw). `instruction_tokens` and `instruction_vocab` are derived
from the text and are not read. There are no images.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import orjson

from dataengine.documents import load_json, sha256_bytes
from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, ScanProblem, check_options, option_names
from dataengine.storage import CHUNK, SourceFile, SourceRoot

SUFFIX = ".json.gz"
GT_SUFFIX = "_gt.json.gz"
MAX_BYTES = 2 << 30
MAX_RATIO = 200
_CACHED_FILES = 8
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Split:
    """One split: the name its episodes carry, and its two files, as far as they are there."""

    name: str
    episodes: str | None
    truth: str | None


_Entry = bytes | tuple[str, str]


@dataclass(frozen=True)
class _Entries:
    """Entries of one file by episode id, as canonical JSON or as (reason, what) where they have none.

    `repeated` counts ids; `problems` are the rows (row, reason, what) without a usable id.
    """

    entries: Mapping[str, _Entry]
    repeated: Mapping[str, int]
    problems: tuple[tuple[int, str, str], ...]


class VlnceFormat:
    """Episodes of VLN-CE splits. Option `splits`: a list of split names to read (default all)."""

    name: ClassVar[str] = "vlnce"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "VLN-CE R2R: <split>.json.gz with <split>_gt.json.gz"

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A split with its ground truth, both gzip by their first bytes."""
        for split in _splits(root, only):
            if split.episodes and split.truth and _is_gzip(root, split.episodes) and _is_gzip(root, split.truth):
                return Detection(self.name, 0.95, (split.episodes, split.truth))
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode in the order of its split's file; ids that lack their other half are problems."""
        check_options(options, ("splits",), self.name)
        wanted = option_names(options, "splits", ())
        splits = [split for split in _splits(root, only) if not wanted or split.name in wanted]
        names = Counter(split.name for split in splits)
        for split in splits:
            if names[split.name] > 1:
                path = str(split.episodes or split.truth)
                yield ScanProblem("file", path, "duplicate_split", f"the split {split.name} lies in two folders")
            else:
                yield from _scan_split(root, split)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode with its ground truth.

        Arrays: `actions` [T] int64; `locations` [F+1, 3], `start_position` [3], `start_rotation` [4] (xyzw),
        `reference_path` [P, 3], `goal_positions` [G, 3] float64, metres in Habitat's world.
        """
        key, paths = str(ref.locator["episode_id"]), (str(ref.locator["episodes"]), str(ref.locator["truth"]))
        with root.unchanged(*paths):
            episode, truth = (_entry(_load(root, path), key, path) for path in paths)
            files = tuple(root.describe(path) for path in paths)
        digest = RawDigest()
        digest.add_bytes("episode", episode)
        digest.add_bytes("ground_truth", truth)
        return _raw_episode(ref, orjson.loads(episode), orjson.loads(truth), files=files, digest=digest.hexdigest())


def _splits(root: SourceRoot, only: str | None) -> list[_Split]:
    """Splits below the root, sorted: files in a folder of the split's name, or pairs wherever they lie.

    The folder rule leaves out what lies beside the splits (`embeddings.json.gz`).
    """
    paths = root.glob(f"**/*{SUFFIX}") if only is None else [only] if only.endswith(SUFFIX) else []
    stems = sorted({path.removesuffix(GT_SUFFIX).removesuffix(SUFFIX) for path in paths})
    found = []
    for stem in stems:
        episodes, truth = stem + SUFFIX, stem + GT_SUFFIX
        name = PurePosixPath(stem).name
        has = root.exists(episodes), root.exists(truth)
        folder = PurePosixPath(stem).parent.name or root.path.name
        if all(has) or folder == name or only is not None:
            found.append(_Split(name, episodes if has[0] else None, truth if has[1] else None))
    return found


def _is_gzip(root: SourceRoot, path: str) -> bool:
    with root.open(path) as file:
        return file.read(2) == _GZIP_MAGIC


def _scan_split(root: SourceRoot, split: _Split) -> Iterator[EpisodeRef | ScanProblem]:
    if split.episodes is None or split.truth is None:
        there = str(split.episodes or split.truth)
        reason = "missing_ground_truth" if split.truth is None else "missing_file"
        lacking = "ground truth" if split.truth is None else "episodes file"
        yield ScanProblem("file", there, reason, f"the split {split.name} has no {lacking}")
        return
    found = []
    for path in (split.episodes, split.truth):
        try:
            found.append(_load(root, path))
        except BadInput as error:
            yield ScanProblem("file", path, error.reason, error.what)
    if len(found) != 2:
        return
    episodes, truths = found
    for row, reason, what in episodes.problems:
        yield ScanProblem("episode", f"{split.name}/row {row}", reason, what)
    for key in [*episodes.entries, *(key for key in truths.entries if key not in episodes.entries)]:
        yield from _scan_episode(split, key, episodes, truths)


def _scan_episode(split: _Split, key: str, episodes: _Entries, truths: _Entries) -> Iterator[EpisodeRef | ScanProblem]:
    upstream = f"{split.name}/{key}"
    times = episodes.repeated.get(key, 1)
    if times > 1:
        for row in range(times):
            what = f"the episode id {key} stands {times} times in {split.episodes}"
            yield ScanProblem("episode", f"{upstream} ({row + 1} of {times})", "duplicate_episode", what)
    elif key not in truths.entries:
        yield ScanProblem("episode", upstream, "missing_ground_truth", f"{split.truth} does not hold it")
    elif key not in episodes.entries:
        yield ScanProblem(
            "episode", upstream, "missing_episode", f"its ground truth has no episode in {split.episodes}"
        )
    else:
        paths = (str(split.episodes), str(split.truth))
        locator = {"episode_id": key, "episodes": paths[0], "truth": paths[1]}
        yield EpisodeRef(upstream, locator, paths)


def _load(root: SourceRoot, path: str) -> _Entries:
    """The parsed file, parsed once a process and content."""
    return _load_content(root.path, path, root.describe(path).sha256)


@lru_cache(maxsize=_CACHED_FILES)
def _load_content(folder: Path, path: str, sha256: str) -> _Entries:
    data = SourceRoot(folder).read(path, limit=MAX_BYTES)
    if sha256_bytes(data) != sha256:
        raise FormatError("changed_during_read", f"{path} changed while it was read", where=path)
    document = load_json(_inflate(data, path), path)
    if not isinstance(document, dict):
        raise FormatError("bad_type", f"{path} holds no JSON object", where=path)
    if path.endswith(GT_SUFFIX):
        return _truth_entries(document)
    rows = document.get("episodes")
    if not isinstance(rows, list):
        raise FormatError("missing_key", f"{path} has no list `episodes`", where=path)
    return _episode_entries(rows)


def _inflate(data: bytes, path: str) -> bytes:
    """The decompressed content, refused beyond 2 GiB or 200 times the file's size."""
    limit = min(MAX_BYTES, MAX_RATIO * len(data) + CHUNK)
    parts, total = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while part := stream.read(CHUNK):
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise FormatError("gzip_bomb", f"{path} inflates to more than {limit} bytes", where=path)
    except EOFError:
        raise FormatError("truncated", f"{path} ends in the middle of its gzip stream", where=path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FormatError("unreadable_file", f"{path} is damaged: {error}", where=path) from None
    return b"".join(parts)


def _episode_entries(rows: list[Any]) -> _Entries:
    entries: dict[str, _Entry] = {}
    problems: list[tuple[int, str, str]] = []
    counts: Counter[str] = Counter()
    for row, value in enumerate(rows):
        try:
            key = _episode_id(value, f"episode {row}")
        except EpisodeError as error:
            problems.append((row, error.reason, error.what))
            continue
        told = {**value, "instruction": _without_tokens(value.get("instruction"))}
        entries[key] = _canonical(told, f"episode {row}")
        counts[key] += 1
    return _Entries(entries, counts, tuple(problems))


def _canonical(value: Any, name: str) -> _Entry:
    try:
        return fields.canonical(value, name)
    except EpisodeError as error:
        return error.reason, error.what


def _episode_id(value: Any, name: str) -> str:
    found = fields.member(fields.as_object(value, name), "episode_id", name)
    if isinstance(found, str):
        return fields.as_text(found, f"{name}: episode_id")
    return str(fields.as_whole(found, f"{name}: episode_id"))


def _without_tokens(instruction: Any) -> Any:
    if not isinstance(instruction, dict):
        return instruction
    return {name: item for name, item in instruction.items() if name != "instruction_tokens"}


def _truth_entries(document: Mapping[str, Any]) -> _Entries:
    return _Entries({key: _canonical(value, f"ground truth {key!r}") for key, value in document.items()}, {}, ())


def _entry(entries: _Entries, key: str, path: str) -> bytes:
    found = entries.entries.get(key, ("missing_key", f"{path} holds no episode {key}"))
    if isinstance(found, tuple):
        raise EpisodeError(*found, where=path)
    return found


def _raw_episode(
    ref: EpisodeRef, episode: Any, truth: Any, *, files: tuple[SourceFile, ...], digest: str
) -> RawEpisode:
    episode = fields.as_object(episode, "the episode")
    truth = fields.as_object(truth, "its ground truth")
    instruction = fields.as_object(fields.member(episode, "instruction", "the episode"), "instruction")
    text = fields.as_text(fields.member(instruction, "instruction_text", "instruction"), "instruction_text")
    arrays = {
        "actions": fields.as_whole_array(fields.member(truth, "actions", "the ground truth"), "actions"),
        "locations": fields.as_array(fields.member(truth, "locations", "the ground truth"), "locations", (-1, 3)),
    }
    shapes = {"start_position": (3,), "start_rotation": (4,), "reference_path": (-1, 3)}
    for name, shape in shapes.items():
        arrays[name] = fields.as_array(fields.member(episode, name, "the episode"), name, shape)
    scene = fields.as_text(fields.member(episode, "scene_id", "the episode"), "scene_id")
    goals = [fields.as_object(goal, "a goal") for goal in fields.as_list(episode.get("goals", []), "goals")]
    if goals:
        places = [fields.member(goal, "position", "a goal") for goal in goals]
        arrays["goal_positions"] = fields.as_array(places, "the goals' positions", (-1, 3))
    return RawEpisode(
        upstream_id=ref.upstream_id,
        files=files,
        raw_digest=digest,
        arrays=arrays,
        texts={"instruction": (text,)},
        attributes=_attributes(episode, goals, scene),
        group=scene,
    )


def _attributes(episode: Mapping[str, Any], goals: list[dict[str, Any]], scene: str) -> dict[str, Any]:
    found: dict[str, Any] = {"scene_id": scene}
    if "trajectory_id" in episode:
        found["trajectory_id"] = fields.as_whole(episode["trajectory_id"], "trajectory_id")
    radii = [fields.as_number(goal["radius"], "a goal's radius") for goal in goals if "radius" in goal]
    if radii:
        found["goal_radius_m"] = radii
    info = fields.as_object(episode.get("info", {}), "info")
    if "geodesic_distance" in info:
        found["geodesic_distance_m"] = fields.as_number(info["geodesic_distance"], "geodesic_distance")
    return found
