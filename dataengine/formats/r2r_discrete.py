"""Room-to-Room on navigation graphs: annotations with paths of viewpoint ids, and one graph a scan.

`<annotations>.json` is a list (`.jsonl`: lines) of objects with `scan`, `path` (viewpoint ids), `path_id`, `heading`
and `instructions`; `<scan>_connectivity.json` is that scan's graph: per viewpoint `image_id`, `pose` (16 numbers,
row-major, z up, m), `included` and `unobstructed` (which others can be reached).
Upstream: peteanderson80/Matterport3DSimulator @ 589d091b, connectivity/README.md and tasks/R2R; wz0919/ScaleVLN @
3bdff0da reads the same over scans of HM3D and Gibson (`instr_encodings`, tokens derived from the texts, are not read).
There are no images and no actions: the start heading says nothing about how the agent turned.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError, SpecError
from dataengine.formats import fields, files
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.jsonrows import JsonRow, json_rows
from dataengine.storage import SourceRoot

GRAPH = "_connectivity.json"
SUFFIXES = (".json", ".jsonl")
MAX_ROWS_PROBED = 5
MAX_PROBED = 20
HEAD = 1 << 16
ROTATION_TOLERANCE = 1e-3
_TURN = 6.2832  # 2 pi, rounded up to the digits that are published
_TOLD = ("distance", "heading", "path_id", "instr_id")
_Problem = tuple[str, str]


@dataclass(frozen=True)
class _Row:
    """One path of an annotation file: its bytes, its id, its scan and its number of instructions; or why none."""

    start: int
    stop: int
    key: str = ""
    scan: str = ""
    texts: int = 0
    problem: _Problem | None = None


@dataclass(frozen=True)
class _Graph:
    """A scan's viewpoints: their numbers by id, poses [V, 4, 4] (camera in the scan, m), and what each can reach."""

    numbers: Mapping[str, int]
    poses: NDArray[np.float64]
    included: tuple[bool, ...]
    reach: tuple[frozenset[int], ...]


