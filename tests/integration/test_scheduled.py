"""A scheduled mixture read by the loader, by stock readers and by the command line, over shards written by hand."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dataengine import api
from dataengine.cli.main import app
from dataengine.documents import canonical_json, sha256_bytes
from dataengine.errors import SpecError
from dataengine.loader import open_mixture
from dataengine.mixture.store import MixtureStore, index_name, shard_name
from dataengine.schedule import MixSchedule
from dataengine.shards import index
from dataengine.shards.npy import npy
from dataengine.shards.tar import Sample, TarWriter
from dataengine.specs.records import Manifest, Pins, ShardEntry

SHARDS = (("a", 40), ("b", 9), ("a", 25), ("talk", 12), ("b", 11), ("a", 35))  # 100 of a, 20 of b, 12 of talk
SIZES = {"a": 100, "b": 20, "talk": 12}
STAGES = [
    {"name": "warm", "draws": 60, "shares": {"a": 0.9, "b": 0.1}},
    {"name": "main", "draws": 200, "shares": {"a": 0.25, "b": 0.5, "talk": 0.25}},
]
COUNTS = [{"a": 54, "b": 6, "talk": 0}, {"a": 50, "b": 100, "talk": 50}]
TOTALS = {"a": 104, "b": 106, "talk": 50}


def sample(source: str, shard: int, number: int) -> Sample:
    key = f"{source}-{shard}-{number:03d}"
    if source == "talk":
        item = {"kind": "item", "key": key, "messages": [{"role": "user", "content": [], "loss": False}]}
        return Sample(key, (("json", canonical_json(item)),))
    facts = {
        "kind": "window",
        "key": key,
        "embodiment": "arm",
        "control_mode": "joint",
        "converter": source,
        "channels": {"state": [0], "action": [0]},
        "native_units": {},
        "frames": {},
        "prompt": {"text": f"task of {source}"},
        "step": number,
        "horizon": 2,
        "episode_length": 1000,
    }
    row, two, mask = np.full((1, 1), number, np.float32), np.full((2, 1), number, np.float32), np.ones((2, 1), np.uint8)
    arrays = {"action": two, "action_mask": mask, "is_pad": mask[:, 0] * 0, "state": row, "state_mask": mask[:1]}
    members = [(f"{name}.npy", npy(array)) for name, array in sorted(arrays.items())]
    return Sample(key, (("json", canonical_json(facts)), *members))


def shard(store: MixtureStore, source: str, number: int, count: int, split: str) -> ShardEntry:
    with store.writer("shard") as staged:
        tar = TarWriter(staged)
        for at in range(count):
            tar.add(sample(source, number, at))
        tar.close()
        sha, size = staged.sha256, staged.bytes
        staged.publish(shard_name(sha))
    listing = index.dump(tar.index)
    store.publish(index_name(sha), listing)
    return ShardEntry(
        sha256=sha,
        bytes=size,
        samples=count,
        split=split,
        bucket=f"{number:05d}",
        task_digest=f"{number:064x}",
        index_sha256=sha256_bytes(listing),
        source=source,
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scheduled") / "M"
    store = MixtureStore(root, create=True)
    shards = [shard(store, source, number, count, "train") for number, (source, count) in enumerate(SHARDS)]
    shards.append(shard(store, "a", 90, 7, "valid"))
    baked = tuple(entry.model_copy(update={"source": ""}) for entry in shards)
    manifest = Manifest(
        name="by_hand",
        plan_id="0" * 64,
        recipe={},
        lake_digest="0" * 64,
        schema_version="1",
        pins=Pins(rates={}, scale=1.0, buckets={}),
        shards=tuple(shards),
        sources=(),
        drops={},
        bad_input=0,
        normalization_sha256="0" * 64,
        ledger_sha256="0" * 64,
        shard_records_sha256="0" * 64,
        schedule={"draws": 260, "stages": STAGES},
    )
    store.commit(manifest, "v0001")
    store.commit(manifest.model_copy(update={"schedule": None, "shards": baked}), "baked")
    drawn_otherwise = {"draws": 260, "stages": [{**STAGES[1], "draws": 260}]}
    store.commit(
        manifest.model_copy(update={"recipe": {"samples": {"kind": "episode"}}, "schedule": drawn_otherwise}),
        "segments",
    )
    return root


def sources_of(keys: tuple[str, ...] | list[str]) -> Counter[str]:
    return Counter(key.split("-")[0] for key in keys)


def test_the_schedule_draws_exact_shares(mixture: Path) -> None:
    ds = open_mixture(f"{mixture}@v0001", normalize=False)
    assert (len(ds), ds.epoch_length) == (132, 260)
    keys = [key for batch in ds.batches(16, seed=3, epoch=1) for key in batch.keys]
    assert sources_of(keys[:60]) == {name: n for name, n in COUNTS[0].items() if n}
    assert sources_of(keys[60:]) == COUNTS[1]
    order = ds.order(3, 1)
    assert [key for _, key in ds.located(list(order))] == keys
    assert [ds[order[at]].key for at in (0, 59, -1)] == [keys[0], keys[59], keys[-1]]
    with pytest.raises(IndexError):
        order[260]


def test_samples_come_again_when_all_came_across_epochs(mixture: Path) -> None:
    ds = open_mixture(f"{mixture}@v0001", normalize=False)
    drawn = [key for epoch in range(3) for _, key in ds.located(list(ds.order(0, epoch)))]
    for name, size in SIZES.items():
        mine = [key for key in drawn if key.startswith(f"{name}-")]
        assert len(mine) == 3 * TOTALS[name]
        for start in range(0, len(mine), size):
            assert len(set(mine[start : start + size])) == len(mine[start : start + size])


def test_epochs_resume_with_other_ranks(mixture: Path) -> None:
    ds = pickle.loads(pickle.dumps(open_mixture(f"{mixture}@v0001", normalize=False)))
    options = {"seed": 7, "epoch": 2}
    whole = [batch.keys for batch in ds.batches(8, **options)]
    assert len(whole) == len(ds.schedule(8, **options)) == 33
    for start in (0, 1, 7, 8, 31, 33, 40):
        assert [batch.keys for batch in ds.batches(8, start=start, **options)] == whole[start:]
    # five batches on two ranks of 4, the rest on four ranks of 2: the same draws as on one
    ranks = [[b.keys for b in ds.batches(4, rank=rank, world=2, **options)][:5] for rank in range(2)]
    ranks += [[b.keys for b in ds.batches(2, start=5, rank=rank, world=4, **options)] for rank in range(4)]
    assert Counter(k for rank in ranks for keys in rank for k in keys) == Counter(k for keys in whole for k in keys)
    assert [batch.keys for batch in ds.batches(8, seed=7, epoch=3)] != whole
    assert [batch.keys for batch in ds.batches(8, seed=8, epoch=2)] != whole


def test_weights_and_stages_without_a_rebuild(mixture: Path) -> None:
    address = f"{mixture}@v0001"
    main = open_mixture(address, normalize=False, stage="main")
    assert main.epoch_length == 200
    assert main.identity.stage == "main"
    assert sources_of([key for _, key in main.located(list(main.order()))]) == COUNTS[1]
    other = open_mixture(address, normalize=False, stage="main", weights={"a": 1, "b": 4, "talk": 0})
    assert sources_of([key for _, key in other.located(list(other.order()))]) == {"a": 40, "b": 160}
    assert other.identity.weights == {"a": 1, "b": 4, "talk": 0}
    with pytest.raises(SpecError, match="did you mean 'main'"):
        open_mixture(address, normalize=False, stage="mian")
    with pytest.raises(SpecError, match="leave out 'talk'"):
        open_mixture(address, normalize=False, weights={"a": 1, "b": 4})
    with pytest.raises(SpecError, match="did you mean 'talk'"):
        open_mixture(address, normalize=False, weights={"a": 1, "b": 4, "tallk": 1})
    with pytest.raises(SpecError, match="share out nothing"):
        open_mixture(address, normalize=False, weights={"a": 0, "b": 0, "talk": 0})
    for options in ({"weights": {"a": 1}}, {"stage": "main"}):
        for split, version in (("valid", "v0001"), ("train", "baked")):
            with pytest.raises(SpecError, match="hold one mixture"):
                open_mixture(f"{mixture}@{version}", split=split, normalize=False, **options)


def test_kinds_leave_the_others_as_often(mixture: Path) -> None:
    ds = open_mixture(f"{mixture}@v0001", normalize=False, kinds=("window",))
    assert (len(ds), ds.epoch_length) == (120, 210)
    assert sources_of([key for _, key in ds.located(list(ds.order()))]) == {"a": 104, "b": 106}
    items = open_mixture(f"{mixture}@v0001", normalize=False, kinds=("item",))
    assert (len(items), items.epoch_length) == (12, 50)
    assert sources_of([key for _, key in items.located(list(items.order()))]) == {"talk": 50}
    with pytest.raises(SpecError, match="no samples of these kinds"):
        open_mixture(f"{mixture}@v0001", normalize=False, kinds=("item",), stage="warm")


def test_valid_and_baked_versions_are_read_plainly(mixture: Path) -> None:
    for ds in (
        open_mixture(f"{mixture}@v0001", split="valid", normalize=False),
        open_mixture(f"{mixture}@baked", normalize=False),
    ):
        assert ds.epoch_length == len(ds)
        assert sorted(ds.order(1, 2)) == list(range(len(ds)))


# --- stock readers ---


def test_repeated_urls_meet_the_shares_in_whole_shards(mixture: Path) -> None:
    by_url = {
        url: (source, count) for url, (source, count) in zip(api.urls(f"{mixture}@v0001", "train"), SHARDS, strict=True)
    }
    met: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for epoch in range(30):
        found = api.repeated_urls(f"{mixture}@v0001", epoch=epoch)
        one: Counter[str] = Counter()
        for url in found.urls:
            one[by_url[url][0]] += by_url[url][1]
            seen[url] += 1
        for name, largest in (("a", 40), ("b", 11), ("talk", 12)):
            assert abs(one[name] - TOTALS[name]) <= largest
            assert found.shares[name] == (TOTALS[name] / 260, one[name] / one.total())
        met += one
    for name, largest in (("a", 40), ("b", 11), ("talk", 12)):
        assert abs(met[name] - 30 * TOTALS[name]) <= largest  # does not grow with the epochs
        counts = [seen[url] for url, (source, _) in by_url.items() if source == name]
        assert max(counts) - min(counts) <= 1
    with pytest.raises(SpecError, match="no schedule"):
        api.repeated_urls(f"{mixture}@baked")
    with pytest.raises(SpecError, match="hold segments"):
        api.repeated_urls(f"{mixture}@segments")


def test_the_commands_print_what_the_loader_draws(mixture: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["schedule", f"{mixture}@v0001", "--epoch", "2", "--start", "55", "--count", "10", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["draws_per_epoch"] == 260
    assert told["stages"] == [
        {"name": stage["name"], "draws": stage["draws"], "sources": counts}
        for stage, counts in zip(STAGES, COUNTS, strict=True)
    ]
    ds = open_mixture(f"{mixture}@v0001", normalize=False)
    expected = ds.located(ds.order(0, 2).take(np.arange(55, 65)).tolist())
    assert [(row["shard"], row["key"]) for row in told["draws"]] == expected
    assert [row["stage"] for row in told["draws"]] == ["warm"] * 5 + ["main"] * 5
    assert [row["draw"] for row in told["draws"]] == list(range(55, 65))
    for row in told["draws"]:
        source, shard, number = row["key"].split("-")
        before = sum(count for name, count in SHARDS[: int(shard)] if name == source)
        assert (row["source"], row["sample"]) == (source, before + int(number))
    made = MixSchedule.of({"stages": STAGES}, SIZES, 0).take(np.arange(55, 65), 2)
    assert [row["sample"] for row in told["draws"]] == made.samples.tolist()

    assert "260 draws in epoch 0" in run(app, ["schedule", f"{mixture}@v0001"]).stdout
    plain = json.loads(run(app, ["schedule", f"{mixture}@baked", "--count", "500", "--json"]).stdout)
    assert sorted(row["sample"] for row in plain["draws"]) == list(range(132))
    assert run(app, ["schedule", f"{mixture}@v0001", "--stage", "none"]).exit_code == 2

    done = run(app, ["urls", f"{mixture}@v0001", "--repeat", "--epoch", "1"])
    assert done.stdout.splitlines() == api.repeated_urls(f"{mixture}@v0001", epoch=1).urls
    assert "by the schedule" in done.stderr
    assert json.loads(run(app, ["urls", f"{mixture}@v0001", "--repeat", "--json"]).stdout)
    assert run(app, ["urls", f"{mixture}@baked", "--repeat"]).exit_code == 2
    assert run(app, ["urls", f"{mixture}@v0001", "--repeat", "--split", "valid"]).exit_code == 2


# --- builds ---

TWO = """
name: two
sources:
  - {converter: pusht_lerobot, name: few, path: "${data}", where: "upstream_id like '%0'", split: train}
  - {converter: pusht_lerobot, name: many, where: "upstream_id not like '%0'", split: train, weight: 3}
