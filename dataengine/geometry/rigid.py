"""Rigid motion, SE(3): poses, their differences and logarithms, changes of frame and of axes.

Directions stand in names: `T_a_b` takes coordinates in b to coordinates in a, and is the pose of b in a. So
`T_a_c = T_a_b @ T_b_c`, and letters that meet in a product are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.errors import EpisodeError, SchemaError

if TYPE_CHECKING:  # scipy is loaded by the first function that needs it
    from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Axes = Literal["z_up", "y_up", "unity", "opencv", "opengl"]
# Columns: where a convention's x, y and z axes point, in x forward, y left, z up.
AXES: dict[Axes, Array] = {
    "z_up": np.eye(3),
    "y_up": np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "unity": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "opencv": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "opengl": np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}
"""`z_up`: x forward, y left, z up (ROS REP 103, https://www.ros.org/reps/rep-0103.html). `y_up`: x right, y up, -z
forward (Habitat, ARKit); the same axes as an `opengl` camera's. `unity`: x right, y up, z forward, left-handed.
`opencv`: x right, y down, z forward."""
_SMALL = 1e-4


def pose(position: ArrayLike, rotation: Rotation) -> Array:
    """Positions [N, 3] (m) and N rotations as homogeneous matrices [N, 4, 4]."""
    position = np.asarray(position, np.float64).reshape(-1, 3)
    matrix = np.tile(np.eye(4), (len(position), 1, 1))
    matrix[:, :3, :3] = rotation.as_matrix().reshape(-1, 3, 3)
    matrix[:, :3, 3] = position
    return matrix


def rotation_of(transform: Array) -> Rotation:
    """The rotations of [N, 4, 4]."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(_checked(transform)[..., :3, :3])


def invert(transform: Array) -> Array:
    """Inverse of rigid transforms [..., 4, 4]: `T_a_b` becomes `T_b_a`."""
    rotation = np.swapaxes(_checked(transform)[..., :3, :3], -1, -2)
    result = np.zeros_like(transform)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def compose(T_a_b: Array, T_b_c: Array) -> Array:  # noqa: N803 - the direction stands in the name
    """`T_a_c` [..., 4, 4]."""
    return _checked(T_a_b) @ _checked(T_b_c)


def difference(T_a_b: Array, T_a_c: Array) -> Array:  # noqa: N803
    """`T_b_c` [..., 4, 4], the motion from b to c in b's axes: composing `T_a_b` with it is `T_a_c`."""
    return invert(T_a_b) @ _checked(T_a_c)


def logarithm(transform: Array) -> Array:
    """Twists [N, 6] of [N, 4, 4]: m and rad (rotation vector, at most pi long) of the screw motion in unit time."""
    rotvec = np.asarray(rotation_of(transform.reshape(-1, 4, 4)).as_rotvec(), np.float64)
    moved = np.linalg.solve(_left_jacobian(rotvec), transform.reshape(-1, 4, 4)[:, :3, 3:])[..., 0]
    return np.concatenate([moved, rotvec], axis=1)


def exponential(twist: ArrayLike) -> Array:
    """Rigid transforms [N, 4, 4] of twists [N, 6]; the inverse of `logarithm`."""
    from scipy.spatial.transform import Rotation

    array = np.asarray(twist, np.float64).reshape(-1, 6)
    moved = (_left_jacobian(array[:, 3:]) @ array[:, :3, None])[..., 0]
    return pose(moved, Rotation.from_rotvec(array[:, 3:]))


def axes(to: Axes, of: Axes) -> Array:
    """The matrix [3, 3] that takes coordinates in the convention `of` to the convention `to`."""
    for name in (to, of):
        if name not in AXES:
            raise SchemaError(f"unknown convention of axes {name!r}", fix=f"known: {', '.join(AXES)}")
    return AXES[to].T @ AXES[of]


def change_axes(transform: Array, *, outer: Array | None = None, inner: Array | None = None) -> Array:
    """Poses `T_a_b` [..., 4, 4] with the axes of a (`outer` [3, 3]) and of b (`inner`) named otherwise.

    `change_axes(T_world_camera, outer=axes("z_up", "y_up"), inner=axes("opencv", "opengl"))`. A change of handedness
    needs both, else a `SchemaError`: a mirrored frame has no rotation to an unmirrored one.
    """
    left, right = (np.eye(3) if change is None else change for change in (outer, inner))
    if np.linalg.det(left) * np.linalg.det(right) < 0:
        raise SchemaError("only one of two frames changes its handedness", fix="give `outer` and `inner`")
    result = _checked(transform).copy()
    result[..., :3, :3] = left @ transform[..., :3, :3] @ right.T
    result[..., :3, 3] = transform[..., :3, 3] @ left.T
    return result


def from_xyz_quaternion(values: ArrayLike) -> Array:
    """One transform [4, 4] from x, y, z (m) and a unit quaternion x, y, z, w; `EpisodeError` `bad_quaternion`."""
    from scipy.spatial.transform import Rotation

    array = np.asarray(values, np.float64).reshape(-1)
    if array.shape != (7,):
        raise SchemaError(f"a transform is given as x, y, z and a quaternion x, y, z, w, not {array.size} numbers")
    norm = float(np.linalg.norm(array[3:]))
    if not abs(norm - 1.0) <= 1e-2:
        raise EpisodeError("bad_quaternion", f"the quaternion's norm is {norm:.4g}, not 1")
    found: Array = pose(array[:3], Rotation.from_quat(array[None, 3:]))[0]
    return found


def _left_jacobian(rotvec: Array) -> Array:
    """[N, 3, 3] that takes a twist's linear part to the translation; series near 0."""
    angle = np.linalg.norm(rotvec, axis=1)[:, None, None]
    cross = np.zeros((len(rotvec), 3, 3))
    x, y, z = rotvec.T
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= np.swapaxes(cross, 1, 2)
    safe = np.where(angle < _SMALL, 1.0, angle)
    first = np.where(angle < _SMALL, 0.5 - angle**2 / 24, (1 - np.cos(safe)) / safe**2)
    second = np.where(angle < _SMALL, 1 / 6 - angle**2 / 120, (safe - np.sin(safe)) / safe**3)
    return np.asarray(np.eye(3) + first * cross + second * (cross @ cross))


def _checked(transform: Array) -> Array:
    if transform.shape[-2:] != (4, 4):
        raise SchemaError(f"a transform is [..., 4, 4], not {transform.shape}")
    return transform
