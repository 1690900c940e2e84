"""How far a command is, on standard error: bars with rate and time left in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LINE_SECONDS = 10.0
Tell = Callable[[str, int, int], None]


@contextmanager
def progress(clock: Callable[[], float] = time.monotonic) -> Iterator[Tell]:
    """Takes (stage, done, total) as often as one likes; what was done before the first of a stage is in no rate."""
    if not sys.stderr.isatty():
        yield _Lines(clock)
        return
    with _bars() as tell:
        yield tell


class _Lines:
    """`shards 120/512, 3.1/s, about 2 min left`: at most one line in ten seconds, none for what is quicker."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told = clock()
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        since, before = self._began.setdefault(stage, (now, done))
        if now - self._told < LINE_SECONDS:
            return
        self._told = now
        rate = (done - before) / (now - since) if now > since else 0.0
        parts = [f"{stage} {done:,}/{total:,}"]
        if rate > 0:
            parts.append(rate_text(rate))
            parts += [f"about {time_text((total - done) / rate)} left"] if done < total else []
        sys.stderr.write(", ".join(parts) + "\n")
        sys.stderr.flush()


@contextmanager
def _bars() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(rate_text(speed) if speed else "", style="progress.data.speed")

    bars: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = shown.add_task(stage, total=total, completed=done)
            shown.update(bars[stage], completed=done, total=total)

        yield tell


def rate_text(rate: float) -> str:
    """Items a second, or a minute or an hour when those are few."""
    name, value = "s", rate
    if rate < 1:
        name, value = ("min", rate * 60) if rate * 60 >= 1 else ("h", rate * 3600)
    return f"{value:,.0f}/{name}" if value >= 100 else f"{value:.1f}/{name}"


def time_text(seconds: float) -> str:
    """A length of time, as exact as it is known."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
