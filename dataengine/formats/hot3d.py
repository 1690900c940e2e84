"""HOT3D recordings (Aria or Quest 3), the annotation files beside the VRS: one folder a recording.

Layout, as read from facebookresearch/hot3d: `metadata.json` (`recording_name`, `headset`, `participant_id`,
`gt_available_status`); `mano_hand_pose_trajectory.jsonl` and `umetrack_hand_pose_trajectory.jsonl`, one line a
timestamp with `hand_poses` keyed "0" (left) and "1" (right), a hand that was not seen is absent;
`headset_trajectory.csv` and `dynamic_objects.csv` (poses in the recording's world, quaternions wxyz);
`masks/mask_*.csv` (timestamp, stream, True or False); of a Quest 3 `camera_models.json`. Images (VRS), 2D boxes and MPS
files are not read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import load_json
from dataengine.episode import RawDigest, RawEpisode
from dataengine.errors import BadInput, EpisodeError, FormatError
from dataengine.formats import fields
from dataengine.formats.base import Detection, EpisodeRef, Layout, ScanProblem, check_options, option_names
from dataengine.formats.hot3d_cameras import CAMERAS, cameras
from dataengine.storage import SourceRoot

METADATA = "metadata.json"
MANO = "mano_hand_pose_trajectory.jsonl"
UMETRACK = "umetrack_hand_pose_trajectory.jsonl"
HEADSET = "headset_trajectory.csv"
OBJECTS = "dynamic_objects.csv"
HANDS = ("0", "1")
MAX_METADATA = 1 << 20
_POSE_COLUMNS = ("t_wo_x[m]", "t_wo_y[m]", "t_wo_z[m]", "q_wo_w", "q_wo_x", "q_wo_y", "q_wo_z")
_HAND_PARTS = {
    "mano": {"t_xyz": 3, "q_wxyz": 4, "pose": 15, "betas": 10},
    "umetrack": {"t_xyz": 3, "q_wxyz": 4, "joint_angles": 22, "hand_confidence": 1},
}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Timed:
    """Numbers [n, width] at their timestamps [n]."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]


class Hot3dFormat:
    """HOT3D recordings with hand poses. Option `headsets`: names of headsets to read (default all)."""

    name: ClassVar[str] = "hot3d"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "HOT3D recording folders: MANO and UmeTrack hand poses, headset and object trajectories"
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            "hot3d_aria",
            "egocentric",
            "HOT3D, Project Aria: hands, headset, objects, masks",
            "real files",
            11,
            "egocentric/hot3d/Aria/P0003_c701bd11",
        ),
        Layout(
            "hot3d_quest3",
            "egocentric",
            "HOT3D, Quest 3: the same with camera_models.json",
            "layout fixture",
            7,
            "fixture after facebookresearch/hot3d @ e814021b8e90c8c01fe5c044b2b7f2a518b0daa5, "
            "hot3d/data_loaders/tests/data_sample/Quest3/P0002_273c2819 (read by hand, no part of the tests)",
        ),
    )

    def detect(self, root: SourceRoot, only: str | None) -> Detection | None:
        """A folder whose metadata names a recording, with a hand pose file in it."""
        for path in root.glob(f"**/{METADATA}") if only is None else ():
            metadata, _ = _metadata(root, path)
            if metadata is not None and root.exists(_beside(path, MANO)):
                layout = _LAYOUTS.get(str(metadata.get("headset")))
                return Detection(self.name, 0.95, (path, _beside(path, MANO)), {}, layout)
        return None

    def scan(
        self, root: SourceRoot, only: str | None, options: Mapping[str, Any]
    ) -> Iterator[EpisodeRef | ScanProblem]:
        """One ref a recording; recordings without hand ground truth (the test participants) are problems."""
        check_options(options, ("headsets",), self.name)
        headsets = option_names(options, "headsets", ())
        seen: set[str] = set()
        for path in root.glob(f"**/{MANO}") if only is None else ():
            if not root.exists(_beside(path, METADATA)):
                folder = str(PurePosixPath(path).parent)
                yield ScanProblem("episode", folder, "missing_file", f"{path} has no {METADATA} beside it")
        for path in root.glob(f"**/{METADATA}") if only is None else ():
            metadata, problem = _metadata(root, path)
            if problem is not None and root.exists(_beside(path, MANO)):
                yield problem
            if metadata is None:
                continue
            try:
                ref = _ref(root, path, metadata, headsets, seen)
            except BadInput as error:
                yield ScanProblem("episode", str(PurePosixPath(path).parent), error.reason, error.what)
                continue
            seen.add(ref.upstream_id)
            yield ref

    def read(self, root: SourceRoot, ref: EpisodeRef) -> RawEpisode:
        """One recording. T is the rows of the MANO file; all else is joined to them by exact timestamp.

        Arrays: `timestamp_ns` [T] int64; for hands 0 (left) and 1 (right) `mano/<hand>/t_xyz` [T, 3], `/q_wxyz`
        [T, 4], `/pose` [T, 15], `/betas` [T, 10], `/present` [T] bool and the same under `umetrack/` with
        `joint_angles` [T, 22] and `hand_confidence` [T, 1]; `headset/t_xyz`, `/q_wxyz`, `/present`;
        `objects/<uid>/...` likewise; `masks/<mask>/<stream>/timestamp_ns` and `/value` in their own rows. Metres,
        the recording's world. What is absent at a row is NaN there with `present` False, never zero.
        """
        with root.unchanged(*ref.files):
            contents = {path: root.read(path) for path in ref.files}
            files = tuple(root.describe(path) for path in ref.files)
        folder = str(ref.locator["folder"])
        named = {str(PurePosixPath(path).relative_to(folder)): data for path, data in contents.items()}
        digest = RawDigest()
        for name in sorted(named):
            digest.add_bytes(name, named[name])
        metadata = fields.as_object(load_json(named[METADATA], _at(folder, METADATA)), METADATA)
        arrays, unmatched = _arrays(named, folder)
        return RawEpisode(
            upstream_id=ref.upstream_id,
            files=files,
            raw_digest=digest.hexdigest(),
            arrays=arrays,
            attributes={
                **_about(metadata),
                "unmatched_rows": unmatched,
                **({"cameras": cameras(named[CAMERAS], _at(folder, CAMERAS))} if CAMERAS in named else {}),
                "unread": _unread(root, folder, ref.files),
            },
            group=_about(metadata)["participant_id"],
        )


