"""Representations of action targets: absolute, relative to the state at t0, or per step; exactly invertible.

Only target slots change (schema `action: target`); commands and labels are the same in every representation, and so
are `gripper`, `fingertips` and `pixel_trace`, and native channels whose state has another unit. The layout never
changes: a relative rotation is again rot6d in the same channels. Forms (T0 is the state's pose, Tt the target's):

- `relative`: T0^-1 Tt, so positions stand in the tool's axes at t0 (UMI, Isaac-GR00T).
- `relative_base`: (pt - p0, Rt R0^T), in the base's axes.
- `delta`: T_{h-1}^-1 T_h, in the tool's axes of the step before; step 0 is against the state.

Navigation poses are the same in SE(2): yaw turns about z, z is a plain difference, yaw differences lie in (-pi, pi].
Joint-like slots are plain differences. Composition is on SO(3) throughout; rotations are never subtracted.

Masks: a value whose reference (state; for `delta` also the step before) is masked cannot be formed and is masked,
with the filler 0 (rot6d: the identity). In `relative` a masked step holds the last valid row, as padding does in
absolute targets; in `delta` it is the filler, so padding never reads as motion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dataengine import geometry
from dataengine.errors import SchemaError
from dataengine.schema import ROT6D_IDENTITY, unified

Representation = Literal["absolute", "relative", "relative_base", "delta"]
REPRESENTATIONS: tuple[Representation, ...] = get_args(Representation)

JOINT_LIKE = frozenset(
    {"arm_joint", "dex_joint", "waist", "lift", "neck", "leg_joint", "body_height", "body_tilt", "hand_pca"}
)
POSES = (
    ("eef_pos.right", "eef_rot6d.right"),
    ("eef_pos.left", "eef_rot6d.left"),
    ("ego_camera_pos", "ego_camera_rot6d"),
    ("nav_position", "nav_yaw"),
)

Floats = NDArray[np.float64]
Values = NDArray[Any]  # float32 or float64, kept as it came
Bools = NDArray[np.bool_]
Columns = NDArray[np.intp]
_ZERO: Floats = np.zeros(1)
_IDENTITY: Floats = np.array(ROT6D_IDENTITY)


@dataclass(frozen=True)
class _Pose:
    """Columns of one pose; `-1` where a side lacks the channel."""

    action_position: Columns
    action_rotation: Columns
    state_position: Columns
    state_rotation: Columns


@dataclass(frozen=True)
class _Layout:
    """Where the moving columns stand: `scalars` are differenced one by one, `poses` composed."""

    scalars: Columns
    scalar_states: Columns
    poses: tuple[_Pose, ...]


def moving(channels: NDArray[np.int16], native_same: frozenset[int]) -> Bools:
    """Which of `channels` [c] change with the representation; the others are absolute in all of them."""
    schema = unified()
    poses = {key for pair in POSES for key in pair}
    result = np.zeros(len(channels), np.bool_)
    for position, channel in enumerate(int(c) for c in channels):
        slot = schema.slot_at(channel)
        if slot.key == "native":
            result[position] = channel in native_same
        else:
            result[position] = slot.action == "target" and (slot.group in JOINT_LIKE or slot.key in poses)
    return result


def same_units(native_units: Mapping[str, str]) -> frozenset[int]:
    """Native channels whose unit is the same in state and action, from an episode's `{"state/240": unit, ...}`."""
    state = {name.removeprefix("state/"): unit for name, unit in native_units.items() if name.startswith("state/")}
    return frozenset(int(channel) for channel, unit in state.items() if native_units.get(f"action/{channel}") == unit)


