"""HOT3D Aria, converted, against the JSON Lines and CSV files read by json and csv alone.

Beside the numbers, the meaning is checked on the recording's other files: each wrist, taken through the headset's pose
and the calibration of MPS, must fall into the 2D box of its own hand in three cameras.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dataengine.convert import Conversion, convert
from dataengine.errors import EpisodeError
from dataengine.formats.base import get_format
from dataengine.specs.converter import load_converter
from dataengine.storage import SourceRoot

RECORDING = "Aria/P0003_c701bd11"
RIGHT_POS, RIGHT_ROT, LEFT_POS, LEFT_ROT = (7, 10), (10, 16), (71, 74), (74, 80)
CAMERA_POS, CAMERA_ROT = (143, 146), (146, 152)
STREAMS = {"214-1": "camera-rgb", "1201-1": "camera-slam-left", "1201-2": "camera-slam-right"}
BOXES = 184  # of 204 rows, 20 are empty: the right hand is not in the left SLAM camera


class Truth:
    """The recording's files, parsed here: one entry a frame, that is every second row."""

    def __init__(self, folder):
        lines = (folder / "umetrack_hand_pose_trajectory.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 68
        self.times = np.array([row["timestamp_ns"] for row in rows[::2]])
        self.wrists = {
            hand: (
                np.array([row["hand_poses"][hand]["wrist_xform"]["t_xyz"] for row in rows[::2]]),
                np.array([row["hand_poses"][hand]["wrist_xform"]["q_wxyz"] for row in rows[::2]]),
            )
            for hand in ("0", "1")
        }
        with (folder / "headset_trajectory.csv").open() as file:
            poses = {int(row["timestamp[ns]"]): row for row in csv.DictReader(file)}
        at = [poses[time] for time in self.times]
        self.head = (
            np.array([[float(row[f"t_wo_{axis}[m]"]) for axis in "xyz"] for row in at]),
            np.array([[float(row[f"q_wo_{axis}"]) for axis in "wxyz"] for row in at]),
        )
        self.boxes = []
        with (folder / "box2d_hands.csv").open() as file:
            for row in csv.DictReader(file):
                if row["x_min[pixel]"]:
                    edges = [float(row[f"{edge}[pixel]"]) for edge in ("x_min", "x_max", "y_min", "y_max")]
                    self.boxes.append((row["stream_id"], int(row["timestamp[ns]"]), row["hand_index"], edges))
        calibration = json.loads((folder / "mps/slam/online_calibration.jsonl").read_text().splitlines()[0])
        self.cameras = {camera["Label"]: camera for camera in calibration["CameraCalibrations"]}


@pytest.fixture(scope="module")
def folder(data):
    return data / "egocentric/hot3d"


@pytest.fixture(scope="module")
def truth(folder):
    return Truth(folder / RECORDING)


@pytest.fixture(scope="module")
def raw(folder):
    root, hot3d = SourceRoot(folder), get_format("hot3d")
    (ref,) = hot3d.scan(root, None, load_converter("hot3d_aria").format.options)
    return hot3d.read(root, ref)


@pytest.fixture(scope="module")
def conversion():
    return Conversion.of(load_converter("hot3d_aria"))


@pytest.fixture(scope="module")
def episode(raw, conversion):
    return convert(raw, conversion)


def slot(array, span, rows=slice(None)):
    columns = array.columns(*span)
    assert len(columns) == span[1] - span[0], "a channel is missing"
    assert array.mask[rows][:, columns].all(), "a value is masked"
    return array.values[rows][:, columns].astype(np.float64)


def matrices(rot6d):
    """Rotation matrices [n, 3, 3] whose first two columns are the six numbers."""
    first, second = rot6d[:, :3], rot6d[:, 3:]
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def pixel(point, parameters):
    """Where a camera's FISHEYE624 model sees a point (its own axes, m), without the small tangential terms."""
    focal, *centre = parameters[:3]
    radius = np.hypot(point[0], point[1])
    angle = np.arctan2(radius, point[2])
    bent = angle * (1 + sum(k * angle ** (2 * i + 2) for i, k in enumerate(parameters[3:9])))
    return focal * bent * point[0] / radius + centre[0], focal * bent * point[1] / radius + centre[1]


def in_boxes(episode, truth):
    """How many hand boxes hold the wrist of their hand, with all poses taken from the converted episode."""
    inside = 0
    frames = {time: frame for frame, time in enumerate(truth.times)}
    for stream, time, hand, (left, right, top, bottom) in truth.boxes:
        frame = frames[min(frames, key=lambda known: abs(known - time))]
        camera = truth.cameras[STREAMS[stream]]
        wrist = slot(episode.state, LEFT_POS if hand == "0" else RIGHT_POS)[frame]
        head = Rotation.from_matrix(matrices(slot(episode.state, CAMERA_ROT))[frame])
        device = head.inv().apply(wrist - slot(episode.state, CAMERA_POS)[frame])
        real, imaginary = camera["T_Device_Camera"]["UnitQuaternion"]
        mount = Rotation.from_quat([*imaginary, real])
        seen = mount.inv().apply(device - camera["T_Device_Camera"]["Translation"])
        column, row = pixel(seen, camera["Projection"]["Params"])
        inside += bool(seen[2] > 0 and left <= column <= right and top <= row <= bottom)
    return inside


def check_truth(episode, truth):
    assert episode.steps == 34
    np.testing.assert_array_equal(episode.times_ns, truth.times - truth.times[0])
    places = [
        (RIGHT_POS, RIGHT_ROT, truth.wrists["1"]),
        (LEFT_POS, LEFT_ROT, truth.wrists["0"]),
        (CAMERA_POS, CAMERA_ROT, truth.head),
    ]
    for position, rotation, (where, how) in places:
        np.testing.assert_allclose(slot(episode.state, position), where, atol=1e-7)
        expected = Rotation.from_quat(how, scalar_first=True).as_matrix()
        np.testing.assert_allclose(matrices(slot(episode.state, rotation)), expected, atol=1e-6)
    for position, rotation, (where, how) in places[:2]:
        np.testing.assert_allclose(slot(episode.action, position, slice(33)), where[1:], atol=1e-7)
        expected = Rotation.from_quat(how[1:], scalar_first=True).as_matrix()
        np.testing.assert_allclose(matrices(slot(episode.action, rotation, slice(33))), expected, atol=1e-6)
    assert not episode.action.mask[33].any(), "the last frame has no next one"
    assert in_boxes(episode, truth) == len(truth.boxes) == BOXES


def test_the_recording_is_true(episode, truth):
    check_truth(episode, truth)


def test_time_labels_and_what_is_absent(episode, truth):
    assert np.median(np.diff(truth.times)) == 33_327_483
    assert episode.hz == 30.0
    assert episode.notes == {"merged_rows": 34}
    assert set(episode.labels.values()) == {"next_state"}
    assert set(episode.frames.values()) == {"hot3d_world"}
    assert episode.language == episode.views == ()
    assert episode.media == {}
    assert episode.group == "hot3d_aria/P0003"
    assert episode.upstream_id == "P0003_c701bd11"
    # Neither MANO's pose numbers nor UmeTrack's joint angles are in a slot; both are kept as they came.
    assert episode.state.columns(54, 64).size == episode.state.columns(118, 128).size == 0
    assert episode.native["mano/0/pose"].shape == (68, 15)
    assert episode.native["umetrack/1/joint_angles"].shape == (68, 22)


HAND_ROWS = {  # read in the file's lines 1, 17, 35, 51, 67: right and left t_xyz, and the first column of R(q_wxyz)
    0: [-0.036998, 0.136253, -0.378486, -0.006332, -0.182704, -0.278897],
    8: [-0.037021, 0.136385, -0.378578, -0.006918, -0.181771, -0.282956],
    17: [-0.036159, 0.136266, -0.376838, -0.006520, -0.180385, -0.280500],
    25: [-0.036452, 0.136324, -0.376776, -0.007015, -0.179890, -0.272312],
    33: [-0.036497, 0.136544, -0.376691, -0.009989, -0.178774, -0.271479],
}
QUATERNIONS = {  # the same lines: right and left q_wxyz
    0: ((0.987144, 0.088364, 0.079277, 0.107020), (-0.028928, 0.065597, 0.236038, 0.969096)),
    8: ((0.987282, 0.087529, 0.077447, 0.107773), (-0.025361, 0.064812, 0.228318, 0.971096)),
    17: ((0.986130, 0.098248, 0.079661, 0.107466), (-0.023432, 0.065535, 0.215684, 0.973980)),
    25: ((0.986158, 0.096874, 0.079068, 0.108882), (-0.010511, 0.054622, 0.268958, 0.961544)),
    33: ((0.986308, 0.096962, 0.076260, 0.109447), (-0.001223, 0.048239, 0.282294, 0.958114)),
}


def columns_by_hand(w, x, y, z):
    """The first two columns of the rotation matrix of a unit quaternion."""
    return [
        *(w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y)),
        *(2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x)),
    ]


