"""Plugins: entry points `dataengine.formats` and `dataengine.transforms`, loaded when named.

Shipped formats and transforms are entry points of this distribution like any other's; there is no central list.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dataengine.documents import unknown_name
from dataengine.errors import SpecError

FORMATS = "dataengine.formats"
TRANSFORMS = "dataengine.transforms"


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise SpecError(
                f"two packages provide {point.name!r} in {group}: {other.value} and {point.value}",
                fix="uninstall one of them",
            )
        found[point.name] = point
    return found


def names(group: str) -> list[str]:
    """Known names of a group, sorted; nothing is imported."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """Import and return what an entry point names; an unknown name suggests the nearest."""
    points = _points(group)
    if name not in points:
        raise unknown_name(group.removeprefix("dataengine.").rstrip("s"), name, points)
    try:
        return points[name].load()
    except ImportError as error:
        raise SpecError(
            f"{name} needs a package that is not installed: {error.name or error}",
            fix=f"pip install 'dataengine[{name}]' or the package itself",
        ) from None
