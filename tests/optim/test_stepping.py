from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from modelwright.optim.joined import Joined
from modelwright.optim.stepping import take_step

KINDS = [torch.optim.AdamW, torch.optim.Adam]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.LayerNorm(3))


def _optimizer(kind: Any, model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "lr": 0.03}]
    made: torch.optim.Optimizer = kind(groups, lr=0.01, **{"fused": True, **settings})
    return made


def _gradients(model: nn.Module, step: int) -> None:
    torch.manual_seed(100 + step)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = None if (step + number) % 5 == 0 else torch.randn_like(parameter)


def _same(a: Any, b: Any) -> bool:
    pairs = list(zip(a.state.values(), b.state.values(), strict=True))
    assert pairs
    return all(torch.equal(torch.as_tensor(x[key]), torch.as_tensor(y[key])) for x, y in pairs for key in x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"maximize": True}, {"fused": False}])
def test_the_step_is_that_of_torch_to_the_bit(kind: Any, settings: dict[str, Any]) -> None:
    mine, theirs = _model(), _model()
    optimizer, reference = _optimizer(kind, mine, **settings), _optimizer(kind, theirs, **settings)
    for step in range(12):
        for model, taken in ((mine, optimizer), (theirs, reference)):
            _gradients(model, step)
            for group in taken.param_groups:
                group["lr"] = 0.01 / (1 + step)
        take_step(optimizer)
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(mine.parameters(), _model().parameters(), strict=True))
    assert _same(optimizer, reference)


def test_a_state_that_is_loaded_goes_on() -> None:
    mine, theirs = _model(), _model()
    optimizer, reference = _optimizer(torch.optim.AdamW, mine), _optimizer(torch.optim.AdamW, theirs)
    for step in range(8):
        for model in (mine, theirs):
            _gradients(model, step)
        take_step(optimizer)
        reference.step()
        if step == 4:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("joined", [False, True])
def test_torch_has_nothing_to_do_after_the_first_step(monkeypatch: pytest.MonkeyPatch, joined: bool) -> None:
    model = _model()
    adam = _optimizer(torch.optim.AdamW, model)
    optimizer = Joined(adam) if joined else adam
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    take_step(optimizer)

    def refuse(*_: Any) -> None:
        raise AssertionError("torch took the step")

    monkeypatch.setattr(torch.optim.AdamW, "_init_group", refuse)  # which torch's own step begins with
    before = [parameter.detach().clone() for parameter in model.parameters()]
    take_step(optimizer)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_whoever_looks_on_is_told() -> None:
    model, seen = _model(), list[str]()
    optimizer = _optimizer(torch.optim.AdamW, model)
    _gradients(model, 1)
    take_step(optimizer)
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: seen.append("hook"))
        take_step(optimizer)
        handle.remove()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # wraps the step, to see that it was called
    take_step(optimizer)
    assert seen == ["hook"] * 4
    assert getattr(optimizer, "_opt_called", False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        take_step(optimizer)
    assert any("Optimizer.step#AdamW" in event.name for event in profile.events() or [])


def test_a_step_that_is_wrapped_at_its_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = _model(), list[str]()
    optimizer = _optimizer(torch.optim.AdamW, model)
    own = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *rest: (seen.append("called"), own(self, *rest))[1])
    for step in range(3):
        _gradients(model, step)
        take_step(optimizer)
    assert seen == ["called"] * 3


def test_a_step_that_torch_masks_is_left_to_it() -> None:
    model = _model()
    optimizer = _optimizer(torch.optim.AdamW, model)
    for step in (1, 2):
        _gradients(model, step)
        take_step(optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    take_step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_sparse_gradients_are_refused_by_torch() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.AdamW(table.parameters(), fused=True)
    table.weight.grad = torch.ones(5, 2)
    take_step(optimizer)
    table.weight.grad = None
    out: Tensor = table(torch.tensor([1])).sum()
    out.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="sparse"):
        take_step(optimizer)