def to_representation(  # noqa: PLR0917 - two sides, each with its mask and channels
    representation: Representation,
    action: Values,
    action_mask: Bools,
    action_channels: NDArray[np.int16],
    state: Values,
    state_mask: Bools,
    state_channels: NDArray[np.int16],
    native_same: frozenset[int],
) -> tuple[Values, Bools]:
    """Absolute targets in another representation.

    Args:
        representation: one of `REPRESENTATIONS`.
        action: [N, H, c] absolute values in SI units, in the state's frames.
        action_mask: [N, H, c], False where a value is absent or padding.
        action_channels: [c] sorted channel indices.
        state: [N, cs] state at t0. No state at all is [N, 0].
        state_mask: [N, cs].
        state_channels: [cs] sorted channel indices.
        native_same: native channels in which state and action have the same unit.

    Returns:
        values [N, H, c] of `action`'s dtype, mask [N, H, c]. Non-finite input stays non-finite and unmasked.

    Raises:
        SchemaError: shapes do not fit together.
        EpisodeError: `bad_rotation`, an unmasked rot6d is degenerate.
    """
    return _apply(
        representation,
        False,
        (action, action_mask, action_channels),
        (state, state_mask, state_channels),
        native_same,
    )


def from_representation(  # noqa: PLR0917 - the same
    representation: Representation,
    action: Values,
    action_mask: Bools,
    action_channels: NDArray[np.int16],
    state: Values,
    state_mask: Bools,
    state_channels: NDArray[np.int16],
    native_same: frozenset[int],
) -> tuple[Values, Bools]:
    """Absolute targets from another representation; the inverse of `to_representation`, same arguments and errors.

    Rotations come back orthonormal, yaw in (-pi, pi]. In `delta` a masked step breaks the chain: what follows it
    cannot be known and is masked. Masked steps hold the last valid row.
    """
    return _apply(
        representation,
        True,
        (action, action_mask, action_channels),
        (state, state_mask, state_channels),
        native_same,
    )


def check_rotations(values: Values, mask: Bools, channels: NDArray[np.int16]) -> None:
    """Raise `EpisodeError` `bad_rotation` if an unmasked finite rotation of `values` [T, c] is degenerate."""
    for _, key in POSES:
        columns = _columns(key, channels)
        if (columns >= 0).all():
            _rotations(values[:, columns].astype(np.float64), mask[:, columns].all(axis=-1))


_Side = tuple[Values, Bools, NDArray[np.int16]]


