"""Rotation forms on scipy's `Rotation`: each one to and from it, and series of them without jumps.

Rotation matrices act on column vectors; `rot6d` is the first two COLUMNS of the matrix, one after the other
(Zhou et al. 2019, https://arxiv.org/abs/1812.07035, as in pytorch3d transposed; rows are a declared variant).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.errors import EpisodeError, SchemaError

if TYPE_CHECKING:  # scipy is loaded by the first function that needs it
    from scipy.spatial.transform import Rotation

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
EULER_ORDERS = ("xyz", "xzy", "yxz", "yzx", "zxy", "zyx", "xyx", "xzx", "yxy", "yzy", "zxz", "zyz")


def to_rotation(values: ArrayLike, form: RotationForm, *, order: str = "xyz", intrinsic: bool = False) -> Rotation:
    """Rotations of `values` [N, k] in `form`. Euler angles are rad, `order` like "xyz" or "zyz".

    Extrinsic angles turn about the fixed axes in the order given, intrinsic ones about the axes as turned so far.
    Another order than the twelve is a `SchemaError`. Quaternions are renormalised within 1 % of unit norm, else an
    `EpisodeError` `bad_quaternion`; a matrix that is no rotation within 1e-3 is `bad_rotation`.
    """
    from scipy.spatial.transform import Rotation

    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(-1, FORM_WIDTH[form])
    if form == "euler":
        return Rotation.from_euler(_axes(order, intrinsic), array)
    if form == "rotvec":
        return Rotation.from_rotvec(array)
    if form in ("quaternion_xyzw", "quaternion_wxyz"):
        _check_quaternions(array)
        return Rotation.from_quat(array, scalar_first=form == "quaternion_wxyz")
    if form == "matrix":
        return Rotation.from_matrix(_checked_matrix(array.reshape(-1, 3, 3)))
    return Rotation.from_matrix(rot6d_to_matrix(array, rows=form == "rot6d_rows"))


def reformed(
    values: ArrayLike, form: RotationForm, to: RotationForm, *, order: str = "xyz", intrinsic: bool = False
) -> Array:
    """Rotations [N, k] of one form in another: `to_rotation`, then `from_rotation`, and raises what they raise.

    The two commonest ways need no scipy, whose start takes longer than most sources: quaternions to columns give the
    same bits, and rotation vectors below half a turn stay as they are.
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1, FORM_WIDTH[form])
    if form in ("quaternion_xyzw", "quaternion_wxyz") and to == "rot6d_columns":
        _check_quaternions(array)
        return matrix_to_rot6d(_quaternion_matrix(array if form == "quaternion_xyzw" else np.roll(array, -1, axis=1)))
    if form == to == "rotvec" and (np.linalg.norm(array, axis=1) < np.pi).all():
        return array.copy()
    rotation = to_rotation(array, form, order=order, intrinsic=intrinsic)
    return from_rotation(rotation, to, order=order, intrinsic=intrinsic)


def _check_quaternions(array: Array) -> None:
    norm = np.linalg.norm(array, axis=1)
    bad = np.flatnonzero(~(np.abs(norm - 1.0) <= QUATERNION_TOLERANCE))
    if bad.size:
        raise EpisodeError("bad_quaternion", f"row {bad[0]}: quaternion norm {norm[bad[0]]:.4g} is not 1")


