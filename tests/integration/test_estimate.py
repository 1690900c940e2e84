"""What a dry run tells of time and size: by trying a few samples, or by the mixture's last build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.mixture.estimate import Stages

RECIPE = """
name: timed
sources:
  - {{converter: pusht_lerobot, path: "{pusht}", weight: 4}}
  - {{converter: bridge_octo, require: [view], path: "{data}/robot/rlds_octo_bridge"}}
window: {{chunk: {{steps: 8}}, stride: {stride}}}
filters: [{{name: min_steps, steps: 20}}]
guard: null
shards: {{buckets: {{train: 4}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path, data: Path, make_pusht: Callable[..., Path]) -> Callable[..., str]:
    raw = make_pusht(tmp_path / "raw", range(12), rows=40)

    def write(stride: int = 1) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(pusht=raw, data=data, stride=stride))
        return str(path)

    return write


def test_time_bytes_and_drops_by_source(tmp_path: Path, recipe: Callable[..., str]) -> None:
    found, _, _ = api.plan(recipe(), tmp_path / "L", tmp_path / "M", workers=1)
    assert not (tmp_path / "L").exists()
    assert not (tmp_path / "M").exists()
    assert found.estimate_from == "samples made of 1 of 1 sources"
    assert found.samples == {"pusht_lerobot": 1920, "bridge_octo": 0}
    assert found.drops_by_source == {"pusht_lerobot": {}, "bridge_octo": {"min_steps": 25}}
    assert sum(found.bytes_by_source.values()) == found.estimated_bytes > 0
    assert found.bytes_by_source["bridge_octo"] == 0
    assert found.warnings == ["the rate of pusht_lerobot is 4: each of its samples stands there about 4 times"]
    assert set(found.stages) >= {"read", "survey", "shards"}
    assert found.estimated_seconds == pytest.approx(sum(found.stages.values()))
    outcome = api.build(recipe(), tmp_path / "L", tmp_path / "M", engine="local", workers=1)
    manifest = outcome.report.manifest
    assert manifest is not None
    real = sum(shard.bytes for shard in manifest.shards)
    print(f"estimated {found.estimated_seconds} s ({found.stages}), {found.estimated_bytes:,} bytes of {real:,}")
    again, _, _ = api.plan(recipe(), tmp_path / "L", tmp_path / "M", workers=1)
    assert (again.tasks_cached, again.stages["shards"]) == (again.tasks, 0.0)
    assert again.estimate_from == "every shard is there already"
    other, _, _ = api.plan(recipe(stride=2), tmp_path / "L", tmp_path / "M", workers=2)
    assert other.estimate_from.startswith("the build of 20")
    assert other.stages["shards"] > 0
    assert other.workers == 2


def test_sources_that_are_in_the_lake_are_tried_too(tmp_path: Path, recipe: Callable[..., str]) -> None:
    api.build(recipe(), tmp_path / "L", tmp_path / "M", engine="local", workers=1)
    found, _, _ = api.plan(recipe(stride=3), tmp_path / "L", tmp_path / "other", workers=1)
    assert found.estimate_from == "samples made of 1 of 1 sources"
    assert found.stages["shards"] > 0


def test_the_dry_run_prints_it(tmp_path: Path, recipe: Callable[..., str]) -> None:
    where = ["--lake", str(tmp_path / "L"), "--out", str(tmp_path / "M"), "--dry-run", "--workers", "1"]
    done = CliRunner().invoke(app, ["build", recipe(), *where])
    assert done.exit_code == 0, done.output
    for told in (
        "to build with 1 worker",
        "shards",
        "samples made of 1 of 1 sources",
        "the rate of pusht_lerobot is 4",
    ):
        assert told in done.output.replace("\n", " "), told


def test_stages_are_timed() -> None:
    told: list[tuple[str, int, int]] = []
    stages = Stages(lambda *said: told.append(said))
    for said in (
        ("ingest", 0, 1),
        ("read x", 1, 1),
        ("survey", 1, 1),
        ("shards", 0, 2),
        ("shards", 2, 2),
        ("read back", 2, 2),
    ):
        stages(*said)
    assert set(stages.seconds) == {"read", "survey", "plan", "shards"}
    assert len(told) == 6
