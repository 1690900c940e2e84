"""LeRobot data sets, v2.0, v2.1 and v3.0: one parquet file and one mp4 an episode, or many episodes in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from dataengine import video
from dataengine.documents import load_json
from dataengine.episode import Media, RawEpisode
from dataengine.errors import FormatError, SpecError
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem
from dataengine.formats.lerobot_episode import (
    add_tasks,
    attributes_of,
    check_owner,
    declared_of,
    digest_of,
    first_frame,
    located,
)
from dataengine.formats.lerobot_listing import Declared, list_episodes
from dataengine.formats.lerobot_meta import INFO, VERSIONS, Info, PathTemplate, file_state, load_info
from dataengine.formats.lerobot_modality import MODALITY, load_modality
from dataengine.formats.lerobot_rows import read_rows
from dataengine.formats.lerobot_statistics import told_of
from dataengine.storage import SourceRoot

_OPTIONS = ("subset", "data_path", "video_path", "modality")


_LAYOUTS_BY_VERSION = {"v2.0": "lerobot_v20", "v2.1": "lerobot_v21", "v3.0": "lerobot_v30"}


class LeRobotFormat:
    """LeRobot v2.0, v2.1, v3.0. Arrays, media and texts carry the names of the data set's own features.

    Options: `subset: true` says that only some of the declared episodes lie in the folder (a sample): the others are
    passed over; without it each is a `ScanProblem` `missing_file`. `data_path` and `video_path` replace the
    templates of an info.json that names paths where nothing lies. `modality: true` reads GR00T's meta/modality.json:
    its slices become the attribute `modality`, its annotations texts of their columns' names.
    """

    name: ClassVar[str] = "lerobot"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "LeRobot data sets v2.0, v2.1 (a file an episode) and v3.0 (episodes share files)"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "lerobot_v20",
            "robot",
            "LeRobot v2.0: a parquet file and mp4 files an episode, stats.json",
            "real files",
            9,
            "robot/gr00t_v20_picknplace, as LeRobot alone (without modality.json)",
        ),
        Layout(
            "lerobot_v21",
            "robot",
            "LeRobot v2.1: a parquet file and mp4 files an episode",
            "real files",
            6,
            "robot/lerobot_v21_g1",
        ),
        Layout(
            "lerobot_v30",
            "robot",
            "LeRobot v3.0: episodes share parquet and mp4 files",
            "real files",
            5,
            "robot/lerobot_v30_pusht, written by LeRobot 0.6.1's own writer",
        ),
        Layout(
            "gr00t_lerobot",
            "robot",
            "GR00T: LeRobot v2 with meta/modality.json",
            "real files",
            9,
            "robot/gr00t_v20_picknplace",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """High confidence for a known version with features; low for a folder that only resembles one."""
        if only is not None or not root.exists(INFO):
            return None
        try:
            info = load_json(root.read(INFO), INFO)
        except FormatError as error:
            return Detection(self.name, 0.2, (f"{INFO} exists but cannot be read: {error.what}",))
        if isinstance(info, dict) and info.get("storage_format") == "lance":
            return None
        version = info.get("codebase_version") if isinstance(info, dict) else None
        if version not in VERSIONS:
            told = "has no codebase_version" if version is None else f"names the version {version!r}, which is unknown"
            return Detection(self.name, 0.2, (f"{INFO} exists but {told}",))
        if not isinstance(info.get("features"), dict):
            return Detection(self.name, 0.5, (f"{INFO}: codebase_version {version}", f"{INFO} declares no features"))
        evidence = [f"{INFO}: codebase_version {version}", f"{len(info['features'])} features"]
        if root.exists(MODALITY):
            evidence.append(f"{MODALITY} names slices of state and action")
            return Detection(self.name, 0.95, tuple(evidence), {"modality": True}, "gr00t_lerobot")
        return Detection(self.name, 0.95, tuple(evidence), layout=_LAYOUTS_BY_VERSION[version])

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every declared episode by index, each either a ref or a problem; then the data files nobody declares."""
        subset = _checked_options(options)
        if only is not None:
            raise FormatError("not_a_folder", "a LeRobot data set is a folder with meta/info.json", where=only)
        info = load_info(root)
        data_text, video_text = (options.get("data_path", info.data_path), options.get("video_path", info.video_path))
        if data_text is None:
            raise FormatError("missing_key", "info.json names no data_path", where=INFO)
        data, clips = PathTemplate(data_text), None if video_text is None else PathTemplate(video_text)
        listed = list_episodes(root, info, data, clips)
        declared = [entry for entry in listed if isinstance(entry, Declared)]
        yield from (entry for entry in listed if isinstance(entry, ScanProblem))
        if info.total_episodes is not None and info.total_episodes != len(listed) and not subset:
            what = f"info.json counts {info.total_episodes} episodes, {len(listed)} are listed"
            yield ScanProblem("file", INFO, "count_mismatch", what)
        modality = options.get("modality", False)
        if modality:
            load_modality(root, info)
        yield from _present(root, info, declared, subset, modality)
        known = {episode.data for episode in declared}
        for path in root.glob(data.glob()):
            if path not in known:
                yield ScanProblem("file", path, "undeclared_file", f"no episode of the metadata lies in {path}")

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode. The digest covers its rows, its video packets, its texts and the features' meaning."""
        place = ref.locator
        with root.unchanged(*ref.files):
            info = load_info(root)
            rows = read_rows(
                root,
                place["data"],
                place["episode"],
                length=place["length"],
                shared=info.shared_files,
                features=info.features,
            )
            check_owner(rows, place)
            for key, where in place["videos"].items():
                with located(where["path"]):
                    rows.media[key] = _clip(root, key, where, rows.count, info)
            modality = load_modality(root, info) if place.get("modality") else None
            add_tasks(rows, root, info, modality, place.get("tasks"))
            attributes = attributes_of(rows, info, place["absent"])
            if modality is not None:
                attributes["modality"] = modality
            files = tuple(root.describe(path) for path in ref.files)
            told = told_of(root, place["episode"], sorted(rows.arrays), place.get("listing"))
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest_of(rows, attributes),
            arrays=rows.arrays,
            media=rows.media,
            texts=rows.texts,
            attributes=attributes,
            told=told,
            declared=declared_of(rows, info),
        )


