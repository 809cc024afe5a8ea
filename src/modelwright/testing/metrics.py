"""The contract of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.objectives import METRICS, Metric
from modelwright.testing.contract import Contract

Batch = dict[str, Tensor]
Case = Callable[[], tuple[Tensor, Batch]]


class MetricContract(Contract):
    """A metric gives the same number however its samples were split over batches and ranks.

    Its techniques are classes, or other callables without arguments, that return a new metric.

    Attributes:
        cases: for each metric by name, a function that returns outputs and a batch of at least 4 samples.
    """

    family: ClassVar[Family] = METRICS
    cases: ClassVar[Mapping[str, Case]] = {}

    @classmethod
    def default(cls, name: str) -> Callable[[], Metric]:
        """The listed class."""
        return cls.family.resolve(name)

    def case(self, name: str) -> tuple[Tensor, Batch]:
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
            metric.update(outputs[cut], part)
            batches.update(outputs[cut], part)
        first.merge(second)
        assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)
        assert batches.compute() == pytest.approx(whole.compute(), rel=1e-12)

    def test_state_is_additive(self, name: str, technique: Callable[[], Metric]) -> None:
        """Ranks add their states instead of sending metrics to each other."""
        outputs, batch = self.case(name)
        one, twice = technique(), technique()
        one.update(outputs, batch)
        twice.load({key: value + value for key, value in one.state().items()})
        one.merge(one)
        assert one.state() == twice.state()

    def test_state_round_trip(self, name: str, technique: Callable[[], Metric]) -> None:
        """A loaded metric goes on as the saved one, and neither follows the other."""
        outputs, batch = self.case(name)
        saved, loaded = technique(), technique()
        saved.update(outputs, batch)
        loaded.load(saved.state())
        before = saved.compute()
        assert loaded.compute() == before
        loaded.update(-outputs, batch)
        assert saved.compute() == before
        saved.update(-outputs, batch)
        assert loaded.compute() == saved.compute()

    def test_nothing_seen_is_an_error(self, technique: Callable[[], Metric]) -> None:
        """Not a number that looks like a result."""
        with pytest.raises(ModelwrightError):
            technique().compute()

    def test_no_gradient_is_kept(self, name: str, technique: Callable[[], Metric]) -> None:
        """Or the graphs of a whole evaluation would stay in memory."""
        outputs, batch = self.case(name)
        metric = technique()
        metric.update(outputs.requires_grad_(), batch)
        assert not any(value.requires_grad for value in metric.state().values())

    def test_better_is_lower_or_higher(self, technique: type[Metric]) -> None:
        """Choosing the best checkpoint depends on it."""
        assert technique.better in ("lower", "higher")


def _logits() -> tuple[Tensor, Batch]:
    targets = torch.randint(7, (4, 5))
    targets[0, 2:] = -100
    return torch.randn(4, 5, 7, dtype=torch.float64), {"targets": targets}


def _bits_per_byte() -> tuple[Tensor, Batch]:
    outputs, batch = _logits()
    return outputs, {**batch, "bytes": torch.randint(1, 9, (4, 5))}


def _numbers() -> tuple[Tensor, Batch]:
    return torch.randn(4, 2, dtype=torch.float64), {"targets": torch.randn(4, 2, dtype=torch.float64)}


CASES: Mapping[str, Case] = {
    "bits-per-byte": _bits_per_byte,
    "perplexity": _logits,
    "accuracy": _logits,
    "mean-squared-error": _numbers,
}
