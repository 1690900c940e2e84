"""A very small renderer for the demo's scenes: flat shapes on a canvas, and solids seen by a pinhole camera."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataengine.images import Pixels

Array = NDArray[np.float64]
Colour = tuple[int, int, int]
SMOOTH = 2
_LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])


class Canvas:
    """An RGB picture that is drawn at `SMOOTH` times its size and averaged down, so that edges are smooth.

    Coordinates are pixels of the finished picture: x right, y down, (0, 0) its upper left corner.
    """

    def __init__(self, height: int, width: int, background: Colour) -> None:
        self._size = height, width
        self._large = np.empty((height * SMOOTH, width * SMOOTH, 3), np.uint8)
        self._large[:] = background

    def polygon(self, corners: ArrayLike, colour: Colour) -> None:
        """Fill a convex polygon, corners [n, 2]."""
        points = np.asarray(corners, np.float64) * SMOOTH
        low, high = self._inside(points.min(0), points.max(0))
        if (low >= high).any():
            return
        y, x = np.ogrid[low[1] : high[1], low[0] : high[0]]
        turn = 1.0 if _area(points) >= 0 else -1.0
        covered = np.ones((high[1] - low[1], high[0] - low[0]), np.bool_)
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            covered &= turn * (bx - ax) * (y + 0.5 - ay) >= turn * (by - ay) * (x + 0.5 - ax)
        np.copyto(
            self._large[low[1] : high[1], low[0] : high[0]], np.array(colour, np.uint8), where=covered[:, :, None]
        )

    def disc(self, centre: ArrayLike, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        point = np.asarray(centre, np.float64) * SMOOTH
        radius *= SMOOTH
        low, high = self._inside(point - radius, point + radius)
        if (low >= high).any():
            return
        y, x = np.ogrid[low[1] : high[1], low[0] : high[0]]
        covered = (x + 0.5 - point[0]) ** 2 + (y + 0.5 - point[1]) ** 2 <= radius**2
        np.copyto(
            self._large[low[1] : high[1], low[0] : high[0]], np.array(colour, np.uint8), where=covered[:, :, None]
        )

    def pixels(self) -> Pixels:
        """The picture, RGB [H, W, 3]."""
        height, width = self._size
        total = np.zeros((height, width, 3), np.uint16)
        for row in range(SMOOTH):
            for column in range(SMOOTH):
                total += self._large[row::SMOOTH, column::SMOOTH]
        return ((total + SMOOTH * SMOOTH // 2) // (SMOOTH * SMOOTH)).astype(np.uint8)

    def _inside(self, low: Array, high: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The part of a bounding box that lies on the canvas, in large pixels."""
        limit = np.array([self._size[1], self._size[0]]) * SMOOTH
        first = np.clip(np.floor(low), 0, limit).astype(np.int64)
        return first, np.clip(np.ceil(high), 0, limit).astype(np.int64)


@dataclass(frozen=True)
class Face:
    """A flat convex side of a solid: corners [n, 3] in m, counterclockwise seen from outside."""

    corners: Array
    colour: Colour


Solid = list[Face]


def box(centre: ArrayLike, size: ArrayLike, colour: Colour, axes: ArrayLike | None = None) -> Solid:
    """A cuboid. `size` [3] along its own axes, which are the columns of the matrix `axes` (default: the world's)."""
    turn = np.eye(3) if axes is None else np.asarray(axes, np.float64)
    middle, half = np.asarray(centre, np.float64), np.asarray(size, np.float64) / 2
    faces = []
    for axis in range(3):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        for side in (1.0, -1.0):
            corners = np.zeros((4, 3))
            corners[:, axis] = side
            corners[:, one] = np.array([-1, 1, 1, -1]) * side
            corners[:, two] = [-1, -1, 1, 1]
            faces.append(Face(middle + (corners * half) @ turn.T, colour))
    return faces


def bar(start: ArrayLike, end: ArrayLike, width: float, colour: Colour) -> Solid:
    """A square bar from `start` to `end`, both [3]."""
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (last - first) / np.linalg.norm(last - first)
    aside = np.cross(along, [0.0, 1.0, 0.0] if abs(along[1]) < 0.9 else [1.0, 0.0, 0.0])
    aside /= np.linalg.norm(aside)
    axes = np.stack([along, aside, np.cross(along, aside)], axis=1)
    return box((first + last) / 2, [np.linalg.norm(last - first), width, width], colour, axes)


