"""The contract of objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.choice import Family
from modelwright.objectives import METRICS, OBJECTIVES, Objective
from modelwright.testing.contract import Contract

Batch = dict[str, Tensor]
Case = Callable[[], tuple[nn.Module, Batch, Batch]]


class ObjectiveContract(Contract):
    """An objective returns totals and counts that add up, however a batch is split.

    One that has ``build`` is built from the case's model first.

    Attributes:
        cases: for each technique by name, a function that returns a model, a batch of at least 4 samples
            (some of whose targets are ignored, where the objective knows that), and a batch without any valid
            target.
    """

    family: ClassVar[Family] = OBJECTIVES
    cases: ClassVar[Mapping[str, Case]] = {}

    def case(self, name: str) -> tuple[nn.Module, Batch, Batch]:
        """Model, batch, and batch without valid targets, of a technique."""
        known = {**CASES, **self.cases}
        if name not in known:
            pytest.fail(f"the objective '{name}' has no case: add one to `cases`")
        torch.manual_seed(0)
        return known[name]()

    def test_totals_and_counts_add_up(self, name: str, technique: Objective) -> None:
        """The whole batch gives the sum of its parts; parts are of unequal sizes, so means would not."""
        model, batch, _ = self.case(name)
        technique = _begun(technique, model)
        parts = [{key: value[cut] for key, value in batch.items()} for cut in (slice(0, 1), slice(1, None))]
        for measure in (_losses, _counts):
            whole = measure(technique, model, batch)
            first, second = (measure(technique, model, part) for part in parts)
            assert whole.keys() == first.keys() == second.keys()
            for term in whole:
                assert whole[term].item() == pytest.approx((first[term] + second[term]).item(), rel=1e-12)

    def test_counts_are_integers_known_before_the_forward_pass(self, name: str, technique: Objective) -> None:
        """And both they and the totals have no dims."""
        model, batch, _ = self.case(name)
        technique = _begun(technique, model)
        counts, losses = _counts(technique, model, batch), _losses(technique, model, batch)
        assert all(count.dtype == torch.int64 and count.dim() == 0 for count in counts.values())
        assert all(total.dim() == 0 for total in losses.values())
        assert counts.keys() == losses.keys() == technique.coefficients.keys()

    def test_without_valid_targets_nothing_happens(self, name: str, technique: Objective) -> None:
        """Total, count and gradients are zero, not NaN: a rank may well have none in some step."""
        model, _, empty = self.case(name)
        technique = _begun(technique, model)
        losses = _losses(technique, model, empty)
        assert all(total.item() == 0 for total in losses.values())
        assert all(int(count) == 0 for count in _counts(technique, model, empty).values())
        _backward(losses)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(not gradient.any() for gradient in gradients)

    def test_a_batch_has_a_finite_gradient(self, name: str, technique: Objective) -> None:
        """That is not zero: the objective teaches something."""
        model, batch, _ = self.case(name)
        _backward(_losses(_begun(technique, model), model, batch))
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)

    def test_low_precision_outputs_are_summed_in_float32(self, name: str, technique: Objective) -> None:
        """bfloat16 outputs, as autocast makes them, give a total of at least float32, inside autocast and behind it."""
        model, batch, _ = self.case(name)
        model = model.float()
        batch = {key: value.float() if value.dtype == torch.float64 else value for key, value in batch.items()}
        technique = _begun(technique, model)
        with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16):
            outputs = technique.forward(model, batch)
            totals = list(technique.loss(outputs, batch).values())
        totals += technique.loss(outputs, batch).values()
        assert {total.dtype for total in totals} <= {torch.float32, torch.float64}

    def test_default_metrics_are_listed(self, technique: Objective) -> None:
        """Each of their names can be resolved."""
        for metric in technique.metrics:
            METRICS.resolve(metric)


def _begun(technique: Objective, model: nn.Module) -> Objective:
    return technique.build(model) if hasattr(technique, "build") else technique


def _losses(technique: Objective, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return technique.loss(technique.forward(model, batch), batch)


def _backward(losses: Mapping[str, Tensor]) -> None:
    torch.autograd.backward(list(losses.values()))


def _counts(technique: Objective, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return technique.counts(batch)


class _Reading(nn.Module):
    """Logits ``[batch, target, 11]`` from a second sequence and the mean of a first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, inputs: Tensor, input_mask: Tensor, decoder_inputs: Tensor) -> Tensor:
        mask = input_mask.unsqueeze(-1)
        read = (self.embedding(inputs) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head(self.embedding(decoder_inputs) + read)
        return logits


def _sequence_to_sequence() -> tuple[nn.Module, Batch, Batch]:
    tokens, targets = torch.randint(11, (2, 4, 5)), torch.randint(11, (4, 5))
    targets[0, 1:] = -100
    given = {"inputs": tokens[0], "input_mask": torch.arange(5) < torch.tensor([[5], [2], [3], [1]])}
    batch = {**given, "decoder_inputs": tokens[1], "targets": targets}
    return _Reading().double(), batch, {**batch, "targets": torch.full_like(targets, -100)}


def _preference() -> tuple[nn.Module, Batch, Batch]:
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11)).double()
    tokens = torch.randint(11, (4, 4, 5))
    batch = dict(zip(("chosen", "chosen_targets", "rejected", "rejected_targets"), tokens.unbind(), strict=True))
    batch["chosen_targets"][:, :2] = -100
    batch["rejected_targets"][1] = -100
    return model, batch, {**batch, "chosen_targets": torch.full((4, 5), -100)}


def _next_token() -> tuple[nn.Module, Batch, Batch]:
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11)).double()
    targets = torch.randint(11, (4, 5))
    targets[0, 1:] = -100
    inputs = torch.randint(11, (4, 5))
    return model, {"inputs": inputs, "targets": targets}, _ignored(inputs, targets)


def _classification() -> tuple[nn.Module, Batch, Batch]:
    inputs, targets = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, -100, 2, 1, 1, -100])
    return nn.Linear(5, 3).double(), {"inputs": inputs, "targets": targets}, _ignored(inputs, targets)


def _binary() -> tuple[nn.Module, Batch, Batch]:
    inputs, targets = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, -100, 1, 1, 0, -100])
    return nn.Linear(5, 1).double(), {"inputs": inputs, "targets": targets}, _ignored(inputs, targets)


def _regression() -> tuple[nn.Module, Batch, Batch]:
    inputs, targets = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    return (
        nn.Linear(5, 2).double(),
        {"inputs": inputs, "targets": targets},
        {
            "inputs": inputs[:0],
            "targets": targets[:0],
        },
    )


def _ignored(inputs: Tensor, targets: Tensor) -> Batch:
    return {"inputs": inputs, "targets": torch.full_like(targets, -100)}


CASES: Mapping[str, Case] = {
    "next-token": _next_token,
    "classification": _classification,
    "regression": _regression,
    "binary": _binary,
    "sequence-to-sequence": _sequence_to_sequence,
    "preference": _preference,
}
