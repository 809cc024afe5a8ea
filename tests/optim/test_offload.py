from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from modelwright.optim import Optimizer, OptimizerTechnique
from modelwright.optim.adamw import AdamW
from modelwright.optim.groups import trainable
from modelwright.optim.lion import Lion
from modelwright.optim.muon import Muon
from modelwright.optim.offload import Offloaded
from modelwright.optim.sgd import SGD
from modelwright.optim.state import load_optimizer_state, optimizer_state


def layers(count: int = 3, width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(count)))


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    optimizer.zero_grad(set_to_none=True)
    for parameter in model.parameters():
        generator = torch.Generator().manual_seed(seed)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
    optimizer.step()


class Watching(torch.optim.AdamW):
    """Notes which state it finds where."""

    sizes: list[int]
    homes: set[int]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        [group] = self.param_groups
        self.sizes.append(len(group["params"]))
        moments = [self.state[p][key] for p in group["params"] if p in self.state for key in ("exp_avg", "exp_avg_sq")]
        assert self.homes.isdisjoint(moment.data_ptr() for moment in moments), "works on the copy"
        super().step(closure)


@pytest.mark.parametrize(("chunk", "sizes"), [(1, [1] * 6), (2 * 4 * (64 + 8), [2, 2, 2]), (2**20, [6])])
def test_only_a_bounded_part_is_on_the_device(chunk: int, sizes: list[int]) -> None:
    model = layers()
    optimizer = Watching(model.parameters())
    optimizer.sizes, optimizer.homes = [], set()
    offloaded = Offloaded(optimizer, chunk=chunk)
    for seed in range(3):
        optimizer.sizes.clear()
        optimizer.homes = {moment.data_ptr() for state in offloaded.state.values() for moment in state.values()}
        step(model, offloaded, seed)
        assert optimizer.sizes == sizes
    moments = {state[key].data_ptr() for state in offloaded.state.values() for key in ("exp_avg", "exp_avg_sq")}
    assert moments <= optimizer.homes  # back to the very memory they came from
    assert len(moments) == 12


class Counting(torch.optim.Optimizer):
    """Somebody else's: its step depends on a count in the group, which it changes."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__([{"params": parameters[::2]}, {"params": parameters[1::2]}], {"lr": 0.1, "k": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["half"] = group.get("half", 1.0) / 2
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=group["lr"] * group["half"] / group["k"])
            group["k"] += 1


@pytest.mark.parametrize("without_gradient", [False, True])
def test_what_is_counted_in_groups_is_counted_once(without_gradient: bool) -> None:
    model, twin = layers(), layers()
    optimizer, offloaded = Counting(list(model.parameters())), Offloaded(Counting(list(twin.parameters())), chunk=1)
    for seed in range(3):
        for module, one in ((model, optimizer), (twin, offloaded)):
            if without_gradient:
                module.zero_grad()
                one.step()
            else:
                step(module, one, seed)
    for group, other in zip(optimizer.param_groups, offloaded.param_groups, strict=True):
        assert (group["k"], group["half"]) == (other["k"], other["half"]) == (4, 0.125)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_groups_and_members_are_whole_after_a_step_that_fails() -> None:
    model = layers()
    offloaded = Offloaded(Watching(model.parameters()), chunk=1)
    with pytest.raises(AttributeError):  # its lists were never made
        step(model, offloaded, 0)
    [group] = offloaded.param_groups
    assert len(group["params"]) == 6


def test_groups_are_those_of_the_optimizer_and_can_be_changed() -> None:
    model = layers()
    offloaded = Offloaded(Muon(adamw_names=("2",)).build(model), chunk=1)
    before = copy.deepcopy(dict(model.named_parameters()))
    for group in offloaded.param_groups:
        group["lr"] = 0.0
    step(model, offloaded, 0)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert set(offloaded.state) == set(model.parameters())


def test_it_does_not_take_found_inf() -> None:
    """So the host reads whether to step, and a masked step never touches the state."""
    optimizer = AdamW().build(layers())
    assert getattr(optimizer, "_step_supports_amp_scaling", False)
    assert not hasattr(Offloaded(optimizer), "_step_supports_amp_scaling")


def test_loading_works_before_the_first_step() -> None:
    model, twin = layers(), layers()
    optimizer, offloaded = AdamW().build(model), Offloaded(AdamW().build(twin), chunk=1)
    step(model, optimizer, 0)
    twin.load_state_dict(model.state_dict())
    names = {parameter: name for name, parameter in model.named_parameters()}
    twins = {parameter: name for name, parameter in twin.named_parameters()}
    load_optimizer_state(offloaded, twins, optimizer_state(optimizer, names))
    step(model, optimizer, 1)
    step(twin, offloaded, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("technique", [AdamW(), SGD(momentum=0.9), Lion(), Muon(adamw_names=("3",))])
def test_on_a_gpu_it_gives_the_same_with_less_memory(technique: OptimizerTechnique) -> None:
    model, twin = (layers(8, 1024).cuda() for _ in range(2))
    plain, offloaded = technique.build(model), Offloaded(technique.build(twin), chunk=2**23)
    for seed in range(3):
        step(model, plain, seed)
        step(twin, offloaded, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    names = {parameter: name for name, parameter in twin.named_parameters()}
    saved = optimizer_state(offloaded, names)
    assert all(tensor.dim() == 0 or tensor.is_pinned() for tensor in saved.values())
    load_optimizer_state(offloaded, names, {name: tensor.clone() for name, tensor in saved.items()})
    step(model, plain, 3)
    step(twin, offloaded, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    moments = sum(tensor.nbytes for tensor in saved.values())
    before = torch.cuda.memory_allocated()
    for state in plain.state.values():
        state.clear()
    assert before - torch.cuda.memory_allocated() > 0.9 * moments, "what the plain one keeps on the device"
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    offloaded.step()
    assert torch.cuda.max_memory_allocated() - start < moments, "never all of them at a time"
    assert len(trainable(twin)) == 16
