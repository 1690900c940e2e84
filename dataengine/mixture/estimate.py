"""What a dry run tells beside the plan: how long the build would take, and what each source comes to.

The time is that of the mixture's last build, or of a few samples of each source that are made and thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from dataengine.documents import sha256_json, unseal
from dataengine.engine.local import LocalEngine
from dataengine.errors import FormatError
from dataengine.lake import ScratchLake
from dataengine.mixture.build import Planned, execute
from dataengine.mixture.preview import DryRun
from dataengine.mixture.select import Inputs
from dataengine.mixture.store import MixtureStore
from dataengine.plan import Tasks
from dataengine.specs.recipe import Recipe

PROBE_SECONDS = 2.0
ALL_PROBES_SECONDS = 20.0
PROBE_WINDOWS = 16
PROBE_EPISODES = 8
HIGH_RATE = 3.0
Tell = Callable[[str, int, int], None]


class Stages:
    """Progress, passed on, and the seconds that each stage took: `read`, `survey`, `plan`, `shards`, ..."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._last = tell, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """What passed since the last call went into the stage; before the first call of one into `plan`."""
        now, name = time.perf_counter(), _stage(stage)
        spent_on = name if done or name == "read" else "plan"  # a stage begins with a call at 0
        self.seconds[spent_on] = self.seconds.get(spent_on, 0.0) + now - self._last
        self._last = now
        self._tell(stage, done, total)

    def rounded(self) -> dict[str, float]:
        """To the millisecond."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


def _stage(told: str) -> str:
    if told == "ingest" or (told.startswith("read ") and told != "read back"):
        return "read"
    return {"fingerprint": "survey", "read back": "shards"}.get(told, told)


def complete(
    found: DryRun,
    recipe: Recipe,
    inputs: Inputs,
    planned: Planned,
    store: MixtureStore | None,
    *,
    timed: Stages,
    workers: int,
) -> DryRun:
    """The dry run with bytes and drops by source, warnings, and the time that `workers` need."""
    tasks, names = planned.tasks, planned.tasks.candidates.names
    sizes = tasks.candidates.sample_bytes[tasks.row] * tasks.counts
    sums = np.bincount(tasks.candidates.source[tasks.row], weights=sizes, minlength=len(names)).astype(np.int64)
    found.workers = workers
    found.bytes_by_source = dict.fromkeys(found.samples, 0) | dict(zip(names, sums.tolist(), strict=True))
    found.drops_by_source = _drops(recipe, inputs, planned)
    found.warnings = [
        f"the rate of {name} is {rate:.3g}: each of its samples stands there about {rate:.0f} times"
        for name, rate in sorted(found.rates.items())
        if rate > HIGH_RATE and found.samples.get(name)
    ]
    todo = _todo(planned, store)
    seconds, found.estimate_from = _shard_seconds(recipe, inputs, planned, store, todo)
    measured = {name: spent for name, spent in timed.rounded().items() if name in ("read", "survey", "plan")}
    found.stages = {**measured, "shards": round(seconds / workers, 3)}
    found.estimated_seconds = round(sum(found.stages.values()), 3)
    return found


def _drops(recipe: Recipe, inputs: Inputs, planned: Planned) -> dict[str, dict[str, int]]:
    """Dropped episodes by source and reason."""
    table, words, result = planned.verdicts.table, planned.verdicts.words("reason"), {}
    for number, source in enumerate(recipe.sources):
        counts = np.bincount(table["reason"][(inputs.heads.entry == number) & table["dropped"]]).tolist()
        result[source.entry] = {words[reason]: count for reason, count in enumerate(counts) if count}
    return result


def _todo(planned: Planned, store: MixtureStore | None) -> NDArray[np.int64]:
    """The plan's units [u] whose shards are not there yet."""
    new = [store is None or store.cached_task(digest) is None for digest in planned.digests]
    return np.flatnonzero(np.repeat(np.array(new, np.bool_), np.diff(planned.tasks.edges)))


