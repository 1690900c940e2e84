"""What the C library does with memory that was given back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_ARENAS, _KEPT = 2, 128 << 10


def give_memory_back() -> None:
    """Let this process' freed memory go back to the system at once, where the C library is glibc.

    Pictures are allocated and freed by the megabyte on many threads. Left to itself glibc takes each such size for one
    to come again and keeps it, in a heap for every thread: a tenth of what an ingest holds at its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_ARENA_MAX, _ARENAS), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _KEPT)):
            mallopt(option, value)
