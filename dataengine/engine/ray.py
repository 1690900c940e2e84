"""The Ray engine: one Ray task a task, a bounded number under way. The only module that imports ray.

What travels is a task's plan, never media; results are small records. The driver makes a task's payload when a place
is free and forgets it when the result is there, so that its memory grows with the cluster and not with the work. Ray's
own retries are off: the driver sees why a task was lost and knows better what to do.

- A node is gone: the task runs again elsewhere; after `MAX_LOST_NODES` it is given up, as it may be what kills them.
- A worker is gone (a crash, or Ray's memory monitor ended it): the attempt is noted on storage, and the task waits
  until all others are done; then it has a node for itself, another one each time. After `MAX_ATTEMPTS` it is given up.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dataengine.engine.base import Result, Task, TaskFunction
from dataengine.engine.worker import Sight, versions, work
from dataengine.errors import DataEngineError, SpecError
from dataengine.storage import Place, Store, remote, staged_name

MAX_ATTEMPTS = 3
MAX_LOST_NODES = 10
OBJECT_STORE_BYTES = 256 << 20
MAX_PAYLOAD_BYTES = 1 << 30
"""Of all tasks under way together; one task is always under way."""
MIN_AHEAD = 16
COUNT_SECONDS = 5.0
KNOCK_SECONDS = 10.0

# `uv run` would otherwise make every worker resolve and install the project again.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


class RayEngine:
    """Runs tasks on a Ray of its own on this machine, or on the cluster that `RAY_ADDRESS` names.

    `notes` is where lost attempts are noted: a folder or prefix that every node sees, below which `staging/` is used.
    `sees` are further places that every node must see. A worker of a cluster that does not is a `StorageError`.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, notes: Place | None = None, sees: Sequence[Place] = ()) -> None:
        self._workers = workers
        self._notes = _absolute(notes) if notes is not None else ""
        self._sees = [_absolute(place) for place in sees if remote(place) is None]
        self._started = False

    def run(self, function: TaskFunction, tasks: Sequence[Task]) -> Iterator[tuple[int, Result | None]]:
        """Up to `workers` at a time, else somewhat more than the cluster has CPUs; results come as they finish.

        A task is taken from `tasks` when it is sent. Leaving the iteration early cancels what is under way.
        """
        if not len(tasks):
            return
        self._start()
        store = Store(self._notes) if self._notes else None
        running = _Running(function, tasks, self._workers, store)
        note = self._note(store)
        try:
            running.sight = self._sight(note)
            yield from running.results()
        finally:
            running.cancel()
            if store is not None:
                for name in [note, *running.notes]:
                    store.remove(name)

    def _note(self, store: Store | None) -> str:
        """Write what every worker of a cluster must see."""
        if self._started_local or store is None:
            return f"no note {os.urandom(8).hex()}"
        name = f"staging/{staged_name('run')}"
        store.publish(name, b"a run is at work")
        return name

    def _sight(self, note: str) -> Sight:
        if self._started_local:
            return Sight(note=note)
        return Sight(self._notes, note, self._sees, versions(), str(Path.cwd()))

    @property
    def _started_local(self) -> bool:
        return self._started and "RAY_ADDRESS" not in os.environ

    def _start(self) -> None:
        import ray

        if ray.is_initialized():
            return
        address = os.environ.get("RAY_ADDRESS")
        local = address is None
        with warnings.catch_warnings():
            # Ray starts its node by fork and exec at once; Lance warns of the fork alone.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            try:
                _knock(address or "")
                ray.init(
                    address=address or "local",
                    num_cpus=self._workers if local else None,
                    object_store_memory=OBJECT_STORE_BYTES if local else None,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=True,
                )
            except (OSError, ValueError, RuntimeError) as error:  # ConnectionError and TimeoutError are OSErrors
                if local:
                    raise
                told = (str(error).splitlines() or ["no answer"])[0][:300]
                raise SpecError(
                    f"the Ray cluster at {address} cannot be joined: {told}",
                    fix="correct or unset RAY_ADDRESS; `ray status` shows what runs there (docs/cluster.md)",
                ) from error
        self._started = True
        _told_by_ray()

    def close(self) -> None:
        """Leave the cluster; a Ray that this engine started ends."""
        import ray

        if self._started and ray.is_initialized():
            ray.shutdown()
        self._started = False


def _told_by_ray() -> None:
    """Log what Ray has to say of nodes: it would print it on standard output, where a command's own document stands."""
    inside: Any = import_module("ray._private.worker")

    def tell(data: dict[str, Any], *_: object, ignore_prefix: bool = True) -> None:
        del ignore_prefix
        for message in data["lines"]:
            logging.getLogger(__name__).warning("%s", message.strip().splitlines()[0][:300])

    if hasattr(inside, "print_to_stdstream"):
        inside.print_to_stdstream = tell


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "//" not in address and host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _absolute(place: Place) -> str:
    return remote(place) or str(Path(place).absolute())


@dataclass(frozen=True)
class _Flight:
    """A task under way: its size, and the node it has for itself ("" for none)."""

    index: int
    bytes: int
    alone: bool = False
    node: str = ""


