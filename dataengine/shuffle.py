"""Keyed orders as pure arithmetic: the same on every machine and with every release of numpy.

Nothing here draws from `numpy.random`, whose streams may change between releases: all is addition, multiplication,
shifts of unsigned integers that wrap around, and sorts of values of which equal ones do not differ.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 3  # of both halves, so six of a Feistel network
_LEAST_BITS = 3  # fewer values would make few orders
_NARROW = 1 << 32


class _Form(NamedTuple):
    """Word arithmetic of one width: its mixing constants, and by how much a hash is shifted to half a word."""

    word: type[np.unsignedinteger]
    first: int
    inner: int
    second: int
    half: int


# Multipliers of `lowbias32` (C. Wellons, hash-prospector, public domain) and of SplitMix64 (Steele, Lea, Flood 2014).
_FORM32 = _Form(np.uint32, 0x7FEB352D, 15, 0x846CA68B, 16)
_FORM64 = _Form(np.uint64, 0xBF58476D1CE4E5B9, 29, 0x94D049BB133111EB, 32)


def key_of(*parts: str | int) -> np.uint64:
    """A 64-bit key for names and numbers."""
    text = "\0".join(map(str, parts)).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def keys_at(key: np.uint64 | Words, numbers: NDArray[np.integer]) -> Words:
    """The key of each of `numbers` below `key` (SplitMix64's stream)."""
    words = (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN + key
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)), np.uint64)


def shuffled_rows(keys: Words, sizes: Integers, width: int) -> tuple[NDArray[np.uint32], int]:
    """For each key an order of the numbers `0 .. size - 1`.

    Args:
        keys: [K], one a row.
        sizes: [K], each `<= width`.
        width: of a row, at most 2^20.

    Returns:
        [K, width] whose low bits hold the order, and the number of these bits. The numbers from `size` on stand at the
        row's end. The bits above are the hash they were sorted by; numbers of one hash (a pair in thousands) rise.
    """
    bits = max(1, (width - 1).bit_length())
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    high = (keys >> np.uint64(32)).astype(np.uint32)[:, None]
    numbers = np.arange(width, dtype=np.uint32)
    words = numbers * np.uint32(0x9E3779B9) + low
    words ^= words >> 16
    words *= np.uint32(_FORM32.first)
    words ^= words >> 15
    words += high
    words *= np.uint32(_FORM32.second)
    words ^= words >> 16
    top = np.uint32(0xFFFFFFFF >> bits << bits)
    words &= top
    words |= numbers
    least = int(sizes.min())
    if least < width:
        words[:, least:] |= np.where(numbers[least:] >= sizes[:, None], top, np.uint32(0))
    words.sort(axis=1)
    return words, bits


class Orders(NamedTuple):
    """Keyed orders of several sets: `sizes` [R], how many numbers each has, and their `keys` [R]."""

    sizes: Integers
    keys: Words

    def at(self, first: Integers, counts: Integers) -> Integers:
        """The `counts[r]` numbers of each set's order from place `first[r]` on, one set after the other.

        Args:
            first: [R] places.
            counts: [R] with `first + counts <= sizes`.

        Returns:
            [sum of counts], each in `0 .. size - 1` of its set.
        """
        wide = self.sizes > _NARROW
        if not wide.any():
            return self._at(first, counts, _FORM32)
        found = np.empty(int(counts.sum()), np.int64)
        owner = np.repeat(wide, counts)
        for form, chosen in ((_FORM32, ~wide), (_FORM64, wide)):
            part = Orders(self.sizes[chosen], self.keys[chosen])
            found[owner == (form is _FORM64)] = part._at(first[chosen], counts[chosen], form)
        return found

    def _at(self, first: Integers, counts: Integers, form: _Form) -> Integers:
        begin = np.cumsum(counts) - counts
        total = int(counts.sum())
        word = form.word
        words = np.repeat((first - begin).astype(word), counts)
        words += np.arange(total, dtype=word)  # wraps around to what it should be
        sets = _Sets.of(self, form)
        spread = _Sets(*(np.repeat(values, counts) for values in sets))
        words = _scrambled(words, spread, form)
        last = np.repeat((self.sizes - 1).astype(word), counts)
        outside = np.flatnonzero(words > last)
        while outside.size:  # walk the cycle until inside: still one to one
            words[outside] = _scrambled(words[outside], _Sets(*(values[outside] for values in spread)), form)
            outside = outside[words[outside] > last[outside]]
        return words.astype(np.int64)


class _Sets(NamedTuple):
    """Per set: low half's bits, how many values the high half has, and two keys.

    The high half is a number below `tall` and added to modulo `tall`, so that only some of `tall * 2^bits` numbers,
    `2^bits` at most, lie outside the set.
    """

    bits: NDArray[np.unsignedinteger]
    tall: NDArray[np.unsignedinteger]
    key: NDArray[np.unsignedinteger]
    step: NDArray[np.unsignedinteger]

    @classmethod
    def of(cls, orders: Orders, form: _Form) -> _Sets:
        sizes = orders.sizes
        length = np.frexp((sizes - 1).astype(np.float64))[1]  # bits of size - 1
        bits = np.maximum(_LEAST_BITS, np.minimum(length // 2, form.half))
        tall = np.maximum(1 << _LEAST_BITS, -(-sizes >> bits))
        one = sizes == 1
        bits, tall = np.where(one, 0, bits), np.where(one, 1, tall)
        half = np.uint64(2 * form.half)
        key = orders.keys if form is _FORM64 else orders.keys & np.uint64(0xFFFFFFFF)
        step = keys_at(orders.keys, np.zeros(1, np.int64)) if form is _FORM64 else orders.keys >> half
        odd = (step | np.uint64(1)).astype(form.word)
        return cls(bits.astype(form.word), tall.astype(form.word), key.astype(form.word), odd)


def _scrambled(words: NDArray[np.unsignedinteger], sets: _Sets, form: _Form) -> NDArray[np.unsignedinteger]:
    bits, tall, key, step = sets
    mask = (np.ones_like(bits) << bits) - form.word(1)
    low, high = words & mask, words >> bits
    key = key.copy()
    for _ in range(_ROUNDS):
        high += (_half(low + key, form) * tall) >> form.half
        np.minimum(high, high - tall, out=high)  # one subtraction of `tall` where it is not below
        key += step
        low ^= _half(high + key, form) & mask
        key += step
    high <<= bits
    high |= low
    return high


def _half(words: NDArray[np.unsignedinteger], form: _Form) -> NDArray[np.unsignedinteger]:
    """A hash of half a word; changes `words`."""
    words *= form.word(form.first)
    words ^= words >> form.inner
    words *= form.word(form.second)
    words >>= form.half
    return words
