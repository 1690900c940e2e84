"""kill -9 of drivers and of workers in every phase of ingests and builds, on disk and on S3, then the same command.

By default each phase is hit a few times. `DATAENGINE_ALL_FAULTS=1 uv run pytest -n0 -s tests/faults/test_sigkill.py`
kills more than 200 times, at least 20 times in each phase, and prints a table of the kills by phase and store.
A store is killed again and again before a run may finish, so a kill costs less than a build.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataengine import api
from dataengine.lake import Lake
from dataengine.mixture.store import MixtureStore
from dataengine.storage import Store

ALL = bool(os.environ.get("DATAENGINE_ALL_FAULTS"))
PHASES = (
    "reading",
    "media_appended",
    "episodes_merged",
    "survey",
    "shard_blobs",
    "index",
    "task_record",
    "documents",
    "ref",
    "run_facts",
)
IN_WORKERS = ("reading", "survey", "shard_blobs", "index", "task_record")
FEW = ("media_appended", "shard_blobs", "ref")
KILLS: Counter[tuple[str, str, str]] = Counter()
RESUMED: Counter[str] = Counter()
AT_LEAST = 20


class Campaign:
    """Kills on one lake and one mixture, until they are let to finish."""

    def __init__(self, driver: Any, where: Path, store: str, recipe: Path, raw: Path, seed: int) -> None:
        self.driver, self.store, self.recipe, self.raw = driver, store, recipe, raw
        self.lake, self.out = Path(f"{where}/L"), Path(f"{where}/M")
        self.chance, self.runs = random.Random(seed), 0

    def run(self, bombs: list[str], *, workers: int = 1, rebalance: bool = False) -> tuple[int, dict[str, Any]]:
        """One run of the command, with bombs laid. Deaths are counted."""
        started = self.start(bombs, workers=workers, rebalance=rebalance)
        found = self.driver.wait(started)
        deaths = started[1] / "deaths"
        for line in deaths.read_text().splitlines() if deaths.exists() else ():
            role, phase = line.split()
            KILLS[self.store, role, phase] += 1
        shutil.rmtree(started[1])
        self.check_refs()
        return found

    def start(self, bombs: list[str], *, workers: int, rebalance: bool = False) -> tuple[int, Path]:
        self.runs += 1
        folder = self.driver.folder / f"bombs{self.runs}-{self.store}"
        folder.mkdir()
        for bomb in bombs:
            (folder / bomb).touch()
        options = {"engine": "local", "workers": workers, "parameters": {"data": str(self.raw)}, "rebalance": rebalance}
        command = ("build", self.recipe, self.lake, self.out)
        started: tuple[int, Path] = self.driver.start(*command, folder=folder, bombs=True, options=options)
        return started

    def check_refs(self) -> None:
        """No version leads to anything bad, at no moment."""
        if Store(self.out).names("refs"):
            for version in MixtureStore(self.out).versions():
                assert api.verify(f"{self.out}@{version}").problems == []

    def kill_drivers(self, phase: str, times: int, total: int) -> None:
        """Kill the driver in a phase; what slips through dies at the begin of the next phase."""
        following = [*PHASES, ""][PHASES.index(phase) + 1]
        backstop = [f"driver.{following}.1.before"] if following else []
        killed = 0
        while killed < times:
            before = KILLS[self.store, "driver", phase]
            last = killed == times - 1
            nth = self.chance.randint(1, max(1, total // (times + 2)))
            late = "after" if last or phase not in ("ref", "episodes_merged") else "before"
            moment = self.chance.choice(["before", late, str(int(self.chance.uniform(0, 4000)))])
            if phase == "ref":
                moment = "after" if last else "before"
            bombs = [f"driver.{phase}.{nth}.{moment}", *backstop]
            status, told = self.run(bombs, rebalance=phase == "run_facts")
            assert (status == signal.SIGKILL) or (phase == "run_facts" and not told["error"]), told
            killed += 1 if phase == "run_facts" or KILLS[self.store, "driver", phase] > before else 0
            self._again(killed, times)

    def _again(self, killed: int, times: int) -> None:
        self.slipped = getattr(self, "slipped", 0) + 1
        assert self.slipped < 200 + 3 * times * len(PHASES), f"{killed} of {times} kills hit their phase"

    def kill_workers(self, phases: tuple[str, ...]) -> None:
        """Kill a worker once in each phase of one run, which must go on and finish."""
        before = sum(KILLS.values())
        moments = ("before", "after", "2000")
        status, told = self.run(
            [f"worker.{phase}.1.{self.chance.choice(moments)}" for phase in phases],
            workers=2,
        )
        assert (status, told["error"]) == (0, None), told
        assert sum(KILLS.values()) - before == len(phases), "each phase lost one worker"

    def kill_from_outside(self, seconds: float, workers: int) -> bool:
        """Kill the driver at a moment that nothing in it knows of."""
        started = self.start([], workers=workers)
        time.sleep(self.chance.uniform(0, seconds))
        os.kill(started[0], signal.SIGKILL)
        status, _ = self.driver.wait(started)
        place = started[1] / f"at.driver.{started[0]}"
        phase = place.read_text().strip() if place.exists() else ""
        shutil.rmtree(started[1])
        if status == signal.SIGKILL:
            KILLS[self.store, "driver", phase or "before the phases"] += 1
        self.check_refs()
        return status == signal.SIGKILL

    def finish(self, facts: Any, expected: Any) -> None:
        """The same command, undisturbed: the same content, and nothing wrong anywhere."""
        status, told = self.run([])
        assert (status, told["error"]) == (0, None), told
        assert facts(self.lake, self.out) == expected, f"{self.store}: the content differs"
        assert len(Lake(self.lake).heads()) == 6
        assert api.verify(str(self.out)).problems == []
        RESUMED[self.store] += 1


@pytest.fixture(scope="module")
def totals(driver: Any, tmp_path_factory: pytest.TempPathFactory, small_recipe: Path, pusht_raw: Path) -> Any:
    """Operations of each phase in a run that nothing disturbs."""
    calm = Campaign(driver, tmp_path_factory.mktemp("calm"), "calm", small_recipe, pusht_raw, 0)
    status, told = calm.run([])
    assert (status, told["error"]) == (0, None), told
    assert set(told["seen"]) >= set(PHASES), "every phase is counted"
    return told["seen"]


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what was killed where, and ask in the whole suite that it was enough."""
    yield
    stores = sorted({store for store, _, _ in KILLS})
    columns = [(store, role) for store in stores for role in ("driver", "worker")]
    rows = [*PHASES, *sorted({phase for _, _, phase in KILLS} - set(PHASES))]
    print("\n" + " ".join(["phase".ljust(18), *(f"{store}/{role}".rjust(14) for store, role in columns), "   all"]))
    for phase in rows:
        counts = [KILLS[store, role, phase] for store, role in columns]
        print(" ".join([phase.ljust(18), *(str(count).rjust(14) for count in counts), str(sum(counts)).rjust(6)]))
    print(f"{sum(KILLS.values())} kills; {sum(RESUMED.values())} runs resumed to the end, 0 with another content")
    if ALL:
        assert sum(KILLS.values()) >= 200
        assert all(sum(KILLS[store, role, phase] for store, role in columns) >= AT_LEAST for phase in PHASES)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    if request.param == "disk":
        return "disk", tmp_path
    return "s3", Path(request.getfixturevalue("bucket"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3) if ALL else [0])
