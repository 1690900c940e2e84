"""Where things are: poses of hands, head and base in their frames, their ways, cameras and fingertips.

Every frame is a space of its own (`frames/robot_base`): nothing relates two frames, so they are never overlaid.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from dataengine import camera, geometry
from dataengine.episode import Episode, View
from dataengine.transforms.cameras import camera_frame, pose_rows
from dataengine.transforms.slots import Block, block_of, rotations_of
from dataengine.viewing.recording import Clock, Colour, Recording

BODIES = {
    "eef_right": ("eef_pos.right", "eef_rot6d.right"),
    "eef_left": ("eef_pos.left", "eef_rot6d.left"),
    "head": ("ego_camera_pos", "ego_camera_rot6d"),
    "base": ("nav_position", "nav_yaw"),
}
UPRIGHT = ("robot_base", "episode")
"""Frames that the schema defines: x forward, y left, z up."""
AXES_M = {"base": 0.3}
WAYS: dict[str, Colour] = {"state": (70, 130, 220), "action": (230, 130, 40)}
_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")
Floats = NDArray[np.float64]


def part(name: str) -> str:
    """A name as one part of an entity's path."""
    return _PLAIN.sub("_", name) or "_"


def frame_path(name: str) -> str:
    """The space of a frame."""
    return f"frames/{part(name)}"


def camera_path(episode: Episode, view: View) -> str:
    """Where a view's pictures are: in the space of its frame where the camera's pose and matrix are known."""
    posed = _matrix(view) is not None and pose_rows(episode, view) is not None
    return (
        f"{frame_path(camera_frame(episode, view))}/camera_{part(view.name)}" if posed else f"cameras/{part(view.name)}"
    )


def bodies(recording: Recording, episode: Episode, clock: Clock) -> list[str]:
    """Poses of what has one in the state, their ways, action targets and fingertips. Returns the frames shown."""
    frames: list[str] = []
    for body, (place_key, turn_key) in BODIES.items():
        frame = episode.frames.get(f"state/{place_key}", "unknown")
        path = f"{frame_path(frame)}/{body}"
        place, turn = block_of(episode.state, place_key), block_of(episode.state, turn_key)
        if place is not None and place.values.shape[1] == 3 and _body(recording, path, clock, place, turn):
            frames.append(frame)
            _way(recording, f"{path}_way", place, "state")
            _fingertips(recording, episode, path, clock, body)
        target = block_of(episode.action, place_key)
        if target is not None and target.values.shape[1] == 3:
            told = episode.frames.get(f"action/{place_key}", "unknown")
            frames.append(told)
            _way(recording, f"{frame_path(told)}/{body}_action", target, "action")
    return _spaces(recording, frames)


def _spaces(recording: Recording, frames: list[str]) -> list[str]:
    found = list(dict.fromkeys(frames))
    for frame in found:
        if frame in UPRIGHT:
            recording.upright(frame_path(frame))
    return found


def _body(recording: Recording, path: str, clock: Clock, place: Block, turn: Block | None) -> bool:
    """The pose of a body where it is known; without a rotation in the source its place, with the frame's own axes.

    Returns whether there is any.
    """
    known = place.whole if turn is None else place.whole & turn.whole
    if not known.any():
        return False
    quaternions = np.tile((0.0, 0.0, 0.0, 1.0), (len(known), 1))
    if turn is not None:
        quaternions = _turns(turn)
    recording.poses(path, clock.at(known), place.values[known], quaternions[known])
    recording.axes(path, AXES_M.get(path.rpartition("/")[2], 0.08))
    return True


def _turns(turn: Block) -> Floats:
    """Quaternions [T, 4] xyzw of a rot6d, or of a yaw about the frame's third axis."""
    if turn.slot.key == "nav_yaw":
        half = np.where(turn.mask[:, 0], turn.values[:, 0], 0.0) / 2
        zero = np.zeros_like(half)
        return np.stack([zero, zero, np.sin(half), np.cos(half)], axis=1)
    return np.asarray(rotations_of(turn).as_quat(), np.float64)


def _way(recording: Recording, path: str, place: Block, side: str) -> None:
    """The whole way as lines, interrupted where the place is not known."""
    rows = np.flatnonzero(place.whole)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    strips = [place.values[run] for run in runs if len(run) > 1]
    if strips:
        recording.line(path, strips, WAYS[side])


def _fingertips(recording: Recording, episode: Episode, path: str, clock: Clock, body: str) -> None:
    """Five points in the wrist's frame, which the wrist's pose carries."""
    tips = block_of(episode.state, f"fingertips.{body.removeprefix('eef_')}") if body.startswith("eef_") else None
    if tips is not None and tips.values.shape[1] == 15 and tips.whole.any():
        recording.points(f"{path}/fingertips", clock.at(tips.whole), tips.values[tips.whole].reshape(-1, 5, 3))


def cameras(recording: Recording, episode: Episode, clock: Clock) -> list[str]:
    """Matrix and, where known, poses of the views' cameras. Returns the frames they are in."""
    frames = []
    for view in episode.views:
        matrix, path = _matrix(view), camera_path(episode, view)
        if matrix is None:
            continue
        stream = episode.media[view.media]
        upright = view.rotate in (0, 180)
        size = (stream.height, stream.width) if upright else (stream.width, stream.height)
        scaled = camera.shown(matrix, view.rotate, size)
        recording.pinhole(path, _K(scaled), (float(size[0]), float(size[1])))
        found = pose_rows(episode, view)
        if found is not None and found[1].any():
            poses, known = found
            quaternions = geometry.rotation_of(poses[known]).as_quat()
            recording.poses(path, clock.at(known), poses[known, :3, 3], quaternions)
            frames.append(camera_frame(episode, view))
    return frames


def _matrix(view: View) -> camera.Camera | None:
    """The view's calibration where it has a matrix."""
    found = view.camera
    return None if found is None or found.focal is None or found.centre is None or found.size is None else found


def _K(made: camera.Camera) -> Floats:  # noqa: N802 - the field's name of the matrix
    (fx, fy), (cx, cy) = made.focal or (1.0, 1.0), made.centre or (0.0, 0.0)
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
