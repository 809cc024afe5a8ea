"""The contract of optimizers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.optim import OPTIMIZERS, Optimizer, OptimizerTechnique
from modelwright.optim.evaluating import evaluating
from modelwright.optim.offload import Offloaded
from modelwright.optim.rules import GroupRule, apply_rules
from modelwright.optim.schedules.linear import Linear
from modelwright.optim.settings import apply_schedules, note_bases
from modelwright.optim.state import changed_settings, group_settings, load_optimizer_state, optimizer_state
from modelwright.testing.contract import Contract


class Small(nn.Module):
    """Tokens ``[batch]`` -> ``[batch, 5]``: an embedding, hidden matrices, a norm, biases, a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """The outputs."""
        x = self.embedding(tokens)
        return self.head(self.norm(x + self.frozen(self.hidden(x))))  # type: ignore[no-any-return]


class OptimizerContract(Contract):
    """An optimizer trains what is trainable, decays what should decay, and resumes bit for bit."""

    family: ClassVar[Family] = OPTIMIZERS

    def test_loss_falls(self, technique: OptimizerTechnique) -> None:
        """Fitting random numbers; the negative control is a learning rate of 0."""
        model = _model()
        optimizer = technique.build(model)
        losses = [_step(model, optimizer, seed=0) for _ in range(200)]
        assert losses[-1] < 0.9 * losses[0]
        _set_rate(optimizer, 0.0)
        still = [_step(model, optimizer, seed=0) for _ in range(2)]
        assert still[0] == still[1]

    def test_frozen_parameters_stay(self, technique: OptimizerTechnique) -> None:
        """And are in no group, so that they cost no memory."""
        model = _model()
        optimizer, before = technique.build(model), model.frozen.weight.clone()
        _step(model, optimizer, seed=0)
        assert torch.equal(model.frozen.weight, before)
        assert set(model.frozen.parameters()).isdisjoint(_parameters(optimizer))

    def test_each_trainable_parameter_is_in_one_group(self, technique: OptimizerTechnique) -> None:
        """Tied ones too."""
        model = _model()
        model.head = nn.Linear(8, 11, bias=False)
        model.head.weight = model.embedding.weight
        members = _parameters(technique.build(model))
        assert len(members) == len(set(members))
        assert set(members) == {p for p in model.parameters() if p.requires_grad}

    def test_norms_and_biases_do_not_decay(self, technique: OptimizerTechnique) -> None:
        """By default."""
        for group in technique.build(_model()).param_groups:
            assert not group.get("weight_decay") or all(p.dim() >= 2 for p in group["params"])

    def test_groups_carry_their_base_rate(self, technique: OptimizerTechnique) -> None:
        """The loop multiplies it by the schedule's factor."""
        for group in technique.build(_model()).param_groups:
            assert group["base_lr"] == group["lr"]

    def test_no_trainable_parameter_is_an_error(self, technique: OptimizerTechnique) -> None:
        """That names the remedy."""
        with pytest.raises(ModelwrightError, match="no parameter to train"):
            technique.build(nn.Linear(2, 2).requires_grad_(False))

    def test_resumes_bit_for_bit(self, technique: OptimizerTechnique) -> None:
        """State saved and loaded into a fresh optimizer continues as if nothing had happened."""
        model = _model()
        optimizer = technique.build(model)
        for seed in range(3):
            _step(model, optimizer, seed=seed)
        twin = copy.deepcopy(model)
        resumed = technique.build(twin)
        saved = {key: value.clone() for key, value in optimizer_state(optimizer, _names(model)).items()}
        load_optimizer_state(resumed, _names(twin), saved)
        _assert_equal(optimizer_state(resumed, _names(twin)), saved)
        for seed in range(3, 6):
            assert _step(model, optimizer, seed=seed) == _step(twin, resumed, seed=seed)
        _assert_equal(dict(model.named_parameters()), dict(twin.named_parameters()))
        _assert_equal(optimizer_state(optimizer, _names(model)), optimizer_state(resumed, _names(twin)))

    def test_keeps_nothing_in_its_groups_that_cannot_be_saved(self, technique: OptimizerTechnique) -> None:
        """What it changes there is saved beside its state."""
        model = _model()
        optimizer = technique.build(model)
        built = group_settings(optimizer)
        _step(model, optimizer, seed=0)
        changed_settings(optimizer, built)

    def test_evaluation_leaves_training_as_it_was(self, technique: OptimizerTechnique) -> None:
        """Whatever weights are scored, training goes on with the very bits, and the averages come back the same."""
        (model, optimizer), (twin, other) = _pair(technique)
        for seed in range(4):
            _step(model, optimizer, seed=seed)
            _step(twin, other, seed=seed)
            with evaluating(optimizer):
                scored = copy.deepcopy(dict(model.named_parameters()))
            _assert_equal(dict(model.named_parameters()), dict(twin.named_parameters()))
            with evaluating(other):
                _assert_equal(scored, dict(twin.named_parameters()))

    def test_off_loaded_it_gives_the_same(self, technique: OptimizerTechnique) -> None:
        """In chunks of one parameter, and of all; its state may be saved and loaded on the way."""
        for chunk in (1, 2**20):
            (model, optimizer), (twin, other) = _pair(technique)
            offloaded = Offloaded(other, chunk=chunk)
            for seed in range(4):
                assert _step(model, optimizer, seed=seed) == _step(twin, offloaded, seed=seed)
                saved = {key: value.clone() for key, value in optimizer_state(offloaded, _names(twin)).items()}
                load_optimizer_state(offloaded, _names(twin), saved)
            _assert_equal(dict(model.named_parameters()), dict(twin.named_parameters()))
            _assert_equal(optimizer_state(optimizer, _names(model)), optimizer_state(offloaded, _names(twin)))

    def test_rules_set_rates_by_name(self, technique: OptimizerTechnique) -> None:
        """A rule that changes nothing changes nothing; one of rate 0 freezes what it names and nothing else."""
        (model, optimizer), (twin, other) = _pair(technique)
        apply_rules(other, twin, [GroupRule(names=("embedding", "hidden.*"))])
        assert sorted(map(id, _parameters(other))) == sorted(id(p) for p in twin.parameters() if p.requires_grad)
        for seed in range(3):
            assert _step(model, optimizer, seed=seed) == _step(twin, other, seed=seed)
        frozen = _model()
        other = technique.build(frozen)
        apply_rules(other, frozen, [GroupRule(names=("embedding", "hidden.*"), factor=0.0)])
        before = copy.deepcopy(dict(frozen.named_parameters()))
        _step(frozen, other, seed=0)
        kept = {name for name, parameter in frozen.named_parameters() if torch.equal(parameter, before[name])}
        assert {name.split(".")[0] for name in kept} == {"embedding", "hidden", "frozen"}

    def test_schedules_set_its_rate(self, technique: OptimizerTechnique) -> None:
        """Of each group, times its base."""
        optimizer = technique.build(_model())
        note_bases(optimizer)
        bases = [group["lr"] for group in optimizer.param_groups]
        for step in (2, 1):
            first = apply_schedules(optimizer, step, 4, learning_rate=Linear())
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == [base * (4 - step) / 4 for base in bases]
            assert first == rates[0]

    def test_a_late_first_gradient_is_taken(self, technique: OptimizerTechnique) -> None:
        """A parameter without gradient in the first step may have one in the second."""
        model = _model()
        optimizer = technique.build(model)
        _backward(model, seed=0)
        model.hidden.weight.grad = None
        before = model.hidden.weight.clone()
        optimizer.step()
        assert torch.equal(model.hidden.weight, before)
        _step(model, optimizer, seed=1)
        assert not torch.equal(model.hidden.weight, before)

    def test_declares_what_it_sees(self, technique: OptimizerTechnique) -> None:
        """Layouts gather whole tensors for those that need them."""
        assert technique.sees in ("elements", "tensors")

    def test_elements_are_updated_on_their_own(self, technique: OptimizerTechnique) -> None:
        """An optimizer that sees elements gives the same when each matrix is cut in two."""
        if technique.sees == "tensors":
            pytest.skip("declares that it needs whole tensors")
        torch.manual_seed(0)
        weight, gradients = torch.randn(4, 6), torch.randn(3, 4, 6)
        whole = _apply(technique, [weight], [[gradient] for gradient in gradients])
        halves = _apply(technique, list(weight.chunk(2)), [list(g.chunk(2)) for g in gradients])
        assert torch.allclose(whole[0], torch.cat(halves), rtol=1e-6, atol=0)


def _model() -> Small:
    torch.manual_seed(0)
    return Small()


def _pair(technique: OptimizerTechnique) -> tuple[tuple[Small, Optimizer], tuple[Small, Optimizer]]:
    first, second = _model(), _model()
    return (first, technique.build(first)), (second, technique.build(second))


def _backward(model: nn.Module, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (16,), generator=generator)
    outputs = model(tokens)
    loss = (outputs - torch.randn(outputs.shape, generator=generator)).square().mean()
    loss.backward()
    return float(loss.detach())


def _step(model: nn.Module, optimizer: Optimizer, seed: int) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = _backward(model, seed)
    optimizer.step()
    return loss


def _set_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _apply(technique: OptimizerTechnique, weights: list[Tensor], steps: list[list[Tensor]]) -> list[Tensor]:
    model = nn.Module()
    model.weights = nn.ParameterList(weight.clone() for weight in weights)
    optimizer = technique.build(model)
    for gradients in steps:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _names(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _assert_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name