@pytest.mark.parametrize("row", HAND_ROWS)
def test_rows_worked_out_by_hand(episode, row):
    state = episode.state
    np.testing.assert_allclose(slot(state, RIGHT_POS)[row], HAND_ROWS[row][:3], atol=6e-7)
    np.testing.assert_allclose(slot(state, LEFT_POS)[row], HAND_ROWS[row][3:], atol=6e-7)
    right, left = QUATERNIONS[row]
    np.testing.assert_allclose(slot(state, RIGHT_ROT)[row], columns_by_hand(*right), atol=4e-6)
    np.testing.assert_allclose(slot(state, LEFT_ROT)[row], columns_by_hand(*left), atol=4e-6)
    if row:
        np.testing.assert_allclose(slot(episode.action, RIGHT_POS, slice(33))[row - 1], HAND_ROWS[row][:3], atol=6e-7)


def test_numbers_of_the_first_frame_by_hand(episode):
    """Headset row 1, q_wxyz (0.411852, 0.752519, 0.029778, -0.513036): device x looks down, as Aria's does."""
    np.testing.assert_allclose(
        slot(episode.state, CAMERA_ROT)[0],
        [0.471814, -0.377774, -0.796668, 0.467406, -0.658982, 0.589300],
        atol=4e-6,
    )
    np.testing.assert_allclose(slot(episode.state, CAMERA_POS)[0], [0.064858, 0.018371, 0.006066], atol=6e-7)


