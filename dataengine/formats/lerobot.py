"""LeRobot data sets, v2.0, v2.1 and v3.0: one parquet file and one mp4 an episode, or many episodes in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine import timeline, video
from dataengine.documents import load_json
from dataengine.episode import Media, RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats.base import Detection, EpisodeRef, ScanProblem
from dataengine.formats.lerobot_listing import Declared, list_episodes
from dataengine.formats.lerobot_meta import INFO, VERSIONS, Info, PathTemplate, file_state, load_info, load_tasks
from dataengine.formats.lerobot_rows import Rows, read_rows
from dataengine.storage import SourceRoot

_OPTIONS = ("subset", "data_path", "video_path")


class LeRobotFormat:
    """LeRobot v2.0, v2.1, v3.0. Arrays, media and texts carry the names of the data set's own features.

    Options: `subset: true` says that only some of the declared episodes lie in the folder (a sample): the others are
    passed over; without it each is a `ScanProblem` `missing_file`. `data_path` and `video_path` replace the
    templates of an info.json that names paths where nothing lies.
    """

    name: ClassVar[str] = "lerobot"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "LeRobot data sets v2.0, v2.1 (a file an episode) and v3.0 (episodes share files)"

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """High confidence for a known version with features; low for a folder that only resembles one."""
        if only is not None or not root.exists(INFO):
            return None
        try:
            info = load_json(root.read(INFO), INFO)
        except FormatError as error:
            return Detection(self.name, 0.2, (f"{INFO} exists but cannot be read: {error.what}",))
        version = info.get("codebase_version") if isinstance(info, dict) else None
        if version not in VERSIONS:
            told = "has no codebase_version" if version is None else f"names the version {version!r}, which is unknown"
            return Detection(self.name, 0.2, (f"{INFO} exists but {told}",))
        if not isinstance(info.get("features"), dict):
            return Detection(self.name, 0.5, (f"{INFO}: codebase_version {version}", f"{INFO} declares no features"))
        return Detection(self.name, 0.95, (f"{INFO}: codebase_version {version}", f"{len(info['features'])} features"))

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
        yield from _present(root, info, declared, subset)
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
            _check_owner(rows, place)
            for key, where in place["videos"].items():
                with _located(where["path"]):
                    rows.media[key] = _clip(root, key, where, rows.count, info)
            _add_tasks(rows, root, info)
            attributes = _attributes(rows, info, place["absent"])
            files = tuple(root.describe(path) for path in ref.files)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=_digest(rows, attributes),
            arrays=rows.arrays,
            media=rows.media,
            texts=rows.texts,
            attributes=attributes,
        )


def _checked_options(options: Mapping[str, Any]) -> bool:
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise SpecError(f"lerobot knows no option {unknown[0]!r}", fix=f"its options are {', '.join(_OPTIONS)}")
    subset = options.get("subset", False)
    paths = [options[name] for name in ("data_path", "video_path") if name in options]
    if not isinstance(subset, bool) or not all(isinstance(path, str) for path in paths):
        raise SpecError("lerobot: `subset` is true or false, `data_path` and `video_path` are texts")
    return subset


def _present(
    root: SourceRoot, info: Info, declared: list[Declared], subset: bool
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
            yield _ref(root, info, episode)
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


def _ref(root: SourceRoot, info: Info, episode: Declared) -> EpisodeRef | ScanProblem:
    """A ref; cameras without a file are named `absent` (GR00T's info.json declares one that never existed)."""
    problems = {key: _unusable(root, place["path"]) for key, place in episode.videos.items()}
    for problem in problems.values():
        if problem is not None and problem.reason != "missing_file":
            return ScanProblem("episode", episode.name, problem.reason, problem.what)
    videos = {key: place for key, place in episode.videos.items() if problems[key] is None}
    files = [episode.data, *(place["path"] for place in videos.values()), INFO]
    files += [info.tasks_file] if root.exists(info.tasks_file) else []
    files += [episode.listing] if episode.listing is not None else []
    locator = {
        "episode": episode.index,
        "length": episode.length,
        "data": episode.data,
        "videos": videos,
        "absent": sorted(key for key in info.cameras if key not in videos),
    }
    return EpisodeRef(episode.name, locator, tuple(dict.fromkeys(files)), {"steps": episode.length})


def _check_owner(rows: Rows, place: Mapping[str, Any]) -> None:
    """A text column and the task texts would share a name; a camera cannot be a column and a video."""
    both = sorted(set(rows.media) & set(place["videos"]))
    if both or ("task" in rows.texts and "task_index" in rows.arrays):
        raise EpisodeError("name_conflict", f"two streams are called {both[0] if both else 'task'!r}")


@contextmanager
def _located(path: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise type(error)(error.reason, error.what, where=error.where or path, fix=error.fix) from None


def _clip(root: SourceRoot, key: str, place: Mapping[str, Any], rows: int, info: Info) -> Media:
    """The episode's frames: a whole file (v2), or a range cut out of a shared one (v3)."""
    if not info.shared_files:
        return video.whole(key, root.read(place["path"]))
    found = _video_index(*file_state(root, place["path"]))
    first = _first_frame(found, place, rows, info.fps)
    with root.open(place["path"]) as file:
        return video.cut(key, file, found, first, rows)


@lru_cache(maxsize=16)
def _video_index(place: str, relative: str, size: int, changed: int) -> video.VideoIndex:  # noqa: ARG001 - the key
    """Demux a shared file once, not once an episode."""
    with SourceRoot(Path(place)).open(relative) as file:
        return video.index(file)


def _first_frame(found: video.VideoIndex, place: Mapping[str, Any], rows: int, fps: float) -> int:
    """The frame at `from`, by presentation time; its `rows` frames must end where the next episode starts.

    `to` only checks: LeRobot writes N / fps there, other writers (N - 1) / fps.
    """
    times = found.times_ns / timeline.NS
    period = float(np.median(np.diff(times))) if found.frames > 1 else 1 / fps
    if not period > 0:
        raise EpisodeError("video_without_times", "the video's frames share one time: no range can be found in it")
    first = _frames_before(times, place["from"], period)
    if first >= found.frames or abs(times[first] - place["from"]) > period / 2:
        raise EpisodeError("frame_count_mismatch", f"no frame stands at {place['from']} s, where the episode starts")
    span = (place["to"] - place["from"]) / period
    if not rows - 1.5 < span < rows + 0.5:
        raise EpisodeError("frame_count_mismatch", f"{rows} rows, but from_ and to_timestamp span {span:.1f} frames")
    if place["next"] is not None and first + rows > _frames_before(times, place["next"], period):
        raise EpisodeError(
            "frame_count_mismatch", f"{rows} frames from {place['from']} s reach into the episode at {place['next']} s"
        )
    return first


def _frames_before(times: Any, seconds: float, period: float) -> int:
    return int(np.searchsorted(times, seconds - period / 2))


def _add_tasks(rows: Rows, root: SourceRoot, info: Info) -> None:
    """`texts["task"]`: the task's text at each row, by `task_index`."""
    indices = rows.arrays.get("task_index")
    if indices is None:
        return
    tasks = load_tasks(root, info)
    wanted = [int(index) for index in indices.reshape(rows.count, -1)[:, 0]]
    unknown = sorted(set(wanted) - set(tasks))
    if unknown:
        raise EpisodeError("missing_task", f"task_index {unknown[0]} has no text in {info.tasks_file}")
    rows.texts["task"] = tuple(tasks[index] for index in wanted)


def _attributes(rows: Rows, info: Info, absent: list[str]) -> dict[str, Any]:
    """What gives the numbers their meaning; totals and paths change with the neighbours and stay out."""
    used = rows.arrays.keys() | rows.media.keys() | rows.texts.keys()
    features = {name: dict(feature) for name, feature in info.features.items() if name in used}
    about = {"fps": info.fps, "robot_type": info.robot_type, "features": features}
    return {"info": about, "absent_media": absent, "skipped_columns": rows.skipped}


def _digest(rows: Rows, attributes: Mapping[str, Any]) -> str:
    digest = RawDigest()
    digest.add_json("attributes", attributes)
    for name in sorted(rows.arrays):
        digest.add_array(f"array/{name}", rows.arrays[name])
    for name in sorted(rows.texts):
        digest.add_json(f"text/{name}", rows.texts[name])
    for name in sorted(rows.media):
        media = rows.media[name]
        range_ = [media.first_frame, media.frames, media.offsets.tolist()]
        digest.add_json(f"media/{name}", [media.kind, media.codec, media.digest, range_])
    return digest.hexdigest()
