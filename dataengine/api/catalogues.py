"""Catalogues: plan a mixture before its data is there, and list what a lake holds for such a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataengine.api.common import Tell, bound, silent
from dataengine.catalogue import Kind, kind_columns, open_catalogue, write_parquet
from dataengine.documents import spec_files
from dataengine.lake import Lake
from dataengine.lake_rows import Head
from dataengine.mixture.forecast import Forecast
from dataengine.mixture.forecast import forecast as plan_over
from dataengine.specs.catalogue import FOLDER, load_catalogue_spec
from dataengine.specs.recipe import recipe_parameters


def forecast(recipe: str, catalogue: str, *, parameters: Mapping[str, str] | None = None) -> Forecast:
    """What a build of a recipe would come to over a catalogue: a shipped one, a YAML file, or Parquet.

    No lake is needed and no data is read; a parameter that only says where data lie need not be given. A source that
    the catalogue does not speak of is a `SpecError`.
    """
    given = {key: f"${{{key}}}" for key in recipe_parameters(recipe)} | dict(parameters or {})
    return plan_over(bound(recipe, given)[0], open_catalogue(catalogue))


def catalogue_show(name: str) -> dict[str, Any]:
    """What a catalogue speaks of: a row a data set, with what each figure rests on."""
    spec, shipped = load_catalogue_spec(name), spec_files("converters")
    rows = [
        {
            **source.canonical(),
            "shipped": source.converter in shipped,
            "grade": source.weakest,
            "total_steps": round(source.episodes * source.steps.mean),
            "hours": round(source.episodes * source.steps.mean / source.hz / 3600, 1) if source.hz else None,
        }
        for source in spec.sources
    ]
    return {"name": spec.name, "version": spec.version, "description": spec.description, "sources": rows}


def list_catalogues() -> list[str]:
    """The names of the shipped catalogues."""
    return list(spec_files(FOLDER))


def catalogue_export(lake: Path, out: Path, *, tell: Tell = silent) -> int:
    """Write one row a usable episode of a lake as Parquet, and return how many. A file that is there is refused."""
    opened = Lake(lake)
    return write_parquet(out, _rows(opened, tell))


def _rows(lake: Lake, tell: Tell) -> Iterator[list[dict[str, Any]]]:
    done = 0
    for heads in lake.head_batches(lake.snapshot(), "status = 'ok'"):
        yield [_row(head) for head in heads]
        done += len(heads)
        tell("list", done, done)


def _row(head: Head) -> dict[str, Any]:
    """A row of the catalogue: streams stand for views."""
    kind = Kind(
        converter=head.converter,
        source_id=head.source_id,
        family=head.family,
        embodiment=head.embodiment,
        control_mode=head.control_mode,
        license=head.source.license,
        tags=head.source.tags,
        item=head.family == "vision_language",
        views={info.name: (info.height, info.width) for info in head.media},
    )
    return {
        **kind_columns(kind),
        "uid": bytes.fromhex(head.uid),
        "group": head.group,
        "steps": head.steps,
        "hz": head.hz,
        "bytes": head.media_bytes,
    }
