"""Order: which sample comes when, as arithmetic instead of a table.

Each epoch is a keyed permutation: an alternating Feistel network over the smallest power of two that holds the
data, walked along its cycle until the result lies inside it (format-preserving encryption; Black and Rogaway,
"Ciphers with Arbitrary Finite Domains", 2002). It takes no memory, and any position is found at once, so a
run resumes anywhere and any number of readers share one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelwright.base.errors import ModelwrightError

LONGEST = 2**62
HOLE = -1
"""The index of a position that holds no sample."""

_ROUNDS = 8
_LEAST_BITS = 6  # with halves of two bits a Feistel network reaches only few of the permutations
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1

Words = NDArray[np.uint64]


class Order:
    """The sample at each position, epoch after epoch. It never changes between versions.

    Args:
        length: samples in one epoch, at most 2**62.
        seed: any integer; another seed is another order.

    Raises:
        ModelwrightError: there are no samples, or more than can be ordered.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        if not 0 < length <= LONGEST:
            raise ModelwrightError(f"cannot order {length} samples: it takes at least one and at most 2**62")
        self.length = length
        self.seed = seed
        bits = max(_LEAST_BITS, (length - 1).bit_length())
        self._low_bits = bits // 2
        self._high_bits = bits - self._low_bits
        self._key = _key(seed)

    def __call__(self, positions: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
        """Indices of the samples at ``positions``, int64, of the same shape.

        Position ``p`` lies in epoch ``p // length``; each epoch holds every index once.
        """
        return self.at(*np.divmod(counted(positions), self.length))

    def at(self, epochs: ArrayLike, places: ArrayLike) -> NDArray[np.int64]:
        """Indices at ``places`` within ``epochs``, int64, of the shape that both have together.

        Each epoch is a permutation of its own, whatever its number; each place lies in ``[0, length)``.
        """
        numbers, inside = np.broadcast_arrays(np.asarray(epochs, np.int64), np.asarray(places, np.int64))
        indices = self._walk(inside.ravel().astype(np.uint64), self._keys(numbers.ravel()))
        return indices.astype(np.int64).reshape(inside.shape)

    def _keys(self, epochs: NDArray[np.int64]) -> Words:
        """Keys ``[rounds, positions]``, or ``[rounds, 1]`` within one epoch; where epochs are close, each made once."""
        first, last = (int(epochs.min()), int(epochs.max())) if epochs.size else (0, 0)
        if first == last:
            return self._round_keys(np.array([first], dtype=np.uint64))
        if last - first >= epochs.size:
            return self._round_keys(epochs.astype(np.uint64))
        return self._round_keys(np.arange(first, last + 1, dtype=np.uint64))[:, epochs - first]

    def _round_keys(self, epochs: Words) -> Words:
        """Keys ``[rounds, epochs]``, one per round and epoch."""
        rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None] * np.uint64(_GOLDEN)
        return _mixed(_mixed(epochs + np.uint64(1)) ^ (self._key + rounds))

    def _walk(self, values: Words, keys: Words) -> Words:
        values = self._permuted(values, keys)
        outside = np.flatnonzero(values >= np.uint64(self.length))
        while outside.size:
            again = self._permuted(values[outside], keys if keys.shape[1] == 1 else keys[:, outside])
            values[outside] = again
            outside = outside[again >= np.uint64(self.length)]
        return values

    def _permuted(self, values: Words, keys: Words) -> Words:
        """Each half in turn is changed by a function of the other; halves of an odd width differ by one bit."""
        width, mask = np.uint64(self._low_bits), np.uint64((1 << self._low_bits) - 1)
        unused_high, unused_low = np.uint64(64 - self._high_bits), np.uint64(64 - self._low_bits)
        high, low = values >> width, values & mask
        mixed, spare = np.empty_like(values), np.empty_like(values)
        for number in range(0, _ROUNDS, 2):
            _mix(np.add(low, keys[number], out=mixed), spare)
            high ^= np.right_shift(mixed, unused_high, out=mixed)
            _mix(np.add(high, keys[number + 1], out=mixed), spare)
            low ^= np.right_shift(mixed, unused_low, out=mixed)
        high <<= width
        high |= low
        return high


def counted(positions: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """``positions`` as an array, int64.

    Raises:
        ModelwrightError: one of them is negative.
    """
    asked = np.asarray(positions, dtype=np.int64)
    if asked.size and asked.min() < 0:
        raise ModelwrightError(f"there is no position {asked.min()}: positions count from 0")
    return asked


def words(seed: int, numbers: ArrayLike) -> Words:
    """64 random bits for each of ``numbers``, the same whenever asked: a keyed hash, unrelated to any order.

    As seeds they keep apart what one seed decides. Not a cipher: who knows one word and tries all seeds finds its seed.
    """
    asked = np.asarray(numbers, np.int64)
    return _mixed(_mixed(asked.ravel().astype(np.uint64) + np.uint64(1)) ^ _key(seed)).reshape(asked.shape)


def _key(seed: int) -> Words:
    return _mixed(np.array([seed & _WORD], dtype=np.uint64))


def _mixed(words: Words) -> Words:
    """A copy of ``words``, each through the finaliser."""
    mixed = words.copy()
    _mix(mixed, np.empty_like(mixed))
    return mixed


def _mix(words: Words, spare: Words) -> None:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), in place: every bit of a word changes half of the bits."""
    words += np.uint64(_GOLDEN)
    words ^= np.right_shift(words, np.uint64(30), out=spare)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= np.right_shift(words, np.uint64(27), out=spare)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= np.right_shift(words, np.uint64(31), out=spare)
