"""What a source must say of itself before a converter's numbers mean what the converter says."""

from __future__ import annotations

from typing import Any

from dataengine.documents import Strict


class Requirement(Strict):
    """An attribute of every episode (a `/`-separated path) that must be `equals`, plain JSON.

    Names of columns, the robot, the controller: where they are others, columns by number would take other quantities.
    """

    attribute: str
    equals: Any
