"""Statistics of real data against its raw rows, and against the ones LeRobot stored.

LeRobot's `meta/stats.json` holds q01 = 150.5 for the action's x, where 1 % of the rows lie below 136.1. The reason:
it averages the episodes' own quantiles, weighted by their length. An average of quantiles is no quantile: here the
third episode (30 of 160 rows) never goes below 213 and pulls the average up, so that rows that are within the range
count as outside. The same averaging of `meta/episodes` reproduces the stored number to the last digit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from dataengine.episode import SlotArray
from dataengine.normalization.normalizer import Normalizer
from dataengine.normalization.statistics import Statistics

CHANNELS = np.array([240, 241], np.int16)
UNITS = {f"{side}/{channel}": "px512" for side in ("state", "action") for channel in (240, 241)}
KEY = "pusht/position/lerobot_v30_pusht"
FEATURES = {"state": "observation.state", "action": "action"}
HORIZON = 8


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "robot" / "lerobot_v30_pusht"


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, np.ndarray]:
    """state [160, 2], action [160, 2] as float64 of the stored float32, episode [160]."""
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    found = {side: np.array(table[name].to_pylist(), np.float32).astype(np.float64) for side, name in FEATURES.items()}
    return found | {"episode": np.array(table["episode_index"])}


@pytest.fixture(scope="module")
def statistics(rows: dict[str, np.ndarray]) -> Statistics:
    """Gathered as two workers would: episodes 2, 0 in one, episode 1 in the other."""
    parts = []
    for episodes in ((2, 0), (1,)):
        part = Statistics()
        for episode in episodes:
            picked = rows["episode"] == episode
            state, action = (
                SlotArray(CHANNELS, rows[side][picked].astype(np.float32), np.ones((picked.sum(), 2), bool))
                for side in ("state", "action")
            )
            part.add_episode(
                episode_uid=f"episode {episode}", embodiment="pusht", control_mode="position",
                converter="lerobot_v30_pusht", state=state, action=action, state_frames={"native": "image"},
                action_frames={"native": "image"}, native_units=UNITS, hz=10.0, horizon=HORIZON,
                representations=("absolute", "relative", "delta"),
            )  # fmt: skip
        parts.append(part)
    parts[0].merge(parts[1])
    return parts[0]


def entries(statistics: Statistics, side: str, form: str = "absolute") -> list[dict]:
    return statistics.document()["groups"][KEY][side][form]


@pytest.mark.parametrize("side", ["state", "action"])
def test_equal_to_the_raw_rows(statistics, rows, side):
    for column, entry in enumerate(entries(statistics, side)):
        values = rows[side][:, column]
        assert (entry["n"], entry["excluded"]) == (160, 0)
        assert (entry["min"], entry["max"]) == (values.min(), values.max())
        assert entry["mean"] == pytest.approx(values.mean(), rel=1e-11)
        assert entry["std"] == pytest.approx(values.std(), rel=1e-11)
        for name, q in (("q001", 0.001), ("q01", 0.01), ("q99", 0.99), ("q999", 0.999)):
            assert entry[name] == np.quantile(values, q)


@pytest.mark.parametrize("side", ["state", "action"])
def test_lerobots_range_and_moments_agree(statistics, folder, side):
    stored = orjson.loads((folder / "meta/stats.json").read_bytes())[FEATURES[side]]
    for column, entry in enumerate(entries(statistics, side)):
        assert (entry["min"], entry["max"]) == (stored["min"][column], stored["max"][column])
        assert entry["mean"] == pytest.approx(stored["mean"][column], rel=1e-5)
        assert entry["std"] == pytest.approx(stored["std"][column], rel=1e-5)


@pytest.mark.parametrize("side", ["state", "action"])
def test_lerobots_quantiles_are_averages_over_episodes(folder, side):
    stored = orjson.loads((folder / "meta/stats.json").read_bytes())[FEATURES[side]]
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    lengths = np.array(episodes[f"stats/{FEATURES[side]}/count"], np.float64).reshape(-1, 1)
    assert lengths.ravel().tolist() == [80, 50, 30]
    for name in ("q01", "q10", "q50", "q90", "q99"):
        own = np.array(episodes[f"stats/{FEATURES[side]}/{name}"])
        np.testing.assert_allclose((own * lengths).sum(0) / lengths.sum(), stored[name], rtol=1e-12)


def test_lerobots_quantiles_are_not_those_of_the_rows(statistics, rows, folder):
    stored = orjson.loads((folder / "meta/stats.json").read_bytes())["action"]
    entry = entries(statistics, "action")[0]
    assert (round(stored["q01"][0], 1), round(entry["q01"], 1)) == (150.5, 136.1)
    below = [(rows["action"][:, column] < stored["q01"][column]).mean() for column in range(2)]
    truly_below = [(rows["action"][:, c] < e["q01"]).mean() for c, e in enumerate(entries(statistics, "action"))]
    assert max(truly_below) <= 0.0125  # 2 of 160 rows
    assert min(below) > 0.05  # said to be 1 %


@pytest.mark.parametrize("form", ["relative", "delta"])
def test_relative_forms_equal_windows_taken_by_hand(statistics, rows, form):
    for column, entry in enumerate(entries(statistics, "action", form)):
        expected = []
        for episode in range(3):
            picked = rows["episode"] == episode
            state, action = rows["state"][picked, column], rows["action"][picked, column]
            for start in range(len(action)):
                chunk = action[start : start + HORIZON]
                before = np.concatenate([state[start : start + 1], chunk[:-1]])
                expected.extend(chunk - (state[start] if form == "relative" else before))
        values = np.array(expected).astype(np.float32).astype(np.float64)
        assert entry["n"] == len(values) == 160 * HORIZON - 3 * HORIZON * (HORIZON - 1) // 2
        assert (entry["min"], entry["max"]) == (values.min(), values.max())
        assert (entry["q01"], entry["q99"]) == tuple(np.quantile(values, (0.01, 0.99)))


def test_real_rows_survive_the_normalizer(statistics, rows):
    normalizer = Normalizer.from_document(statistics.document())
    key, mask = ("pusht", "position", "lerobot_v30_pusht"), np.ones((160, 2), bool)
    normal = normalizer.forward(key, "action", "absolute", rows["action"], CHANNELS, mask)
    assert (np.abs(normal) <= 1.0).mean() > 0.95
    back = normalizer.inverse(key, "action", "absolute", normal, CHANNELS, mask)
    np.testing.assert_allclose(back, rows["action"], rtol=1e-5)


@pytest.mark.parametrize("mutation", ["swap", "sign", "shift", "mask"])
def test_a_planted_mistake_is_seen(statistics, rows, mutation):
    """A swap of axes, a sign flip, a step's shift in the relative form, or a lost row changes the document."""
    state, action, mask = rows["state"].copy(), rows["action"].copy(), np.ones((160, 2), bool)
    if mutation == "swap":
        action = action[:, ::-1]
    elif mutation == "sign":
        action = -action
    elif mutation == "shift":
        action[:-1] = action[1:]
    else:
        mask[0] = False
    planted = Statistics()
    for episode in range(3):
        picked = rows["episode"] == episode
        planted.add_episode(
            episode_uid=f"episode {episode}", embodiment="pusht", control_mode="position",
            converter="lerobot_v30_pusht", state=SlotArray(CHANNELS, state[picked].astype(np.float32), mask[picked]),
            action=SlotArray(CHANNELS, action[picked].astype(np.float32), mask[picked]),
            state_frames={"native": "image"}, action_frames={"native": "image"}, native_units=UNITS, hz=10.0,
            horizon=HORIZON, representations=("absolute", "relative", "delta"),
        )  # fmt: skip
    side = "state" if mutation == "mask" else "action"
    form = "relative" if mutation == "shift" else "absolute"
    names = ("n", "min", "max", "q01", "q99", "mean")
    true, found = entries(statistics, side, form)[0], entries(planted, side, form)[0]
    assert any(true[name] != found[name] for name in names)
