"""Navigation: poses of a discrete Habitat agent, derived from its actions and the locations its source records.

Axes. Habitat's world is y up and its body looks along its own -z, so a body turned by the angle h about y looks along
(-sin h, 0, -cos h) and has (-cos h, 0, sin h) to its left; a left turn raises h. The episode frame derived here has
its origin at the start, x along the start heading, y left and z up, and yaw is positive to the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine import geometry
from dataengine.errors import EpisodeError, SpecError
from dataengine.specs.derive import CarriedCamera, HabitatDiscrete, WalkedPath

Floats = NDArray[np.float64]
START_TOLERANCE_M = 1e-3
ROTATION_TOLERANCE = 1e-3
MAX_ELEVATION_DEG = 90.0
MAX_TILT_DEG = 30.0
MAX_STEP = 4.0
"""How far a forward step may lead, in steps: 1.75 is the most of 96,441 in VLN-CE, down a stair."""
STILL_M = 1e-3
"""Forward steps that moved less than this over the ground (a collision) have no direction to compare."""


def habitat_discrete(spec: HabitatDiscrete, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """Poses in the episode frame from discrete actions.

    Reads `actions` [T] ids, `locations` [F+1, 3] m (the start, then one after each of the F forward steps; Habitat's
    world), `start_position` [3] m and `start_rotation` [4] (quaternion xyzw). Gives float64 arrays of T rows:
    `derived/position` [T, 3] m and `derived/yaw` [T] rad before action t, `derived/next_position` and
    `derived/next_yaw` after it, `derived/stop` [T] and `derived/terminate` [T] (1.0 where the action is stop).
    Positions are the recorded ones, not sums of steps; headings are the start heading plus the turns. Yaw is wrapped
    into (-pi, pi]. With `positions: integrated` only `actions` are read, and positions are sums of forward steps.

    With look actions `derived/elevation` and `derived/next_elevation` [T] rad (up is positive) and the camera's
    `derived/camera_rotation` and `derived/next_camera_rotation` [T, 3, 3] (axes x right, y down, z forward, in the
    episode frame) are added; with `camera_height_m` also `derived/camera_position` and `derived/next_camera_position`.

    Raises `EpisodeError`: `missing_stream`, `bad_shape`, `bad_value`, `unknown_action`, `missing_stop` (stop is not
    exactly the last action), `length_mismatch` (locations), `start_mismatch`, `bad_rotation` (not a pure yaw),
    `step_too_long` (a place more than four steps from the one before),
    `heading_mismatch` (headings and walked directions disagree: start and actions are of two versions of the set),
    `bad_elevation` (the camera looks beyond straight up or down).
    """
    ids = _action_ids(spec)
    actions = _actions(ids, arrays)
    forward = actions == ids["forward"]
    turns = (actions == ids["left"]).astype(np.int64) - (actions == ids["right"])
    turned = np.concatenate([[0.0], np.cumsum(turns) * spec.turn_deg])
    if spec.positions == "integrated":
        position = _walked(forward, turned, spec.forward_m)
    else:
        position = _recorded(spec, arrays, forward, turned)
    yaw = _wrapped_radians(turned)
    stop = (actions == ids["stop"]).astype(np.float64)
    return {
        **_before_after("position", position),
        **_before_after("yaw", yaw),
        "derived/stop": stop,
        "derived/terminate": stop.copy(),
        **_camera(spec, ids, actions, position, yaw),
    }


def walked_path(spec: WalkedPath, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """A recorded path in the episode frame; see `WalkedPath`.

    Raises `EpisodeError`: `missing_stream`, `bad_shape`, `bad_value`, `empty_episode`, `length_mismatch`.
    """
    counted = _stream(arrays, spec.rows)
    rows = len(counted) if counted.ndim else 0
    if rows == 0:
        raise EpisodeError("empty_episode", f"{spec.rows} has no rows")
    stop = np.zeros(rows)
    stop[-1] = 1.0
    found = {"derived/stop": stop}
    if spec.position is None or spec.heading is None:
        return found
    places = _stream(arrays, spec.position)
    width = 2 if places.ndim == 2 and places.shape[1] == 2 else 3
    places = _numbers(arrays, spec.position, (rows, width))
    headings = _stream(arrays, spec.heading)
    headings = _numbers(arrays, spec.heading, (headings.shape[0] if headings.ndim else 0, *headings.shape[1:]))
    if headings.size not in (1, rows) or headings.ndim > 2:
        raise EpisodeError("length_mismatch", f"{spec.heading} holds {headings.size} headings for {rows} rows")
    # Angles about z, positive to the left, from +x of the source's axes.
    angles = headings.reshape(-1) * (1.0 if spec.grows == "left" else -1.0) + (np.pi / 2 if spec.zero == "y" else 0.0)
    sin, cos = np.sin(angles[0]), np.cos(angles[0])
    offsets = np.zeros((rows, 3))
    offsets[:, :width] = places - places[0]
    found["derived/position"] = offsets @ np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    if headings.size == rows:
        found["derived/yaw"] = _wrapped_radians(np.degrees(angles - angles[0]))
    return found


def carried_camera(spec: CarriedCamera, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """Place and heading of an agent that carries a camera; see `CarriedCamera`.

    Raises `EpisodeError`: `missing_stream`, `bad_shape`, `bad_value`, `bad_rotation` (no rigid transform, or an agent
    that does not stand upright within 30 degrees: the mount is not the camera's, or z is not up), `heading_mismatch`
    (most of the way is walked backwards: the camera's axes are others).
    """
    poses = _rigid(spec.poses, _numbers(arrays, spec.poses, (-1, 4, 4)))
    agent = poses[:, :3, :3] @ np.swapaxes(_mount(spec, arrays, len(poses)), -1, -2)
    place = poses[:, :3, 3]
    if spec.world == "first_row" and len(poses):
        place, agent = (place - place[0]) @ agent[0], agent[0].T @ agent
    tilted = agent[:, 2, 2] < np.cos(np.radians(MAX_TILT_DEG))
    if tilted.any():
        raise EpisodeError("bad_rotation", f"row {int(tilted.argmax())}: the agent does not stand upright")
    ahead = agent[:, :, "xy".index(spec.ahead)]
    walked = np.einsum("ti,ti->t", np.diff(place, axis=0)[:, :2], ahead[:-1, :2])
    if walked.sum() < 0:
        raise EpisodeError("heading_mismatch", f"the agent walks {-walked.sum():.2f} m backwards in all")
    return {"derived/carrier_position": place, "derived/carrier_heading": np.arctan2(ahead[:, 1], ahead[:, 0])}


def _mount(spec: CarriedCamera, arrays: Mapping[str, NDArray[Any]], rows: int) -> Floats:
    """The camera's rotation in the agent, [3, 3] or [rows, 3, 3]."""
    if spec.mount is None or spec.axes is not None:
        # The agent has x ahead, y left and z up; a positive turn about y lowers the view.
        tilt = geometry.Rotation.from_euler("y", spec.tilt_deg or 0.0, degrees=True)
        made: Floats = tilt.as_matrix() @ geometry.AXES[spec.axes or "opencv"]
        return made
    stored = _stream(arrays, spec.mount)
    shape = (4, 4) if stored.ndim == 2 else (rows, 4, 4)
    return _rigid(spec.mount, _numbers(arrays, spec.mount, shape))[..., :3, :3]


def _rigid(name: str, matrices: Floats) -> Floats:
    turns = matrices[..., :3, :3]
    off = np.abs(turns @ np.swapaxes(turns, -1, -2) - np.eye(3)).max(initial=0.0)
    if off > ROTATION_TOLERANCE or not np.allclose(matrices[..., 3, :], (0.0, 0.0, 0.0, 1.0)):
        raise EpisodeError("bad_rotation", f"{name} holds what is no rigid transform")
    return matrices


def _before_after(name: str, values: Floats) -> dict[str, Floats]:
    """Values [T + 1] as those before and after each of T actions."""
    return {f"derived/{name}": values[:-1], f"derived/next_{name}": values[1:]}


def _recorded(spec: HabitatDiscrete, arrays: Mapping[str, NDArray[Any]], forward: Any, turned: Floats) -> Floats:
    """Positions [T + 1, 3] in the episode frame, from the locations that the source recorded."""
    locations = _numbers(arrays, "locations", (-1, 3))
    start = _numbers(arrays, "start_position", (3,))
    heading = start_heading(_numbers(arrays, "start_rotation", (4,)))
    if len(locations) != int(forward.sum()) + 1:
        raise EpisodeError("length_mismatch", f"{len(locations)} locations for {int(forward.sum())} forward steps")
    off = float(np.abs(locations[0] - start).max())
    if not off <= START_TOLERANCE_M:
        raise EpisodeError("start_mismatch", f"the first location is {off:.3g} m off the start position")
    _check_steps(spec, locations)
    _check_headings(spec, locations, heading + np.radians(turned[:-1][forward]))
    place = np.concatenate([[0], np.cumsum(forward)])
    path: Floats = to_episode_frame(locations - start, heading)[place]
    return path


def _walked(forward: Any, turned: Floats, step: float) -> Floats:
    """Positions [T + 1, 3] as sums of steps along the heading."""
    angle = np.radians(turned[:-1])
    moves = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], axis=1) * (forward * step)[:, None]
    return np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])


