"""The demo's robot family: a small arm puts a cube on a plate, seen by three cameras, in the layout of BridgeData.

The kinematics are exact: a row's pose plus its command is the next row's pose (position in m, angles in rad, axes of
the base: x forward, y left, z up). The gripper closes on the cube, the cube follows it, and falls when it opens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine import images
from dataengine.demo.drawing import Camera, Colour, Solid, bar, box, upright
from dataengine.fixtures.rlds_writer import Column, RldsEpisode
from dataengine.images import Pixels

SIZE = (128, 128)
CUBE_M = 0.034
PLATE_M = 0.012
HOME = (0.19, 0.0, 0.17, 0.0)
CAMERAS = (
    Camera((-0.10, -0.52, 0.48), (0.22, 0.0, 0.09), 140.0, SIZE),
    Camera((0.68, 0.34, 0.38), (0.22, 0.0, 0.09), 130.0, SIZE),
    Camera((0.70, -0.32, 0.32), (0.22, 0.0, 0.09), 130.0, SIZE),
)
_FINGER_M = (0.010, 0.037)
"""Place of one finger, its distance from the middle, when closed and when open (as the WidowX's card has it)."""
HELD = (CUBE_M / 2 - _FINGER_M[0]) / (_FINGER_M[1] - _FINGER_M[0])
"""What the gripper reads while it holds the cube: 0 closed, 1 open."""
_TABLE: Colour = (196, 164, 124)
_WALL: Colour = (222, 228, 232)
_METAL: Colour = (70, 74, 84)
_JOINT: Colour = (38, 40, 48)
_FINGERS: Colour = (30, 30, 34)
COLOURS: dict[str, Colour] = {
    "red": (214, 48, 44),
    "blue": (44, 92, 214),
    "yellow": (236, 200, 40),
    "purple": (142, 62, 176),
    "green": (64, 168, 84),
    "white": (244, 244, 240),
}
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What lies on the table: the cube's and the plate's colour and place (x, y in m), the cube's turn in rad."""

    cube: str
    plate: str
    cube_at: tuple[float, float]
    cube_turn: float
    plate_at: tuple[float, float]

    @property
    def text(self) -> str:
        return f"put the {self.cube} cube on the {self.plate} plate"


TASKS = (
    Task("red", "green", (0.27, 0.10), 0.3, (0.31, -0.09)),
    Task("blue", "white", (0.31, -0.08), -0.5, (0.25, 0.10)),
    Task("yellow", "green", (0.24, -0.11), 0.8, (0.34, 0.05)),
    Task("purple", "white", (0.34, 0.06), 0.0, (0.23, -0.10)),
)


@dataclass(frozen=True)
class Motion:
    """What happens in an episode: rows `state` and `action` [T, 7], and the cube's place [T, 3] and turn [T]."""

    state: Rows
    action: Rows
    cube: NDArray[np.float64]
    turn: NDArray[np.float64]


def move(task: Task) -> Motion:
    """Carry out the task at 5 Hz: over the cube, down, grasp, over the plate, down, release, up."""
    above = (*task.cube_at, 0.12, task.cube_turn)
    at_cube = (*task.cube_at, CUBE_M / 2, task.cube_turn)
    over = (*task.plate_at, 0.13, 0.0)
    at_plate = (*task.plate_at, PLATE_M + CUBE_M / 2, 0.0)
    legs = [(above, 5, 1.0), (at_cube, 4, 1.0), (at_cube, 2, 0.0), (above, 4, 0.0), (over, 6, 0.0)]
    legs += [(at_plate, 4, 0.0), (at_plate, 2, 1.0), (over, 4, 1.0)]
    poses, commands = [np.array(HOME)], []
    for goal, rows, gripper in legs:
        start = poses[-1]
        for row in range(1, rows + 1):
            poses.append(start + (np.array(goal) - start) * _smooth(row / rows))
            commands.append(gripper)
    reading = _gripper(np.array(poses), np.array(commands), np.array(at_cube))
    steps = np.diff(np.array(poses), axis=0)
    state = np.zeros((len(commands), 7), np.float32)
    action = np.zeros_like(state)
    state[:, [0, 1, 2, 5]], state[:, 6] = np.array(poses)[:-1], reading
    action[:, [0, 1, 2, 5]], action[:, 6] = steps, commands
    return Motion(state, action, *_cube(task, state))


def episodes() -> list[RldsEpisode]:
    """The tasks as RLDS episodes with BridgeData's features."""
    found = []
    for number, task in enumerate(TASKS):
        motion = move(task)
        pictures = [[images.encode(shown) for shown in film(task, motion, camera)] for camera in CAMERAS]
        steps: dict[str, Column] = {
            "observation/state": motion.state,
            "action": motion.action,
            "language_instruction": [task.text] * len(motion.state),
            "reward": (np.arange(len(motion.state)) == len(motion.state) - 1).astype(np.float32),
            "discount": np.ones(len(motion.state), np.float32),
            **{f"observation/image_{camera}": taken for camera, taken in enumerate(pictures)},
        }
        found.append(RldsEpisode(steps, {"file_path": f"simulated/{task.text}", "episode_id": number}))
    return found


def film(task: Task, motion: Motion, camera: Camera, rows: Sequence[int] | None = None) -> list[Pixels]:
    """What a camera sees at each row (or at the `rows` named), RGB [H, W, 3]."""
    table: Solid = box((0.22, 0.0, -0.01), (0.72, 0.84, 0.02), _TABLE)
    plate = upright([(0.030, 0.0), (0.048, PLATE_M)], (*task.plate_at, 0.0), COLOURS[task.plate])
    backdrop, found = camera.backdrop([table, plate], _WALL), []
    for row in range(len(motion.state)) if rows is None else rows:
        cube = box(motion.cube[row], [CUBE_M] * 3, COLOURS[task.cube], about_z(float(motion.turn[row])))
        found.append(camera.picture([*cube, *_arm(motion.state[row].astype(np.float64))], backdrop))
    return found


def about_z(angle: float) -> NDArray[np.float64]:
    """The rotation matrix of a turn about the vertical."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _smooth(share: float) -> float:
    """From 0 to 1 with no speed at either end."""
    return share * share * (3 - 2 * share)


def _gripper(poses: NDArray[np.float64], commands: NDArray[np.float64], at_cube: NDArray[np.float64]) -> Rows:
    """Readings [T]: they follow the command of the row before, half of the way at first; a cube stops the fingers."""
    reading, found, held = 1.0, [], False
    for pose, command in zip(poses, commands, strict=False):
        found.append(reading)
        held = command == 0 and (held or bool(np.allclose(pose, at_cube, atol=1e-6)))
        goal = HELD if held else command
        reading = goal if abs(goal - reading) < 0.5 else (goal + reading) / 2
    return np.array(found, np.float32)


def _cube(task: Task, state: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cube lies where it is, follows the tool while it is held, and falls to the plate."""
    place, turn = np.array([*task.cube_at, CUBE_M / 2]), task.cube_turn
    places, turns = [], []
    for row in state.astype(np.float64):
        if row[6] <= HELD + 1e-3:
            place, turn = row[:3].copy(), float(row[5])
        places.append(place)
        turns.append(turn)
    return np.array(places), np.array(turns)


def _arm(row: NDArray[np.float64]) -> Solid:
    """The arm at a state row: two links in the vertical plane through the tool, the hand pointing down."""
    tool, turn = row[:3], about_z(float(row[5]))
    wrist = tool + np.array([0.0, 0.0, 0.10])
    shoulder = np.array([0.0, 0.0, 0.14])
    reach = wrist - shoulder
    distance, link = float(np.linalg.norm(reach)), 0.27
    outward = np.array([reach[0], reach[1], 0.0]) / math.hypot(reach[0], reach[1])
    lift = math.asin(reach[2] / distance) + math.acos(min(1.0, distance / (2 * link)))
    elbow = shoulder + link * (math.cos(lift) * outward + np.array([0.0, 0.0, math.sin(lift)]))
    finger = _FINGER_M[0] + float(row[6]) * (_FINGER_M[1] - _FINGER_M[0]) + 0.005
    solids = [
        *upright([(0.05, 0.0), (0.045, 0.14)], (0.0, 0.0, 0.0), _JOINT, sides=12),
        *bar(shoulder, elbow, 0.036, _METAL),
        *bar(elbow, wrist, 0.030, _METAL),
        *box(wrist - np.array([0, 0, 0.02]), (0.03, 0.09, 0.03), _JOINT, turn),
    ]
    for side in (-1.0, 1.0):
        middle = tool + turn @ np.array([0.0, side * finger, 0.032])
        solids += box(middle, (0.016, 0.010, 0.078), _FINGERS, turn)
    return solids
