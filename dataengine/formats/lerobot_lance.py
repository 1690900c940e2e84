"""LeRobot on Lance: `meta/` as of LeRobot v3.0, the rows in frames.lance, the mp4 files as blobs in videos.lance.

As lerobot-lancedb 0.3.1 writes it (https://github.com/lancedb/lerobot-lancedb, convert.py): row N of `frames` is frame
N of the data set, dots in feature names are underscores there; a row of `videos` is one mp4, byte for byte, with its
`video_key`, `chunk_index` and `file_index`; `meta/info.json` says `storage_format: lance`. The table `meta` repeats the
folder for remote roots and is not read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from dataengine import video
from dataengine.documents import load_json
from dataengine.episode import Media, RawEpisode
from dataengine.errors import EpisodeError, FormatError
from dataengine.formats import lerobot_tables as tables
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options
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
from dataengine.formats.lerobot_meta import INFO, Info, PathTemplate, load_info
from dataengine.formats.lerobot_rows import Rows, rows_of
from dataengine.storage import SourceRoot

FRAMES, VIDEOS = "frames.lance", "videos.lance"
_BLOB = "video_bytes"


class LeRobotLanceFormat:
    """LeRobot v3.0 in Lance tables. An episode reads as it does from parquet and mp4 files, digest included."""

    name: ClassVar[str] = "lerobot_lance"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "LeRobot v3.0 in Lance tables (frames.lance, videos.lance), as lerobot-lancedb writes it"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "lerobot_lance",
            "robot",
            "LeRobot v3.0 in Lance tables",
            "layout fixture",
            7,
            "written with pylance as lerobot-lancedb 0.3.1's convert.py writes it",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """`storage_format: lance` in meta/info.json, or the table of frames beside it."""
        if only is not None or not root.exists(INFO):
            return None
        try:
            info = load_json(root.read(INFO), INFO)
        except FormatError:
            return None
        stamped = isinstance(info, dict) and info.get("storage_format") == "lance"
        there = bool(tables.table_files(root, FRAMES))
        if not stamped and not there:
            return None
        evidence = (f"{INFO}: storage_format lance",) if stamped else ()
        return Detection(self.name, 0.95, (*evidence, *((FRAMES,) if there else ())), layout="lerobot_lance")

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every declared episode by index, then the episodes of the table that nobody declares."""
        check_options(options, (), self.name)
        if only is not None:
            raise FormatError("not_a_folder", "a LeRobot data set is a folder with meta/info.json", where=only)
        info = load_info(root)
        if not info.shared_files or info.data_path is None:
            raise FormatError("unsupported_version", f"{info.version} is not kept in Lance tables", where=INFO)
        clips = None if info.video_path is None else PathTemplate(info.video_path)
        owners = tables.column(root, FRAMES, "episode_index")
        declared: set[int] = set()
        for entry in list_episodes(root, info, PathTemplate(info.data_path), clips):
            if isinstance(entry, ScanProblem):
                yield entry
            elif entry.index in declared:
                yield ScanProblem("episode", entry.name, "duplicate_episode", f"{entry.name} is declared twice")
            else:
                declared.add(entry.index)
                yield _ref(root, info, entry)
        for index in sorted({int(owner) for owner in np.unique(owners)} - declared):
            yield ScanProblem(
                "episode", f"episode_{index:06d}", "undeclared_episode", f"{FRAMES} holds it, meta does not"
            )

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One episode; arrays, media and texts as the `lerobot` format gives them."""
        place = ref.locator
        with root.unchanged(*ref.files):
            info = load_info(root)
            rows = _rows(root, info, place)
            check_owner(rows, place)
            clips = _clips(root, info) if place["videos"] else {}
            for key, where in place["videos"].items():
                with located(VIDEOS):
                    rows.media[key] = _clip(root, key, where, rows.count, info.fps, clips)
            add_tasks(rows, root, info, None, place.get("tasks"))
            attributes = attributes_of(rows, info, place["absent"])
            files = tuple(root.describe(path) for path in ref.files)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest_of(rows, attributes),
            arrays=rows.arrays,
            media=rows.media,
            texts=rows.texts,
            attributes=attributes,
            declared=declared_of(rows, info),
        )


def _ref(root: SourceRoot, info: Info, episode: Declared) -> EpisodeRef:
    files = [*tables.table_files(root, FRAMES), INFO]
    files += tables.table_files(root, VIDEOS) if episode.videos else ()
    files += [info.tasks_file] if root.exists(info.tasks_file) else []
    files += [episode.listing] if episode.listing is not None else []
    locator = {
        "episode": episode.index,
        "length": episode.length,
        "videos": episode.videos,
        "absent": sorted(key for key in info.cameras if key not in episode.videos),
        **({"tasks": list(episode.tasks)} if episode.tasks is not None else {}),
    }
    return EpisodeRef(episode.name, locator, tuple(files), {"steps": episode.length})


def _rows(root: SourceRoot, info: Info, place: Mapping[str, Any]) -> Rows:
    """The episode's rows with the features' own names; they must lie together."""
    owned = np.flatnonzero(tables.column(root, FRAMES, "episode_index") == place["episode"])
    if not len(owned):
        raise EpisodeError("missing_episode", f"{FRAMES} holds no row of episode {place['episode']}", where=FRAMES)
    if owned[-1] - owned[0] + 1 != len(owned):
        raise EpisodeError("rows_out_of_order", f"the rows of episode {place['episode']} are scattered", where=FRAMES)
    table = tables.rows(root, FRAMES, int(owned[0]), len(owned))
    return rows_of(_renamed(table, info), FRAMES, place["length"], info.features)


def _renamed(table: pa.Table, info: Info) -> pa.Table:
    """Columns under their features' names: the writer turned dots into underscores."""
    names: dict[str, str] = {}
    for feature in info.features:
        stored = feature.replace(".", "_")
        if names.setdefault(stored, feature) != feature:
            what = f"{names[stored]} and {feature} would both be the column {stored}"
            raise FormatError("name_conflict", what, where=INFO)
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def _clips(root: SourceRoot, info: Info) -> dict[str, int]:
    """The row of `videos` that holds each file, by the path the file would have in LeRobot v3.0."""
    keys = tables.texts(root, VIDEOS, "video_key")
    chunks, files = (tables.column(root, VIDEOS, name) for name in ("chunk_index", "file_index"))
    template = PathTemplate(str(info.video_path))
    found: dict[str, int] = {}
    for row, (key, chunk, file) in enumerate(zip(keys, chunks.tolist(), files.tolist(), strict=True)):
        path = template.fill({"chunk_index": chunk, "file_index": file}, str(key))
        if path in found:
            raise FormatError("duplicate_file", f"{VIDEOS} holds {path} twice", where=VIDEOS)
        found[path] = row
    return found


def _clip(
    root: SourceRoot, key: str, place: Mapping[str, Any], rows: int, fps: float, clips: Mapping[str, int]
) -> Media:
    if place["path"] not in clips:
        raise EpisodeError("missing_media", f"{VIDEOS} does not hold {place['path']}", where=VIDEOS)
    data = tables.blob(root, VIDEOS, _BLOB, clips[place["path"]])
    found = video.index(io.BytesIO(data))
    first = first_frame(found, place, rows, fps)
    return video.cut(key, io.BytesIO(data), found, first, rows)
