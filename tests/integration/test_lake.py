"""The lake: what came in comes out bit for bit, under snapshots, and foreign folders are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest

from dataengine import api
from dataengine.errors import StorageError
from dataengine.lake import Lake, lake_digest


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, pusht_raw: Path) -> Lake:
    path = tmp_path_factory.mktemp("lake") / "L"
    api.ingest(pusht_raw, "pusht_lerobot", path, workers=1)
    return Lake(path)


def test_media_and_native_arrays_come_back_bit_for_bit(lake: Lake, pusht_raw: Path) -> None:
    heads = lake.heads()
    reader = lake.reader([head.uid for head in heads], native=True)
    for head in heads:
        episode = reader.episode(head.uid)
        number = int(head.upstream_id.removeprefix("episode_"))
        (media,) = episode.media.values()
        video = pusht_raw / f"videos/chunk-000/observation.image/episode_{number:06d}.mp4"
        assert media.payload == video.read_bytes()
        table = pq.read_table(pusht_raw / f"data/chunk-000/episode_{number:06d}.parquet")
        stored = np.stack(table["action"].to_numpy(zero_copy_only=False))
        np.testing.assert_array_equal(episode.native["action"], stored)
        assert episode.native["action"].dtype == stored.dtype
        assert {file.path for file in episode.files} >= {f"data/chunk-000/episode_{number:06d}.parquet"}


def test_a_snapshot_does_not_see_what_came_later(lake: Lake, make_pusht: Callable[..., Path], tmp_path: Path) -> None:
    snapshot, digest = lake.snapshot(), lake_digest(lake.heads())
    api.ingest(make_pusht(tmp_path / "more", [50]), "pusht_lerobot", lake.path, workers=1)
    assert len(lake.heads()) == 7
    assert lake_digest(lake.heads(snapshot)) == digest
    added = {head.uid for head in lake.heads()} - {head.uid for head in lake.heads(snapshot)}
    with pytest.raises(StorageError, match="not in the lake"):
        lake.reader(sorted(added), snapshot)
    assert lake.remove(f"uid = '{added.pop()}'") == 1
    assert lake_digest(lake.heads()) == digest


def test_the_lake_digest_does_not_depend_on_row_order(pusht_raw: Path, lake: Lake, tmp_path: Path) -> None:
    api.ingest(pusht_raw / "data", "pusht_lerobot", tmp_path / "L", workers=1)
    assert [head.reason for head in Lake(tmp_path / "L").heads()] == ["missing_file"]
    api.ingest(pusht_raw, "pusht_lerobot", tmp_path / "L", workers=2)
    heads = [head for head in Lake(tmp_path / "L").heads() if head.status == "ok"]
    assert lake_digest(reversed(heads)) == lake_digest(lake.heads())


def test_a_damaged_payload_is_told(lake: Lake) -> None:
    from dataclasses import replace

    head = lake.heads()[0]
    info = replace(head.media[0], payload_sha256="0" * 64)
    with pytest.raises(StorageError, match="digest"):
        info.media(b"other", np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_foreign_folders_and_older_lakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no lake"):
        Lake(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(StorageError, match="other files"):
        Lake(tmp_path / "other", create=True)
    Lake(tmp_path / "old", create=True)
    lance.dataset(str(tmp_path / "old" / "episodes.lance")).drop_columns(["card"])
    with pytest.raises(StorageError, match="another version"):
        Lake(tmp_path / "old")
