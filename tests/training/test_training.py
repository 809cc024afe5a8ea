"""What is refused or told before a training begins, and what is left as the user made it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.training.small import BATCH, CLASSES, FEATURES, heard, network, points, prepare, stepping
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.models.starts.freezing import freeze
from modelwright.objectives.classification import Classification
from modelwright.objectives.function import FunctionObjective

HERE = "tests.training.test_training"


# --- modes


def test_frozen_modules_stay_frozen_through_training() -> None:
    model = network(dropout=0.5)
    model[2].eval()
    with heard() as events:
        prepared = prepare(points(), model=model, total=2)
        list(stepping(prepared))
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert events == []


def test_a_model_in_evaluation_mode_is_put_to_training_mode() -> None:
    model = network(dropout=0.5).eval()
    with heard() as events:
        prepare(points(), model=model)
    assert all(module.training for module in model.modules())
    assert [(event.kind, event.level) for event in events] == [("model-put-to-train", "info")]


def test_a_frozen_batch_norm_stands_still_in_a_model_that_came_in_evaluation_mode() -> None:
    """As a pre-trained one does."""
    model = normed().eval()
    freeze(model, ["2"])
    before = model[2].running_mean.clone()
    prepared = prepare({name: value[:, 0] for name, value in points().items()}, model=model, total=2)
    list(stepping(prepared))
    assert [module.training for module in model] == [True, True, False, True]
    assert torch.equal(model[2].running_mean, before)


# --- batch norm


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)).double()


def told(mesh: Mesh | None, micro_batch: int, model: nn.Module) -> list[str]:
    with heard() as events:
        prepare(points(targets=1), mesh, model=model, micro_batch=micro_batch)
    return [event.message for event in events if event.kind == "batch-norm-inexact"]


def test_batch_norm_is_told_of_where_batches_are_divided() -> None:
    assert told(None, BATCH, normed()) == []
    (message,) = told(None, 2, normed())
    assert "per micro-batch of 2 samples" in message
    assert told(None, 2, network()) == []
    frozen = normed()
    frozen[2].eval()
    assert told(None, 2, frozen) == []


def told_on_ranks(mesh: Mesh, micro_batch: int) -> list[str]:
    return told(mesh, micro_batch, normed())


def test_batch_norm_is_told_of_once_with_workers() -> None:
    (first, *more), other = run_world(f"{HERE}:told_on_ranks", 2, micro_batch=BATCH // 2)
    assert ("per worker" in first, more, other) == (True, [], [])
    messages, other = run_world(f"{HERE}:told_on_ranks", 2, micro_batch=1)
    assert (len(messages), other) == (2, [])


# --- objectives with parameters


class Weighted(nn.Module):
    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.model = model

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["inputs"]).square().sum(dim=(1, 2)) * self.scale

    def method(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self(model, batch)


class Bringing(Classification):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "parts", {"projection": [module]})


def closing_over(module: nn.Module) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    return lambda model, batch: module(model, batch)


HOLDERS: dict[str, Callable[[Weighted], Any]] = {
    "the function is a module": FunctionObjective,
    "a method of a module": lambda module: FunctionObjective(module.method),
    "part of a closure": lambda module: FunctionObjective(closing_over(module)),
    "an argument of a partial": lambda module: FunctionObjective(partial(Weighted.method, module)),
    "in a field": Bringing,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_an_objective_with_parameters_is_refused(holder: str) -> None:
    with pytest.raises(ModelwrightError, match="parameters are not supported yet") as caught:
        prepare(points(), objective=HOLDERS[holder](Weighted()))
    assert "put them into the model" in caught.value.remedy


@pytest.mark.parametrize("holder", HOLDERS)
def test_frozen_parameters_of_an_objective_are_welcome(holder: str) -> None:
    prepared = prepare(points(), objective=HOLDERS[holder](Weighted().requires_grad_(False)), total=1)
    assert len(list(stepping(prepared))) == 1


def test_an_objective_may_hold_the_model() -> None:
    model = network()
    prepare(points(), model=model, objective=Bringing(model))
