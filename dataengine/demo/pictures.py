"""The demo's vision-language family: questions about pictures of a table and of the arm at work, in LLaVA's layout.

The answers are computed from what was drawn: where an object stands in the picture is where the camera projects it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine import images
from dataengine.demo import arm
from dataengine.demo.drawing import Camera, Colour, Solid, ball, box, upright

SIZE = (160, 224)
CAMERA = Camera((0.0, -0.72, 0.46), (0.0, 0.0, 0.02), 225.0, SIZE)
_TABLE: Colour = (188, 170, 150)
_WALL: Colour = (226, 224, 216)
_NUMBERS = ("no", "one", "two", "three", "four")
Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Thing:
    """An object on the table: what it is, its colour, and where it stands (x to the right, y away, m)."""

    kind: str
    colour: str
    at: tuple[float, float]

    @property
    def name(self) -> str:
        return f"the {self.colour} {self.kind}"

    def solid(self) -> Solid:
        colour = arm.COLOURS[self.colour]
        if self.kind == "cube":
            return box((*self.at, 0.05), [0.10] * 3, colour, arm.about_z(0.4))
        if self.kind == "ball":
            return ball((*self.at, 0.055), 0.055, colour)
        return upright([(0.035, 0.0), (0.05, 0.13)], (*self.at, 0.0), colour)


TABLES = (
    (Thing("cube", "red", (-0.22, 0.02)), Thing("ball", "blue", (0.02, 0.10)), Thing("cup", "white", (0.22, -0.04))),
    (Thing("cup", "yellow", (-0.20, -0.05)), Thing("cube", "green", (0.18, 0.08))),
    (Thing("ball", "purple", (-0.24, 0.06)), Thing("ball", "red", (0.00, -0.06)), Thing("cube", "blue", (0.24, 0.04))),
    (Thing("cube", "yellow", (-0.05, 0.04)), Thing("cup", "red", (0.20, -0.02))),
)


def rows() -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows of a conversation file, and the pictures by their path below it."""
    found, media = [], {}
    for number, things in enumerate(TABLES):
        pixels = CAMERA.backdrop(_layers(things), _WALL).pixels()
        found.append(_row(f"table_{number}", questions(things)))
        media[f"images/table_{number}.jpg"] = images.encode(pixels)
    for number, (task, moment, turns) in enumerate(_at_work()):
        (pixels,) = arm.film(task, arm.move(task), arm.CAMERAS[0], [moment])
        found.append(_row(f"arm_{number}", turns))
        media[f"images/arm_{number}.jpg"] = images.encode(pixels)
    return found, media


def questions(things: tuple[Thing, ...]) -> Turns:
    """Questions with their answers about the objects on a table."""
    first = things[0]
    count = f"There are {_NUMBERS[len(things)]} objects on the table."
    turns = [(f"Where is {thing.name}?", f"It is {side(thing)}.") for thing in things]
    return [*turns, ("How many objects are on the table?", count), (*_colour_of(first),)]


def side(thing: Thing) -> str:
    """In which third of the picture an object stands."""
    x = float(CAMERA.project([*thing.at, 0.05])[0, 0]) / SIZE[1]
    return "on the left" if x < 1 / 3 else "on the right" if x > 2 / 3 else "in the middle"


def _colour_of(thing: Thing) -> tuple[str, str]:
    return f"What colour is the {thing.kind} {side(thing)}?", f"It is {thing.colour}."


def _at_work() -> list[tuple[arm.Task, int, Turns]]:
    """Moments of the arm's tasks: before it grasps, and while it carries."""
    found = []
    for task, moment in ((arm.TASKS[0], 3), (arm.TASKS[1], 18)):
        held = bool(arm.move(task).state[moment, 6] <= arm.HELD + 1e-3)
        answer = f"Yes, it holds the {task.cube} cube." if held else "No, its gripper is open."
        turns = [("Does the robot arm hold anything?", answer), ("What colour is the plate?", f"It is {task.plate}.")]
        found.append((task, moment, turns))
    return found


def _layers(things: tuple[Thing, ...]) -> list[Solid]:
    """The table, then its objects from far to near, so that each hides what is behind it."""
    table = box((0.0, 0.05, -0.01), (0.90, 0.60, 0.02), _TABLE)
    ordered = sorted(things, key=lambda thing: -float(np.hypot(thing.at[0], thing.at[1] + 0.72)))
    return [table, *(thing.solid() for thing in ordered)]


def _row(name: str, turns: Turns) -> dict[str, Any]:
    said = []
    for number, (question, answer) in enumerate(turns):
        said.append({"from": "human", "value": question if number else f"<image>\n{question}"})
        said.append({"from": "gpt", "value": answer})
    return {"id": name, "image": f"{name}.jpg", "conversations": said}
