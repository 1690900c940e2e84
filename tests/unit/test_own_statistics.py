"""A source's numbers against its own statistics of each episode: real LeRobot files, planted changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataengine import api
from dataengine.episode import RawEpisode, Told
from dataengine.formats.base import EpisodeRef, get_format
from dataengine.storage import SourceRoot
from dataengine.transforms.own_statistics import contradictions

G1, PUSHT = "robot/lerobot_v21_g1", "robot/lerobot_v30_pusht"
ROWS = "data/chunk-000/episode_000029.parquet"
STATS = "meta/episodes_stats.jsonl"


def told_of(values: np.ndarray[Any, Any]) -> Told:
    flat = values.reshape(len(values), -1).astype(np.float64)
    low, high, mean = (tuple(part.tolist()) for part in (flat.min(0), flat.max(0), flat.mean(0)))
    return Told(low, high, mean, len(values))


VALUES = np.random.default_rng(0).normal(0, 1, (50, 3)).astype(np.float32)


def changed(row: int, column: int, value: float) -> np.ndarray[Any, Any]:
    values = VALUES.copy()
    values[row, column] = value
    return values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (VALUES, None),
        (VALUES.astype(np.float64) + 1e-9, None),
        (changed(7, 1, 9.5), "row 7, column 1 is 9.5, told of"),
        (changed(7, 1, np.nan), "row 7, column 1 is not finite"),
        (changed(int(VALUES[:, 2].argmax()), 2, 0.0), "column 2 goes from"),
        (changed(7, 0, VALUES[7, 0] / 2), "the mean of column 0"),
        (VALUES[::-1], None),
        (VALUES[:, ::-1], "told of"),
        (VALUES[1:], "49 rows, told of 50"),
        (VALUES[:, :2], "2 columns, told of 3"),
        (VALUES > 0, None),
    ],
)
def test_what_differs_is_told(values: np.ndarray[Any, Any], says: str | None) -> None:
    found = contradictions({"state": values, "other": values}, {"state": told_of(VALUES), "absent": told_of(VALUES)})
    assert list(found) == ([] if says is None else ["state"])
    assert says is None or says in found["state"]


def test_a_mean_summed_row_by_row_in_float32_agrees() -> None:
    values = np.random.default_rng(1).uniform(100, 101, (20_000, 1)).astype(np.float32)
    told = told_of(values)
    rough = np.float32(0)
    for value in values[:, 0]:
        rough += value
    assert contradictions({"a": values}, {"a": Told(told.low, told.high, (float(rough) / 20_000,), 20_000)}) == {}
    assert contradictions({"a": values}, {"a": Told(told.low, told.high, (100.0,), 20_000)})


def read(root: Path, **options: Any) -> list[RawEpisode]:
    reader, source = get_format("lerobot"), SourceRoot(root)
    found = [entry for entry in reader.scan(source, None, options) if isinstance(entry, EpisodeRef)]
    return [reader.read(source, entry) for entry in found]


@pytest.mark.parametrize(("folder", "arrays"), [(G1, 7), (PUSHT, 7)])
def test_real_data_are_as_their_own_statistics_say(data: Path, folder: str, arrays: int) -> None:
    for raw in read(data / folder, subset=True):
        assert len(raw.told) == arrays
        assert contradictions(raw.arrays, raw.told) == {}


@pytest.fixture
def g1(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data / G1, tmp_path / "g1")
    return tmp_path / "g1"


def plant(root: Path, change: Callable[[list[list[float]]], None]) -> None:
    table = pq.read_table(root / ROWS)
    values = table["action"].to_pylist()
    change(values)
    at = table.column_names.index("action")
    pq.write_table(table.set_column(at, "action", pa.array(values, table["action"].type)), root / ROWS)


def test_a_changed_number_is_refused_and_shown(g1: Path, tmp_path: Path) -> None:
    def change(values: list[list[float]]) -> None:
        values[100][9] += 0.5

    plant(g1, change)
    report = api.ingest(g1, "unitree_g1_inspire", tmp_path / "lake", dry_run=True, workers=1)
    assert (report.added, [(f.upstream_id, f.reason) for f in report.failures]) == (
        1,
        [("episode_000029", "statistics_mismatch")],
    )
    verdicts = [v for v in api.inspect(g1).verdicts if v["check"] == "own_statistics"]
    assert [(v["where"], v["status"]) for v in verdicts] == [("action", "warning"), ("all other arrays", "ok")]
    assert "1 of 2 episodes" in verdicts[0]["says"]
    assert "episode_000029: " in verdicts[0]["says"]
    api.inspect(g1, spec=tmp_path / "draft.yaml")
    assert "own_statistics" not in (tmp_path / "draft.yaml").read_text().split("\nstate:")[0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace('"min"', '"least"'),
        lambda text: text.replace('"episode_index": 29', '"episode_index": 2900'),
        lambda text: "\n".join(line[:-40] for line in text.splitlines()),
        lambda text: json.dumps([json.loads(line) for line in text.splitlines()]),
        lambda text: text.replace('"count": [', '"count": [true, '),
    ],
)
def test_statistics_that_are_none_tell_nothing(g1: Path, spoil: Callable[[str], str]) -> None:
    path = g1 / STATS
    path.write_text(spoil(path.read_text()), encoding="latin-1")
    raw = read(g1, subset=True)[0]
    assert raw.told == {}


def test_statistics_that_are_not_there_cannot_be_checked(g1: Path, tmp_path: Path) -> None:
    (g1 / STATS).unlink()
    report = api.ingest(g1, "unitree_g1_inspire", tmp_path / "lake", dry_run=True, workers=1)
    assert [failure.reason for failure in report.failures] == ["missing_statistics"] * 2


def test_statistics_are_no_part_of_an_episode(g1: Path) -> None:
    before = read(g1, subset=True)[0]
    (g1 / STATS).unlink()
    after = read(g1, subset=True)[0]
    assert before.told
    assert not after.told
    assert (before.raw_digest, before.files) == (after.raw_digest, after.files)
