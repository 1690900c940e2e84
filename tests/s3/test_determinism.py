"""One plan, the same bytes: any number of workers, either engine, disk or S3, fresh or resumed, in any order."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.mixture.store import MixtureStore, index_name, shard_name, task_name

RECIPE = """
name: same
sources:
  - {name: even, converter: pusht_lerobot, path: "${data}", where: "upstream_id like '%0' or upstream_id like '%5'"}
  - {name: rest, converter: pusht_lerobot, where: "not (upstream_id like '%0' or upstream_id like '%5')", weight: 2}
window: {chunk: {steps: 8}, history: 2}
steps: [{name: drop_first, steps: 2}]
split: {valid: 0.1}
mix: {weights: share, samples: 500}
shards: {buckets: {train: 16, valid: 2}, segment: 8}
normalization: {representations: [absolute]}
"""
WAYS: dict[str, dict[str, Any]] = {
    "two workers": {"workers": 2},
    "four workers": {"workers": 4},
    "another order": {"workers": 1, "task_order": 11},
    "ray": {"engine": "ray", "workers": 2},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> Path:
    return make_pusht(tmp_path_factory.mktemp("raw") / "pusht", range(30))


def built(root: Path, raw: Path, lake: Any, out: Any, **options: Any) -> str:
    """Build, and the manifest's digest: it names every shard, document, rate and bucket."""
    (root / "recipe.yaml").write_text(RECIPE)
    chosen = {"engine": "local", "workers": 1, **options}
    outcome = api.build(str(root / "recipe.yaml"), lake, out, parameters={"data": str(raw)}, **chosen)
    assert outcome.report.manifest is not None
    assert len(outcome.report.manifest.shards) >= 16
    assert outcome.report.tasks_executed == len(outcome.report.manifest.shards)
    return outcome.report.manifest_sha256


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("one")
    sha = built(root, raw, root / "L", root / "M")
    records = [api.audit(str(root / "M"), shard=number)["inputs"] for number in range(16)]
    segments = Counter(row["uid"] for rows in records for row in rows)
    assert max(segments.values()) == 3, "several segments an episode"
    return root, sha


@pytest.mark.slow
@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.ray if way == "ray" else ()) for way in WAYS])
def test_workers_engines_and_order(expected: tuple[Path, str], raw: Path, tmp_path: Path, way: str) -> None:
    assert built(tmp_path, raw, tmp_path / "L", tmp_path / "M", **WAYS[way]) == expected[1]


@pytest.mark.slow
def test_on_s3(expected: tuple[Path, str], raw: Path, tmp_path: Path, bucket: str) -> None:
    assert built(tmp_path, raw, f"{bucket}/L", f"{bucket}/M") == expected[1]
    assert api.verify(f"{bucket}/M").problems == []


def test_resumed(expected: tuple[Path, str], raw: Path, tmp_path: Path) -> None:
    """Half of the work is there: some shards with their records, some shards alone, some torn from their index."""
    root, sha = expected
    shutil.copytree(root / "M", tmp_path / "M")
    store = MixtureStore(tmp_path / "M")
    shards = store.manifest("v0001")[1].shards
    for part in ("refs", "manifests", "runs"):
        shutil.rmtree(tmp_path / "M" / part)
    for number, shard in enumerate(shards):
        if number % 2:
            store.remove(task_name(shard.task_digest))
        if number % 4 == 1:
            store.remove(shard_name(shard.sha256))
        if number % 8 == 3:
            store.remove(index_name(shard.sha256))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    given = {"data": str(raw)}
    outcome = api.build(str(tmp_path / "recipe.yaml"), root / "L", tmp_path / "M", workers=2, parameters=given)
    assert outcome.report.manifest_sha256 == sha
    assert outcome.report.tasks_executed == len(range(1, len(shards), 2))
    assert api.verify(str(tmp_path / "M")).problems == []