_LAYOUTS = {"Aria": "hot3d_aria", "Quest3": "hot3d_quest3"}


def _unread(root: SourceRoot, folder: str, read: Sequence[str]) -> list[str]:
    """What else lies in a recording's folder: pictures (VRS), 2D boxes, the user's profile, files of MPS."""
    return [str(PurePosixPath(path).relative_to(folder)) for path in root.glob(_at(folder, "**/*")) if path not in read]


def _at(folder: str, name: str) -> str:
    return str(PurePosixPath(folder) / name)


def _beside(path: str, name: str) -> str:
    return str(PurePosixPath(path).parent / name)


def _metadata(root: SourceRoot, path: str) -> tuple[dict[str, Any] | None, ScanProblem | None]:
    """The metadata when it names a recording (other data sets have a metadata.json, too), or what is wrong."""
    try:
        found = load_json(root.read(path, MAX_METADATA), path)
    except BadInput as error:
        return None, ScanProblem("file", path, error.reason, error.what)
    if isinstance(found, dict) and "recording_name" in found:
        return found, None
    return None, ScanProblem("file", path, "missing_key", f"{path} names no recording (recording_name)")


def _about(metadata: Mapping[str, Any]) -> dict[str, str]:
    names = ("recording_name", "headset", "participant_id")
    return {name: fields.as_text(fields.member(metadata, name, METADATA), name) for name in names}


def _ref(
    root: SourceRoot, path: str, metadata: Mapping[str, Any], headsets: Sequence[str], seen: set[str]
) -> EpisodeRef:
    about = _about(metadata)
    recording = about["recording_name"]
    if recording in seen:
        raise EpisodeError("duplicate_episode", f"the recording {recording} lies in two folders")
    if headsets and about["headset"] not in headsets:
        raise EpisodeError("other_headset", f"{recording} is of {about['headset']}, wanted is {', '.join(headsets)}")
    status = fields.as_object(metadata.get("gt_available_status", {}), "gt_available_status")
    if status.get("mano_hand_pose_gt") is False:
        raise EpisodeError("missing_ground_truth", f"{recording}: its metadata says that it has no MANO hand poses")
    if not root.exists(_beside(path, MANO)):
        raise EpisodeError("missing_file", f"{recording} has no {MANO}")
    folder = str(PurePosixPath(path).parent)
    masks = root.glob(_at(folder, "masks/mask_*.csv"))
    poses = [_at(folder, name) for name in (MANO, UMETRACK, HEADSET, OBJECTS, CAMERAS)]
    files = (path, *(pose for pose in poses if root.exists(pose)), *masks)
    return EpisodeRef(recording, {"folder": folder}, files)