def _shard_seconds(
    recipe: Recipe, inputs: Inputs, planned: Planned, store: MixtureStore | None, todo: NDArray[np.int64]
) -> tuple[float, str]:
    """Seconds that one worker needs for all shards to be made, and where that is from."""
    tasks = planned.tasks
    samples = np.bincount(tasks.candidates.source[tasks.row[todo]], weights=tasks.counts[todo]).tolist()
    if not len(todo):
        return 0.0, "every shard is there already"
    run = _last_run(store) if store is not None else None
    if run is not None:
        return sum(samples) * run[0], f"the build of {run[1]}"
    rates: dict[int, float] = {}
    started = time.perf_counter()
    for number, count in enumerate(samples):
        if count and time.perf_counter() - started < ALL_PROBES_SECONDS:
            rate = _probed(recipe, inputs, planned, todo[tasks.candidates.source[tasks.row[todo]] == number])
            if rate is not None:
                rates[number] = rate
    if not rates:
        return 0.0, "nothing: no source has an episode to try"
    usual = sum(rates.values()) / len(rates)
    seconds = sum(count * rates.get(number, usual) for number, count in enumerate(samples))
    return seconds, f"samples made of {len(rates)} of {sum(1 for count in samples if count)} sources"


def _last_run(store: MixtureStore) -> tuple[float, str] | None:
    """Seconds a worker took for a sample in the newest build that made shards, and when that was."""
    for name in sorted(store.names("runs", "*.json"), reverse=True):
        try:
            facts = unseal(store.read(name), name)
        except FormatError:
            continue
        spent = facts.get("stages", {}).get("shards")
        if spent and facts.get("samples_made"):
            return spent * facts["workers"] / facts["samples_made"], facts["finished_at"]
    return None


def _probed(recipe: Recipe, inputs: Inputs, planned: Planned, units: NDArray[np.int64]) -> float | None:
    """Seconds for a sample of one source, by making some in a folder that is thrown away; None without pictures."""
    spent, made = 0.0, 0
    with TemporaryDirectory(prefix="dataengine-probe-") as folder:
        store = MixtureStore(Path(folder) / "M", create=True)
        for number, unit in enumerate(_with_media(inputs, planned.tasks, units)):
            tasks = _one_unit(planned.tasks, unit, PROBE_WINDOWS if number == 0 else None)
            probe = replace(planned, tasks=tasks, digests=[sha256_json(["probe", number])])
            started = time.perf_counter()
            execute(recipe, inputs, probe, store, LocalEngine(1), _silent)
            spent, made = spent + time.perf_counter() - started, made + int(tasks.counts.sum())
            if spent > PROBE_SECONDS / 2:
                break
    return spent / made if made else None


def _silent(_stage: str, _done: int, _total: int) -> None:
    """No progress: a probe is short."""


def _with_media(inputs: Inputs, tasks: Tasks, units: NDArray[np.int64]) -> list[int]:
    """Units of a few episodes whose streams are all at hand: a dry run keeps those of few of what it reads."""
    first = dict(zip(*(part.tolist() for part in np.unique(tasks.row[units], return_index=True)), strict=True))
    uids = {tasks.candidates.uid(row): int(units[at]) for row, at in first.items()}
    if isinstance(inputs.lake, ScratchLake):
        sampled = inputs.lake.sampled & uids.keys()
        uids = {uid: uids[uid] for uid in (*sorted(sampled), *sorted(uids.keys() - sampled))}
    chosen = list(uids)[:PROBE_EPISODES]
    reader = inputs.lake.reader(chosen, inputs.snapshot)
    return [uids[uid] for uid in chosen if reader.whole(uid)]


def _one_unit(tasks: Tasks, unit: int, windows: int | None) -> Tasks:
    """One unit as a plan of its own; with `windows` at most so many of it."""
    start, stop, count = int(tasks.start[unit]), int(tasks.stop[unit]), int(tasks.counts[unit])
    row = int(tasks.row[unit])
    if windows is not None and stop - start > windows and not tasks.candidates.narrowed[row]:
        stop, count = start + windows, max(1, count * windows // (stop - start))
    one = np.array([[row], [start], [stop], [count]], np.int32)
    place = tasks.places[int(np.searchsorted(tasks.edges, unit, side="right")) - 1]
    return Tasks(tasks.candidates, (one[0], one[1], one[2], one[3]), np.array([0, 1], np.int64), [place])
