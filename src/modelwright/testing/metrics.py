"""The contract of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.objectives import METRICS, Metric
from modelwright.objectives.preference import Rewards
from modelwright.testing.contract import Contract

Batch = dict[str, Tensor]
Case = Callable[[], tuple[Any, Batch]]


class MetricContract(Contract):
    """A metric gives the same number however its samples were split over batches and ranks.

    Its techniques are classes, or other callables without arguments, that return a new metric.

    Attributes:
        cases: for each metric by name, a function that returns outputs, a tensor or a dataclass of tensors, and a
            batch of at least 4 samples.
    """

    family: ClassVar[Family] = METRICS
    cases: ClassVar[Mapping[str, Case]] = {}

    @classmethod
    def default(cls, name: str) -> Callable[[], Metric]:
        """The listed class."""
        return cls.family.resolve(name)

    def case(self, name: str) -> tuple[Any, Batch]:
        """Outputs and batch of a metric."""
        known = {**CASES, **self.cases}
        if name not in known:
            pytest.fail(f"the metric '{name}' has no case: add one to `cases`")
        torch.manual_seed(0)
        return known[name]()

    def test_merged_parts_are_the_whole(self, name: str, technique: Callable[[], Metric]) -> None:
        """Parts of unequal sizes, as separate batches of one metric and as two metrics merged."""
        outputs, batch = self.case(name)
        whole, batches, first, second = technique(), technique(), technique(), technique()
        whole.update(outputs, batch)
        for metric, cut in ((first, slice(0, 1)), (second, slice(1, None))):
            part = {key: value[cut] for key, value in batch.items()}
            metric.update(_each(outputs, cut), part)
            batches.update(_each(outputs, cut), part)
        first.merge(second)
        assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)
        assert batches.compute() == pytest.approx(whole.compute(), rel=1e-12)

    def test_states_are_sums_or_rows(self, name: str, technique: Callable[[], Metric]) -> None:
        """So ranks send these instead of metrics: what is merged is the sum of both, or both one after the other."""
        outputs, batch = self.case(name)
        one, other, merged = technique(), technique(), technique()
        one.update(outputs, batch)
        other.update(_each(outputs, slice(0, 2)), {key: value[:2] for key, value in batch.items()})
        merged.load(one.state())
        merged.merge(other)
        for key, value in merged.state().items():
            mine, others = one.state()[key], other.state()[key]
            rows = value.dim() > 0 and len(value) == len(mine) + len(others)
            assert torch.equal(value, torch.cat([mine, others]) if rows else mine + others)

    def test_a_rank_without_samples_changes_nothing(self, name: str, technique: Callable[[], Metric]) -> None:
        """Its state is merged like any other, first or last."""
        outputs, batch = self.case(name)
        whole, first, last = technique(), technique(), technique()
        for metric in (whole, last):
            metric.update(outputs, batch)
        for metric, state in ((first, technique().state()), (first, whole.state()), (last, technique().state())):
            other = technique()
            other.load(state)
            metric.merge(other)
        assert first.compute() == last.compute() == whole.compute()

    def test_state_round_trip(self, name: str, technique: Callable[[], Metric]) -> None:
        """A loaded metric goes on as the saved one, and neither follows the other."""
        outputs, batch = self.case(name)
        saved, loaded = technique(), technique()
        saved.update(outputs, batch)
        loaded.load(saved.state())
        before = saved.compute()
        assert loaded.compute() == before
        loaded.update(_each(outputs, Tensor.neg), batch)
        assert saved.compute() == before
        saved.update(_each(outputs, Tensor.neg), batch)
        assert loaded.compute() == saved.compute()

    def test_nothing_seen_is_an_error(self, technique: Callable[[], Metric]) -> None:
        """Not a number that looks like a result."""
        with pytest.raises(ModelwrightError):
            technique().compute()

    def test_no_gradient_is_kept(self, name: str, technique: Callable[[], Metric]) -> None:
        """Or the graphs of a whole evaluation would stay in memory."""
        outputs, batch = self.case(name)
        metric = technique()
        metric.update(_each(outputs, Tensor.requires_grad_), batch)
        assert not any(value.requires_grad for value in metric.state().values())

    def test_better_is_lower_or_higher(self, technique: type[Metric]) -> None:
        """Choosing the best checkpoint depends on it."""
        assert technique.better in ("lower", "higher")


def _each(outputs: Any, change: slice | Callable[[Tensor], Tensor]) -> Any:
    """Outputs whose tensors are cut or changed."""
    if isinstance(outputs, Tensor):
        return outputs[change] if isinstance(change, slice) else change(outputs)
    if not is_dataclass(outputs) or isinstance(outputs, type):
        pytest.fail("outputs of a case are a tensor, or a dataclass of tensors")
    return replace(outputs, **{field.name: _each(getattr(outputs, field.name), change) for field in fields(outputs)})


def _logits() -> tuple[Tensor, Batch]:
    targets = torch.randint(7, (4, 5))
    targets[0, 2:] = -100
    return torch.randn(4, 5, 7, dtype=torch.float64), {"targets": targets}


def _bits_per_byte() -> tuple[Tensor, Batch]:
    outputs, batch = _logits()
    return outputs, {**batch, "bytes": torch.randint(1, 9, (4, 5))}


def _numbers() -> tuple[Tensor, Batch]:
    return torch.randn(4, 2, dtype=torch.float64), {"targets": torch.randn(4, 2, dtype=torch.float64)}


def _answers() -> tuple[Tensor, Batch]:
    return torch.randn(6, dtype=torch.float64), {"targets": torch.tensor([0, 1, -100, 1, 0, 1])}


def _classes() -> tuple[Tensor, Batch]:
    return torch.randn(8, 3, dtype=torch.float64), {"targets": torch.tensor([0, 1, 2, -100, 2, 1, 0, 1])}


def _rewards() -> tuple[Rewards, Batch]:
    targets = torch.randint(7, (4, 5))
    rewards = Rewards(*torch.randn(2, 4, dtype=torch.float64))
    return rewards, {"chosen_targets": targets, "rejected_targets": targets}


CASES: Mapping[str, Case] = {
    "bits-per-byte": _bits_per_byte,
    "perplexity": _logits,
    "accuracy": _logits,
    "token-accuracy": _logits,
    "top-5-accuracy": _logits,
    "binary-accuracy": _answers,
    "f1": _classes,
    "f1-micro": _classes,
    "f1-binary": _answers,
    "precision": _classes,
    "recall": _classes,
    "auc": _answers,
    "mean-squared-error": _numbers,
    "mean-absolute-error": _numbers,
    "r2": _numbers,
    "preference-accuracy": _rewards,
    "reward-margin": _rewards,
}
