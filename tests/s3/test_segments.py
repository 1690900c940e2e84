"""A version of segments on S3: the same windows as on disk, a request for the numbers and one for the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.loader import open_mixture
from dataengine.loader.shards import Shards

RECIPE = """
name: cut
sources:
  - {converter: pusht_lerobot, path: "${data}", split: train}
window: {chunk: {steps: 8}}
samples: {kind: episode}
mix: {mode: scheduled}
shards: {buckets: {train: 2, valid: 1}, segment: 16}
normalization: {representations: [absolute]}
"""


def test_windows_are_cut_on_s3(
    bucket: str, pusht_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pusht: Callable[..., Path]
) -> None:
    recipe, parameters = tmp_path / "cut.yaml", {"data": str(pusht_raw)}
    recipe.write_text(RECIPE)
    for out in (Path(f"{bucket}/cut"), tmp_path / "M"):
        api.build(str(recipe), tmp_path / "L", out, engine="local", workers=1, parameters=parameters)
    asked: list[str] = []
    requested = Shards._requested

    def counted(self: Shards, shard: str, wanted: Any) -> dict[str, bytes]:
        asked.append(shard)
        return requested(self, shard, wanted)

    monkeypatch.setattr(Shards, "_requested", counted)
    window = {"chunk": {"steps": 20}, "stride": 3, "history": 5}
    near, far = open_mixture(tmp_path / "M", window=window), open_mixture(f"{bucket}/cut", window=window, verify=True)
    assert len(near) == len(far) > 40
    assert [far.raw(place) for place in range(len(far))] == [near.raw(place) for place in range(len(near))]
    segments = sum(1 for _ in open_mixture(tmp_path / "M", window={"stride": 16}))
    assert len(asked) == len(far) + segments
    print(f"{len(far)} windows of {segments} segments took {len(asked)} requests")