def test_killed_drivers(
    seed: int,
    place: tuple[str, Path],
    driver: Any,
    totals: Any,
    small_recipe: Path,
    pusht_raw: Path,
    facts: Any,
    undisturbed: Any,
) -> None:
    store, where = place
    campaign = Campaign(driver, where, store, small_recipe, pusht_raw, seed)
    for phase in PHASES if ALL or store == "disk" else FEW:
        campaign.kill_drivers(phase, 4 if ALL else 1, totals[phase])
    campaign.finish(facts, undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4) if ALL else [0])
def test_killed_workers(
    seed: int, place: tuple[str, Path], driver: Any, small_recipe: Path, pusht_raw: Path, facts: Any, undisturbed: Any
) -> None:
    if not ALL and place[0] == "s3":
        pytest.skip("workers on S3: with DATAENGINE_ALL_FAULTS=1")
    campaign = Campaign(driver, place[1], place[0], small_recipe, pusht_raw, seed)
    campaign.kill_workers(IN_WORKERS)
    campaign.finish(facts, undisturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3) if ALL else [0])
def test_kills_at_any_moment(
    seed: int, place: tuple[str, Path], driver: Any, small_recipe: Path, pusht_raw: Path, facts: Any, undisturbed: Any
) -> None:
    if not ALL and place[0] == "s3":
        pytest.skip("kills from outside on S3: with DATAENGINE_ALL_FAULTS=1")
    campaign = Campaign(driver, place[1], place[0], small_recipe, pusht_raw, seed)
    for number in range(8 if ALL else 2):
        campaign.kill_from_outside(1.0 + number / 2, workers=2 if ALL and number % 4 == 3 else 1)
    campaign.finish(facts, undisturbed[1])
