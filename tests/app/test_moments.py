"""Moments that go on under other settings against the steps of a reference; those that would be wrong begin anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.app.moments import moments_fit
from modelwright.optim.adafactor import Adafactor
from modelwright.optim.adam import Adam
from modelwright.optim.adamw import AdamW
from modelwright.optim.lion import Lion
from modelwright.optim.muon import Muon
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.optim.sgd import SGD
from modelwright.optim.state import load_optimizer_state, optimizer_state
from modelwright.recipe.changes import Change

GRADIENT = torch.tensor([[0.3, -0.1, 0.2], [-0.4, 0.5, 0.1]])


def changed(technique: Any, **settings: Any) -> list[Change]:
    before = asdict(technique)
    return [Change(f"optimizer.{name}", before[name], value) for name, value in settings.items()]


def stepping(model: nn.Module, optimizer: Any, steps: int, gradient: Tensor = GRADIENT) -> None:
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = gradient.clone()
        optimizer.step()


class Switched:
    """Steps with one technique, and then with the same one under other settings."""

    def __init__(self, technique: Any, steps: int, gradient: Tensor = GRADIENT, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2, bias=False)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        optimizer = technique.build(self.model)
        stepping(self.model, optimizer, steps, gradient)
        self.moments = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, names).items()}
        self.fits = moments_fit(changed(technique, **settings), self.moments)
        self.optimizer = replace(technique, **settings).build(self.model)
        self._names = names

    def step(self, keep: bool, gradient: Tensor = GRADIENT) -> Tensor:
        """How far the weights move in the first step, with the moments or without."""
        load_optimizer_state(self.optimizer, self._names, self.moments if keep else {})
        before = self.model.weight.detach().clone()
        stepping(self.model, self.optimizer, 1, gradient)
        return self.model.weight.detach() - before


@pytest.mark.parametrize("technique", [Adam(eps=0.0), AdamW(eps=0.0, weight_decay=0.0)], ids=["adam", "adamw"])
@pytest.mark.parametrize(
    ("steps", "betas", "fits"),
    [
        (60, (0.9, 0.95), False),  # 0.999 has just begun
        (60, (0.9, 0.9999), False),
        (60, (0.8, 0.999), True),  # 0.9 has long faded
        (60, (0.99, 0.999), False),
        (60, (0.9, 0.999), True),
    ],
)
def test_of_equal_gradients_the_mean_is_that_gradient(technique: Any, steps: int, betas: Any, fits: bool) -> None:
    """Whatever the decays, Adam's step is then the learning rate, by the sign."""
    switched = Switched(technique, steps, **({} if betas == technique.betas else {"betas": betas}))
    assert switched.fits == fits
    reference = -technique.lr * GRADIENT.sign()
    torch.testing.assert_close(switched.step(keep=False), reference, rtol=1e-3, atol=0)
    error = (switched.step(keep=True) / reference - 1).abs().max()
    assert (error < 0.01) == fits


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"momentum": 0.9}, {"momentum": 0.95}),
        ({"momentum": 0.9}, {"nesterov": True}),
        ({"momentum": 0.9, "nesterov": True}, {"lr": 0.01, "l2": 0.1}),
    ],
)
def test_sgd_goes_on_as_torch_does_with_its_buffers(before: dict[str, Any], after: dict[str, Any]) -> None:
    switched = Switched(SGD(**before), 5, **after)
    assert switched.fits
    weight = nn.Parameter(switched.model.weight.detach().clone())
    settings = {"lr": 0.1, **before, **after}
    reference = torch.optim.SGD([weight], weight_decay=settings.pop("l2", 0.0), **settings)
    reference.state[weight]["momentum_buffer"] = switched.moments["weight/momentum_buffer"].clone()
    weight.grad = -GRADIENT
    reference.step()
    switched.step(True, -GRADIENT)
    torch.testing.assert_close(switched.model.weight, weight)


def test_buffers_that_stood_still_do_not_go_on() -> None:
    to_none = Switched(SGD(momentum=0.9), 5, momentum=0.0)
    back = changed(SGD(momentum=0.0), momentum=0.9)
    assert not to_none.fits and not moments_fit(back, to_none.moments)
    torch.testing.assert_close(Switched(SGD(), 3, momentum=0.9).step(keep=False), -0.1 * GRADIENT)


