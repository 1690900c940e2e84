"""The order of an epoch: a seekable permutation, and its cut into batches of ranks. Nothing is stored or shuffled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import SpecError

Indices = NDArray[np.int64]
_Words = NDArray[np.uint64]
_ROUNDS = 8
_LEAST_HALF = 4  # a Feistel network over fewer bits reaches few permutations; cycle walking makes the rest up
_BLOCK = 1 << 12


class Order(Protocol):
    """What an epoch reads: places of a data set by number, any of them found at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> int: ...

    def __iter__(self) -> Iterator[int]: ...

    def take(self, places: NDArray[np.integer]) -> Indices:
        """The places at numbers [n], each in `0 .. len - 1`; [n] int64."""
        ...


@dataclass(frozen=True)
class Permutation:
    """The integers `0 .. size - 1` in an order of their own for every (seed, epoch).

    Any place is found without the ones before it (a Feistel network with cycle walking), so that training resumes in
    the middle of an epoch at once; the same arguments give the same order on every machine.
    """

    size: int
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        if not -self.size <= place < self.size:
            raise IndexError(place)
        return int(self.take(np.array([place % self.size]))[0])

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self.size, _BLOCK):
            yield from self.take(np.arange(start, min(start + _BLOCK, self.size))).tolist()

    def take(self, places: NDArray[np.integer]) -> Indices:
        """The integers at `places` [n], each in `0 .. size - 1`; [n] int64."""
        words = places.astype(np.uint64)
        if words.size and int(words.max()) >= self.size:
            raise IndexError(int(words.max()))
        words = self._scrambled(words)
        while (outside := np.flatnonzero(words >= self.size)).size:
            words[outside] = self._scrambled(words[outside])
        return words.astype(np.int64)

    @cached_property
    def _keys(self) -> _Words:
        text = f"{self.seed}/{self.epoch}/{self.size}".encode()
        return np.frombuffer(hashlib.shake_256(text).digest(8 * _ROUNDS), "<u8").astype(np.uint64)

    @cached_property
    def _half(self) -> np.uint64:
        return np.uint64(max(_LEAST_HALF, -(-(self.size - 1).bit_length() // 2)))

    def _scrambled(self, words: _Words) -> _Words:
        half, low = self._half, (np.uint64(1) << self._half) - np.uint64(1)
        left, right = words >> half, words & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & low)
        return (left << half) | right


def _mixed(words: _Words) -> _Words:
    """SplitMix64's finalizer (Steele, Lea, Flood 2014): every bit depends on every bit. Arrays wrap around."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class Schedule:
    """Which samples stand in which batch of one rank, from batch `start` on: an iterable of index lists.

    Batch b of all `world` ranks together is places `b * batch_size * world` onwards of the order, dealt out one by
    one: ranks never share a place, together they have all of them, and after b batches a run with another number of
    ranks (and the same product) goes on exactly there. Ranks may differ by one batch, or in the size of the last
    one; `drop_last` leaves out what would make them differ. It serves as a `batch_sampler` of torch's DataLoader.
    """

    order: Order
    batch_size: int
    start: int = 0
    rank: int = 0
    world: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.start < 0 or not 0 <= self.rank < self.world:
            raise SpecError(
                f"batch_size {self.batch_size}, start {self.start}, rank {self.rank} of {self.world} is no schedule",
                fix="give batch_size >= 1, start >= 0 and 0 <= rank < world",
            )

    @property
    def _own(self) -> int:
        """How many samples this rank has."""
        size = len(self.order)
        return size // self.world if self.drop_last else len(range(self.rank, size, self.world))

    @property
    def total(self) -> int:
        """Batches of this rank in the whole epoch, those before `start` included."""
        return self._own // self.batch_size if self.drop_last else -(-self._own // self.batch_size)

    def __len__(self) -> int:
        return max(0, self.total - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size
        step = max(1, _BLOCK // size)
        for first in range(self.start, self.total, step):  # numpy's cost per call is shared by `step` batches
            last = min(first + step, self.total)
            own = np.arange(first * size, min(last * size, self._own))
            places = self.order.take(self.rank + self.world * own).tolist()
            yield from (places[at : at + size] for at in range(0, len(places), size))