class R2rDiscreteFormat:
    """R2R and its relatives on graphs, one episode an instruction.

    Options: `graphs` `required` (default: a path whose scan has no graph is a problem, `missing_graph`) or `ignored`
    (viewpoint ids and text only, for every path); `annotations`: names of annotation files without suffix (by default
    all).
    """

    name: ClassVar[str] = "r2r_discrete"
    version: ClassVar[int] = 1
    summary: ClassVar[str] = "R2R, ScaleVLN: paths of viewpoint ids, with <scan>_connectivity.json graphs"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "r2r_discrete",
            "navigation",
            "Room-to-Room on Matterport3D's navigation graphs",
            "real files",
            2,
            "R2R_val_seen.json (340 paths, 1,021 instructions) and the graph of 17DRP5sb8fy, the only one of the two "
            "graphs at hand that has paths in this split (navigation/r2r_discrete)",
        ),
        Layout(
            "scalevln",
            "navigation",
            "ScaleVLN: generated instructions on graphs of HM3D and Gibson",
            "layout fixture",
            3,
            "after the readers of wz0919/ScaleVLN @ 3bdff0da: VLN-DUET/map_nav_src/r2r/data_utils.py, utils/data.py",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """An annotation file of rows with a scan, a path of ids and a text; and whether its graph is there."""
        graphs = _graphs(root)
        for path in _annotations(root, only)[:MAX_PROBED]:
            row = next((row for row in _first_rows(root, path) if _row_of(row).problem is None), None)
            if row is None:
                continue
            there = "its" if row["scan"] in graphs else "no"
            layout = "scalevln" if "instr_encodings" in row and "-" in row["scan"] else "r2r_discrete"
            told = f"{path}: paths of viewpoint ids, {there} graph of {row['scan']}"
            return Detection(self.name, 0.9, (told,), {} if there == "its" else {"graphs": "ignored"}, layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """Every instruction of every path, in the order of the files; graphs are looked up, not read."""
        check_options(options, ("graphs", "annotations"), self.name)
        wanted, use = option_names(options, "annotations", ()), _use(options)
        graphs = _graphs(root)
        for path in _annotations(root, only):
            if wanted and _stem(path) not in wanted:
                continue
            try:
                if only is None and _is_other(root, path):
                    continue
                rows = files.cached(root, path, _index)
            except BadInput as error:
                yield ScanProblem("file", path, error.reason, error.what)
                continue
            yield from _scan_rows(root, path, rows, graphs if use == "required" else None)

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One instruction of one path.

        Arrays: `hop` [T] int64, the number of each viewpoint in the path; with a graph also `pose` [T, 4, 4] and
        `position` [T, 3] float64 (the camera in the scan, m, z up); `heading` [1] (rad, the start's) where it is told.
        """
        path, graph_path = str(ref.locator["file"]), ref.locator["graph"]
        with root.unchanged(*ref.files):
            described = tuple(root.describe(name) for name in ref.files)
            if described[0].sha256 != ref.locator["sha256"]:
                raise FormatError("changed_during_read", f"{path} changed since it was scanned", where=path)
            row = _value(root, path, int(ref.locator["start"]), int(ref.locator["stop"]))
            graph = None if graph_path is None else files.cached(root, str(graph_path), _graph)
        number = int(ref.locator["instruction"])
        viewpoints, text = _path(row), _texts(row)[number]
        if not text.strip():
            raise EpisodeError("missing_stream", f"instruction {number} of the path says nothing")
        arrays: dict[str, NDArray[Any]] = {"hop": np.arange(len(viewpoints), dtype=np.int64)}
        if "heading" in row:
            arrays["heading"] = _heading(row["heading"])
        if graph is not None:
            arrays["pose"] = _poses(graph, viewpoints)
            arrays["position"] = arrays["pose"][:, :3, 3].copy()
        told = {name: row[name] for name in _TOLD if name in row}
        told |= {"scan": row["scan"], "viewpoints": list(viewpoints), "instruction_number": number}
        digest = RawDigest()
        digest.add_json("path", [*viewpoints, text, told])
        for name, array in arrays.items():
            digest.add_array(name, array)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=described,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            texts={"instruction": (text,)},
            attributes=told,
            group=str(row["scan"]),
        )


def _use(options: Mapping[str, Any]) -> Literal["required", "ignored"]:
    value = options.get("graphs", "required")
    if value not in ("required", "ignored"):
        raise SpecError(f"the option `graphs` is required or ignored, not {value!r}", fix="correct `format.options`")
    return "ignored" if value == "ignored" else "required"


def _annotations(root: SourceRoot, only: str | None) -> list[str]:
    paths = [only] if only is not None else [path for suffix in SUFFIXES for path in root.glob(f"**/*{suffix}")]
    return sorted(path for path in paths if path.endswith(SUFFIXES) and not path.endswith(GRAPH))


def _graphs(root: SourceRoot) -> dict[str, list[str]]:
    """Paths of graphs by scan."""
    found: dict[str, list[str]] = {}
    for path in root.glob(f"**/*{GRAPH}"):
        found.setdefault(PurePosixPath(path).name.removesuffix(GRAPH), []).append(path)
    return found


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _first_rows(root: SourceRoot, path: str) -> list[dict[str, Any]]:
    """The first rows of a list or of lines, at most five, looked for in the first 64 KiB."""
    try:
        with root.open(path) as file:
            text = file.read(HEAD).decode("utf-8", errors="replace")
    except BadInput:
        return []
    text = text.lstrip("\ufeff \t\r\n").removeprefix("[")
    found: list[dict[str, Any]] = []
    while len(found) < MAX_ROWS_PROBED:
        text = text.lstrip(", \t\r\n")
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        found.append(value)
        text = text[end:]
    return found


def _is_other(root: SourceRoot, path: str) -> bool:
    """Whether a file of a folder is plainly something else: its first rows can be read, and none is a path."""
    rows = _first_rows(root, path)
    return bool(rows) and not any({"scan", "path"} <= set(row) for row in rows)


def _index(data: bytes, path: str) -> tuple[_Row, ...]:
    return tuple(_indexed(found) for found in json_rows(data, path))


def _indexed(found: JsonRow) -> _Row:
    if found.problem is not None or not isinstance(found.value, dict):
        return _Row(found.start, found.stop, problem=found.problem or ("bad_type", "the row is no object"))
    row = _row_of(found.value)
    return _Row(found.start, found.stop, row.key, row.scan, row.texts, row.problem)


def _row_of(value: Mapping[str, Any]) -> _Row:
    try:
        _path(value)
        scan = fields.as_text(fields.member(value, "scan", "the path"), "scan")
        key, texts = _key(value), _texts(value)
    except EpisodeError as error:
        return _Row(0, 0, problem=(error.reason, error.what))
    return _Row(0, 0, key, scan, len(texts))


def _path(value: Mapping[str, Any]) -> tuple[str, ...]:
    path = fields.as_list(fields.member(value, "path", "the row"), "path")
    if not path:
        raise EpisodeError("empty_episode", "the path has no viewpoint")
    return tuple(fields.as_text(item, "a viewpoint's id") for item in path)


def _key(value: Mapping[str, Any]) -> str:
    """The path's id, as upstream's own `instr_id` begins with it."""
    found = value.get("path_id", value.get("instr_id"))
    if isinstance(found, str):
        return fields.as_text(found, "path_id")
    return str(fields.as_whole(found, "path_id"))


def _heading(value: Any) -> NDArray[Any]:
    """The start heading [1] in rad, within one turn: R2R's own lie from 0 to 2 pi; degrees do not."""
    heading = fields.as_array([value], "heading", (1,))
    if abs(float(heading[0])) > _TURN:
        raise EpisodeError("bad_value", f"a heading of {heading[0]:g} rad is more than a turn: in degrees?")
    return heading


def _texts(value: Mapping[str, Any]) -> tuple[str, ...]:
    if "instruction" in value and "instructions" not in value:
        return (fields.as_text(value["instruction"], "instruction"),)
    texts = fields.as_list(fields.member(value, "instructions", "the path"), "instructions")
    if not texts:
        raise EpisodeError("missing_stream", "the path has no instruction")
    return tuple(fields.as_text(text, "an instruction") for text in texts)


def _scan_rows(
    root: SourceRoot, path: str, rows: tuple[_Row, ...], graphs: Mapping[str, list[str]] | None
) -> Iterator[EpisodeRef | ScanProblem]:
    if not rows:
        yield ScanProblem("file", path, "empty_file", "it holds no row")
        return
    stem, sha256 = path.rpartition(".")[0], root.describe(path).sha256
    times = Counter(row.key for row in rows if row.problem is None)
    for number, row in enumerate(rows):
        name = f"{stem}/{row.key}"
        if row.problem is not None:
            yield ScanProblem("episode", f"{stem}/row {number}", *row.problem)
        elif times[row.key] > 1:
            what = f"the path id {row.key} stands {times[row.key]} times in {path}"
            yield ScanProblem("episode", f"{name} (row {number})", "duplicate_episode", what)
        elif graphs is not None and (problem := _graph_problem(root, row.scan, graphs)) is not None:
            yield ScanProblem("episode", name, *problem)
        else:
            graph = None if graphs is None else graphs[row.scan][0]
            for text in range(row.texts):
                locator = {"file": path, "start": row.start, "stop": row.stop, "instruction": text, "sha256": sha256}
                read = (path,) if graph is None else (path, graph)
                yield EpisodeRef(f"{name}_{text}", {**locator, "graph": graph}, read)


def _graph_problem(root: SourceRoot, scan: str, graphs: Mapping[str, list[str]]) -> _Problem | None:
    """Why a scan has no graph to go by; a graph that lies in two folders with one content is one."""
    there = graphs.get(scan, [])
    if not there:
        return "missing_graph", f"there is no {scan}{GRAPH}"
    if len(there) > 1 and len({root.describe(path).sha256 for path in there}) > 1:
        return "duplicate_graph", f"{', '.join(there)} are different graphs of one scan"
    return None


def _value(root: SourceRoot, path: str, start: int, stop: int) -> dict[str, Any]:
    """The row at its place, parsed strictly; what is wrong with it concerns this row alone."""
    with root.open(path) as file:
        file.seek(start)
        data = file.read(stop - start)
    try:
        value = fields.as_object(load_json(data, path), "the row")
        fields.canonical({name: item for name, item in value.items() if name != "instr_encodings"}, "the row")
    except BadInput as error:
        raise EpisodeError(error.reason, error.what, where=path) from None
    fields.as_text(fields.member(value, "scan", "the path"), "scan")
    return value


def _graph(data: bytes, path: str) -> _Graph:
    """A scan's graph, its poses checked: rigid, one a viewpoint, every id once, a square table of what is reached."""
    try:
        nodes = [fields.as_object(node, "a viewpoint") for node in fields.as_list(load_json(data, path), "the graph")]
        ids = [fields.as_text(fields.member(node, "image_id", "a viewpoint"), "image_id") for node in nodes]
        poses = [fields.as_array(fields.member(node, "pose", "a viewpoint"), "pose", (16,)) for node in nodes]
        reach = [_flags(node, "unobstructed", len(nodes)) for node in nodes]
        included = [_flag(fields.member(node, "included", "a viewpoint"), "included") for node in nodes]
    except EpisodeError as error:
        raise FormatError(error.reason, f"{path}: {error.what}", where=path) from None
    if len(set(ids)) != len(ids):
        raise FormatError("duplicate_name", f"{path} names a viewpoint twice", where=path)
    stacked = np.array(poses).reshape(-1, 4, 4)
    rotation = stacked[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0.0)
    if off > ROTATION_TOLERANCE or not np.allclose(stacked[:, 3], (0.0, 0.0, 0.0, 1.0)):
        raise FormatError("bad_rotation", f"{path} holds a pose that is no rigid transform", where=path)
    numbers = {name: number for number, name in enumerate(ids)}
    sets = tuple(frozenset(number for number, free in enumerate(row) if free) for row in reach)
    return _Graph(numbers, stacked, tuple(included), sets)


def _flags(node: Mapping[str, Any], name: str, count: int) -> list[bool]:
    found = [_flag(item, name) for item in fields.as_list(fields.member(node, name, "a viewpoint"), name)]
    if len(found) != count:
        raise EpisodeError("bad_shape", f"{name} holds {len(found)} values for {count} viewpoints")
    return found


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise EpisodeError("bad_type", f"{name} holds {value!r}, not true or false")
    return value


def _poses(graph: _Graph, viewpoints: tuple[str, ...]) -> NDArray[np.float64]:
    """Poses [T, 4, 4] along a path, every viewpoint of which is in the graph and reached from the one before."""
    for name in viewpoints:
        if name not in graph.numbers or not graph.included[graph.numbers[name]]:
            raise EpisodeError("unknown_viewpoint", f"the viewpoint {name} is not in the graph, or not included")
    numbers = [graph.numbers[name] for name in viewpoints]
    for row, (here, there) in enumerate(pairwise(numbers)):
        if there not in graph.reach[here]:
            raise EpisodeError("not_connected", f"hop {row}: the graph has no edge from {viewpoints[row]} onwards")
    poses: NDArray[np.float64] = graph.poses[numbers]
    return poses
