"""Positions without a sample: ranks, or whole steps, that have nothing to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import BATCH, SEED, heard, network, points, prepare, snapshot, stepping
from tests.world import run_world
from torch import Tensor
from torch.nn import functional

from modelwright.base.world import Mesh
from modelwright.data.order import Order
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.sgd import SGD

TOTAL = 5


@dataclass(frozen=True, kw_only=True)
class Holed:
    """The global order with holes at some positions of each step; one step is all holes."""

    holes: tuple[int, ...] = ()
    empty_step: int = 3

    def order(self, dataset: Any, *, batch: int, seed: int) -> Any:
        inner = Order(len(dataset), seed)

        def ordered(positions: Any) -> Any:
            asked = np.asarray(positions)
            gone = np.isin(asked % batch, self.holes) | (asked // batch == self.empty_step)
            return np.where(gone, -1, inner(asked))

        return ordered

    def positions(self, dataset: Any, *, batch: int) -> int:
        return batch


def _trained(mesh: Mesh | None, holes: tuple[int, ...], empty_step: int = 3) -> tuple[dict[str, Tensor], list[Any]]:
    prepared = prepare(
        points(),
        mesh,
        total=TOTAL,
        sampling=Holed(holes=holes, empty_step=empty_step),
        optimizer=SGD(lr=0.5),
        schedule=Constant(),
        clip=None,
    )
    seen = [(step.valid, step.masked, step.samples) for step in stepping(prepared)]
    return snapshot(prepared), seen


def _reference(holes: tuple[int, ...], empty_step: int = 3) -> dict[str, Tensor]:
    """A plain loop over the samples that are there."""
    data, model = points(), network()
    for step in range(TOTAL):
        if step == empty_step:
            continue
        places = [step * BATCH + place for place in range(BATCH) if place not in holes]
        chosen = torch.from_numpy(Order(len(data["inputs"]), SEED)(places))
        logits, targets = model(data["inputs"][chosen]), data["targets"][chosen]
        model.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad  # type: ignore[operator]
    return {f"model/{name}": value for name, value in model.state_dict().items()}


def _close(found: dict[str, Any], wanted: dict[str, Tensor]) -> bool:
    pairs = [(torch.as_tensor(found[name]), value) for name, value in wanted.items()]
    return all(torch.allclose(mine, value, rtol=0, atol=1e-12) for mine, value in pairs)


HOLES = [(), (1,), (0, 1, 2), (3, 4, 5), (0, 1), (1, 2, 3, 4)]


@pytest.mark.parametrize("holes", HOLES)
def test_a_step_is_made_of_the_samples_that_are_there(holes: tuple[int, ...]) -> None:
    with heard() as events:
        found, seen = _trained(None, holes)
    assert _close(found, _reference(holes))
    assert [masked for _, masked, _ in seen] == [step == 3 for step in range(TOTAL)]
    assert [samples for _, _, samples in seen] == [BATCH * (step + 1) for step in range(TOTAL)]  # positions
    assert [event.kind for event in events if event.kind == "step-masked"] == ["step-masked"]


def test_the_judge_notices_a_hole() -> None:
    found, _ = _trained(None, (1,))
    assert not _close(found, _reference(()))


def train_with_holes(mesh: Mesh, holes: list[list[int]], empty_step: int) -> Any:
    results = [_trained(mesh, tuple(each), empty_step) for each in holes]
    return [
        ({name: value.tolist() for name, value in weights.items() if name.startswith("model/")}, seen)
        for weights, seen in results
    ]


@pytest.mark.parametrize(("workers", "empty_step"), [(2, 3), (3, 0)])
def test_a_rank_may_have_no_sample_of_a_step(workers: int, empty_step: int) -> None:
    """(0, 1, 2) leaves rank 0 of 2 without any from the first step on; step 0 may be empty on every rank."""
    ranks = run_world(f"{__name__}:train_with_holes", workers, holes=HOLES, empty_step=empty_step)
    for number, holes in enumerate(HOLES):
        wanted = _reference(holes, empty_step)
        for rank in ranks:
            weights, seen = rank[number]
            found = {name: torch.tensor(value, dtype=torch.float64) for name, value in weights.items()}
            assert _close(found, wanted), holes
            assert [masked for _, masked, _ in seen] == [step == empty_step for step in range(TOTAL)]