class _Running:
    """One run: which tasks wait, which are under way, and what became of lost ones."""

    def __init__(self, function: TaskFunction, tasks: Sequence[Task], workers: int | None, store: Store | None) -> None:
        import ray

        self.sight = Sight()
        self.notes: list[str] = []
        self._ray: Any = ray
        self._remote: Any = ray.remote(num_cpus=1, max_retries=0)(work)
        self._anywhere: Any = self._remote.options(name=function.__name__)
        self._function, self._tasks, self._workers, self._store = function, tasks, workers, store
        self._fresh = iter(range(len(tasks)))
        self._again: deque[int] = deque()  # their node is gone
        self._suspects: deque[int] = deque()  # their worker is gone
        self._flying: dict[Any, _Flight] = {}
        self._bytes = 0
        self._crashes: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self._tried: dict[int, set[str]] = {}
        self._counted = (-COUNT_SECONDS, 0)

    def results(self) -> Iterator[tuple[int, Result | None]]:
        """Every task's index and result, as they finish."""
        while True:
            self._fill()
            if not self._flying:
                return
            for ref in self._ready():
                flight = self._flying.pop(ref)
                self._bytes -= flight.bytes
                done = self._outcome(ref, flight)
                del ref
                if done is not None:
                    yield done

    def cancel(self) -> None:
        """Stop what is under way: nobody waits for it."""
        for ref in self._flying:
            self._ray.cancel(ref, force=True)
        self._flying.clear()

    def _fill(self) -> None:
        while len(self._flying) < self._limit() and (self._bytes < MAX_PAYLOAD_BYTES or not self._flying):
            index = self._again.popleft() if self._again else next(self._fresh, None)
            if index is None:
                break
            self._send(index)
        if self._suspects and all(flight.alone for flight in self._flying.values()):
            self._fill_with_suspects()

    def _fill_with_suspects(self) -> None:
        """Give each suspect a node for itself, one where it was not yet if there is one."""
        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        free = [node for node in nodes if node not in {flight.node for flight in self._flying.values()}]
        while self._suspects and (free or not self._flying):
            index = self._suspects.popleft()
            tried = self._tried.setdefault(index, set())
            node = next((node for node in free if node not in tried), free[0] if free else "")
            free = [other for other in free if other != node]
            tried.add(node)
            self._send(index, alone=True, node=node)

    def _send(self, index: int, *, alone: bool = False, node: str = "") -> None:
        dumps: Any = self._ray.cloudpickle.dumps  # functions of the driver's own script travel by value
        packed = bytes(dumps((self._function, self._tasks[index])))
        send = self._anywhere
        if node:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            there = NodeAffinitySchedulingStrategy(node, soft=True)
            send = self._remote.options(name=self._function.__name__, scheduling_strategy=there)
        self._flying[send.remote(packed, self.sight)] = _Flight(index, len(packed), alone, node)
        self._bytes += len(packed)

    def _limit(self) -> int:
        """How many may be under way: some wait on the nodes, so that no CPU does, and an autoscaler sees them."""
        if self._workers is not None:
            return self._workers
        counted, cpus = self._counted
        if time.monotonic() - counted >= COUNT_SECONDS:  # nodes come and go
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            self._counted = (time.monotonic(), cpus)
        return cpus + max(MIN_AHEAD, cpus // 4)

    def _ready(self) -> list[Any]:
        """Wait for one, then take all that are there; at times nothing, so that the number of nodes is seen."""
        refs = list(self._flying)
        first, _ = self._ray.wait(refs, num_returns=1, timeout=COUNT_SECONDS)
        if not first:
            return []
        ready: list[Any] = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return ready or list(first)

    def _outcome(self, ref: Any, flight: _Flight) -> tuple[int, Result | None] | None:
        """What became of a task; None when it shall run again."""
        gone = self._ray.exceptions
        index = flight.index
        try:
            packed = self._ray.get(ref)
        except (gone.WorkerCrashedError, gone.OutOfMemoryError) as error:
            self._crashes[index] += 1
            self._write_note(index, error)
            if self._crashes[index] >= MAX_ATTEMPTS:
                return index, None
            self._suspects.append(index)
            return None
        except (gone.NodeDiedError, gone.ObjectLostError, gone.TaskUnschedulableError):
            self._lost[index] += 1
            if self._lost[index] >= MAX_LOST_NODES:
                return index, None
            (self._suspects if flight.alone else self._again).append(index)
            return None
        result: Result | DataEngineError = pickle.loads(packed)  # noqa: S301 - our own worker's
        if isinstance(result, DataEngineError):
            raise result
        return index, result

    def _write_note(self, index: int, error: Exception) -> None:
        if self._store is None:
            return
        told = (str(error).splitlines() or [""])[0][:300]
        name = f"staging/{staged_name(f'attempt-{index}-{self._crashes[index]}')}"
        note = {"task": index, "attempt": self._crashes[index], "lost": type(error).__name__, "what": told}
        self._store.publish(name, json.dumps(note, sort_keys=True).encode())
        self.notes.append(name)