def _quaternion_matrix(array: Array) -> Array:
    """[N, 4] xyzw to [N, 3, 3]: v' = q v q*, made unit first."""
    x, y, z, w = array.T
    length = np.sqrt(x * x + y * y + z * z + w * w)
    x, y, z, w = x / length, y / length, z / length, w / length
    xx, yy, zz, ww = x * x, y * y, z * z, w * w
    xy, xz, yz, xw, yw, zw = x * y, x * z, y * z, x * w, y * w, z * w
    rows = (
        (xx - yy - zz + ww, 2 * (xy - zw), 2 * (xz + yw)),
        (2 * (xy + zw), -xx + yy - zz + ww, 2 * (yz - xw)),
        (2 * (xz - yw), 2 * (yz + xw), -xx - yy + zz + ww),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _axes(order: str, intrinsic: bool) -> str:
    """The order in scipy's letters: capitals are intrinsic."""
    if order.lower() not in EULER_ORDERS:
        raise SchemaError(f"{order!r} is no order of Euler angles", fix=f"known: {', '.join(EULER_ORDERS)}")
    return order.upper() if intrinsic else order.lower()


def _checked_matrix(matrices: Array) -> Array:
    error = np.abs(matrices @ np.swapaxes(matrices, -1, -2) - np.eye(3)).max(axis=(1, 2))
    bad = np.flatnonzero(~(error <= 1e-3) | (np.linalg.det(matrices) < 0))
    if bad.size:
        raise EpisodeError("bad_rotation", f"row {bad[0]}: the matrix is no rotation")
    return matrices


def from_rotation(rotation: Rotation, form: RotationForm, *, order: str = "xyz", intrinsic: bool = False) -> Array:
    """`rotation` (N) as an array [N, k] in `form`; the inverse of `to_rotation`.

    Of the Euler angles of one rotation it gives those with the middle angle in [-pi/2, pi/2] (three axes) or [0, pi]
    (two axes). At the ends of that range two angles share one degree of freedom, and the last is 0.
    """
    if form == "euler":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gimbal lock", UserWarning)
            return np.asarray(rotation.as_euler(_axes(order, intrinsic)), np.float64)
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


def wrap_angle(angle: ArrayLike) -> Array:
    """Angles (rad) into (-pi, pi]."""
    wrapped = np.mod(np.asarray(angle, np.float64) + np.pi, 2 * np.pi) - np.pi
    return np.where(wrapped <= -np.pi, np.pi, wrapped)


def continuous_quaternions(quaternions: ArrayLike) -> Array:
    """A series [T, 4] with the sign of each row turned to the side of the row before it: the same rotations.

    q and -q are one rotation; a source may jump between them, which reads as motion to whoever differences the numbers.
    """
    array = np.asarray(quaternions, np.float64)
    against = (array[1:] * array[:-1]).sum(axis=-1) < 0
    signs = np.cumprod(np.concatenate([[1.0], np.where(against, -1.0, 1.0)])) if len(array) else np.ones(0)
    return array * signs[:, None]


def unwrap_euler(angles: ArrayLike, order: str) -> Array:
    """A series of Euler angles [T, 3] (rad) without jumps: the same rotations, each row as near as can be to the last.

    Beside turns by 2 pi it undoes the change to the other set of angles of one rotation, (a + pi, pi - b, c + pi), or
    (a + pi, -b, c + pi) where the first and last axis are the same. Intrinsic and extrinsic angles alike.
    """
    result = np.array(angles, np.float64)
    order = _axes(order, intrinsic=False)
    mirror = 0.0 if order[0] == order[2] else np.pi
    for row in range(1, len(result)):
        here, before = result[row], result[row - 1]
        other = np.array([here[0] + np.pi, mirror - here[1], here[2] + np.pi])
        near = [found - 2 * np.pi * np.round((found - before) / (2 * np.pi)) for found in (here, other)]
        result[row] = min(near, key=lambda found, last=before: float(np.square(found - last).sum()))  # type: ignore[misc]
    return result


def slerp(times: NDArray[np.int64], rotation: Rotation, at: NDArray[np.int64]) -> Rotation:
    """Rotations at the times `at` (ns) between T rotations at increasing `times`: constant turning between two rows.

    `at` lies within `times`, else a `SchemaError`.
    """
    from scipy.spatial.transform import Slerp

    if len(at) and not (times[0] <= at.min() and at.max() <= times[-1]):
        raise SchemaError("a rotation is asked for outside the times it is known at")
    if len(times) == 1:
        return rotation[np.zeros(len(at), np.intp)]
    return Slerp((times - times[0]).astype(np.float64), rotation)((at - times[0]).astype(np.float64))
