"""Digests taken on a thread beside the reading: sha256 lets other threads run, and half of a bag's time is hashing.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

MOST_WAITING = 64 << 20


class Hashing:
    """Updates of digests, done in the order in which they came; at most 64 MiB wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)

    def add(self, update: Callable[[bytes], None], part: bytes) -> None:
        """Hand `part` to `update`, later."""
        self._waiting.append((self._thread.submit(update, part), len(part)))
        self._size += len(part)
        while self._size > MOST_WAITING:
            self._take()

    def wait(self) -> None:
        """Until every part was taken."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        future, size = self._waiting.popleft()
        future.result()
        self._size -= size
