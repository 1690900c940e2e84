"""A mixture of 64 shards and 600 generated episodes: a small change executes only tasks that hold what changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import api
from dataengine.api import BuildOutcome
from dataengine.lake import Lake
from dataengine.mixture import ledger as ledgers
from dataengine.mixture import runs
from dataengine.mixture.store import MixtureStore
from dataengine.plan import Candidate, make_tasks
from dataengine.specs.recipe import Recipe
from dataengine.weights import Offer, resolve_pins, shares

EPISODES = 599
RECIPE = """
name: thousand
sources: [{converter: pusht_lerobot, path: "${data}"}]
window: {chunk: {steps: 4}}
split: {valid: 0.03}
filters: FILTERS
shards: {buckets: {train: 62, valid: 2}, segment: 4}
normalization: {representations: [absolute]}
"""
CHANGED = "[{name: max_action, limits: {native: 295}}, {name: min_steps, steps: 2}]"


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("thousand")
    make_pusht(root / "raw", range(EPISODES + 1), rows=8)
    api.ingest(root / "raw", "pusht_lerobot", root / "lake", workers=1)
    last = next(head.uid for head in Lake(root / "lake").heads() if head.upstream_id.endswith(f"{EPISODES}"))
    assert api.lake_remove(root / "lake", [last]) == 1
    outcome = built(root)
    assert outcome.report.tasks == 64
    assert outcome.report.tasks_executed == 64
    return root


def built(root: Path, *, filters: str = "[]", out: str = "m", raw: bool = False) -> BuildOutcome:
    """The next version of the mixture."""
    text = RECIPE.replace("FILTERS", filters)
    (root / "recipe.yaml").write_text(text if raw else text.replace(', path: "${data}"', ""))
    given = {"data": str(root / "raw")} if raw else {}
    return api.build(str(root / "recipe.yaml"), root / "lake", root / out, parameters=given, workers=1)


def inputs(root: Path, version: str) -> dict[str, set[tuple[Any, ...]]]:
    """What lies in each shard of a version, by split and bucket."""
    store = MixtureStore(root / "m")
    sha, manifest = store.manifest(version)
    rows = ledgers.read_parquet(
        store.checked(f"{store.documents(sha)}/shard_records.parquet", manifest.shard_records_sha256)
    )
    found: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows:
        shard = manifest.shards[row["shard"]]
        found.setdefault(f"{shard.split}/{shard.bucket}", set()).add(
            (row["uid"], row["start"], row["stop"], row["samples"])
        )
    return found


def changed(one: dict[str, set[Any]], two: dict[str, set[Any]]) -> int:
    return sum(one.get(name) != held for name, held in two.items())


@pytest.mark.slow
def test_small_changes_execute_few_tasks(thousand: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inputs(thousand, "v0001")
    added = built(thousand, raw=True)
    assert [(report.added, report.unchanged, report.failures) for report in added.ingests] == [(1, EPISODES, [])]
    after = inputs(thousand, "v0002")
    print(f"one episode added: {added.report.tasks_executed} of {added.report.tasks} tasks executed")
    assert 1 <= added.report.tasks_executed <= 3
    assert added.report.tasks_executed == changed(before, after)

    heads = Lake(thousand / "lake").heads()
    gone = heads[len(heads) // 2]
    assert api.lake_remove(thousand / "lake", [gone.uid]) == 1
    removed = built(thousand)
    print(f"one episode removed: {removed.report.tasks_executed} of {removed.report.tasks} tasks executed")
    assert 1 <= removed.report.tasks_executed <= 3
    assert all(gone.uid != uid for held in inputs(thousand, "v0003").values() for uid, *_ in held)

    left = inputs(thousand, "v0003")
    filtered = built(thousand, filters="[{name: max_action, limits: {native: 295}}]")
    dropped = filtered.report.manifest.drops if filtered.report.manifest else {}
    expected = changed(left, inputs(thousand, "v0004"))
    print(f"a filter that drops {dropped}: {filtered.report.tasks_executed} tasks executed, {expected} of them changed")
    assert 0 < sum(dropped.values()) < 40
    assert filtered.report.tasks_executed == expected < 64

    nothing = built(thousand, filters=CHANGED)
    assert nothing.report.tasks_executed == 0

    forgotten = Lake(thousand / "lake").heads()[3].uid
    told = api.forget(thousand / "lake", reason="test", episodes=[forgotten], mixtures=[thousand / "m"], workers=2)
    executed = told.mixtures[0].tasks_executed
    purged = api.purge(thousand / "lake", mixtures=[thousand / "m"], delete=True)
    probes = sum(purged.probes.values())
    print(f"one episode forgotten: {executed} tasks executed; {purged.files} files searched for {probes} probes")
    assert 1 <= executed <= 3
    assert purged.finds == []

    monkeypatch.setattr(runs, "code_facts", lambda: {"version": "9", "commit": "f" * 40, "dirty_sha256": None})
    for part in ("refs", "manifests", "runs"):
        shutil.rmtree(thousand / "m" / part)
    again = built(thousand, filters=CHANGED)
    assert again.report.created
    assert again.report.tasks_executed == 0
    assert api.verify(str(thousand / "m")).problems == []


@pytest.mark.parametrize("seed", range(4))
def test_realized_shares_over_a_hundred_thousand_samples(seed: int) -> None:
    """Within 0.1 % of what the rates resolve to, for sources of many short and of few long episodes."""
    chance = np.random.default_rng(seed)
    lengths = {"short": (20_000, 3, 25), "long": (300, 200, 900), "items": (30_000, 1, 2), "few": (40, 20, 60)}
    wanted = {"short": 0.47, "long": 0.33, "items": 0.17, "few": 0.03}
    recipe = Recipe.parse(
        {
            "name": "shares",
            "seed": seed,
            "sources": [{"converter": name, "weight": weight} for name, weight in wanted.items()],
            "mix": {"weights": "share", "samples": 100_000},
            "shards": {"buckets": {"train": 64, "valid": 4}, "max_bytes": 1 << 26},
        },
        "test",
    )
    candidates = [
        Candidate(chance.bytes(32).hex(), name, "train", int(chance.integers(low, high)), 20_000)
        for name, (count, low, high) in lengths.items()
        for _ in range(count)
    ]
    offered = {
        name: Offer(samples=sum(c.windows for c in candidates if c.source == name), episodes=count)
        for name, (count, _, _) in lengths.items()
    }
    tasks = make_tasks(recipe, candidates, resolve_pins(recipe, offered, None, None))
    realized = shares(recipe, offered, tasks.samples())
    worst = max(abs(share[1] - wanted[name]) for name, share in realized.items())
    print(
        f"seed {seed}: {sum(tasks.samples().values()):,} samples in {len(tasks)} shards, worst share off by {worst:.5%}"
    )
    assert worst < 0.001
    assert all(abs(share[1] / wanted[name] - 1) < 0.01 for name, share in realized.items())
    assert len(tasks) >= 64
