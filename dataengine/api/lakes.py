"""What a lake holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataengine.api.common import conversions_at_hand
from dataengine.errors import SpecError
from dataengine.lake import Lake, source_filter


def lake_list(lake: Path) -> list[dict[str, Any]]:
    """One row a source and converter: usable episodes and steps, and how many could not be used."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for head in Lake(lake).heads():
        row = rows.setdefault(
            (head.source_id, head.converter),
            {
                "source_id": head.source_id,
                "converter": head.converter,
                "family": head.family,
                "embodiment": head.embodiment,
                "episodes": 0,
                "steps": 0,
                "dropped": 0,
            },
        )
        row["episodes" if head.status == "ok" else "dropped"] += 1
        row["steps"] += head.steps
    return [row for _, row in sorted(rows.items())]


def stale(lake: Path, converters: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What of a lake an outdated converter, card, schema or format version made: one row a source and converter.

    `converters` are files of converters that are not shipped. A converter that is nowhere at hand is `unknown`.
    """
    heads = [head for head in Lake(lake).heads() if head.status == "ok"]
    current = conversions_at_hand({head.converter for head in heads}, converters)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for head in heads:
        row = rows.setdefault(
            (head.source_id, head.converter),
            {"source_id": head.source_id, "converter": head.converter, "episodes": 0, "stale": 0, "state": "current"},
        )
        row["episodes"] += 1
        known = current.get(head.converter)
        if known is None:
            row["state"] = "unknown"
        elif known.digest != head.conversion_digest:
            row["stale"] += 1
            row["state"] = "stale"
    return [row for _, row in sorted(rows.items())]


def lake_remove(lake: Path, names: Sequence[str]) -> int:
    """Remove sources, converters or episodes (by uid) from a lake; returns how many rows went."""
    opened = Lake(lake)
    removed = opened.remove(source_filter(names))
    if not removed:
        known = sorted({row["source_id"] for row in lake_list(lake)})
        raise SpecError(f"nothing in the lake is called {', '.join(names)}", fix=f"known: {', '.join(known) or 'none'}")
    return removed
