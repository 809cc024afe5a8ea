"""The schedule-free optimizer against its paper, and against the package of its authors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.evaluating import evaluating
from modelwright.optim.joined import Joined
from modelwright.optim.muon import Muon
from modelwright.optim.offload import Offloaded
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.settings import apply_schedules

STEPS = 12


def gradients() -> Tensor:
    return torch.randn(STEPS, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def module(parameter: nn.Parameter) -> nn.Module:
    model = nn.Module()
    model.weight = parameter
    return model


def test_it_equals_the_paper() -> None:
    """x, y and z written out; the rate rises, as in a warm-up, and falls again."""
    lr, share, keep, eps, decay = 0.05, 0.8, 0.9, 1e-6, 0.1
    rates = [lr * min(1.0, (t + 1) / 5, (STEPS - t) / 4) for t in range(STEPS)]
    parameter = weight()
    optimizer = ScheduleFree(lr=lr, betas=(share, keep), eps=eps, weight_decay=decay).build(module(parameter))
    x = z = y = parameter.detach().clone()
    square, total = torch.zeros_like(x), 0.0
    for t, (rate, gradient) in enumerate(zip(rates, gradients(), strict=True), start=1):
        square = keep * square + (1 - keep) * gradient**2
        z = z - rate * (gradient / ((square / (1 - keep**t)).sqrt() + eps) + decay * y)
        total += rate**2
        x = (1 - rate**2 / total) * x + rate**2 / total * z
        y = (1 - share) * z + share * x
        parameter.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), y, rtol=1e-12, atol=1e-12)
        with optimizer.evaluating():
            torch.testing.assert_close(parameter.detach(), x, rtol=1e-12, atol=1e-12)
            assert not torch.allclose(x, y, rtol=1e-4) or t == 1


@pytest.mark.parametrize("warmup", [0, 5])
def test_it_equals_its_authors_package(warmup: int) -> None:
    schedulefree = pytest.importorskip("schedulefree")
    own, theirs = weight(), weight()
    optimizer = ScheduleFree(lr=0.05, weight_decay=0.1).build(module(own))
    reference = schedulefree.AdamWScheduleFree([theirs], lr=0.05, weight_decay=0.1, warmup_steps=warmup)
    reference.train()
    for step, gradient in enumerate(gradients()):
        own.grad, theirs.grad = gradient.clone(), gradient.clone()
        apply_schedules(optimizer, step, STEPS, learning_rate=Constant(warmup=warmup))
        optimizer.step()
        reference.step()
        torch.testing.assert_close(own.detach(), theirs.detach(), rtol=1e-12, atol=1e-12)
    reference.eval()
    assert not torch.allclose(own, theirs)
    with optimizer.evaluating():
        torch.testing.assert_close(own.detach(), theirs.detach(), rtol=1e-12, atol=1e-12)


def test_the_average_of_a_quadratic_is_nearer_than_what_is_trained() -> None:
    """Noisy gradients and a rate that never falls: the average finds the minimum, which is 0."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.full((200,), 3.0))
    optimizer = ScheduleFree(lr=0.1).build(module(parameter))
    for _ in range(300):
        parameter.grad = parameter.detach() + torch.randn(200)
        optimizer.step()
    latest = float(optimizer.state[parameter]["z"].norm())
    with optimizer.evaluating():
        assert float(parameter.detach().norm()) < 0.5 * latest


def test_a_late_parameter_starts_as_if_it_were_alone() -> None:
    alone, early, late = weight(), weight(), weight()
    model = nn.Module()
    model.parts = nn.ParameterList([early, late])
    together, single = ScheduleFree().build(model), ScheduleFree().build(module(alone))
    for step, gradient in enumerate(gradients()):
        early.grad = gradient.clone()
        if step >= 4:
            late.grad, alone.grad = gradient.clone(), gradient.clone()
            single.step()
        together.step()
    assert torch.equal(late, alone)
    assert not torch.equal(late, early)


def test_training_or_evaluating_inside_of_evaluating_is_refused() -> None:
    parameter = weight()
    optimizer = ScheduleFree().build(module(parameter))
    with optimizer.evaluating():  # before the first step the weights are their own average
        assert torch.equal(parameter, weight())
    parameter.grad = gradients()[0]
    optimizer.step()
    before = parameter.detach().clone()
    with optimizer.evaluating():
        with pytest.raises(ModelwrightError, match="train after"):
            optimizer.step()
        with pytest.raises(ModelwrightError, match="entered twice"), optimizer.evaluating():
            pass
    with pytest.raises(ZeroDivisionError), optimizer.evaluating():
        raise ZeroDivisionError
    assert torch.equal(parameter, before)
    optimizer.step()


def test_evaluating_reaches_through_joined_and_off_loaded_ones() -> None:
    parameter, other = weight(), weight()
    optimizer = ScheduleFree(lr=0.1).build(module(parameter))
    joined = Offloaded(Joined(optimizer, torch.optim.SGD([other])))
    for gradient in gradients():
        parameter.grad = gradient.clone()
        joined.step()
    before = parameter.detach().clone()
    with evaluating(joined):
        assert not torch.equal(parameter, before)
        assert torch.equal(other, weight())
    assert torch.equal(parameter, before)


def test_evaluating_does_nothing_for_other_optimizers() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = Muon().build(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with evaluating(optimizer):
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_rate_of_zero_moves_nothing() -> None:
    parameter = weight()
    optimizer = ScheduleFree(lr=0.0, weight_decay=0.1).build(module(parameter))
    parameter.grad = gradients()[0]
    optimizer.step()
    assert torch.equal(parameter, weight())
    assert math.isfinite(optimizer.state[parameter]["rates"])
