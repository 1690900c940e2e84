"""The demo's egocentric family: two hands reach for a cup and lift it, in the layout of HOT3D (poses, no video).

World in m, z up; a person sits at a table and looks along x. Every motion has no speed and no acceleration at either
end, 30 frames a second. The left hand of one recording comes into view late, so its first poses are absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.fixtures.hot3d_writer import Motion, Pose
from dataengine.geometry import from_rotation, to_rotation

REACH, HOLD, LIFT = 24, 4, 20
FRAMES = REACH + HOLD + LIFT
GRASP_M = 0.075
"""Distance of a wrist from the cup's axis while it is held."""
_LIFTED = np.array([-0.08, 0.0, 0.14])
_HEAD = np.array([0.0, 0.0, 1.20]), np.array([0.05, 0.0, 1.18])
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Take:
    """One recording: its name (which begins with the participant), the cup's place, late frames of the left hand."""

    name: str
    cup: tuple[float, float, float]
    late: int = 0

    @property
    def hidden(self) -> set[tuple[str, int]]:
        return {("0", frame) for frame in range(self.late)}


TAKES = (
    Take("P0001_cup_in_front", (0.42, 0.00, 0.80)),
    Take("P0002_cup_to_the_left", (0.38, 0.12, 0.80), late=6),
    Take("P0003_cup_to_the_right", (0.45, -0.10, 0.82)),
)


def move(take: Take) -> Motion:
    """Wrists (0 left, 1 right), headset and cup, a pose for each of `FRAMES` frames."""
    reach, lift = _shares(0, REACH), _shares(REACH + HOLD, LIFT)
    at = np.array(take.cup)
    cup = at + lift[:, None] * _LIFTED
    wrists: dict[str, Sequence[Pose]] = {}
    for hand, side in (("0", 1.0), ("1", -1.0)):  # y is to the left
        rest = np.array([0.22, 0.24 * side, 0.76])
        grasp = np.array([-0.03, GRASP_M * side, 0.02])
        places = rest + reach[:, None] * (at + grasp - rest) + lift[:, None] * _LIFTED
        turns = np.outer(0.2 + 0.9 * reach - 0.2 * lift, np.array([0.3, 0.2, -side]))
        wrists[hand] = _poses(places, from_rotation(to_rotation(turns, "rotvec"), "quaternion_wxyz"))
    eyes = _HEAD[0] + reach[:, None] * (_HEAD[1] - _HEAD[0])
    still = np.tile([1.0, 0.0, 0.0, 0.0], (FRAMES, 1))
    return Motion(wrists, _poses(eyes, _looking(eyes, cup)), _poses(cup, still))


def _shares(start: int, frames: int) -> Vector:
    """Shares of a motion that begins at `start` and takes `frames`, at each frame [FRAMES], of least jerk."""
    time = np.clip((np.arange(FRAMES) - start) / frames, 0, 1)
    return np.asarray(time**3 * (10 - 15 * time + 6 * time**2), np.float64)


def _looking(eyes: Vector, target: Vector) -> Vector:
    """Quaternions wxyz [n, 4] of a head whose z axis looks at the target, y down."""
    forward = target - eyes
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    axes = np.stack([right, np.cross(forward, right), forward], axis=2)
    return from_rotation(to_rotation(axes, "matrix"), "quaternion_wxyz")


def _poses(places: Vector, turns: Vector) -> list[Pose]:
    """Positions [n, 3] and quaternions [n, 4] as poses, the quaternions' signs without jumps."""
    flips = np.where((turns[1:] * turns[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    signs = np.cumprod(np.concatenate([[1.0], flips]))
    return list(zip(places.tolist(), (turns * signs[:, None]).tolist(), strict=True))
