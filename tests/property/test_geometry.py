"""Rotation forms, rigid motion and changes of axes: round trips, and hand-derived values that fix every direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dataengine import geometry
from dataengine.errors import EpisodeError, SchemaError

QUICK = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
FORMS = [form for form in geometry.FORM_WIDTH if form != "euler"]


def rotations(seed: int, count: int = 20) -> Rotation:
    return Rotation.random(count, rng=np.random.default_rng(seed))


def poses(seed: int, count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return geometry.pose(rng.normal(size=(count, 3)), Rotation.random(count, rng=rng))


def elementary(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}  # fmt: skip
    return np.array(rows[axis])


# --- rotation forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@QUICK
@given(SEEDS)
def test_forms_round_trip(form, seed):
    rotation = rotations(seed)
    values = geometry.from_rotation(rotation, form)
    assert values.shape == (20, geometry.FORM_WIDTH[form])
    back = geometry.to_rotation(values, form)
    np.testing.assert_allclose(back.as_matrix(), rotation.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_half_turns_and_no_turn_round_trip(form):
    """Where logarithms and traces are degenerate."""
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8], [0, -0.6, 0.8]])
    rotvecs = np.concatenate([np.zeros((1, 3)), np.pi * axes, 1e-9 * axes, (np.pi - 1e-7) * axes])
    rotation = Rotation.from_rotvec(rotvecs)
    back = geometry.to_rotation(geometry.from_rotation(rotation, form), form)
    np.testing.assert_allclose(back.as_matrix(), rotation.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("to", ["rot6d_columns", "rotvec", "matrix"])
@pytest.mark.parametrize("form", [*geometry.FORM_WIDTH])
@QUICK
@given(SEEDS, st.floats(0.995, 1.005))
def test_reformed_is_the_way_over_a_rotation(form, to, seed, length):
    values = geometry.from_rotation(rotations(seed), form, order="zyx")
    values = values * length if form.startswith("quaternion") else values
    made = geometry.reformed(values, form, to, order="zyx")
    expected = geometry.from_rotation(geometry.to_rotation(values, form, order="zyx"), to, order="zyx")
    if form.startswith("quaternion"):  # to the bit: digests of what is stored rest on it
        assert made.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-15)


def test_reformed_takes_whole_turns_out_of_rotation_vectors_and_checks():
    turned = np.array([[0, 0, 1.5 * np.pi], [0, 0, 0.1]])
    np.testing.assert_allclose(geometry.reformed(turned, "rotvec", "rotvec"), [[0, 0, -0.5 * np.pi], [0, 0, 0.1]])
    short = np.array([[0.0, 0, 0], [1e-12, 0, 3.1]])
    assert geometry.reformed(short, "rotvec", "rotvec").tobytes() == short.tobytes()
    for form in ("quaternion_xyzw", "quaternion_wxyz"):
        with pytest.raises(EpisodeError) as caught:
            geometry.reformed(np.array([[0, 0, 0, 1], [0, 0, 0, 1.1]]), form, "rot6d_columns")
        assert caught.value.reason == "bad_quaternion"


def test_orders_are_twelve():
    assert len(set(geometry.EULER_ORDERS)) == 12


@pytest.mark.parametrize("intrinsic", [False, True])
@pytest.mark.parametrize("order", geometry.EULER_ORDERS)
@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_euler_round_trips(order, intrinsic, seed):
    rotation = rotations(seed)
    angles = geometry.from_rotation(rotation, "euler", order=order, intrinsic=intrinsic)
    back = geometry.to_rotation(angles, "euler", order=order, intrinsic=intrinsic)
    np.testing.assert_allclose(back.as_matrix(), rotation.as_matrix(), atol=1e-6)


@pytest.mark.parametrize("intrinsic", [False, True])
@pytest.mark.parametrize("order", geometry.EULER_ORDERS)
def test_euler_at_gimbal_lock_is_still_the_rotation(order, intrinsic):
    middle = [0.0, np.pi] if order[0] == order[2] else [np.pi / 2, -np.pi / 2]
    given_angles = np.array([[0.3, angle, -0.8] for angle in middle])
    rotation = geometry.to_rotation(given_angles, "euler", order=order, intrinsic=intrinsic)
    angles = geometry.from_rotation(rotation, "euler", order=order, intrinsic=intrinsic)
    back = geometry.to_rotation(angles, "euler", order=order, intrinsic=intrinsic)
    np.testing.assert_allclose(back.as_matrix(), rotation.as_matrix(), atol=1e-6)


@pytest.mark.parametrize("order", geometry.EULER_ORDERS)
def test_euler_orders_by_elementary_turns(order):
    """Intrinsic: R = R1 R2 R3 in the order's letters; extrinsic: R = R3 R2 R1."""
    angles = np.array([0.4, -0.7, 1.1])
    first, second, third = (elementary(axis, angle) for axis, angle in zip(order, angles, strict=True))
    intrinsic = geometry.to_rotation(angles, "euler", order=order, intrinsic=True).as_matrix()[0]
    extrinsic = geometry.to_rotation(angles, "euler", order=order, intrinsic=False).as_matrix()[0]
    np.testing.assert_allclose(intrinsic, first @ second @ third, atol=1e-12)
    np.testing.assert_allclose(extrinsic, third @ second @ first, atol=1e-12)


