"""In a shard the samples of one episode stand apart: runs are hardly longer than in a random order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from dataengine import api
from dataengine.loader.shards import IndexTable
from dataengine.mixture.store import MixtureStore, index_name
from dataengine.shards.samples import KEY_UID

EPISODES = 120
LIMIT = 1.1
RECIPE = """
name: shuffled
sources: [{{converter: pusht_lerobot, split: train, weight: {weight}, path: "{raw}"}}]
window: {{chunk: {{steps: 4}}}}
require: []
images: {{keep: []}}
shards: {{buckets: {{train: 3}}, segment: 8}}
"""


def mean_run(episodes: Sequence[str]) -> float:
    """Samples by the number of runs of one episode."""
    return len(episodes) / sum(1 for _ in groupby(episodes))


def expected_run(episodes: Sequence[str]) -> float:
    """The same of a random order: neighbours are of one episode with probability sum c (c - 1) / (n (n - 1))."""
    total = len(episodes)
    together = sum(count * (count - 1) for count in Counter(episodes).values()) / (total * (total - 1))
    return total / (1 + (total - 1) * (1 - together))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, make_pusht: Callable[..., Path]) -> Path:
    return make_pusht(tmp_path_factory.mktemp("raw") / "pusht", range(EPISODES), rows=18)


@pytest.mark.parametrize("weight", [1, 2.5])
def test_runs_of_an_episode_are_those_of_a_random_order(tmp_path: Path, raw: Path, weight: float) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(raw=raw, weight=weight))
    api.build(str(path), tmp_path / "L", tmp_path / "M", engine="local", workers=1)
    store = MixtureStore(tmp_path / "M")
    manifest = store.manifest(store.resolve(None))[1]
    assert len(manifest.shards) == 3
    chance, everyone = np.random.default_rng(0), set()
    for shard in manifest.shards:
        table = IndexTable.parse(store.read(index_name(shard.sha256)), "the index")
        found = [key[:KEY_UID] for key in table.keys]
        everyone |= set(found)
        simulated = [mean_run(chance.permutation(found).tolist()) for _ in range(20)]
        measured, expected = mean_run(found), expected_run(found)
        print(
            f"weight {weight}, shard {shard.bucket}: {len(found):,} samples of {len(set(found))} episodes, mean run"
            f" {measured:.4f}; in a random order {expected:.4f} expected, {min(simulated):.4f} to"
            f" {max(simulated):.4f} in 20 draws; ratio {measured / expected:.4f}"
        )
        assert np.mean(simulated) == pytest.approx(expected, rel=0.01)
        assert measured <= LIMIT * expected
        in_turn = sorted(found)
        assert mean_run(in_turn) > 3 * expected, "a shard in the episodes' order would be seen"
    assert len(everyone) == EPISODES