def test_mano_s_translation_is_not_the_wrist(raw, truth):
    """Why the converter reads UmeTrack: MANO's t_xyz lies 8 to 11 cm beside, fixed in the world and not in the hand."""
    for hand, distance in (("0", 0.082), ("1", 0.107)):
        offset = raw.arrays[f"umetrack/{hand}/t_xyz"] - raw.arrays[f"mano/{hand}/t_xyz"]
        np.testing.assert_allclose(np.linalg.norm(offset, axis=1), distance, atol=1e-3)
        assert np.ptp(offset, axis=0).max() < 6e-4
    turned = Rotation.from_quat(raw.arrays["mano/0/q_wxyz"], scalar_first=True)
    offset = raw.arrays["umetrack/0/t_xyz"] - raw.arrays["mano/0/t_xyz"]
    assert np.ptp(turned.inv().apply(offset), axis=0).max() > 5e-3


def mutated(conversion, side, slots, change):
    spec = conversion.converter
    mappings = []
    for mapping in getattr(spec, side):
        update = change(mapping) if mapping.slot in slots else {}
        mappings.append(mapping.model_copy(update=update))
    return replace(conversion, converter=spec.model_copy(update={side: tuple(mappings)}))


def other_hand(mapping):
    digit = {"0": "1", "1": "0"}[mapping.array.split("/")[1]]
    return {"array": f"umetrack/{digit}/{mapping.array.split('/')[2]}"}


WRISTS = ("eef_pos.left", "eef_pos.right", "eef_rot6d.left", "eef_rot6d.right")
POSITIONS = WRISTS[:2]
MUTATIONS = {
    "hands swapped": ("state", WRISTS, other_hand),
    "axes swapped": ("state", POSITIONS, lambda mapping: {"columns": (1, 0, 2)}),
    "sign flipped": ("state", ("ego_camera_pos",), lambda mapping: {"scale": -1.0}),
    "mano's translation": ("state", POSITIONS, lambda mapping: {"array": mapping.array.replace("umetrack", "mano")}),
    "one frame late": ("state", POSITIONS, lambda mapping: {"shift": -1}),
    "target is the state": ("action", POSITIONS, lambda mapping: {"shift": 0}),
    "target two frames on": ("action", WRISTS, lambda mapping: {"shift": 2}),
    "millimetres": ("state", POSITIONS, lambda mapping: {"unit": "mm"}),
    "scalar last": (
        "state",
        ("ego_camera_rot6d",),
        lambda mapping: {"rotation": mapping.rotation.model_copy(update={"form": "quaternion_xyzw"})},
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_is_found(raw, truth, conversion, name):
    with pytest.raises(AssertionError):
        check_truth(convert(raw, mutated(conversion, *MUTATIONS[name])), truth)


def test_zeroed_masks_and_values_are_found(episode, truth):
    state = episode.state
    for change in ({"mask": np.zeros_like(state.mask)}, {"values": np.zeros_like(state.values)}):
        with pytest.raises(AssertionError):
            check_truth(replace(episode, state=replace(state, **change)), truth)


def test_rows_that_are_not_merged_are_found(raw, truth, conversion):
    spec = conversion.converter
    time = spec.time.model_copy(update={"merge_within_s": None})
    with pytest.raises(AssertionError):
        check_truth(convert(raw, replace(conversion, converter=spec.model_copy(update={"time": time}))), truth)


def test_time_that_goes_back_is_no_repeat(raw, conversion):
    """A row before its predecessor is not merged away as if it repeated it."""
    times = raw.arrays["timestamp_ns"].copy()
    times[[10, 40]] = times[[40, 10]]
    with pytest.raises(EpisodeError) as caught:
        convert(replace(raw, arrays={**raw.arrays, "timestamp_ns": times}), conversion)
    assert caught.value.reason == "time_not_increasing"
