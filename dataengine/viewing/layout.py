"""The blueprint: cameras and spaces above, curves below, texts at the side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rerun.blueprint as rrb

from dataengine.viewing.recording import TIME

COLUMNS = 3


@dataclass(frozen=True)
class Scene:
    """What there is to lay out: titles with the entities they show. All paths are below `/`."""

    pictures: Mapping[str, str]
    spaces: Mapping[str, str]
    plots: Sequence[tuple[str, Sequence[str]]]
    texts: Sequence[tuple[str, str]]
    logs: Sequence[tuple[str, str]]


def blueprint(scene: Scene) -> Any:
    """The views of a recording."""
    seen = [rrb.Spatial2DView(origin=f"/{path}", name=name) for name, path in scene.pictures.items()]
    spaces = [rrb.Spatial3DView(origin=f"/{path}", name=name) for name, path in scene.spaces.items()]
    plots = [
        rrb.TimeSeriesView(origin="/", contents=[f"+ /{path}" for path in paths], name=name)
        for name, paths in scene.plots
    ]
    said: list[Any] = [rrb.TextDocumentView(origin=f"/{path}", name=name) for name, path in scene.texts]
    said += [rrb.TextLogView(origin=f"/{path}", name=name) for name, path in scene.logs]
    above = [*_grid(seen, "cameras"), *([rrb.Tabs(*spaces, name="spaces")] if spaces else [])]
    left = [*([rrb.Horizontal(*above)] if above else []), *_grid(plots, "state and action")]
    body = rrb.Horizontal(rrb.Vertical(*left), rrb.Tabs(*said), column_shares=[3, 1]) if left else rrb.Tabs(*said)
    return rrb.Blueprint(body, rrb.TimePanel(timeline=TIME), collapse_panels=True)


def _grid(views: Sequence[Any], name: str) -> list[Any]:
    return [rrb.Grid(*views, grid_columns=min(COLUMNS, len(views)), name=name)] if views else []
