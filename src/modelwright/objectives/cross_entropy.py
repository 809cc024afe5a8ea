"""Cross-entropy of logits that exist: one loss for each target, and a gradient that is made block by block.

torch's own keeps ``log_softmax`` of all logits, in float32, for the backward pass, and walks over memory several times.
Here a few rows at a time go through the cache, and only the logits are kept, in their own type: on a CPU in bfloat16
about half of the memory and of the time (``benchmarks/memory.md``). Elsewhere torch's own is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.fields import IGNORED, widened

_BLOCK = 2**18  # numbers that go through a core's cache at once: measured over 2**16 .. 2**20
_SMALL = 2**16  # numbers below which the bookkeeping costs more than it saves


def cross_entropy_total(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Sum of ``-log softmax(logits)[target]`` over valid targets, in nats; at least in float32.

    Args:
        logits: ``[..., classes]``.
        targets: int64 ``[...]``; -100 is not counted.
        label_smoothing: the share of a target that is spread evenly over all classes.

    Raises:
        ModelwrightError: a target is no class (found on CPU; a GPU stops with an assertion of its own).
    """
    if _is_small(logits) and not transformed():
        return _small_total(logits.flatten(0, -2), targets.flatten(), label_smoothing)
    return cross_entropies(logits, targets, label_smoothing=label_smoothing).sum()


def cross_entropies(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each target, in the shape of ``targets``: 0 where it is -100. See :func:`cross_entropy_total`."""
    check_targets(targets, logits.shape[-1])
    rows, flat = logits.flatten(0, -2), targets.flatten()
    losses: Tensor = _chosen(rows)(rows, flat, label_smoothing)
    return losses.view(targets.shape)


def check_targets(targets: Tensor, classes: int) -> None:
    """Each target is a class or -100; looked at on the CPU only, where it needs no waiting for a device.

    Raises:
        ModelwrightError: naming the first one that is neither.
    """
    if targets.device.type != "cpu" or transformed():
        return
    wrong = ((targets < 0) | (targets >= classes)) & (targets != IGNORED)
    if bool(wrong.any()):
        raise ModelwrightError(
            f"a target is outside of the model's {classes} classes: {int(targets[wrong][0])}",
            remedy="give the model as many outputs as the data has classes or tokens",
        )


def softmax_errors_(logits: Tensor, targets: Tensor, smoothing: float, scale: Tensor | None = None) -> Tensor:
    """Turn logits ``[rows, classes]`` into their gradients, in place; returns the losses ``[rows]``.

    Args:
        targets: int64 ``[rows]``.
        scale: ``[rows]``, what each row's gradient is multiplied with.
    """
    losses = torch.empty(len(logits), dtype=widened_type(logits.dtype), device=logits.device)
    for start, end in _blocks(logits):
        block, wanted = logits[start:end], targets[start:end]
        logs = widened(block).log_softmax(-1)
        losses[start:end] = _negative_logs(logs, wanted, smoothing)
        errors = _minus_targets_(logs.exp_(), wanted, smoothing)
        block.copy_(errors if scale is None else errors.mul_(scale[start:end, None]))
    return losses


def widened_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which probabilities and sums are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def transformed() -> bool:
    """Whether this runs inside of a transform of ``torch.func``, which reads no values and takes no new functions."""
    return bool(torch._C._are_functorch_transforms_active())


class _Blockwise(torch.autograd.Function):
    """Losses ``[rows]`` from logits ``[rows, classes]``; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.smoothing = smoothing
        parts = [_whole(logits[start:end], targets[start:end], smoothing) for start, end in _blocks(logits)]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        if torch.is_grad_enabled():
            errors = _recorded_errors(logits, targets, ctx.smoothing)
            return (errors * upstream[0][:, None]).to(logits.dtype), None, None
        gradient = torch.empty_like(logits)
        for start, end in _blocks(logits):
            errors = widened(logits[start:end]).softmax(-1)
            errors = _minus_targets_(errors, targets[start:end], ctx.smoothing)
            gradient[start:end] = errors.mul_(upstream[0][start:end, None])
        return gradient, None, None


def _chosen(rows: Tensor) -> Any:
    """By device and size."""
    ordinary = type(rows) in (Tensor, nn.Parameter)  # a class of its own has operators of its own
    if rows.device.type != "cpu" or _is_small(rows) or transformed() or not ordinary:
        return _whole
    return _Blockwise.apply


def _is_small(logits: Tensor) -> bool:
    return logits.device.type == "cpu" and logits.numel() < _SMALL


def _small_total(rows: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """In one operator, which on a CPU finds targets that are no class by itself."""
    try:
        return functional.cross_entropy(
            widened(rows), targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
    except IndexError:
        check_targets(targets, rows.shape[-1])
        raise


def _whole(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(
        widened(logits), targets, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )


def _negative_logs(logs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Losses from logarithms of probabilities ``[rows, classes]``, as torch defines them."""
    losses = -logs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * logs.mean(-1)
    return losses.masked_fill(targets == IGNORED, 0)


def _minus_targets_(probabilities: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Probabilities minus the (smoothed) targets, in place: the gradient of the losses; zero where ignored."""
    if smoothing:
        probabilities.sub_(smoothing / probabilities.shape[-1])
    place = targets.clamp(min=0)[:, None]
    probabilities.scatter_(1, place, probabilities.gather(1, place) - (1 - smoothing))
    ignored = targets == IGNORED
    if ignored.device.type != "cpu" or bool(ignored.any()):
        probabilities.masked_fill_(ignored[:, None], 0)
    return probabilities


def _recorded_errors(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The same with every operation on record, for who differentiates the gradient."""
    probabilities = widened(logits).softmax(-1)
    wanted = torch.full_like(probabilities, smoothing / logits.shape[-1])
    wanted.scatter_(1, targets.clamp(min=0)[:, None], 1 - smoothing + smoothing / logits.shape[-1])
    return (probabilities - wanted) * (targets != IGNORED)[:, None]


def _blocks(logits: Tensor) -> list[tuple[int, int]]:
    count, classes = logits.shape
    rows = max(1, _BLOCK // classes) if logits.device.type == "cpu" else max(1, count)
    return [(start, min(start + rows, count)) for start in range(0, count, rows)] or [(0, 0)]