def upright(rings: Sequence[tuple[float, float]], centre: ArrayLike, colour: Colour, sides: int = 20) -> Solid:
    """A body of revolution about a vertical axis through `centre`: `rings` are (radius, height above it), upward."""
    angles = 2 * math.pi * np.arange(sides) / sides
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides)], axis=1)
    layers = [np.asarray(centre, np.float64) + circle * radius + np.array([0, 0, height]) for radius, height in rings]
    faces = [Face(layers[-1], colour)]
    for lower, upper in pairwise(layers):
        for k in range(sides):
            following = (k + 1) % sides
            faces.append(Face(np.array([lower[k], lower[following], upper[following], upper[k]]), colour))
    return faces


def ball(centre: ArrayLike, radius: float, colour: Colour) -> Solid:
    """A sphere."""
    tilts = np.linspace(-math.pi / 2 + 0.05, math.pi / 2 - 0.05, 10)
    return upright([(radius * math.cos(tilt), radius * math.sin(tilt)) for tilt in tilts], centre, colour)


class Camera:
    """A pinhole camera at `eye` that looks at `target`, both [3] in m; the world is z up. Axes as in OpenCV."""

    def __init__(self, eye: ArrayLike, target: ArrayLike, focal: float, size: tuple[int, int]) -> None:
        self._eye = np.asarray(eye, np.float64)
        forward = np.asarray(target, np.float64) - self._eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        self._axes = np.stack([right, np.cross(forward, right), forward])
        self._focal, self._size = focal, size

    def project(self, points: ArrayLike) -> Array:
        """Pixels (x, y) [n, 2] of world points [n, 3]."""
        x, y, depth = self._axes @ (np.asarray(points, np.float64).reshape(-1, 3) - self._eye).T
        height, width = self._size
        return np.stack([width / 2 + self._focal * x / depth, height / 2 + self._focal * y / depth], axis=1)

    def backdrop(self, layers: Iterable[Solid], background: Colour) -> Canvas:
        """What stands still in a scene, drawn layer by layer."""
        canvas = Canvas(*self._size, background)
        for layer in layers:
            self._draw(canvas, layer)
        return canvas

    def picture(self, solids: Solid, backdrop: Canvas) -> Pixels:
        """What moves in front of a backdrop (which stays as it is), RGB [H, W, 3]."""
        canvas = deepcopy(backdrop)
        self._draw(canvas, solids)
        return canvas.pixels()

    def _draw(self, canvas: Canvas, solids: Solid) -> None:
        """The faces that are turned to the camera, from far to near."""
        corners = np.concatenate([face.corners for face in solids])
        ends = np.cumsum([len(face.corners) for face in solids])[:-1]
        places = np.split(self.project(corners), ends)
        away = np.split(np.linalg.norm(corners - self._eye, axis=1), ends)
        # Counterclockwise from outside: with y down, a face that is turned to the camera has a negative area.
        seen = [number for number, place in enumerate(places) if _area(place) < 0]
        for number in sorted(seen, key=lambda number: -float(away[number].mean())):
            canvas.polygon(places[number], _lit(solids[number]))


def _area(corners: Array) -> float:
    """Signed area of a polygon [n, 2]: positive where its corners go from x towards y."""
    places = corners.tolist()
    pairs = zip(places, [*places[1:], places[0]], strict=True)
    return float(sum(x * next_y - y * next_x for (x, y), (next_x, next_y) in pairs)) / 2


def _lit(face: Face) -> Colour:
    """The face's colour in the scene's light."""
    one, two = face.corners[1] - face.corners[0], face.corners[2] - face.corners[0]
    normal = one[[1, 2, 0]] * two[[2, 0, 1]] - one[[2, 0, 1]] * two[[1, 2, 0]]
    bright = 0.62 + 0.38 * max(0.0, float(normal @ _LIGHT) / math.hypot(*normal))
    red, green, blue = (round(part * bright) for part in face.colour)
    return red, green, blue
