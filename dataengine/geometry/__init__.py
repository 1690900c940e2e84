"""Geometry: rotation forms on scipy's `Rotation`, and rigid motion with the direction of transforms in their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataengine.geometry.rigid import (
    AXES,
    Axes,
    axes,
    change_axes,
    compose,
    difference,
    exponential,
    from_xyz_quaternion,
    invert,
    logarithm,
    pose,
    rotation_of,
)
from dataengine.geometry.rotations import (
    EULER_ORDERS,
    FORM_WIDTH,
    QUATERNION_TOLERANCE,
    Array,
    RotationForm,
    continuous_quaternions,
    from_rotation,
    matrix_to_rot6d,
    reformed,
    rot6d_to_matrix,
    slerp,
    to_rotation,
    unwrap_euler,
    wrap_angle,
)

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

__all__ = [
    "AXES",
    "EULER_ORDERS",
    "FORM_WIDTH",
    "QUATERNION_TOLERANCE",
    "Array",
    "Axes",
    "Rotation",
    "RotationForm",
    "axes",
    "change_axes",
    "compose",
    "continuous_quaternions",
    "difference",
    "exponential",
    "from_rotation",
    "from_xyz_quaternion",
    "invert",
    "logarithm",
    "matrix_to_rot6d",
    "pose",
    "reformed",
    "rot6d_to_matrix",
    "rotation_of",
    "slerp",
    "to_rotation",
    "unwrap_euler",
    "wrap_angle",
]


def __getattr__(name: str) -> Any:
    """`Rotation` of scipy, loaded when first asked for: half of the start of a process that never turns anything."""
    if name != "Rotation":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scipy.spatial.transform import Rotation

    return Rotation
