"""Forget, purge and the care of a lake on S3: nothing of the episode is left in any object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine import api
from dataengine.fixtures.lerobot_writer import FixtureEpisode, write_lerobot
from dataengine.lake import Lake, care, tables
from dataengine.mixture.store import MixtureStore
from dataengine.storage import backend_of

RECIPE = """
name: forgetful
sources:
  - {converter: pusht_lerobot, path: "${data}"}
window: {chunk: {steps: 4}}
split: {valid: 0.0}
shards: {buckets: {train: 4, valid: 1}, segment: 8}
normalization: {representations: [absolute]}
"""


def objects(address: str) -> dict[str, bytes]:
    """Every object below an address."""
    backend = backend_of(address)
    return {name: backend.read(name) for name in backend.names("")}


def rows(lake: Path) -> list[bytes]:
    """Every value of every row of the lake's tables but the payloads, which lie in the objects as they are."""
    found = []
    for table in ("episodes.lance", "media.lance"):
        read = tables.open_table(lake, table)
        for column in read.to_table(columns=[name for name in read.schema.names if name != "payload"]).columns:
            found += [value if isinstance(value, bytes) else str(value).encode() for value in column.to_pylist()]
    return found


def test_forget_on_s3(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "INDEX_ROWS", 1)
    episodes = []
    for seed in range(4):
        chance = np.random.default_rng(seed)
        state = (np.cumsum(chance.normal(0, 4, (17, 2)), axis=0) + 256).astype(np.float32)
        frames = [chance.integers(0, 255, (96, 96, 3), np.uint8) for _ in range(17)]
        episodes.append(FixtureEpisode(state, state + 1, f"push the block, way number {seed:04d}", frames))
    write_lerobot(tmp_path / "raw", episodes, 10, video_key="observation.image", robot_type="pusht", gop=30)
    (tmp_path / "forgetful.yaml").write_text(RECIPE)
    lake, mixture = Path(f"{bucket}/L"), Path(f"{bucket}/M")
    given = {"data": str(tmp_path / "raw")}
    api.build(str(tmp_path / "forgetful.yaml"), lake, mixture, parameters=given, workers=1)
    heads = {head.upstream_id: head for head in Lake(lake).heads()}
    gone = heads["episode_000001"]
    (media,) = Lake(lake).reader([gone.uid]).episode(gone.uid).media.values()
    place = len(media.payload) * 3 // 4  # behind the frames of the episode before it
    pieces = [gone.uid[:20].encode(), media.payload[place : place + 32], episodes[1].state[:8].tobytes()]
    before = objects(bucket)
    assert all(any(piece in data for data in [*before.values(), *rows(lake)]) for piece in pieces)

    outcome = api.forget(lake, reason="test", episodes=[gone.uid], mixtures=[mixture], workers=1)
    assert outcome.mixtures[0].version == "v0002"
    assert len(outcome.lake.neighbours) == 2
    result = api.purge(lake, mixtures=[mixture], delete=True)
    assert result.finds == []
    after = objects(bucket)
    assert not [name for name, data in after.items() for piece in pieces if piece in data]
    assert not [value for value in rows(lake) for piece in pieces if piece in value]
    assert MixtureStore(str(mixture)).versions() == ["v0002"]
    assert api.verify(f"{bucket}/M").problems == []
    assert api.ingest(tmp_path / "raw", "pusht_lerobot", lake, workers=1).forgotten == ["episode_000001"]
    opened = Lake(lake)
    opened.keep("a-version", opened.snapshot())
    assert "a-version" in opened.kept()
    assert api.lake_gc(lake, delete=True, grace_seconds=0).removed
    opened.release("a-version")
    assert len(opened.heads()) == 3
    assert not [name for name in objects(bucket) if "/leases/" in name]
    print(f"{result.files} objects searched, {sum(result.probes.values())} probes, {len(result.finds)} found")
