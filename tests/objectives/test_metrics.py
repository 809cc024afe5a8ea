from __future__ import annotations

import math

import pytest
import torch

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.metrics.accuracy import Accuracy
from modelwright.objectives.metrics.bits_per_byte import BitsPerByte
from modelwright.objectives.metrics.mean_squared_error import MeanSquaredError
from modelwright.objectives.metrics.perplexity import Perplexity

# Four classes with probabilities 1/2, 1/4, 1/8, 1/8: 1, 2, 3 and 3 bits.
LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)).expand(2, 3, 4)
TARGETS = torch.tensor([[0, 1, 2], [3, -100, -100]])


def test_bits_per_byte_of_known_probabilities() -> None:
    metric = BitsPerByte()
    metric.update(LOGITS, {"targets": TARGETS, "bytes": torch.tensor([4, 2])})
    assert metric.compute() == pytest.approx((1 + 2 + 3 + 3) / 6, rel=1e-12)


def test_bytes_of_ignored_targets_do_not_count() -> None:
    metric = BitsPerByte()
    metric.update(LOGITS, {"targets": TARGETS, "bytes": torch.tensor([[1, 2, 1], [2, 50, 50]])})
    assert metric.compute() == pytest.approx(9 / 6, rel=1e-12)


def test_perplexity_of_known_probabilities() -> None:
    metric = Perplexity()
    metric.update(LOGITS, {"targets": TARGETS})
    assert metric.compute() == pytest.approx(2 ** (9 / 4), rel=1e-12)
    hopeless = Perplexity()
    hopeless.update(torch.tensor([[2000.0, 0.0]]), {"targets": torch.tensor([1])})
    assert hopeless.compute() == math.inf


def test_accuracy_leaves_out_ignored_targets() -> None:
    metric = Accuracy()
    metric.update(LOGITS, {"targets": TARGETS})
    assert metric.compute() == 1 / 4


def test_mean_squared_error_is_over_all_numbers() -> None:
    metric = MeanSquaredError()
    metric.update(torch.zeros(2, 2), {"targets": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    assert metric.compute() == 30 / 4


def test_sums_of_many_batches_keep_float64_digits() -> None:
    metric = MeanSquaredError()
    for _ in range(2000):
        metric.update(torch.zeros(1, dtype=torch.float64), {"targets": torch.tensor([math.sqrt(0.1)]).double()})
    expected = torch.tensor([math.sqrt(0.1)]).double().item() ** 2
    assert metric.compute() == pytest.approx(expected, rel=1e-12)


def test_a_missing_field_is_explained() -> None:
    with pytest.raises(ModelwrightError, match="metric bits-per-byte needs 'bytes'"):
        BitsPerByte().update(LOGITS, {"targets": TARGETS})
    with pytest.raises(ModelwrightError, match=r"shape \[2, 3, 4\].*expects \[2, 'classes'\]"):
        Accuracy().update(LOGITS, {"targets": TARGETS[:, 0]})
