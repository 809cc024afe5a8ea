"""What is read, over ranks, micro-batches and kills: accounted from the reads, and compared with the order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sampling.steps import Numbers

from modelwright.data import Sampling
from modelwright.data.loader import Loader
from modelwright.data.order import HOLE
from modelwright.data.sampling.global_sampling import Global
from modelwright.data.sampling.local_sampling import Local
from modelwright.data.sampling.poisson_sampling import Poisson

SEED = 9
SAMPLINGS = [Global(), Local(parts=3), Local(parts=2, overlap=0.5), Poisson()]


class OneByOne(Numbers):
    """Is not read for several steps at once, and so by a thread."""

    alike = False


@dataclass(frozen=True)
class Leg:
    """A stretch of a run between two starts.

    Attributes:
        steps: that it makes before it is killed.
        ranks: how many share each step.
        micro_batch: samples at most.
        uneven: whether the first rank takes half of each step, instead of an equal share.
    """

    steps: int
    ranks: int
    micro_batch: int
    uneven: bool = False

    def cuts(self, width: int) -> list[tuple[int, int]]:
        borders = [rank * width // self.ranks for rank in range(self.ranks + 1)]
        if self.uneven and self.ranks > 1:
            half = width // 2
            borders = [0, *(half + (width - half) * rank // (self.ranks - 1) for rank in range(self.ranks))]
        return list(pairwise(borders))


LEGS = st.lists(
    st.builds(
        Leg, steps=st.integers(0, 4), ranks=st.integers(1, 4), micro_batch=st.integers(1, 7), uneven=st.booleans()
    ),
    min_size=1,
    max_size=5,
)


def run(sampling: Sampling, dataset: Numbers, batch: int, legs: list[Leg]) -> tuple[list[list[int]], int]:
    """The samples that each step read, by the ranks one after the other; and positions per step.

    Every leg is given more steps than it makes, so the loader has read ahead when it is killed.
    """
    width = sampling.positions(dataset, batch=batch)
    order = sampling.order(dataset, batch=batch, seed=SEED)
    steps: list[list[int]] = []
    for leg in legs:
        loaders: list[Any] = [
            iter(
                Loader(
                    dataset,
                    order,
                    batch=width,
                    part=part,
                    micro_batch=leg.micro_batch,
                    position=len(steps) * width,
                    steps=leg.steps + 5,
                )
            )
            for part in leg.cuts(width)
        ]
        for ranks in islice(zip(*loaders, strict=True), leg.steps):
            assert all(len(each["inputs"]) <= leg.micro_batch for rank in ranks for each in rank)
            steps.append([int(index) for rank in ranks for each in rank for index in each["inputs"]])
        for loader in loaders:
            loader.close()
    return steps, width


def account(read: list[int], length: int) -> tuple[int, int]:
    """Samples lost from the passes that are complete, and read twice within a pass."""
    passes = [read[begin : begin + length] for begin in range(0, len(read), length)]
    lost = sum(length - len(set(each)) for each in passes if len(each) == length)
    return lost, sum(len(each) - len(set(each)) for each in passes)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@settings(max_examples=40)
@given(length=st.integers(20, 40), batch=st.sampled_from([6, 12, 18]), legs=LEGS, thread=st.booleans())
def test_ranks_micro_batches_and_kills_change_nothing(
    sampling: Sampling, length: int, batch: int, legs: list[Leg], thread: bool
) -> None:
    dataset = OneByOne(length) if thread else Numbers(length)
    read, width = run(sampling, dataset, batch, legs)
    indices = sampling.order(dataset, batch=batch, seed=SEED)(np.arange(len(read) * width))
    expected = [[index for index in step if index != HOLE] for step in indices.reshape(len(read), width).tolist()]
    assert read == expected


@settings(max_examples=40)
@given(length=st.integers(5, 40), batch=st.integers(1, 12), legs=LEGS, thread=st.booleans())
def test_nothing_is_lost_and_nothing_is_repeated(length: int, batch: int, legs: list[Leg], thread: bool) -> None:
    read, _ = run(Global(), OneByOne(length) if thread else Numbers(length), batch, legs)
    assert account([index for step in read for index in step], length) == (0, 0)


@settings(max_examples=40)
@given(batch=st.sampled_from([6, 12]), legs=LEGS)
def test_nothing_is_lost_and_nothing_is_repeated_in_any_part(batch: int, legs: list[Leg]) -> None:
    read, _ = run(Local(parts=3), Numbers(20), batch, legs)
    for samples in (range(7), range(7, 14), range(14, 20)):
        mine = [index for step in read for index in step if index in samples]
        assert len(mine) == len(read) * batch // 3
        assert account(mine, len(samples)) == (0, 0)


def test_the_account_notices_a_lost_and_a_repeated_step() -> None:
    steps, _ = run(Global(), Numbers(24), 4, [Leg(steps=12, ranks=2, micro_batch=2)])
    for wrong in ([*steps[:2], *steps[3:]], [*steps[:2], *steps[1:]]):
        assert account([index for step in wrong for index in step], 24) != (0, 0)


def test_each_sample_of_a_pass_is_read_once_by_the_data_set_itself() -> None:
    """The account of the reads of the data set, without asking any loader what it gave."""
    seen: Counter[int] = Counter()

    class Watched(Numbers):
        def __getitems__(self, positions: Any) -> Any:
            seen.update(np.asarray(positions).tolist())
            return super().__getitems__(positions)

    dataset = Watched(60)
    order = Global().order(dataset, batch=12, seed=SEED)
    for rank in range(3):
        list(Loader(dataset, order, batch=12, part=(4 * rank, 4 * rank + 4), micro_batch=2, steps=5))
    assert seen == Counter(dict.fromkeys(range(60), 1))