@pytest.mark.parametrize("settings", [{"beta2_decay": -0.5}, {"eps": 1e-6}, {"clip": 2.0, "smallest": 1e-2}])
def test_adafactors_mean_is_one_whatever_its_decay(settings: dict[str, Any]) -> None:
    """Of equal gradients of rank one it is their square, so that of rows and columns gives it back."""
    gradient = torch.outer(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0, 0.25]))
    switched = Switched(Adafactor(lr=1e-2, clip=2.0), 30, gradient, **settings)
    assert switched.fits
    size = switched.model.weight.detach().square().mean().sqrt()
    torch.testing.assert_close(switched.step(True, gradient), -1e-2 * size * gradient.sign(), rtol=1e-3, atol=0)


def test_lions_mean_goes_on_by_its_formula() -> None:
    switched = Switched(Lion(), 7, betas=(0.5, 0.8))
    assert switched.fits
    mean, gradient = switched.moments["weight/exp_avg"].double(), -0.05 * GRADIENT
    reference = -3e-4 * (0.5 * mean + 0.5 * gradient.double()).sign()
    torch.testing.assert_close(switched.step(True, gradient).double(), reference, rtol=1e-3, atol=0)
    kept = switched.optimizer.state[switched.model.weight]["exp_avg"].double()
    torch.testing.assert_close(kept, 0.8 * mean + 0.2 * gradient.double())


def test_muon_goes_on_with_another_momentum_as_torch_does() -> None:
    switched = Switched(Muon(), 5, momentum=0.8, adjust_lr="match_rms_adamw")
    assert switched.fits
    weight = nn.Parameter(switched.model.weight.detach().clone())
    reference = torch.optim.Muon([weight], lr=0.02, weight_decay=0.0, momentum=0.8, adjust_lr_fn="match_rms_adamw")
    reference.state[weight]["momentum_buffer"] = switched.moments["weight/momentum_buffer"].clone()
    weight.grad = GRADIENT.flip(0)
    reference.step()
    switched.step(True, GRADIENT.flip(0))
    torch.testing.assert_close(switched.model.weight, weight)
    assert not moments_fit(changed(Muon(), adamw_names=("*",)), switched.moments)
    assert not moments_fit(changed(Muon(), adamw_betas=(0.8, 0.95)), {"bias/step": torch.tensor(9.0)})


def average(share: float, parameters: Tensor, latest: Tensor) -> Tensor:
    """The ``x`` of which ``y = (1 - share) z + share x``."""
    return (parameters - (1 - share) * latest) / share


def test_another_share_of_a_schedule_free_average_would_be_another_average() -> None:
    switched = Switched(ScheduleFree(), 9, betas=(0.8, 0.999))
    y, z = switched.model.weight.detach(), switched.moments["weight/z"]
    assert not torch.allclose(average(0.9, y, z), average(0.8, y, z))
    assert not switched.fits
    load_optimizer_state(switched.optimizer, {switched.model.weight: "weight"}, {})
    stepping(switched.model, switched.optimizer, 1)
    with switched.optimizer.evaluating():  # after its first step the average is the newest weights
        torch.testing.assert_close(switched.model.weight.detach(), switched.optimizer.state[switched.model.weight]["z"])


def test_a_schedule_free_mean_of_squares_goes_on_once_it_has_faded() -> None:
    fields: Callable[[int, float], list[Any]] = lambda age, decay: [  # noqa: E731
        changed(ScheduleFree(betas=(0.9, 0.9)), betas=(0.9, decay)),
        {"weight/z": torch.zeros(1), "weight/step:int": torch.tensor(age)},
    ]
    assert moments_fit(*fields(60, 0.8)) and not moments_fit(*fields(20, 0.8))
    assert not moments_fit(*fields(60, 0.999))
    assert Switched(ScheduleFree(), 9, lr=1e-2, eps=1e-6, weight_decay=0.1).fits


def test_what_is_not_known_begins_anew() -> None:
    moments = {"weight/exp_avg": torch.zeros(2)}
    assert not moments_fit([Change("optimizer.rho", 0.1, 0.2)], moments)
    assert not moments_fit([Change("optimizer.use", "adam", "sgd")], moments)
    rules: list[Any] = [[], [{"names": ["a"], "lr": 0.1, "momentum": None}], [{"names": ["a"], "momentum": 0.5}]]
    assert moments_fit([Change("groups", rules[0], rules[1])], moments)
    assert not moments_fit([Change("groups", rules[0], rules[2])], moments)
    assert not moments_fit([Change("groups", rules[0], rules[1])], {"param_groups/0/k:int": torch.tensor(3)})
