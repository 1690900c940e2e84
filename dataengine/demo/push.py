"""The demo's simulation family: a round pusher brings a T-shaped block to a goal, in the manner of PushT.

The world is the square of gym-pusht: 512 x 512 px, x right, y down; 10 rows a second, ten steps of physics in each. An
action is the place where the pusher is wanted; a spring with damping pulls it there, so it follows two rows later.
The block slides without inertia: it gives way along the normal of the contact and turns with the lever of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.demo.drawing import Canvas, Colour
from dataengine.fixtures.lerobot_writer import FixtureEpisode
from dataengine.images import Pixels

FPS = 10
WORLD_PX = 512.0
PICTURE_PX = 96
RADIUS = 15.0
TASK = "Push the T-shaped block into the green circle."
_SPRING, _DAMPING, _SUBSTEPS = 100.0, 20.0, 10
_BOXES = (((0.0, -22.5), (60.0, 15.0)), ((0.0, 37.5), (15.0, 45.0)))
"""The T about its centre of mass: (centre, half size) of its bar and of its stem."""
_BAR_FACE = -37.5
_TURNING = 45.0
"""Radius of gyration of the friction below the block, px."""
_BOUND_TO = 26.0
"""How far a target may move from one row to the next, px."""
PAPER: Colour = (250, 250, 248)
GOAL: Colour = (150, 222, 150)
BLOCK: Colour = (112, 122, 138)
PUSHER: Colour = (52, 98, 224)
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """Where pusher, block (with its turn in rad) and goal are at the start, px."""

    pusher: tuple[float, float]
    block: tuple[float, float]
    turn: float
    goal: tuple[float, float]


TASKS = (
    Task((60.0, 420.0), (170.0, 350.0), -2.0, (350.0, 190.0)),
    Task((440.0, 90.0), (350.0, 170.0), 0.5, (180.0, 350.0)),
    Task((90.0, 110.0), (180.0, 180.0), -0.5, (340.0, 350.0)),
    Task((250.0, 470.0), (270.0, 370.0), -2.9, (240.0, 150.0)),
    Task((440.0, 400.0), (340.0, 340.0), 2.7, (170.0, 180.0)),
)


@dataclass(frozen=True)
class Motion:
    """Rows of an episode in px: `pusher`, `target` and `block` [T, 2], and the block's `turn` [T] in rad."""

    pusher: Vector
    target: Vector
    block: Vector
    turn: Vector


def move(task: Task, limit: int = 70) -> Motion:
    """Push until the block is at the goal, at most `limit` rows."""
    pusher, speed, block = np.array(task.pusher), np.zeros(2), np.array(task.block)
    goal, turn, target = np.array(task.goal), task.turn, np.array(task.pusher)
    rows: list[tuple[Vector, Vector, Vector, float]] = []
    rest = 3
    while len(rows) < limit and rest:
        arrived = bool(np.linalg.norm(goal - block) < 12)
        rest -= arrived
        target = target if arrived else _target(pusher, target, block, turn, goal)
        rows.append((pusher, target, block, turn))
        for _ in range(_SUBSTEPS):
            speed = speed + (_SPRING * (target - pusher) - _DAMPING * speed) * 0.01
            pusher = pusher + speed * 0.01
            block, turn = _give_way(pusher, block, turn)
    pushers, targets, blocks, turns = zip(*rows, strict=True)
    return Motion(np.array(pushers), np.array(targets), np.array(blocks), np.array(turns))


def episodes() -> list[FixtureEpisode]:
    """The tasks as LeRobot episodes: state and action [T, 2] in px, and a frame for every row."""
    found = []
    for task in TASKS:
        motion = move(task)
        state, action = motion.pusher.astype(np.float32), motion.target.astype(np.float32)
        found.append(FixtureEpisode(state, action, TASK, frames(task, motion)))
    return found


def frames(task: Task, motion: Motion) -> list[Pixels]:
    """What the camera over the square shows, [96, 96, 3] a row."""
    scale, found = PICTURE_PX / WORLD_PX, []
    for pusher, block, turn in zip(motion.pusher, motion.block, motion.turn, strict=True):
        canvas = Canvas(PICTURE_PX, PICTURE_PX, PAPER)
        canvas.disc(np.array(task.goal) * scale, 70 * scale, GOAL)
        for centre, half in _BOXES:
            corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half + centre
            canvas.polygon((block + corners @ _turned(float(turn)).T) * scale, BLOCK)
        canvas.disc(pusher * scale, RADIUS * scale, PUSHER)
        found.append(canvas.pixels())
    return found


def _turned(angle: float) -> Vector:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _target(pusher: Vector, target: Vector, block: Vector, turn: float, goal: Vector) -> Vector:
    """Get behind the bar of the T, then push; off its middle where the block has to turn towards the goal."""
    way = goal - block
    error = math.remainder(math.atan2(way[1], way[0]) - (turn + math.pi / 2), 2 * math.pi)
    aside = float(np.clip(40 * error, -28, 28))
    own = _turned(turn).T @ (pusher - block)
    lead = 30.0 if abs(own[0] - aside) < 12 else -30.0
    wanted = block + _turned(turn) @ np.array([aside, _BAR_FACE - RADIUS + lead])
    step = wanted - target
    return np.asarray(target + step * min(1.0, _BOUND_TO / max(float(np.linalg.norm(step)), 1e-9)))


def _give_way(pusher: Vector, block: Vector, turn: float) -> tuple[Vector, float]:
    """Move the block out of the pusher, by the least that will do."""
    for centre, half in _BOXES:
        own = _turned(turn).T @ (pusher - block)
        nearest = np.clip(own, np.array(centre) - half, np.array(centre) + half)
        distance = float(np.linalg.norm(own - nearest))
        if not 0 < distance < RADIUS:
            continue
        push = _turned(turn) @ ((nearest - own) / distance)
        arm = _turned(turn) @ nearest
        lever = float(arm[0] * push[1] - arm[1] * push[0]) / _TURNING**2
        share = (RADIUS - distance) / (1 + lever * lever * _TURNING**2)
        block, turn = block + share * push, turn + share * lever
    return block, turn