window: {chunk: {steps: 8}}
shards: {buckets: {train: 4, valid: 1}, segment: 8}
mix:
  mode: scheduled
  weights: share
  samples: 500
  stages: [{name: first, weights: {few: 3}}, {name: rest, part: 4}]
normalization: {representations: [absolute]}
"""


def test_a_build_stores_each_window_once_and_draws_its_shares(tmp_path: Path, pusht_raw: Path) -> None:
    recipe, options = (
        tmp_path / "recipe.yaml",
        {"engine": "local", "workers": 1, "parameters": {"data": str(pusht_raw)}},
    )
    recipe.write_text(TWO)
    api.build(str(recipe), tmp_path / "L", tmp_path / "M", **options)
    ds = open_mixture(tmp_path / "M")
    _, manifest = MixtureStore(tmp_path / "M").manifest("v0001")
    assert {shard.source for shard in manifest.shards} == {"few", "many"}
    assert (len(ds), ds.epoch_length) == (6 * 24, 500)
    told = api.schedule(str(tmp_path / "M"), count=500)
    assert [(part["name"], part["draws"], part["sources"]) for part in told["stages"]] == [
        ("first", 100, {"few": 50, "many": 50}),
        ("rest", 400, {"few": 100, "many": 300}),
    ]
    assert len({row["key"] for row in told["draws"]}) == 6 * 24
    assert sum(len(batch) for batch in ds.batches(32, seed=1)) == 500
    # other weights are another version with the same shards
    recipe.write_text(TWO.replace("weight: 3", "weight: 9"))
    api.build(str(recipe), tmp_path / "L", tmp_path / "M", rebalance=True, **options)
    _, later = MixtureStore(tmp_path / "M").manifest("v0002")
    assert [shard.sha256 for shard in later.shards] == [shard.sha256 for shard in manifest.shards]
    assert api.schedule(str(tmp_path / "M"))["stages"][1]["sources"] == {"few": 40, "many": 360}
