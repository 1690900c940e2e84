"""Diff names what a change of the recipe took: the task that lost most, the steps, the channels scaled otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app

RECIPE = """
name: two
sources:
  - {converter: pusht_lerobot, path: "${data}", weight: WEIGHT}
window: {chunk: {steps: 8}}
split: {valid: 0}
filters: FILTERS
steps: STEPS
guard: null
shards: {buckets: {train: 4, valid: 1}}
normalization: {representations: [absolute]}
"""


def built(root: Path, data: Path, **changes: str) -> None:
    """The next version, with these parts of the recipe."""
    text = RECIPE
    for name, value in {"WEIGHT": "1", "FILTERS": "[]", "STEPS": "[]", **changes}.items():
        text = text.replace(name, value)
    (root / "recipe.yaml").write_text(text)
    api.build(str(root / "recipe.yaml"), root / "lake", root / "m", parameters={"data": str(data)}, rebalance=True)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The real PushT episodes (80, 50 and 30 steps; two tasks): plain, without the first steps, without the short."""
    root, raw = tmp_path_factory.mktemp("diff"), data / "robot/lerobot_v30_pusht"
    built(root, raw)
    built(root, raw, STEPS="[{name: drop_first, steps: 5}]")
    built(root, raw, FILTERS="[{name: min_steps, steps: 40}]", WEIGHT="0.5")
    return root


def found(root: Path, one: str, two: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["diff", f"{root / 'm'}@{one}", f"{root / 'm'}@{two}", "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_steps_and_what_they_took(versions: Path) -> None:
    told = found(versions, "v0001", "v0002")
    (step,) = told["steps"]
    assert (step["state"], step["kind"], step["step"]["name"]) == ("added", "steps", "drop_first")
    lost = {row["task"]: (row["episodes"], row["kept_steps"]) for row in told["tasks"]}
    assert all(steps % 5 == 0 and steps < 0 and episodes == 0 for episodes, steps in lost.values())
    assert told["lost_most"]["kept_steps"] == min(steps for _, steps in lost.values())
    assert told["samples"] == sum(row["samples"] for row in told["tasks"])
    assert told["normalization_changed"]
    assert {row["slot"] for row in told["statistics"]} == {"native"}
    assert any(row["shift"] for row in told["statistics"])
    assert told["shares"] == []


def test_a_task_that_goes_is_named(versions: Path) -> None:
    told = found(versions, "v0001", "v0003")
    short = told["lost_most"]
    assert (short["task"], short["after"]["episodes"]) == ("short circle", 0)
    assert short["before"]["kept_steps"] == -short["kept_steps"] == 30
    assert [row["after"] for row in told["episodes"]["changed"]] == [f"dropped: {reason}" for reason in told["drops"]]
    assert told["counts"] == {"added": 0, "removed": 0, "changed": 1}
    assert {row["field"] for row in told["recipe"]} == {"sources.pusht_lerobot.weight"}
    assert {"field": "rates.pusht_lerobot", "before": 1.0, "after": 0.5} in told["pins"]
    back = found(versions, "v0003", "v0001")
    assert back["samples"] == -told["samples"]
    assert back["lost_most"] is None
    done = CliRunner().invoke(app, ["diff", f"{versions / 'm'}@v0001", f"{versions / 'm'}@v0003"])
    assert "the task that lost most: 'short circle' of pusht_lerobot" in done.stdout
    assert "min_steps" in done.stdout
