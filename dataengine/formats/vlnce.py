"""VLN-CE (R2R and RxR in continuous environments): `<split>/<split>.json.gz` with `<split>/<split>_gt.json.gz`.

The first holds `episodes` (start, goals, instruction, reference path), the second an object keyed by the episode's id
as a string, with the actions that were taken and the agent's location at the start and after each forward step.
Both are in Habitat's world (metres, y up; quaternions xyzw). `instruction_tokens` and `instruction_vocab` are derived
from the text and are not read. There are no images.

RxR-Habitat (upstream: jacobkrantz/VLN-CE @ 729d141b, README.md and habitat_extensions/task.py, `RxRVLNCEDatasetV1`)
has two roles a split, `<split>_guide` and `<split>_follower`, ids that are texts, and instructions with their language,
annotator and the times at which each word was spoken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import orjson
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields, files
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.storage import SourceFile, SourceRoot

SUFFIX = ".json.gz"
GT_SUFFIX = "_gt.json.gz"
ROLES = ("guide", "follower")
_TOLD = ("instruction_id", "annotator_id", "edit_distance")
_INFO = ("role", "demonstration_id", "metrics")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Split:
    """One split: the name its episodes carry, and its two files, as far as they are there."""

    name: str
    episodes: str | None
    truth: str | None

    @property
    def role(self) -> str | None:
        """Who walked, in RxR: `guide` or `follower`."""
        return next((role for role in ROLES if self.name.endswith(f"_{role}")), None)

    @property
    def base(self) -> str:
        """The split's name without its role."""
        return self.name.removesuffix(f"_{self.role}")


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
    """Episodes of VLN-CE splits.

    Options, each a list of names and by default all: `splits` (`train` is both `train_guide` and `train_follower`),
    `roles` (guide, follower; R2R has none) and `languages` (`en-IN`; an episode that tells none is a problem then).
    """

    name: ClassVar[str] = "vlnce"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "VLN-CE R2R and RxR: <split>.json.gz with <split>_gt.json.gz"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "vlnce_r2r",
            "navigation",
            "VLN-CE, R2R in continuous environments",
            "real files",
            4,
            "R2R_VLNCE_v1-3_preprocessed val_seen and val_unseen, 778 and 1,839 episodes (navigation/vlnce_r2r)",
        ),
        Layout(
            "vlnce_rxr",
            "navigation",
            "VLN-CE, RxR-Habitat with guide and follower trajectories in four languages",
            "layout fixture",
            4,
            "after RxRVLNCEDatasetV1 of jacobkrantz/VLN-CE @ 729d141b, habitat_extensions/task.py, and its README.md",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A split with its ground truth, both gzip by their first bytes."""
        for split in _splits(root, only):
            if split.episodes and split.truth and _is_gzip(root, split.episodes) and _is_gzip(root, split.truth):
                layout = "vlnce_rxr" if split.role else "vlnce_r2r"
                return Detection(self.name, 0.95, (split.episodes, split.truth), layout=layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every episode in the order of its split's file; ids that lack their other half are problems."""
        check_options(options, ("splits", "roles", "languages"), self.name)
        wanted, roles = option_names(options, "splits", ()), option_names(options, "roles", ())
        languages = option_names(options, "languages", ())
        splits = [split for split in _splits(root, only) if not wanted or {split.name, split.base} & set(wanted)]
        splits = [split for split in splits if not roles or split.role in roles]
        names = Counter(split.name for split in splits)
        for split in splits:
            if names[split.name] > 1:
                path = str(split.episodes or split.truth)
                yield ScanProblem("file", path, "duplicate_split", f"the split {split.name} lies in two folders")
            else:
                yield from _scan_split(root, split, languages)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode with its ground truth.

        Arrays: `actions` [T] int64; `locations` [F+1, 3], `start_position` [3], `start_rotation` [4] (xyzw),
        `reference_path` [P, 3] and `goal_positions` [G, 3] (where told) float64, metres in Habitat's world.
        """
        key, paths = str(ref.locator["episode_id"]), (str(ref.locator["episodes"]), str(ref.locator["truth"]))
        with root.unchanged(*paths):
            episode, truth = (_entry(_load(root, path), key, path) for path in paths)
            described = tuple(root.describe(path) for path in paths)
        digest = RawDigest()
        digest.add_bytes("episode", episode)
        digest.add_bytes("ground_truth", truth)
        return _raw_episode(ref, orjson.loads(episode), orjson.loads(truth), files=described, digest=digest.hexdigest())


def _splits(root: SourceRoot, only: str | None) -> list[_Split]:
    """Splits below the root, sorted: files in a folder of the split's name, or pairs wherever they lie.

    The folder rule leaves out what lies beside the splits (`embeddings.json.gz`).
    """
    paths = root.glob(f"**/*{SUFFIX}") if only is None else [only] if only.endswith(SUFFIX) else []
    stems = sorted({path.removesuffix(GT_SUFFIX).removesuffix(SUFFIX) for path in paths})
    found = []
    for stem in stems:
        episodes, truth = stem + SUFFIX, stem + GT_SUFFIX
        split = _Split(PurePosixPath(stem).name, None, None)
        has = root.exists(episodes), root.exists(truth)
        folder = PurePosixPath(stem).parent.name or root.path.name
        if all(has) or folder in (split.name, split.base) or only is not None:
            found.append(_Split(split.name, episodes if has[0] else None, truth if has[1] else None))
    return found


def _is_gzip(root: SourceRoot, path: str) -> bool:
    with root.open(path) as file:
        return file.read(2) == _GZIP_MAGIC


def _scan_split(root: SourceRoot, split: _Split, languages: tuple[str, ...]) -> Iterator[EpisodeRef | ScanProblem]:
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
        spoken = _language(episodes.entries.get(key)) if languages else ""
        if spoken is None:
            yield ScanProblem("episode", f"{split.name}/{key}", "missing_key", "its instruction tells no language")
        elif not languages or spoken in ("", *languages):
            yield from _scan_episode(split, key, episodes, truths)


def _language(entry: _Entry | None) -> str | None:
    """The language an entry tells; empty where the entry is not there, or is no object."""
    if not isinstance(entry, bytes):
        return ""
    instruction = orjson.loads(entry).get("instruction")
    language = instruction.get("language") if isinstance(instruction, dict) else None
    return language if isinstance(language, str) else None


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
    return files.cached(root, path, _parsed)


def _parsed(data: bytes, path: str) -> _Entries:
    document = load_json(files.gzip_data(data, path), path)
    if not isinstance(document, dict):
        raise FormatError("bad_type", f"{path} holds no JSON object", where=path)
    if path.endswith(GT_SUFFIX):
        return _truth_entries(document)
    rows = document.get("episodes")
    if not isinstance(rows, list):
        raise FormatError("missing_key", f"{path} has no list `episodes`", where=path)
    return _episode_entries(rows)


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
        told = {**value}
        if "instruction" in value:
            told["instruction"] = _without_tokens(value["instruction"])
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
    if not text.strip():
        raise EpisodeError("bad_text", "instruction_text is empty")
    arrays = {
        "actions": fields.as_whole_array(fields.member(truth, "actions", "the ground truth"), "actions"),
        "locations": fields.as_array(fields.member(truth, "locations", "the ground truth"), "locations", (-1, 3)),
    }
    _check_counts(truth, arrays)
    for name, shape in {"start_position": (3,), "start_rotation": (4,)}.items():
        arrays[name] = fields.as_array(fields.member(episode, name, "the episode"), name, shape)
    if episode.get("reference_path") is not None:
        arrays["reference_path"] = fields.as_array(episode["reference_path"], "reference_path", (-1, 3))
    scene = fields.as_text(fields.member(episode, "scene_id", "the episode"), "scene_id")
    listed = [] if episode.get("goals") is None else fields.as_list(episode["goals"], "goals")
    goals = [fields.as_object(goal, "a goal") for goal in listed]
    if goals:
        places = [fields.member(goal, "position", "a goal") for goal in goals]
        arrays["goal_positions"] = fields.as_array(places, "the goals' positions", (-1, 3))
    texts: dict[str, tuple[str, ...]] = {"instruction": (text,)}
    told = _attributes(episode, goals, scene)
    if "language" in instruction:
        language = fields.as_text(instruction["language"], "instruction.language")
        texts["language"] = (language,)
        told["language"] = language
    told |= {name: instruction[name] for name in _TOLD if name in instruction}
    words, spoken = _words(instruction.get("timed_instruction", []))
    if words:
        texts["timed_instruction"] = words
        if spoken is None:
            told["unread"] = ["timed_instruction: its times"]
        else:
            arrays["timed_instruction"] = spoken
    return RawEpisode(
        upstream_id=ref.upstream_id,
        files=files,
        raw_digest=digest,
        arrays=arrays,
        texts=texts,
        attributes=told,
        group=scene,
    )


def _check_counts(truth: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """`forward_steps`, where it is told, is one less than the locations (2,617 of 2,617 real episodes)."""
    told, walked = truth.get("forward_steps"), len(arrays["locations"]) - 1
    if told is not None and fields.as_whole(told, "forward_steps") != walked:
        raise EpisodeError("length_mismatch", f"forward_steps tells {told}, the locations {walked}")


def _words(value: Any) -> tuple[tuple[str, ...], NDArray[np.float64] | None]:
    """The spoken words, and when each began and ended (s) [W, 2], None where a word lacks one of its times."""
    entries = [fields.as_object(item, "a spoken word") for item in fields.as_list(value, "timed_instruction")]
    words = tuple(fields.as_text(fields.member(entry, "word", "a spoken word"), "a spoken word") for entry in entries)
    times = [[entry.get(name) for name in ("start_time", "end_time")] for entry in entries]
    if any(None in pair for pair in times):
        return words, None
    return words, fields.as_array(times, "the times of the spoken words", (-1, 2))


def _attributes(episode: Mapping[str, Any], goals: list[dict[str, Any]], scene: str) -> dict[str, Any]:
    found: dict[str, Any] = {"scene_id": scene}
    if "trajectory_id" in episode:
        number = episode["trajectory_id"]
        is_text = isinstance(number, str)
        found["trajectory_id"] = (
            fields.as_text(number, "trajectory_id") if is_text else fields.as_whole(number, "trajectory_id")
        )
    radii = [fields.as_number(goal["radius"], "a goal's radius") for goal in goals if "radius" in goal]
    if radii:
        found["goal_radius_m"] = radii
    info = fields.as_object({} if episode.get("info") is None else episode["info"], "info")
    if "geodesic_distance" in info:
        found["geodesic_distance_m"] = fields.as_number(info["geodesic_distance"], "geodesic_distance")
    found |= {name: info[name] for name in _INFO if name in info}
    return found
