"""Work on threads beside the reading: sha256 and encoders let other threads run, and they are most of a bag's time.

A helper of the format `rosbag`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

MOST_WAITING = 64 << 20


class Beside:
    """Digests updated in the order in which their parts came, pictures encoded in any; at most 64 MiB wait."""

    def __init__(self) -> None:
        self._hashing, self._encoding = ThreadPoolExecutor(1), ThreadPoolExecutor(2)
        self._waiting: deque[tuple[Future[Any], int]] = deque()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for threads in (self._hashing, self._encoding):
            threads.shutdown(cancel_futures=kind is not None)

    def update(self, update: Callable[[bytes], None], part: bytes) -> None:
        """Hand `part` to a digest's `update`, later."""
        self._add(self._hashing.submit(update, part), len(part))

    def encode[T](self, function: Callable[[], T], size: int) -> Future[T]:
        """What `function` gives for a picture of `size` bytes, later."""
        future = self._encoding.submit(function)
        self._add(future, size)
        return future

    def wait(self) -> None:
        """Until all of it is done."""
        while self._waiting:
            self._take()

    def _add(self, future: Future[Any], size: int) -> None:
        self._waiting.append((future, size))
        self._size += size
        while self._size > MOST_WAITING:
            self._take()

    def _take(self) -> None:
        future, size = self._waiting.popleft()
        self._size -= size
        future.result()