def _checked_options(options: Mapping[str, Any]) -> bool:
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise SpecError(f"lerobot knows no option {unknown[0]!r}", fix=f"its options are {', '.join(_OPTIONS)}")
    subset = options.get("subset", False)
    paths = [options[name] for name in ("data_path", "video_path") if name in options]
    flags = isinstance(subset, bool) and isinstance(options.get("modality", False), bool)
    if not flags or not all(isinstance(path, str) for path in paths):
        raise SpecError("lerobot: `subset` and `modality` are true or false, `data_path` and `video_path` are texts")
    return bool(subset)


def _present(
    root: SourceRoot, info: Info, declared: list[Declared], subset: bool, modality: bool
) -> Iterator[EpisodeRef | ScanProblem]:
    twice = {name for name, count in Counter(episode.name for episode in declared).items() if count > 1}
    passed_over = 0
    for episode in declared:
        problem = _unusable(root, episode.data)
        if episode.name in twice:
            yield ScanProblem(
                "episode", episode.name, "duplicate_episode", f"{episode.name} is declared more than once"
            )
        elif problem is None:
            yield _ref(root, info, episode, modality)
        elif subset and problem.reason == "missing_file":
            passed_over += 1
        else:
            yield ScanProblem("episode", episode.name, problem.reason, problem.what)
    if passed_over and passed_over == len(declared):
        raise FormatError(
            "missing_file",
            f"none of the {passed_over} declared episodes lies in the folder",
            where=INFO,
            fix="`subset: true` is for a folder that holds some of them: check data_path and the folder",
        )


def _unusable(root: SourceRoot, path: str) -> FormatError | None:
    try:
        root.locate(path)
    except FormatError as error:
        return error
    return None


def _ref(root: SourceRoot, info: Info, episode: Declared, modality: bool) -> EpisodeRef | ScanProblem:
    """A ref; cameras without a file are named `absent` (GR00T's info.json declares one that never existed)."""
    problems = {key: _unusable(root, place["path"]) for key, place in episode.videos.items()}
    for problem in problems.values():
        if problem is not None and problem.reason != "missing_file":
            return ScanProblem("episode", episode.name, problem.reason, problem.what)
    videos = {key: place for key, place in episode.videos.items() if problems[key] is None}
    files = [episode.data, *(place["path"] for place in videos.values()), INFO]
    files += [info.tasks_file] if root.exists(info.tasks_file) else []
    files += [episode.listing] if episode.listing is not None else []
    files += [MODALITY] if modality else []
    locator = {
        "episode": episode.index,
        "length": episode.length,
        "data": episode.data,
        "videos": videos,
        "absent": sorted(key for key in info.cameras if key not in videos),
        **({"tasks": list(episode.tasks)} if episode.tasks is not None else {}),
        **({"listing": episode.listing} if episode.listing is not None else {}),
        **({"modality": True} if modality else {}),
    }
    return EpisodeRef(episode.name, locator, tuple(dict.fromkeys(files)), {"steps": episode.length})


def _clip(root: SourceRoot, key: str, place: Mapping[str, Any], rows: int, info: Info) -> Media:
    """The episode's frames: a whole file (v2), or a range cut out of a shared one (v3)."""
    if not info.shared_files:
        return video.whole(key, root.read(place["path"]))
    found = _video_index(*file_state(root, place["path"]))
    first = first_frame(found, place, rows, info.fps)
    with root.open(place["path"]) as file:
        return video.cut(key, file, found, first, rows)


@lru_cache(maxsize=16)
def _video_index(place: str, relative: str, size: int, changed: int) -> video.VideoIndex:  # noqa: ARG001 - the key
    """Demux a shared file once, not once an episode."""
    with SourceRoot(Path(place)).open(relative) as file:
        return video.index(file)
