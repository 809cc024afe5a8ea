"""Data sets that draw from the generators that everyone shares are told of; others never are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import heard

from modelwright.base.events import Event
from modelwright.data.loader import Loader
from modelwright.data.order import Order

LENGTH = 12
ORDER = Order(LENGTH, seed=0)


class Noisy:
    """Numbers, with something added to each."""

    def __init__(self, noise: Callable[[int], float]) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": torch.tensor([index + self.noise(index), float("nan")]), "targets": index, "fine": True}


def without_effect(draw: Callable[[], object]) -> Callable[[int], float]:
    def noise(index: int) -> float:
        draw()
        return 0.0

    return noise


DRAWS = {
    "torch": lambda index: float(torch.rand(())),
    "numpy.random": lambda index: float(np.random.rand()),
    "random": lambda index: random.random(),
}
QUIET = {
    "nothing": lambda index: 0.5,
    "by the index": lambda index: float(np.random.default_rng((7, index)).random()),
    "torch by the index": lambda index: float(torch.rand((), generator=torch.Generator().manual_seed(index))),
    "a library's own draws": without_effect(random.random),
    "those of numpy": without_effect(np.random.rand),
}


def read(noise: Callable[[int], float], **fields: Any) -> tuple[torch.Tensor, list[Event]]:
    loader = Loader(Noisy(noise), ORDER, **{"batch": 3, "micro_batch": 2, "steps": 4, **fields})
    with heard() as events:
        batches = [batch["inputs"][:, 0] for step in loader for batch in step]
    return torch.cat(batches), [event for event in events if event.kind == "data-draws"]


@pytest.mark.parametrize("generator", DRAWS)
def test_it_is_told_once_with_the_generator_and_what_to_do(generator: str) -> None:
    _, (event,) = read(DRAWS[generator])
    assert event.level == "warning" and event.details["generators"] == [generator]
    assert f"Noisy draws from the global generator of {generator} " in event.message
    assert "seeded by the sample's index" in event.message


def test_what_it_says_is_true_of_a_run_that_goes_on() -> None:
    for noise, exact in ((DRAWS["torch"], False), (QUIET["torch by the index"], True)):
        torch.manual_seed(0)
        whole, _ = read(noise)
        torch.manual_seed(0)
        resumed, _ = read(noise, position=6, steps=2)
        assert torch.equal(whole[6:], resumed) == exact


@pytest.mark.parametrize("noise", QUIET.values(), ids=QUIET)
def test_there_is_no_false_alarm(noise: Callable[[int], float]) -> None:
    _, events = read(noise)
    assert not events


def test_draws_from_torch_are_told_also_where_samples_are_the_same() -> None:
    """The model's dropout draws from it at the same time."""
    _, (event,) = read(without_effect(lambda: torch.rand(())))
    assert event.details["generators"] == ["torch"]


def test_one_rank_speaks_for_all() -> None:
    _, events = read(DRAWS["torch"], part=(1, 3))
    assert not events


def test_what_is_read_stays_what_it_was() -> None:
    for generator, seed in (("torch", torch.manual_seed), ("numpy.random", np.random.seed), ("random", random.seed)):
        seed(3)
        looked_at, _ = read(DRAWS[generator], steps=1)
        seed(3)
        plain, _ = read(DRAWS[generator], steps=1, part=(0, 3), workers=0)
        seed(3)
        alone = torch.tensor([float(index) + DRAWS[generator](index) for index in ORDER(np.arange(3)).tolist()])
        assert torch.equal(looked_at, plain) and torch.equal(looked_at, alone)