def test_forms_by_hand():
    """A quarter turn about z takes x to y and y to -x."""
    quarter = Rotation.from_matrix([[[0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    half = np.sqrt(0.5)
    expected = {
        "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1],
        "quaternion_xyzw": [0, 0, half, half],
        "quaternion_wxyz": [half, 0, 0, half],
        "rotvec": [0, 0, np.pi / 2],
        "rot6d_columns": [0, 1, 0, -1, 0, 0],
        "rot6d_rows": [0, -1, 0, 1, 0, 0],
    }
    for form, values in expected.items():
        np.testing.assert_allclose(geometry.from_rotation(quarter, form), [values], atol=1e-12)


def test_unknown_order():
    for order in ("xxy", "xy", "abc"):
        with pytest.raises(SchemaError, match="no order"):
            geometry.to_rotation(np.zeros((1, 3)), "euler", order=order)


def test_bad_rotations():
    for form, values, reason in (
        ("quaternion_xyzw", np.zeros(4), "bad_quaternion"),
        ("quaternion_wxyz", np.array([1.1, 0, 0, 0]), "bad_quaternion"),
        ("matrix", -np.eye(3).reshape(9), "bad_rotation"),
        ("rot6d_columns", np.ones(6), "bad_rotation"),
    ):
        with pytest.raises(EpisodeError) as caught:
            geometry.to_rotation(values, form)
        assert caught.value.reason == reason


# --- series without jumps -------------------------------------------------------------------------------------------


def smooth(seed: int, rows: int = 60) -> Rotation:
    """A series that turns a little each row, several times round in all."""
    rng = np.random.default_rng(seed)
    steps = Rotation.from_rotvec(0.15 * np.array([1.0, -0.4, 0.8]) + rng.normal(0, 0.02, (rows, 3)))
    found = [Rotation.random(rng=rng)]
    for step in steps:
        found.append(step * found[-1])
    return Rotation.concatenate(found)


@QUICK
@given(SEEDS)
def test_quaternions_become_continuous(seed):
    rotation, rng = smooth(seed), np.random.default_rng(seed)
    flipped = rotation.as_quat() * rng.choice([-1.0, 1.0], (61, 1))
    found = geometry.continuous_quaternions(flipped)
    assert (np.linalg.norm(np.diff(found, axis=0), axis=1) < 0.2).all()
    np.testing.assert_array_equal(np.abs(found), np.abs(flipped))
    np.testing.assert_array_equal(found[0], flipped[0])


def test_quaternion_sign_by_hand():
    q = np.array([[0.6, 0, 0, 0.8], [-0.6, 0, 0, -0.8], [0.6, 0, 0, 0.8], [-0.8, 0, 0, -0.6]])
    assert geometry.continuous_quaternions(q).tolist() == [[0.6, 0, 0, 0.8]] * 3 + [[0.8, 0, 0, 0.6]]
    assert geometry.continuous_quaternions(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("intrinsic", [False, True])
@pytest.mark.parametrize("order", geometry.EULER_ORDERS)
def test_unwrapped_euler_is_the_same_rotation(order, intrinsic):
    rotation = smooth(3)
    wrapped = geometry.from_rotation(rotation, "euler", order=order, intrinsic=intrinsic)
    found = geometry.unwrap_euler(wrapped, order)
    back = geometry.to_rotation(found, "euler", order=order, intrinsic=intrinsic)
    np.testing.assert_allclose(back.as_matrix(), rotation.as_matrix(), atol=1e-9)
    assert np.abs(np.diff(found, axis=0)).sum() <= np.abs(np.diff(wrapped, axis=0)).sum() + 1e-9


def test_euler_unwrap_by_hand():
    """Over half a turn of yaw, and over the pole of pitch where (a, b, c) turns into (a + pi, pi - b, c + pi)."""
    yaw = np.array([3.0, 3.1, -3.083185307179586])  # the last is 3.2 - 2 pi
    found = geometry.unwrap_euler(np.stack([0 * yaw, 0 * yaw, yaw], axis=1), "xyz")
    np.testing.assert_allclose(found[:, 2], [3.0, 3.1, 3.2], atol=1e-12)
    true = np.array([[0.1, 1.4, 0.2], [0.1, 1.5, 0.2], [0.1, 1.6, 0.2], [0.1, 1.7, 0.2]])
    wrapped = geometry.from_rotation(geometry.to_rotation(true, "euler", order="xyz"), "euler", order="xyz")
    assert abs(wrapped[2, 0] - wrapped[1, 0]) > 3
    np.testing.assert_allclose(geometry.unwrap_euler(wrapped, "xyz"), true, atol=1e-9)
    true = np.array([[0.2, 0.15, 0.3], [0.2, 0.05, 0.3], [0.2, -0.05, 0.3], [0.2, -0.15, 0.3]])
    wrapped = geometry.from_rotation(geometry.to_rotation(true, "euler", order="zyz"), "euler", order="zyz")
    assert (wrapped[:, 1] >= 0).all()
    np.testing.assert_allclose(geometry.unwrap_euler(wrapped, "zyz"), true, atol=1e-9)


def test_slerp_turns_evenly():
    times = np.array([0, 100, 300])
    rotation = Rotation.from_rotvec([[0, 0, 0], [0, 0, 1.0], [0, 0, 2.0]])
    found = geometry.slerp(times, rotation, np.array([0, 50, 100, 150, 300])).as_rotvec()
    np.testing.assert_allclose(found[:, 2], [0, 0.5, 1.0, 1.25, 2.0], atol=1e-12)
    with pytest.raises(SchemaError, match="outside"):
        geometry.slerp(times, rotation, np.array([301]))
    single = geometry.slerp(times[:1], rotation[:1], np.array([0, 0]))
    assert len(single) == 2


# --- rigid motion ---------------------------------------------------------------------------------------------------


@QUICK
@given(SEEDS)
def test_inverse_difference_and_composition(seed):
    t_a_b, t_a_c, t_c_d = poses(seed), poses(seed + 1), poses(seed + 2)
    np.testing.assert_allclose(
        geometry.compose(t_a_b, geometry.invert(t_a_b)), np.tile(np.eye(4), (20, 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(geometry.compose(t_a_b, geometry.difference(t_a_b, t_a_c)), t_a_c, atol=1e-9)
    left = geometry.compose(geometry.compose(t_a_b, t_a_c), t_c_d)
    np.testing.assert_allclose(left, geometry.compose(t_a_b, geometry.compose(t_a_c, t_c_d)), atol=1e-9)


@QUICK
@given(SEEDS, st.sampled_from([1e-12, 1e-5, 1e-3, 1.0]))
def test_logarithm_and_exponential(seed, size):
    rng = np.random.default_rng(seed)
    turn = rng.normal(size=(20, 3))
    turn = turn / np.linalg.norm(turn, axis=1, keepdims=True) * rng.uniform(0, 3.1, (20, 1)) * size
    twist = np.concatenate([rng.normal(size=(20, 3)), turn], axis=1)
    np.testing.assert_allclose(geometry.logarithm(geometry.exponential(twist)), twist, atol=1e-8)
    given_poses = poses(seed)
    np.testing.assert_allclose(geometry.exponential(geometry.logarithm(given_poses)), given_poses, atol=1e-8)


def test_exponential_by_hand():
    """Driving round a circle of radius 1 by a quarter: from the origin along x to (1, 1), heading along y."""
    found = geometry.exponential([np.pi / 2, 0, 0, 0, 0, np.pi / 2])[0]
    np.testing.assert_allclose(found[:3, 3], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(found[:3, 0], [0, 1, 0], atol=1e-12)


def test_small_twists_add_up():
    """Two halves of one screw motion are the whole."""
    twist = np.array([0.3, -0.2, 0.5, 0.4, 0.9, -0.3])
    half = geometry.exponential(twist / 2)
    np.testing.assert_allclose(half @ half, geometry.exponential(twist), atol=1e-12)


def test_frames_by_hand():
    """The camera stands at (1, 2, 0) of the base and looks along its y; what is 3 ahead of it is at (1, 5, 0)."""
    t_base_camera = geometry.pose([1, 2, 0], Rotation.from_euler("z", [np.pi / 2]))[0]
    t_camera_thing = geometry.pose([3, 0, 0], Rotation.identity(1))[0]
    t_base_thing = geometry.compose(t_base_camera, t_camera_thing)
    np.testing.assert_allclose(t_base_thing[:3, 3], [1, 5, 0], atol=1e-12)
    np.testing.assert_allclose(geometry.difference(t_base_camera, t_base_thing), t_camera_thing, atol=1e-12)
    given_transform = geometry.from_xyz_quaternion([1, 2, 0, 0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    np.testing.assert_allclose(given_transform, t_base_camera, atol=1e-12)


def test_transforms_are_checked():
    with pytest.raises(SchemaError, match="4, 4"):
        geometry.invert(np.eye(3))
    with pytest.raises(SchemaError, match="not 3 numbers"):
        geometry.from_xyz_quaternion([1, 2, 3])
    with pytest.raises(EpisodeError, match="norm"):
        geometry.from_xyz_quaternion([0, 0, 0, 0, 0, 0, 2])


# --- axes -----------------------------------------------------------------------------------------------------------

NAMES = list(geometry.AXES)


@pytest.mark.parametrize("to", NAMES)
@pytest.mark.parametrize("of", NAMES)
def test_axes_round_trip(to, of):
    change = geometry.axes(to, of)
    np.testing.assert_allclose(change @ geometry.axes(of, to), np.eye(3), atol=1e-12)
    mirrored = (to == "unity") != (of == "unity")
    np.testing.assert_allclose(np.linalg.det(change), -1 if mirrored else 1)
    given_poses = poses(5)
    there = geometry.change_axes(given_poses, outer=change, inner=change)
    np.testing.assert_allclose(np.linalg.det(there[:, :3, :3]), 1)
    back = geometry.change_axes(there, outer=change.T, inner=change.T)
    np.testing.assert_allclose(back, given_poses, atol=1e-9)
    # a change of axes is of names: motions compose as before
    again = geometry.change_axes(given_poses @ given_poses, outer=change, inner=change)
    np.testing.assert_allclose(there @ there, again, atol=1e-9)


@pytest.mark.parametrize(
    ("convention", "forward", "left", "up"),
    [
        ("z_up", [1, 0, 0], [0, 1, 0], [0, 0, 1]),
        ("y_up", [0, 0, -1], [-1, 0, 0], [0, 1, 0]),  # Habitat, ARKit
        ("unity", [0, 0, 1], [-1, 0, 0], [0, 1, 0]),
        ("opencv", [0, 0, 1], [-1, 0, 0], [0, -1, 0]),
        ("opengl", [0, 0, -1], [-1, 0, 0], [0, 1, 0]),
    ],
)
def test_axes_by_hand(convention, forward, left, up):
    change = geometry.axes("z_up", convention)
    np.testing.assert_array_equal(change @ np.array([forward, left, up]).T, np.eye(3))


def test_a_turn_to_the_left_stays_one():
    """Habitat and ARKit turn left by a positive angle about y; Unity, left-handed, by a negative one."""
    for convention, angle in (("y_up", 0.3), ("unity", -0.3)):
        change = geometry.axes("z_up", convention)
        turned = geometry.pose(np.zeros(3), Rotation.from_euler("y", [angle]))
        found = geometry.change_axes(turned, outer=change, inner=change)
        np.testing.assert_allclose(geometry.rotation_of(found).as_euler("zyx")[0], [0.3, 0, 0], atol=1e-12)


def test_opengl_camera_to_opencv():
    """A camera at eye height looking at -z (OpenGL): the OpenCV camera looks along its own z, its y points down."""
    found = geometry.change_axes(
        geometry.pose([0, 1.5, 0], Rotation.identity(1))[0], inner=geometry.axes("opencv", "opengl")
    )
    np.testing.assert_array_equal(found[:3, :3], np.diag([1.0, -1.0, -1.0]))
    np.testing.assert_array_equal(found[:3, 3], [0, 1.5, 0])


def test_one_mirrored_frame_is_refused():
    with pytest.raises(SchemaError, match="handedness"):
        geometry.change_axes(np.eye(4), outer=geometry.axes("z_up", "unity"))
    with pytest.raises(SchemaError, match="unknown convention"):
        geometry.axes("z_up", "blender")