def _arrays(named: Mapping[str, bytes], folder: str) -> tuple[Arrays, dict[str, int]]:
    hands = {"mano": _hands(named[MANO], _at(folder, MANO), "mano")}
    if UMETRACK in named:
        hands["umetrack"] = _hands(named[UMETRACK], _at(folder, UMETRACK), "umetrack")
    times, _ = hands["mano"]
    arrays: Arrays = {"timestamp_ns": times}
    unmatched: dict[str, int] = {}
    for kind, (stamps, found) in hands.items():
        if kind != "mano":
            unmatched[kind] = _strangers(kind, stamps, times)
        for hand, timed in found.items():
            arrays.update(_joined(f"{kind}/{hand}", timed, times, _HAND_PARTS[kind]))
    pose_parts = {"t_xyz": 3, "q_wxyz": 4}
    for name, prefix in ((HEADSET, "headset"), (OBJECTS, "objects")):
        poses = _poses(named[name], _at(folder, name)) if name in named else {}
        if prefix == "headset" and len(poses) > 1:
            raise EpisodeError("bad_value", f"{name} holds poses of {len(poses)} headsets")
        for uid, timed in poses.items():
            place = prefix if prefix == "headset" else f"{prefix}/{uid}"
            arrays.update(_joined(place, timed, times, pose_parts))
        if poses:
            unmatched[prefix] = _strangers(name, np.concatenate([timed.times for timed in poses.values()]), times)
    for name in sorted(named):
        if name.startswith("masks/"):
            arrays.update(_masks(named[name], _at(folder, name)))
    return arrays, unmatched


def _strangers(name: str, stamps: NDArray[np.int64], times: NDArray[np.int64]) -> int:
    """How many rows match none of the MANO file's; `time_mismatch` where not one of them does: another clock."""
    count = int((~np.isin(stamps, times)).sum())
    if count and count == len(stamps):
        raise EpisodeError("time_mismatch", f"{name}: none of its {count} timestamps is one of {MANO}'s")
    return count


def _joined(prefix: str, timed: _Timed, times: NDArray[np.int64], parts: Mapping[str, int]) -> Arrays:
    """Values at the rows of `times`, NaN with `present` False where there are none; split into the named parts."""
    if len(np.unique(timed.times)) != len(timed.times):
        raise EpisodeError("duplicate_timestamp", f"{prefix} holds two values at one timestamp")
    order = np.argsort(timed.times)
    place = np.searchsorted(timed.times, times, sorter=order).clip(max=max(len(order) - 1, 0))
    present = np.zeros(len(times), np.bool_)
    full = np.full((len(times), sum(parts.values())), np.nan)
    if len(order):
        source = order[place]
        present = timed.times[source] == times
        full[present] = timed.values[source[present]]
    edges = np.cumsum([0, *parts.values()])
    columns = {name: full[:, edges[i] : edges[i + 1]].copy() for i, name in enumerate(parts)}
    return {f"{prefix}/{name}": values for name, values in columns.items()} | {f"{prefix}/present": present}


def _hands(data: bytes, path: str, kind: str) -> tuple[NDArray[np.int64], dict[str, _Timed]]:
    """Timestamps of all lines, and for each hand the values of the lines that hold it."""
    stamps: list[int] = []
    rows: dict[str, list[tuple[int, NDArray[np.float64]]]] = {hand: [] for hand in HANDS}
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{path} line {number}"
        entry = fields.as_object(load_json(line, where), where)
        stamp = fields.as_whole(fields.member(entry, "timestamp_ns", where), f"{where}: timestamp_ns")
        stamps.append(stamp)
        poses = fields.as_object(fields.member(entry, "hand_poses", where), f"{where}: hand_poses")
        for hand, pose in poses.items():
            if hand not in HANDS:
                raise EpisodeError("bad_value", f"{where}: the hand {hand!r} is neither 0 (left) nor 1 (right)")
            rows[hand].append((stamp, _hand_values(pose, f"{where}: hand {hand}", _HAND_PARTS[kind])))
    times = np.array(stamps, np.int64)
    if len(np.unique(times)) != len(times):
        raise EpisodeError("duplicate_timestamp", f"{path}: two lines have one timestamp")
    width = sum(_HAND_PARTS[kind].values())
    return times, {hand: _timed(found, width) for hand, found in rows.items()}


