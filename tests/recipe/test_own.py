from __future__ import annotations

import pytest
import torch
from tests.recipe.test_schema import TEXT
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.next_token import NextToken
from modelwright.recipe import Recipe, load_recipe
from modelwright.recipe.own import build_objective, build_optimizer, build_schedule

HERE = "tests.recipe.test_own"


def squares(model: nn.Module, batch: dict[str, Tensor], power: float = 2.0) -> Tensor:
    return model(batch["x"]).squeeze(1) ** power


def halving(step: int, total: int, floor: float = 0.0) -> float:
    return max(floor, 0.5**step)


class Halving:
    def factor(self, step: int, total: int) -> float:
        return 0.5**step


class Nothing:
    """Fits nowhere."""


def recipe(**changes: str) -> Recipe:
    return load_recipe(TEXT, [f"{key}={value}" for key, value in changes.items()])


def test_listed_techniques_pass_through() -> None:
    assert build_objective(recipe()) == NextToken()
    assert build_schedule(recipe().schedule).factor(0, 10) == 1.0
    groups = build_optimizer(recipe().optimizer, nn.Linear(2, 1)).param_groups
    assert {group["base_lr"] for group in groups} == {3e-3}


def test_a_function_as_objective_takes_the_recipes_arguments() -> None:
    objective = build_objective(recipe(objective=f"{{use: '{HERE}:squares', power: 3}}"))
    model, batch = nn.Linear(1, 1), {"x": torch.ones(4, 1)}
    losses = objective.forward(model, batch)
    assert torch.equal(losses, model(batch["x"]).squeeze(1) ** 3)
    assert int(objective.counts(batch)["loss"]) == 4


def test_a_class_of_torch_as_optimizer() -> None:
    technique = recipe(optimizer="{use: 'torch.optim:SGD', lr: 0.5, momentum: 0.9}").optimizer
    optimizer = build_optimizer(technique, nn.Linear(2, 1))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [(group["base_lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.5, 0.9)]


def test_an_optimizer_that_calls_the_model_itself_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="closure"):
        build_optimizer(recipe(optimizer="torch.optim:LBFGS").optimizer, nn.Linear(2, 1))


@pytest.mark.parametrize(
    ("use", "factors"),
    [(f"{HERE}:Halving", [1.0, 0.25]), (f"{{use: '{HERE}:halving', floor: 0.4}}", [1.0, 0.4])],
)
def test_a_function_or_class_as_schedule(use: str, factors: list[float]) -> None:
    schedule = build_schedule(recipe(schedule=use).schedule)
    assert [schedule.factor(step, 10) for step in (0, 2)] == factors


def test_what_does_not_fit_is_refused_with_its_place() -> None:
    wrong = recipe(objective=f"{HERE}:Nothing", schedule=f"{HERE}:Nothing")
    for build in (lambda: build_objective(wrong), lambda: build_schedule(wrong.schedule)):
        with pytest.raises(ModelwrightError, match=r"Nothing' gave .* does not fit") as caught:
            build()
        assert caught.value.where.startswith("command line (")
        assert caught.value.remedy
