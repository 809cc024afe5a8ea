"""Our loss of a linear head in chunks, where rows, the vocabulary, or both are divided; nothing of size is gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modelwright.objectives.cross_entropy import check_targets, cross_entropies, widened_type
from modelwright.objectives.fields import IGNORED
from modelwright.objectives.linear_cross_entropy import (
    Computing,
    exactly,
    flat_losses,
    flat_total,
)
from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.divided import find_axes, unwrap
from modelwright.parallel.divided.division import Division, axes_of, strip, whole_dim
from modelwright.parallel.divided.local import local_of, whole_of
from modelwright.parallel.divided.registry import FUNCTIONS
from modelwright.parallel.divided.rules.indexing import own_places, run_axis


def total(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Computing) -> Tensor:
    """See :func:`modelwright.objectives.linear_cross_entropy.linear_cross_entropy_total`."""
    axes = find_axes((features, weight, bias, targets))
    if axes is None:
        return flat_total(features, weight, bias, targets, how)
    rows, wanted = features.flatten(0, -2), targets.flatten()
    words = unwrap(weight.detach(), axes).division.dims[0]
    along = run_axis(words)
    taken = axes_of(words) if along else frozenset()
    words = words if along else whole_dim(weight.shape[0])
    places = strip(unwrap(rows.detach(), axes).division.dims[0], taken)
    inner = whole_dim(rows.shape[1])
    here = axes_of(places)
    own_rows = local_of(rows, Division((places, inner)), axes, taken)
    own_weight = local_of(weight, Division((words, inner)), axes, here)
    own_bias = None if bias is None else local_of(bias, Division((words,)), axes, here)
    own_targets = local_of(wanted, Division((places,)), axes)
    if along is None:
        found = flat_total(own_rows, own_weight, own_bias, own_targets, how)
    else:
        check_targets(own_targets, weight.shape[0])
        words_here = _Words(weight.shape[0], along, axes)
        found = _Total.apply(own_rows, own_weight, own_bias, own_targets, how, words_here)  # type: ignore[no-untyped-call]
    return whole_of(found, Division(()), axes, here)


def losses(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Computing) -> Tensor:
    """See :func:`modelwright.objectives.linear_cross_entropy.linear_cross_entropies`; this one has all rows at once."""
    if find_axes((features, weight, bias, targets)) is None:
        return flat_losses(features, weight, bias, targets, how)
    logits = how.head(weight, bias).logits(features)
    return cross_entropies(logits, targets, label_smoothing=how.smoothing)


FUNCTIONS[flat_total] = total
FUNCTIONS[flat_losses] = losses


@dataclass(frozen=True)
class _Words:
    """A vocabulary of which each rank along an axis has a run."""

    size: int
    axis: str
    axes: Axes

    def reduce(self, tensor: Tensor, op: Any = "sum") -> Tensor:
        return self.axes.all_reduce(tensor, self.axis, op)

    def own(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        return own_places(targets, self.size, self.axis, self.axes)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        how: Computing,
        words: _Words,
    ) -> Tensor:
        head, smoothing = how.head(weight, bias), how.smoothing
        wide = widened_type(head.dtype)
        # Unscaled, gradients in float16 would vanish.
        short = wide if head.dtype == torch.float16 else head.dtype
        by_features = torch.zeros_like(features)
        by_weight = torch.zeros_like(weight, dtype=wide)
        by_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        matrix = weight.to(head.dtype)
        found = features.new_zeros((), dtype=wide)
        for start in range(0, len(features), head.rows()):
            part = slice(start, start + head.rows())
            rows = features[part].to(head.dtype)
            with exactly(features.device):
                logits = functional.linear(rows, matrix, None if bias is None else bias.to(head.dtype)).to(wide)
                chunk_losses, errors = _errors(logits, targets[part], smoothing, words)
                found += chunk_losses.sum()
                by_features[part] = errors.to(short) @ matrix.to(short)
                by_weight += errors.to(short).t() @ rows.to(short)
            if by_bias is not None:
                by_bias += errors.sum(0)
        ctx.save_for_backward(by_features, by_weight, by_bias)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (features, weight, bias)]
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if tensor is None else (tensor * upstream[0]).to(dtype) for tensor, dtype in pairs]
        return (*scaled, None, None, None)


def _errors(logits: Tensor, targets: Tensor, smoothing: float, words: _Words) -> tuple[Tensor, Tensor]:
    """Losses of rows, and gradients by the logits of this rank's words."""
    valid = targets != IGNORED
    own, inside = words.own(targets)
    most = words.reduce(logits.amax(-1), "max")
    shares = (logits - most[:, None]).exp_()
    picked = logits.gather(1, own[:, None])[:, 0].masked_fill(~inside, 0)
    sums, picked, all_logits = words.reduce(torch.stack([shares.sum(-1), picked, logits.sum(-1)]))
    found = sums.log() + most - (1 - smoothing) * picked - smoothing / words.size * all_logits
    shares /= sums[:, None]
    shares -= smoothing / words.size
    shares.scatter_add_(1, own[:, None], (inside * (smoothing - 1)).to(shares.dtype)[:, None])
    return found.masked_fill(~valid, 0), shares.masked_fill_(~valid[:, None], 0)