def _apply(
    representation: Representation, inverse: bool, action_side: _Side, state_side: _Side, native_same: frozenset[int]
) -> tuple[Values, Bools]:
    action, action_mask, action_channels = action_side
    state, state_mask, state_channels = state_side
    if representation not in REPRESENTATIONS:
        raise SchemaError(f"unknown representation {representation!r}", fix=f"known: {', '.join(REPRESENTATIONS)}")
    _check_shapes(action, action_mask, action_channels, state, state_mask, state_channels)
    if representation == "absolute" or action.size == 0:
        return action, action_mask
    layout = _layout(action_channels.tobytes(), state_channels.tobytes(), native_same)
    work, result, result_mask = action.astype(np.float64), action.astype(np.float64), action_mask.copy()
    initial, initial_mask = state[:, None].astype(np.float64), state_mask[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        if layout.scalars.size:
            x, mask = _take(work, action_mask, layout.scalars)
            x0, mask0 = _take(initial, initial_mask, layout.scalar_states)
            solve = _scalars_back if inverse else _scalars
            values, valid = solve(representation, x, mask, x0, mask0)
            hold = inverse or representation != "delta"
            _write((result, result_mask), layout.scalars, values, valid, hold, _ZERO)
        for pose in layout.poses:
            _apply_pose(
                representation, inverse, pose, (work, action_mask), (initial, initial_mask), (result, result_mask)
            )
        return result.astype(action.dtype), result_mask


def _check_shapes(
    action: Values,
    action_mask: Bools,
    action_channels: NDArray[np.int16],
    state: Values,
    state_mask: Bools,
    state_channels: NDArray[np.int16],
) -> None:
    told = f"action {action.shape}, mask {action_mask.shape}, {len(action_channels)} channels; "
    told += f"state {state.shape}, mask {state_mask.shape}, {len(state_channels)} channels"
    if action.ndim != 3 or action.shape != action_mask.shape or action.shape[2] != len(action_channels):
        raise SchemaError(f"an action is [N, H, c] with mask and channels: {told}")
    if state.shape != (len(action), len(state_channels)) or state.shape != state_mask.shape:
        raise SchemaError(f"a state is [N, cs] with mask and channels: {told}")


@lru_cache(maxsize=256)
def _layout(action_bytes: bytes, state_bytes: bytes, native_same: frozenset[int]) -> _Layout:
    action, state = (np.frombuffer(data, np.int16) for data in (action_bytes, state_bytes))
    moves = moving(action, native_same)
    posed = {c for pair in POSES for key in pair for c in unified().slot(key).channels.tolist()}
    single = np.array([i for i in np.flatnonzero(moves) if int(action[i]) not in posed], np.intp)
    poses = tuple(
        _Pose(
            _columns(position, action), _columns(rotation, action), _columns(position, state), _columns(rotation, state)
        )
        for position, rotation in POSES
    )
    kept = tuple(p for p in poses if (p.action_position >= 0).any() or (p.action_rotation >= 0).any())
    return _Layout(single, _find(state, action[single]), kept)


def _columns(key: str, channels: NDArray[np.int16]) -> Columns:
    return _find(channels, unified().slot(key).channels)


def _find(channels: NDArray[np.int16], wanted: NDArray[np.int16]) -> Columns:
    """Positions of `wanted` in the sorted `channels`, -1 where absent."""
    if len(channels) == 0:
        return np.full(len(wanted), -1, np.intp)
    found = np.minimum(np.searchsorted(channels, wanted), len(channels) - 1)
    return np.where(channels[found] == wanted, found, -1).astype(np.intp)


def _take(values: Floats, mask: Bools, columns: Columns) -> tuple[Floats, Bools]:
    """Columns of [N, H, c]; an absent column (-1) is 0 and masked."""
    if values.shape[-1] == 0:
        shape = (*values.shape[:-1], len(columns))
        return np.zeros(shape), np.zeros(shape, np.bool_)
    valid = mask[..., columns] & (columns >= 0)
    return np.where(valid, values[..., columns], 0.0), valid


def _reference(
    representation: Representation, x: Floats, mask: Bools, x0: Floats, mask0: Bools
) -> tuple[Floats, Bools]:
    """What each step is taken against: the state, or for `delta` the step before."""
    if representation != "delta":
        return x0, mask0
    return np.concatenate([x0, x[:, :-1]], axis=1), np.concatenate([mask0, mask[:, :-1]], axis=1)


def _scalars(representation: Representation, x: Floats, mask: Bools, x0: Floats, mask0: Bools) -> tuple[Floats, Bools]:
    reference, known = _reference(representation, x, mask, x0, mask0)
    return x - reference, mask & known


def _scalars_back(
    representation: Representation, d: Floats, mask: Bools, x0: Floats, mask0: Bools
) -> tuple[Floats, Bools]:
    if representation == "delta":
        return x0 + np.cumsum(d, axis=1), _unbroken(mask) & mask0
    return x0 + d, mask & mask0


def _apply_pose(
    representation: Representation,
    inverse: bool,
    pose: _Pose,
    action: tuple[Floats, Bools],
    state: tuple[Floats, Bools],
    result: tuple[Floats, Bools],
) -> None:
    p, p_mask = _take_whole(*action, pose.action_position)
    r, r_mask = _take_rotation(*action, pose.action_rotation)
    p0, p0_mask = _take_whole(*state, pose.state_position)
    r0, r0_mask = _take_rotation(*state, pose.state_rotation)
    solve = _pose_back if inverse else _pose
    (p, p_mask), (r, r_mask) = solve(representation, (p, p_mask), (r, r_mask), (p0, p0_mask), (r0, r0_mask))
    hold = inverse or representation != "delta"
    _write(result, pose.action_position, p, np.broadcast_to(p_mask[..., None], p.shape), hold, _ZERO)
    encoded = _encode(r, len(pose.action_rotation))
    filler = _ZERO if len(pose.action_rotation) == 1 else _IDENTITY
    _write(result, pose.action_rotation, encoded, np.broadcast_to(r_mask[..., None], encoded.shape), hold, filler)


_Masked = tuple[Floats, Bools]


def _pose(
    representation: Representation, position: _Masked, rotation: _Masked, position0: _Masked, rotation0: _Masked
) -> tuple[_Masked, _Masked]:
    (p, p_mask), (r, r_mask) = position, rotation
    p_ref, p_known = _reference(representation, p, p_mask, *position0)
    r_ref, r_known = _reference(representation, r, r_mask, *rotation0)
    moved, known = p - p_ref, p_mask & p_known
    if representation == "relative_base":
        return (moved, known), (r @ _transposed(r_ref), r_mask & r_known)
    back = _transposed(r_ref)
    return (_turned(back, moved), known & r_known), (back @ r, r_mask & r_known)


def _pose_back(
    representation: Representation, position: _Masked, rotation: _Masked, position0: _Masked, rotation0: _Masked
) -> tuple[_Masked, _Masked]:
    (d, d_mask), (r, r_mask), (p0, p0_mask), (r0, r0_mask) = position, rotation, position0, rotation0
    if representation == "relative_base":
        return (p0 + d, d_mask & p0_mask), (r @ r0, r_mask & r0_mask)
    if representation == "relative":
        return (p0 + _turned(r0, d), d_mask & p0_mask & r0_mask), (r0 @ r, r_mask & r0_mask)
    absolute, known = r0 @ _running_product(r), _unbroken(r_mask) & r0_mask
    r_ref, r_known = _reference("delta", absolute, known, r0, r0_mask)
    return (p0 + np.cumsum(_turned(r_ref, d), axis=1), _unbroken(d_mask & r_known) & p0_mask), (absolute, known)


def _running_product(matrices: Floats) -> Floats:
    """M_0, M_0 M_1, ... along axis 1 of [N, H, 3, 3], by doubling (log2 H multiplications)."""
    result, step = matrices.copy(), 1
    while step < result.shape[1]:
        result[:, step:] = result[:, :-step] @ result[:, step:]
        step *= 2
    return result


def _unbroken(mask: Bools) -> Bools:
    """True up to the first False along the steps."""
    return np.logical_and.accumulate(mask, axis=1)


def _transposed(matrices: Floats) -> Floats:
    return np.swapaxes(matrices, -1, -2)


def _turned(matrices: Floats, vectors: Floats) -> Floats:
    return (matrices @ vectors[..., None])[..., 0]


def _take_whole(values: Floats, mask: Bools, columns: Columns) -> _Masked:
    """A slot that is only usable whole: [N, H, k] and its mask [N, H]."""
    picked, valid = _take(values, mask, columns)
    return picked, valid.all(axis=-1)


def _take_rotation(values: Floats, mask: Bools, columns: Columns) -> _Masked:
    picked, valid = _take_whole(values, mask, columns)
    return _rotations(picked, valid), valid


def _rotations(values: Floats, valid: Bools) -> Floats:
    """rot6d [..., 6] or yaw [..., 1] as matrices [..., 3, 3]: identity where masked, NaN where not finite."""
    finite = np.isfinite(values).all(axis=-1)
    usable = (valid & finite)[..., None]
    if values.shape[-1] == 1:
        yaw = np.where(usable, values, 0.0)[..., 0]
        matrices = np.zeros((*yaw.shape, 3, 3))
        matrices[..., 0, 0] = matrices[..., 1, 1] = np.cos(yaw)
        matrices[..., 1, 0] = np.sin(yaw)
        matrices[..., 0, 1] = -matrices[..., 1, 0]
        matrices[..., 2, 2] = 1.0
    else:
        matrices = geometry.rot6d_to_matrix(np.where(usable, values, ROT6D_IDENTITY))
    matrices[valid & ~finite] = np.nan
    return matrices


def _encode(matrices: Floats, width: int) -> Floats:
    if width == 1:
        return geometry.wrap_angle(np.arctan2(matrices[..., 1, 0], matrices[..., 0, 0]))[..., None]
    return geometry.matrix_to_rot6d(matrices)


def _write(
    result: tuple[Floats, Bools], columns: Columns, values: Floats, valid: Bools, hold: bool, filler: Floats
) -> None:
    """Put `values` [N, H, k] into the present columns; masked steps hold the last valid one, or are the filler."""
    if hold:
        steps = np.arange(values.shape[1])[None, :, None]
        last = np.maximum.accumulate(np.where(valid, steps, -1), axis=1)
        values = np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=1), filler)
    else:
        values = np.where(valid, values, filler)
    present = columns >= 0
    result[0][..., columns[present]] = values[..., present]
    result[1][..., columns[present]] = valid[..., present]
