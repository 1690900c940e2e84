"""What an engine is: something that runs pure tasks and hands back their results, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

Task = dict[str, Any]
Result = dict[str, Any]
TaskFunction = Callable[[Task], Result]


class Engine(Protocol):
    """Runs `function` (a module-level function) on every task. Results carry their task's index.

    A task is plain data; its result depends on the task and the stores it names alone, so neither the number of
    workers nor their order shows in what is built.
    """

    name: str

    def run(self, function: TaskFunction, tasks: Sequence[Task]) -> Iterator[tuple[int, Result | None]]:
        """(index, result) as tasks finish; None for a task that killed its worker each time it was tried.

        An error that a task raises is raised here.
        """
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...