def _camera(
    spec: HabitatDiscrete, ids: Mapping[str, int], actions: NDArray[np.int64], position: Floats, yaw: Floats
) -> dict[str, Floats]:
    if spec.tilt_deg is None and spec.camera_height_m is None:
        return {}
    looks = np.zeros(len(actions))
    if spec.tilt_deg is not None:
        looks = (actions == ids["look_up"]) * spec.tilt_deg - (actions == ids["look_down"]) * spec.tilt_deg
    degrees = np.concatenate([[0.0], np.cumsum(looks)])
    beyond = np.flatnonzero(np.abs(degrees) > MAX_ELEVATION_DEG)
    if beyond.size:
        raise EpisodeError(
            "bad_elevation", f"after row {beyond[0] - 1} the camera looks {degrees[beyond[0]]:g} degrees up"
        )
    elevation = np.radians(degrees)
    # The body's y axis points left: a positive turn about it lowers the view.
    turns = geometry.Rotation.from_euler("ZY", np.stack([yaw, -elevation], axis=1))
    rotation = np.asarray(turns.as_matrix() @ geometry.AXES["opencv"])
    found = {**_before_after("elevation", elevation), **_before_after("camera_rotation", rotation)}
    if spec.camera_height_m is not None:
        found |= _before_after("camera_position", position + np.array([0.0, 0.0, spec.camera_height_m]))
    return found


