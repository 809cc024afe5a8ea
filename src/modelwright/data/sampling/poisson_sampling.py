"""Poisson sampling: every sample is in every step with one probability, independently of all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.order import HOLE, Order, counted, words
from modelwright.data.sampling.checks import check
from modelwright.data.sampling.sizes import Sizes, most

if TYPE_CHECKING:
    from modelwright.data import Dataset, Ordering, Positions


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Each sample is in each step with probability ``batch / len(dataset)``, independently of all others.

    The amplification of differential privacy by subsampling rests on this (Abadi and others 2016, arXiv:1607.00133),
    and not on epochs; it holds against those who do not know the seed. A step has ``batch`` samples on average, and
    perhaps none. Its number is binomial, and then it is a subset of that size, each as likely as any other.

    A step has a fixed number of positions, of which a random part are holes: the smallest for which the chance of more
    samples is at most 1e-16 by Chernoff's bound. Such a step is never drawn. That and rounding keep the number
    within 1e-12 of the binomial distribution (total variation), for batches up to a million; which samples they are, a
    keyed permutation says, which is statistically sound but no cipher.
    """

    def positions(self, dataset: Dataset, *, batch: int) -> int:
        """Positions of one step, about ``batch + 9 * sqrt(batch) + 13`` and at most one for each sample.

        Raises:
            ModelwrightError: as :meth:`order` does.
        """
        _check(dataset, batch)
        return most(len(dataset), batch)

    def order(self, dataset: Dataset, *, batch: int, seed: int) -> Ordering:
        """Which sample of ``dataset`` is at each position, if any.

        Raises:
            ModelwrightError: the batch is larger than the data, or the data brings an order of its own.
        """
        _check(dataset, batch)
        return _Drawn(len(dataset), batch, seed)


def _check(dataset: Dataset, batch: int) -> None:
    check("poisson", dataset, batch)
    if batch > len(dataset):
        raise ModelwrightError(
            f"steps of {batch} samples on average cannot be drawn from {len(dataset)}: each is there at most once",
            where="batch",
            remedy=f"batch: {len(dataset)} or less",
        )


class _Drawn:
    """The first places of a permutation of the samples, scattered over the step by a permutation of its positions."""

    def __init__(self, length: int, batch: int, seed: int) -> None:
        self._sizes = Sizes(length, batch)
        self._seed, samples, places = (int(word) for word in words(seed, range(3)))
        self._samples, self._places = Order(length, samples), Order(self._sizes.most, places)

    def __call__(self, positions: Positions) -> NDArray[np.int64]:
        asked = counted(positions)
        steps, inside = np.divmod(asked, self._sizes.most)
        places = self._places.at(steps, inside)
        there = places < self._sizes.drawn(words(self._seed, steps))
        indices = np.full(asked.shape, HOLE, dtype=np.int64)
        indices[there] = self._samples.at(steps[there], places[there])
        return indices