def _hand_values(pose: Any, where: str, parts: Mapping[str, int]) -> NDArray[np.float64]:
    pose = fields.as_object(pose, where)
    xform = fields.as_object(fields.member(pose, "wrist_xform", where), f"{where}: wrist_xform")
    found = []
    for name, width in parts.items():
        value = fields.member(xform if name in ("t_xyz", "q_wxyz") else pose, name, where)
        found.append(fields.as_array([value] if width == 1 else value, f"{where}: {name}", (width,)))
    return np.concatenate(found)


def _timed(rows: Sequence[tuple[int, NDArray[np.float64]]], width: int) -> _Timed:
    times = np.array([stamp for stamp, _ in rows], np.int64)
    values = np.stack([value for _, value in rows]) if rows else np.zeros((0, width))
    return _Timed(times, values)


def _table(data: bytes, path: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The named columns of every row, with the row's place; a file not ended by a newline is `truncated`."""
    if not data.endswith(b"\n"):
        raise FormatError("truncated", f"{path} ends in the middle of a line", where=path)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        missing = [name for name in columns if name not in header]
        if missing:
            raise FormatError("missing_key", f"{path} has no column {missing[0]!r}", where=path)
        picked = [header.index(name) for name in columns]
        for row in reader:
            if len(row) != len(header):
                raise EpisodeError("bad_row", f"{path} line {reader.line_num}: {len(row)} of {len(header)} columns")
            yield f"{path} line {reader.line_num}", [row[index] for index in picked]
    except UnicodeDecodeError:
        raise FormatError("invalid_utf8", f"{path} is not UTF-8 text", where=path) from None
    except csv.Error as error:
        raise FormatError("bad_row", f"{path} is no CSV: {error}", where=path) from None


def _stamp(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise EpisodeError("bad_timestamp", f"{where}: {text[:40]!r} is no timestamp in ns")
    return int(text)


def _poses(data: bytes, path: str) -> dict[str, _Timed]:
    """Poses [n, 7] (t xyz, q wxyz) of each object uid, in the order of the file."""
    rows: dict[str, list[tuple[int, NDArray[np.float64]]]] = {}
    for where, (uid, stamp, *numbers) in _table(data, path, ("object_uid", "timestamp[ns]", *_POSE_COLUMNS)):
        try:
            values = np.array([float(number) for number in numbers])
        except ValueError:
            raise EpisodeError("bad_value", f"{where}: a pose holds what is no number") from None
        if not np.isfinite(values).all():
            raise EpisodeError("bad_value", f"{where}: a pose holds a value that is not finite")
        rows.setdefault(fields.as_text(uid, where), []).append((_stamp(stamp, where), values))
    return {uid: _timed(found, len(_POSE_COLUMNS)) for uid, found in sorted(rows.items())}


def _masks(data: bytes, path: str) -> Arrays:
    name = PurePosixPath(path).stem.removeprefix("mask_")
    rows: dict[str, list[tuple[int, bool]]] = {}
    for where, (stamp, stream, value) in _table(data, path, ("timestamp[ns]", "stream_id", "mask")):
        if value not in ("True", "False"):
            raise EpisodeError("bad_value", f"{where}: the mask is {value[:40]!r}, neither True nor False")
        rows.setdefault(fields.as_text(stream, where), []).append((_stamp(stamp, where), value == "True"))
    arrays: Arrays = {}
    for stream, found in sorted(rows.items()):
        if len({stamp for stamp, _ in found}) != len(found):
            raise EpisodeError("duplicate_timestamp", f"{path}: {stream} has two values at one timestamp")
        arrays[f"masks/{name}/{stream}/timestamp_ns"] = np.array([stamp for stamp, _ in found], np.int64)
        arrays[f"masks/{name}/{stream}/value"] = np.array([value for _, value in found], np.bool_)
    return arrays