def _action_ids(spec: HabitatDiscrete) -> dict[str, int]:
    ids = {str(name): int(number) for name, number in spec.actions.items()}
    if not {"stop", "forward", "left", "right"} <= set(ids) or len(set(ids.values())) != len(ids):
        raise SpecError(
            "habitat_discrete needs four different ids: stop, forward, left, right",
            fix="name each of them once under `derive: actions:`",
        )
    return ids


def _actions(ids: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    found = _stream(arrays, "actions")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise EpisodeError("bad_shape", f"actions are {found.dtype} {found.shape}, not one whole number a step")
    if len(found) == 0:
        raise EpisodeError("empty_episode", "the episode holds no action")
    unknown = np.flatnonzero(~np.isin(found, list(ids.values())))
    if unknown.size:
        row = int(unknown[0])
        raise EpisodeError("unknown_action", f"row {row}: {int(found[row])} is none of {dict(sorted(ids.items()))}")
    stops = np.flatnonzero(found == ids["stop"])
    if stops.tolist() != [len(found) - 1]:
        told = f"stop stands at row {int(stops[0])} of {len(found)}" if stops.size else "no action is stop"
        raise EpisodeError("missing_stop", f"{told}, it must be the last action and only that")
    return found.astype(np.int64)


def _stream(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise EpisodeError("missing_stream", f"the array {name!r} is not in the episode")
    return arrays[name]


def _numbers(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> Floats:
    found = _stream(arrays, name)
    fits = found.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind not in "iuf":
        raise EpisodeError("bad_shape", f"{name} is {found.dtype} {found.shape}, not numbers {shape}")
    values = found.astype(np.float64)
    if not np.isfinite(values).all():
        raise EpisodeError("bad_value", f"{name} holds a value that is not finite")
    return values


def start_heading(quaternion: Floats) -> float:
    """Angle (rad) about y of a quaternion xyzw; one with roll or pitch, or not of unit norm, is `bad_rotation`."""
    x, y, z, w = (float(value) for value in quaternion)
    norm = float(np.linalg.norm(quaternion))
    if abs(norm - 1.0) > ROTATION_TOLERANCE or max(abs(x), abs(z)) > ROTATION_TOLERANCE:
        raise EpisodeError("bad_rotation", f"start_rotation {quaternion.tolist()} (xyzw) is no turn about y alone")
    return 2.0 * float(np.arctan2(y, w))


def _episode_axes(heading: float) -> Floats:
    """The matrix [3, 3] whose rows are the episode's axes (along the heading, to its left, up) in Habitat's world."""
    sin, cos = np.sin(heading), np.cos(heading)
    return np.array([[-sin, 0.0, -cos], [-cos, 0.0, sin], [0.0, 1.0, 0.0]])


def to_episode_frame(offsets: Floats, heading: float) -> Floats:
    """World offsets from the start [N, 3] (Habitat, y up) to the episode frame: along the heading, to its left, up."""
    return offsets @ _episode_axes(heading).T


def to_habitat_world(offsets: Floats, heading: float) -> Floats:
    """The inverse of `to_episode_frame`."""
    return offsets @ _episode_axes(heading)


def _wrapped_radians(degrees: Floats) -> Floats:
    """Degrees as radians in (-pi, pi]; wrapped before the factor, so that whole turns come back exactly."""
    return np.radians(180.0 - np.mod(180.0 - degrees, 360.0))


def _check_steps(spec: HabitatDiscrete, locations: Floats) -> None:
    """No forward step leads farther than sliding and stairs explain."""
    lengths = np.linalg.norm(np.diff(locations, axis=0), axis=1)
    beyond = np.flatnonzero(lengths > MAX_STEP * spec.forward_m)
    if beyond.size:
        what = f"forward step {beyond[0]} leads {lengths[beyond[0]]:.3g} m, a step is {spec.forward_m:g} m"
        raise EpisodeError("step_too_long", what)


def _check_headings(spec: HabitatDiscrete, locations: Floats, headings: Floats) -> None:
    """The typical forward step goes where the body looks, within half a turn; sliding bends single steps only."""
    moved = np.diff(locations, axis=0)
    walked = np.hypot(moved[:, 0], moved[:, 2]) > STILL_M
    if not walked.any():
        return
    direction = np.arctan2(-moved[walked, 0], -moved[walked, 2])
    error = np.abs(np.mod(direction - headings[walked] + np.pi, 2 * np.pi) - np.pi)
    typical = float(np.degrees(np.median(error)))
    if typical > spec.turn_deg / 2:
        raise EpisodeError(
            "heading_mismatch",
            f"the typical forward step goes {typical:.1f} degrees off the heading",
            fix="check that start_rotation and the ground truth are of the same version of the data set",
        )
