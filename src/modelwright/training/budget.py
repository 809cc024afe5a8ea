"""Budget: how long to train, turned once into a number of steps."""

from __future__ import annotations

import math

import torch

from modelwright.base.errors import ModelwrightError
from modelwright.data import Dataset
from modelwright.data.batches import read
from modelwright.training.settings import Budget

_NOISE = 1e-9
_LOOKED_AT = 16  # samples, to see whether they are of one length


def steps_of(budget: Budget, *, batch: int, dataset: Dataset, step_seconds: float | None = None) -> int:
    """Number of steps that a budget buys; at least one.

    Args:
        budget: steps, samples, tokens, epochs or time.
        batch: samples per step.
        dataset: the training data: its length and the tokens of a sample.
        step_seconds: measured seconds of one step; a time budget needs it.

    Raises:
        ModelwrightError: a token budget for data that has no tokens.
    """
    if budget.steps is not None:
        return budget.steps
    if budget.samples is not None:
        return max(1, math.ceil(budget.samples / batch))
    if budget.epochs is not None:
        # Whole samples of the last pass count; 0.1 and its like are no exact numbers.
        return max(1, math.ceil(budget.epochs * len(dataset) / batch * (1 - _NOISE)))
    if budget.tokens is not None:
        return max(1, math.ceil(budget.tokens / (batch * _tokens(dataset))))
    if step_seconds is None or budget.time is None:
        raise ModelwrightError("a time budget needs a measured step time")
    return max(1, round(budget.time / step_seconds))


def tokens_per_sample(dataset: Dataset) -> int | None:
    """Tokens in one sample, or ``None`` where the inputs are not sequences of tokens, all of one length."""
    inputs = read(dataset, [0]).get("inputs")
    if inputs is None or inputs.ndim != 2 or inputs.dtype != torch.int64:
        return None
    some = range(0, len(dataset), -(-len(dataset) // _LOOKED_AT))
    if any(read(dataset, [place])["inputs"].shape != inputs.shape for place in some):
        return None
    return int(inputs.shape[1])


def _tokens(dataset: Dataset) -> int:
    tokens = tokens_per_sample(dataset)
    if tokens is None:
        raise ModelwrightError(
            "a budget in tokens needs data made of tokens, in samples of one length",
            where="budget.tokens",
            remedy="give the budget in steps, samples, epochs or time",
        )
    return tokens
