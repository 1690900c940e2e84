"""Rotations and poses on scipy's `Rotation`.

Conventions: rotation matrices act on column vectors; `rot6d` is the first two COLUMNS of the matrix, one after the
other (Zhou et al. 2019, https://arxiv.org/abs/1812.07035, as in pytorch3d transposed; rows are a declared variant);
directions stand in names: `T_a_b` takes coordinates in b to coordinates in a.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from dataengine.errors import EpisodeError, SchemaError

RotationForm = Literal["matrix", "quaternion_xyzw", "quaternion_wxyz", "euler", "rotvec", "rot6d_columns", "rot6d_rows"]
Array = NDArray[np.float64]
FORM_WIDTH: dict[str, int] = {
    "matrix": 9,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "euler": 3,
    "rotvec": 3,
    "rot6d_columns": 6,
    "rot6d_rows": 6,
}
QUATERNION_TOLERANCE = 1e-2


def to_rotation(values: ArrayLike, form: RotationForm, *, order: str = "xyz", intrinsic: bool = False) -> Rotation:
    """Rotations of `values` [N, k] in `form`. Euler angles are rad, `order` like "xyz".

    Quaternions are renormalised within 1 % of unit norm, else an `EpisodeError` `bad_quaternion`; a matrix that is
    no rotation within 1e-3 is `bad_rotation`.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(-1, FORM_WIDTH[form])
    if form == "euler":
        return Rotation.from_euler(order.upper() if intrinsic else order.lower(), array)
    if form == "rotvec":
        return Rotation.from_rotvec(array)
    if form in ("quaternion_xyzw", "quaternion_wxyz"):
        norm = np.linalg.norm(array, axis=1)
        bad = np.flatnonzero(~(np.abs(norm - 1.0) <= QUATERNION_TOLERANCE))
        if bad.size:
            raise EpisodeError("bad_quaternion", f"row {bad[0]}: quaternion norm {norm[bad[0]]:.4g} is not 1")
        return Rotation.from_quat(array, scalar_first=form == "quaternion_wxyz")
    if form == "matrix":
        return Rotation.from_matrix(_checked_matrix(array.reshape(-1, 3, 3)))
    return Rotation.from_matrix(rot6d_to_matrix(array, rows=form == "rot6d_rows"))


def _checked_matrix(matrices: Array) -> Array:
    error = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max(axis=(1, 2))
    bad = np.flatnonzero(~(error <= 1e-3) | (np.linalg.det(matrices) < 0))
    if bad.size:
        raise EpisodeError("bad_rotation", f"row {bad[0]}: the matrix is no rotation")
    return matrices


def from_rotation(rotation: Rotation, form: RotationForm, *, order: str = "xyz", intrinsic: bool = False) -> Array:
    """`rotation` (N) as an array [N, k] in `form`; the inverse of `to_rotation`."""
    if form == "euler":
        return np.asarray(rotation.as_euler(order.upper() if intrinsic else order.lower()), np.float64)
    if form == "rotvec":
        return np.asarray(rotation.as_rotvec(), np.float64)
    if form in ("quaternion_xyzw", "quaternion_wxyz"):
        return np.asarray(rotation.as_quat(scalar_first=form == "quaternion_wxyz"), np.float64)
    matrix = np.asarray(rotation.as_matrix(), np.float64)
    if form == "matrix":
        return matrix.reshape(*matrix.shape[:-2], 9)
    return matrix_to_rot6d(matrix, rows=form == "rot6d_rows")


def matrix_to_rot6d(matrix: Array, *, rows: bool = False) -> Array:
    """[..., 3, 3] to [..., 6]: the first two columns (or rows), one after the other."""
    picked = matrix[..., :2, :] if rows else np.swapaxes(matrix[..., :, :2], -1, -2)
    return np.ascontiguousarray(picked).reshape(*matrix.shape[:-2], 6)


def rot6d_to_matrix(values: ArrayLike, *, rows: bool = False) -> Array:
    """[..., 6] to [..., 3, 3] by Gram-Schmidt; degenerate input is an `EpisodeError` `bad_rotation`."""
    array = np.asarray(values, np.float64)
    first, second = array[..., :3], array[..., 3:]
    length = np.linalg.norm(first, axis=-1, keepdims=True)
    if not np.all(length > 1e-6):
        raise EpisodeError("bad_rotation", "a rot6d value has no direction")
    x = first / length
    residual = second - (x * second).sum(-1, keepdims=True) * x
    length = np.linalg.norm(residual, axis=-1, keepdims=True)
    if not np.all(length > 1e-6):
        raise EpisodeError("bad_rotation", "a rot6d value spans no plane")
    y = residual / length
    return np.stack([x, y, np.cross(x, y)], axis=-2 if rows else -1)


def pose(position: ArrayLike, rotation: Rotation) -> Array:
    """Positions [N, 3] (m) and N rotations as homogeneous matrices [N, 4, 4]."""
    position = np.asarray(position, np.float64).reshape(-1, 3)
    matrix = np.tile(np.eye(4), (len(position), 1, 1))
    matrix[:, :3, :3] = rotation.as_matrix().reshape(-1, 3, 3)
    matrix[:, :3, 3] = position
    return matrix


def invert(transform: Array) -> Array:
    """Inverse of rigid transforms [..., 4, 4]: `T_a_b` becomes `T_b_a`."""
    if transform.shape[-2:] != (4, 4):
        raise SchemaError(f"a transform is [..., 4, 4], not {transform.shape}")
    rotation = np.swapaxes(transform[..., :3, :3], -1, -2)
    result = np.zeros_like(transform)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ transform[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def wrap_angle(angle: ArrayLike) -> Array:
    """Angles (rad) into (-pi, pi]."""
    wrapped = np.mod(np.asarray(angle, np.float64) + np.pi, 2 * np.pi) - np.pi
    return np.where(wrapped <= -np.pi, np.pi, wrapped)
