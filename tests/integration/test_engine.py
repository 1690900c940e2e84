"""The local engine: results by index, errors raised, a task that kills its worker told from the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataengine.engine import local
from dataengine.engine.local import LocalEngine
from dataengine.errors import StorageError


def double(task: dict[str, Any]) -> dict[str, Any]:
    if task["number"] == task.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task["number"] == task.get("bad"):
        raise StorageError("no", where="task", fix="none")
    return {"twice": task["number"] * 2, "worker": os.getpid()}


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    made = LocalEngine(2)
    yield made
    made.close()


def test_results_carry_their_index(engine: LocalEngine) -> None:
    found = dict(engine.run(double, [{"number": number} for number in range(9)]))
    assert {index: result["twice"] for index, result in found.items() if result} == {n: 2 * n for n in range(9)}
    again = dict(engine.run(double, [{"number": 1}]))
    assert {r["worker"] for r in again.values() if r} <= {r["worker"] for r in found.values() if r}, "a new pool"


def test_an_error_of_a_task_is_raised_as_it_is(engine: LocalEngine) -> None:
    with pytest.raises(StorageError) as caught:
        list(engine.run(double, [{"number": number, "bad": 2} for number in range(4)]))
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("no", "task", "none")


def test_a_task_that_kills_its_worker_is_given_up_alone(engine: LocalEngine) -> None:
    found = dict(engine.run(double, [{"number": number, "poison": 3} for number in range(8)]))
    assert [index for index, result in found.items() if result is None] == [3]
    assert sorted(found) == list(range(8))


def meet(task: dict[str, Any]) -> dict[str, Any]:
    """Waits until two processes are at work."""
    folder = Path(task["folder"])
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return {"worker": os.getpid()}


def test_another_worker_starts_where_the_work_takes_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(local, "WORTH_S", 0.3)
    engine = LocalEngine()
    try:
        engine.start()
        assert len(engine._held) == 1
        found = dict(engine.run(meet, [{"folder": str(tmp_path)}] * 6))
    finally:
        engine.close()
    assert sorted(found) == list(range(6))
    assert len({result["worker"] for result in found.values() if result}) == 2


def test_another_worker_is_worth_it_by_the_pace_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(local.time, "monotonic", lambda: now)
    pace = local._Pace()
    now = 102.0
    assert pace.left(50) == 2.0, "what has passed, while there is nothing to go by"
    pace.count()
    for _ in range(10):
        now += 0.02
        pace.count()
    assert pace.left(50) == 0.0, "too early to say"
    now += 0.4
    assert pace.left(50) == pytest.approx(0.06 * 50)


def test_workers_end_when_their_driver_is_killed() -> None:
    code = (
        "import os, signal, sys, time\n"
        "from dataengine.engine.local import LocalEngine\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    engine = LocalEngine(2)\n"
        "    list(engine.run(len, [{}, {}, {}]))\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dataengine.engine.local import LocalEngine\n"
        "from dataengine.errors import SpecError\n"
        "try:\n"
        "    list(LocalEngine(2).run(len, [{}, {}]))\n"
        "except SpecError as error:\n"
        "    print('told:', error.fix)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert "told:" in done.stdout
    assert "__main__" in done.stdout


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_up_a_task_that_kills_its_worker(tmp_path: Path) -> None:
    """Three attempts, noted on storage; the other tasks are done, and the notes are gone."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from dataengine.engine.ray import RayEngine\n"
        "def work(task):\n"
        "    if task['number'] == 3:\n"
        "        with open(task['log'], 'a') as log:\n"
        "            log.write('x')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return {'twice': task['number'] * 2}\n"
        "engine = RayEngine(2, Path(sys.argv[1]) / 'notes')\n"
        "tasks = [{'number': number, 'log': sys.argv[1] + '/log'} for number in range(8)]\n"
        "found = dict(engine.run(work, tasks))\n"
        "engine.close()\n"
        "print({index: result and result['twice'] for index, result in sorted(found.items())})\n"
    )
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    expected = {number: number * 2 for number in range(8)} | {3: None}
    assert done.stdout.strip().splitlines()[-1] == str(expected)
    assert (tmp_path / "log").read_text() == "xxx"
    assert not list((tmp_path / "notes").rglob("attempts-*"))
