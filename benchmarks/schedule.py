"""Draws a second of a scheduled mixture, and how far it drifts from its shares, against numpy's `choice` in one run.

    python benchmarks/schedule.py [--sources 25] [--draws 10000000] [--repeats 3]

Sources have 1,000 to 10,000,000 samples and shares by size^0.43. `choice` draws the source alone, at random: the
sample within it, passes, and a place to resume at would come on top. Speeds are the best of --repeats, on one core;
drift is the largest distance of a source's draws from its exact share of them, at the end and anywhere before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dataengine.schedule import MixSchedule

ONE_BY_ONE = 20_000
SCATTERED = 50_000
PLACES = 2_000_000


def made(sources: int, draws: int) -> MixSchedule:
    sizes = [round(10 ** (3 + 4 * number / max(1, sources - 1))) for number in range(sources)]
    named = tuple((f"source{number}", size) for number, size in enumerate(sizes))
    return MixSchedule(0, named, (("all", draws, tuple(size**0.43 for size in sizes)),))


def iterated(schedule: MixSchedule) -> int:
    return sum(len(drawn.samples) for drawn in schedule.blocks(epoch=1))


def taken(schedule: MixSchedule, places: NDArray[np.int64]) -> int:
    return len(schedule.take(places, 1).samples)


def one_by_one(chances: NDArray[np.float64]) -> int:
    rng = np.random.default_rng(0)
    for _ in range(ONE_BY_ONE):
        rng.choice(len(chances), p=chances)
    return ONE_BY_ONE


def vectorised(chances: NDArray[np.float64], draws: int) -> int:
    return len(np.random.default_rng(0).choice(len(chances), size=draws, p=chances))


def speed(run: Callable[[], int], repeats: int) -> tuple[float, float]:
    """(draws a wall second, draws a CPU second), each the best."""
    best = (0.0, 0.0)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        count = run()
        best = max(best[0], count / (time.perf_counter() - wall)), max(best[1], count / (time.process_time() - cpu))
    return best


def drift(sources: NDArray[np.integer], chances: NDArray[np.float64]) -> tuple[float, float]:
    """(at the end, at any of the places before), in draws."""
    at_end = np.abs(np.bincount(sources, minlength=len(chances)) - chances * len(sources)).max()
    anywhere = 0.0
    for number, chance in enumerate(chances.tolist()):
        places = np.flatnonzero(sources == number)  # the distance is largest at a draw of the source, or before one
        ranks, exact = np.arange(len(places)), chance * places
        anywhere = max(
            anywhere, np.abs(ranks - exact).max(initial=0), np.abs(ranks + 1 - exact - chance).max(initial=0)
        )
    return float(at_end), float(anywhere)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=25)
    parser.add_argument("--draws", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    schedule = made(options.sources, options.draws)
    chances = schedule.counts[0] / options.draws
    some = min(PLACES, options.draws)
    scattered = np.random.default_rng(1).integers(0, options.draws, SCATTERED)
    rows: dict[str, Callable[[], int]] = {
        "schedule, all of an epoch in order": lambda: iterated(schedule),
        "schedule, places beside each other": lambda: taken(schedule, np.arange(options.draws - some, options.draws)),
        "schedule, places anywhere": lambda: taken(schedule, scattered),
        "choice, draw by draw, source only": lambda: one_by_one(chances),
        "choice, all at once, source only": lambda: vectorised(chances, options.draws),
    }
    print(f"{options.sources} sources, {options.draws:,} draws")
    print(f"{'':36} {'draws/s':>12} {'per CPU s':>12}")
    for name, run in rows.items():
        by_wall, by_cpu = speed(run, options.repeats)
        print(f"{name:36} {by_wall:12,.0f} {by_cpu:12,.0f}")
    exact = np.concatenate([drawn.sources for drawn in schedule.blocks(epoch=1)])
    random = np.random.default_rng(0).choice(len(chances), size=options.draws, p=chances)
    print(f"{'largest drift, in draws':36} {'at the end':>12} {'anywhere':>12} {'bound':>12}")
    for name, sources, bound in (("schedule", exact, f"{schedule.bound(0).max():.1f}"), ("choice", random, "none")):
        at_end, anywhere = drift(sources, chances)
        print(f"{name:36} {at_end:12,.1f} {anywhere:12,.1f} {bound:>12}")


if __name__ == "__main__":
    main()
