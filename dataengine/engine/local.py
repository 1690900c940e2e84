"""The local engine: in this process, or in spawned processes of its own (never forked: Lance has threads)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from dataengine.engine.base import Result, Task, TaskFunction
from dataengine.errors import SpecError

MAX_ATTEMPTS = 3
AHEAD = 2
WORTH_S, LOOK_S = 5.0, 0.5
"""Another worker pays where the rest of the work takes longer than this, by the pace of half a second or more: it costs
a second and 100 MB to start."""


class LocalEngine:
    """Runs tasks with `workers` processes; 1 means in this process.

    Without a number it starts with one worker process, and with one more at a time, up to the CPUs, where what is left
    is worth it; workers stay for the next run. Each worker is a pool of one, so that it is known which task killed it.
    """

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers if workers is not None else max(1, os.cpu_count() or 1)
        self._eager = workers is not None
        self._held: list[_Worker] = []
        self._first: Callable[[], object] = os.getpid

    def run(self, function: TaskFunction, tasks: Sequence[Task]) -> Iterator[tuple[int, Result | None]]:
        """In process for one worker; else by the workers, with a bounded queue ahead of each.

        A task that kills its worker is tried three times, then its result is None.
        """
        if self.workers == 1:
            for index, task in enumerate(tasks):
                yield index, function(task)
            return
        attempts = dict.fromkeys(range(len(tasks)), 0)
        waiting = deque(range(len(tasks)))
        pace = _Pace()
        try:
            while waiting or any(worker.tasks for worker in self._held):
                self._grow(len(waiting), pace)
                for worker in self._held:
                    while waiting and worker.ready and len(worker.tasks) < AHEAD:
                        index = waiting.popleft()
                        worker.give(index, function, tasks[index])
                _wait(self._held)
                for worker in list(self._held):
                    for index, result in worker.finished():
                        pace.count()
                        yield index, result
                    if worker.broken:
                        self._held.remove(worker)
                        for index in reversed(worker.lost(attempts)):
                            waiting.appendleft(index)
                        if worker.culprit is not None and attempts[worker.culprit] >= MAX_ATTEMPTS:
                            waiting.remove(worker.culprit)
                            yield worker.culprit, None
        except BaseException:
            self._stop()
            raise

    def start(self, first: Callable[[], object] = os.getpid) -> None:
        """Let the first workers start now, while the caller does something else; not waited for.

        `first` (a module-level function) is what each does first: it can import what its tasks will need.
        """
        self._first = first
        if self.workers > 1:
            while len(self._held) < (self.workers if self._eager else 1):
                self._held.append(_Worker(first))

    def _grow(self, waiting: int, pace: _Pace) -> None:
        """Start a worker more where it pays, at most one at a time."""
        self.start(self._first)
        room = len(self._held) < self.workers and all(worker.ready for worker in self._held)
        if waiting and room and pace.left(waiting) > WORTH_S:
            self._held.append(_Worker(self._first))

    def _stop(self) -> None:
        for worker in self._held:
            worker.pool.shutdown(wait=False, cancel_futures=True)
        self._held = []

    def close(self) -> None:
        """Stop the workers; running tasks are waited for."""
        for worker in self._held:
            worker.pool.shutdown(wait=True, cancel_futures=True)
        self._held = []


class _Pace:
    """How fast results come, from the first one on: before it workers load libraries."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._done = 0

    def count(self) -> None:
        if not self._done:
            self._began = time.monotonic()
        self._done += 1

    def left(self, waiting: int) -> float:
        """Seconds that `waiting` tasks take at this pace; 0 while it is not known."""
        passed = time.monotonic() - self._began
        if self._done < 2:
            return passed
        return passed / (self._done - 1) * waiting if passed > LOOK_S else 0.0


class _Worker:
    """One process, the tasks given to it in their order, and what broke it."""

    def __init__(self, first: Callable[[], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_quiet_worker)
        self.started = self.pool.submit(first)
        self.tasks: deque[tuple[int, Future[Result]]] = deque()
        self.broken = False
        self.culprit: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the process runs. Raises `SpecError` where it could not be started."""
        if not self.started.done():
            return False
        try:
            self.started.result()
        except BrokenProcessPool:
            raise SpecError(
                "worker processes cannot start",
                fix="a script that uses several workers must do so under `if __name__ == '__main__':`",
            ) from None
        return True

    def give(self, index: int, function: TaskFunction, task: Task) -> None:
        try:
            self.tasks.append((index, self.pool.submit(function, task)))
        except BrokenProcessPool as error:  # it died between two tasks
            gone: Future[Result] = Future()
            gone.set_exception(error)
            self.tasks.append((index, gone))

    def finished(self) -> Iterator[tuple[int, Result]]:
        """Results that are there. An error of a task is raised here; a dead process is `broken`."""
        while self.tasks and self.tasks[0][1].done() and not self.broken:
            try:
                found = self.tasks[0][0], self.tasks[0][1].result()
            except BrokenProcessPool:
                self.broken = True
            else:
                self.tasks.popleft()
                yield found

    def lost(self, attempts: dict[int, int]) -> list[int]:
        """Tasks to be done by another. The first of them was running: the death is counted as its doing."""
        lost = [index for index, _ in self.tasks]
        if lost:
            self.culprit = lost[0]
            attempts[lost[0]] += 1
        self.tasks.clear()
        self.pool.shutdown(wait=False, cancel_futures=True)
        return lost


def _wait(workers: Sequence[_Worker]) -> None:
    """Until a task is done, a worker has started, or it is time to see whether another worker would pay."""
    futures: list[Future[Any]] = [worker.tasks[0][1] for worker in workers if worker.tasks]
    futures += [worker.started for worker in workers if not worker.started.done()]
    wait(futures, timeout=LOOK_S, return_when=FIRST_COMPLETED)


def _quiet_worker() -> None:
    """An interrupt (Ctrl-C) is the driver's to handle; a worker ends with its driver, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()


def _end_with_driver() -> None:
    """Waits for the driver; without this, workers of a driver that was killed would wait for tasks for ever."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)
