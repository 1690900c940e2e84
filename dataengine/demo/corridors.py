"""The demo's navigation family: an agent walks the corridors of two small houses, in the layout of VLN-CE R2R.

A house is a map of cells one metre wide. The way is the shortest one from place to place; the agent turns by 15
degrees and walks by 0.25 m, in Habitat's axes (y up, heading 0 looks along -z, a left turn is positive).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dataengine.fixtures.vlnce_writer import FORWARD, LEFT, RIGHT, STEP_M, STOP, TURN_DEG, Entry, episode

CELL_M = 1.0
HOUSES: Mapping[str, Sequence[str]] = {
    "demo/house_one/house_one.glb": (
        "###########",
        "#K..#....P#",
        "###.#.###.#",
        "#S......#.#",
        "#.#####.#.#",
        "#......D..#",
        "###########",
    ),
    "demo/house_two/house_two.glb": (
        "#########",
        "#S.....K#",
        "#.###.###",
        "#.#.....#",
        "#.#.###.#",
        "#D..#P..#",
        "#########",
    ),
}
PLACES = {"K": "kitchen", "P": "plant", "S": "stairs", "D": "desk"}
_HEADINGS = {(-1, 0): 0, (0, -1): 90, (1, 0): 180, (0, 1): 270}
"""Heading in degrees that looks along a step of (row, column): rows go along z, columns along x."""
Cell = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """From one place of a house to another."""

    scene: str
    start: str
    goal: str


WALKS = (
    Walk("demo/house_one/house_one.glb", "K", "P"),
    Walk("demo/house_one/house_one.glb", "S", "D"),
    Walk("demo/house_two/house_two.glb", "K", "D"),
    Walk("demo/house_two/house_two.glb", "S", "P"),
)


def episodes() -> list[Entry]:
    """The walks as VLN-CE episodes with their ground truth, numbered from 1."""
    found = []
    for number, walk in enumerate(WALKS, start=1):
        cells = way(HOUSES[walk.scene], walk.start, walk.goal)
        legs = _legs(cells)
        row, column = cells[0]
        start = ((column + 0.5) * CELL_M, 0.1, (row + 0.5) * CELL_M)
        text = _instruction(walk, legs)
        found.append(
            episode(number, actions(legs), scene=walk.scene, instruction=text, start=start, heading_deg=legs[0][0])
        )
    return found


def way(house: Sequence[str], start: str, goal: str) -> list[Cell]:
    """Cells (row, column) of the shortest way between two places, both included."""
    cells = {sign: (row, line.index(sign)) for row, line in enumerate(house) for sign in PLACES if sign in line}
    before: dict[Cell, Cell | None] = {cells[start]: None}
    queue = [cells[start]]
    for cell in queue:
        for row, column in _HEADINGS:
            following = cell[0] + row, cell[1] + column
            if following not in before and house[following[0]][following[1]] != "#":
                before[following] = cell
                queue.append(following)
    found = [cells[goal]]
    while (earlier := before[found[-1]]) is not None:
        found.append(earlier)
    return found[::-1]


def actions(legs: Sequence[tuple[int, int]]) -> list[int]:
    """Discrete actions of legs (heading in degrees, cells), the last one STOP."""
    found, heading = [], legs[0][0]
    for wanted, cells in legs:
        turn = (wanted - heading + 180) % 360 - 180
        found += [LEFT if turn > 0 else RIGHT] * round(abs(turn) / TURN_DEG)
        found += [FORWARD] * round(cells * CELL_M / STEP_M)
        heading = wanted
    return [*found, STOP]


def _legs(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """A way as straight legs: (heading in degrees, number of cells)."""
    legs: list[tuple[int, int]] = []
    for (row, column), (next_row, next_column) in pairwise(cells):
        heading = _HEADINGS[next_row - row, next_column - column]
        if legs and legs[-1][0] == heading:
            legs[-1] = heading, legs[-1][1] + 1
        else:
            legs.append((heading, 1))
    return legs


def _instruction(walk: Walk, legs: Sequence[tuple[int, int]]) -> str:
    parts = [f"Leave the {PLACES[walk.start]} and walk {_metres(legs[0][1])} straight ahead"]
    for (before, _), (heading, cells) in pairwise(legs):
        side = "left" if (heading - before) % 360 == 90 else "right"
        parts.append(f"turn {side} and walk {_metres(cells)}")
    return f"{', '.join(parts)}, then stop at the {PLACES[walk.goal]}."


def _metres(cells: int) -> str:
    length = round(cells * CELL_M)
    return "1 meter" if length == 1 else f"{length} meters"
