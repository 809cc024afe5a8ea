"""How many samples a step has, judged by what the loader hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from modelwright.data.loader import Loader
from modelwright.data.reading.sizes import StepSizes
from modelwright.data.sampling.global_sampling import Global
from modelwright.data.sampling.poisson_sampling import Poisson

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions, Sampling


class Holey:
    """Every seventh sample is missing."""

    def __len__(self) -> int:
        return 1000

    def __getitems__(self, positions: Positions) -> Batch:
        return {"inputs": torch.as_tensor(np.asarray(positions))}

    def present(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(indices % 7 != 0)


@pytest.mark.parametrize("sampling", [Global(), Poisson()])
def test_sizes_are_those_of_the_steps(sampling: Sampling) -> None:
    dataset, steps = Holey(), 80
    positions = sampling.positions(dataset, batch=30)
    order = sampling.order(dataset, batch=30, seed=3)
    read = [
        sum(len(batch["inputs"]) for batch in step)
        for step in Loader(dataset, order, batch=positions, micro_batch=8, steps=steps)
    ]
    sizes = StepSizes(dataset, order, positions)
    assert [sizes(number * positions) for number in range(steps)] == read
    assert sizes(5 * positions) == read[5]  # back again
    assert len(set(read)) > 3 and max(read) < positions
