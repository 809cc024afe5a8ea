"""Cross-entropy of a linear head, some rows of logits at a time: the full logits never exist.

The loss of a language model needs logits ``[tokens, vocabulary]``, mostly the largest tensors of the whole step. Here
some rows of them are made, used for loss and gradients, and overwritten by the next.

Sources: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models" (arXiv:2411.09009); Hsu et al. 2024,
"Liger Kernel" (arXiv:2410.10989), for making the gradients in the forward pass, where the logits are at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from modelwright.base.errors import ModelwrightError
from modelwright.objectives.cross_entropy import check_targets, cross_entropies, softmax_errors_, widened_type
from modelwright.objectives.fields import IGNORED

# Bytes of logits that exist at a time, and rows that make the products worth their while, where nobody says: on a CPU
# measured (``benchmarks/memory.md``), on other devices from the sizes of their caches and launches.
_BYTES = {"cpu": 8 * 2**20}
_LEAST_ROWS = {"cpu": 128}
_OTHER_BYTES, _OTHER_LEAST_ROWS = 256 * 2**20, 512


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """``logits = features @ weight.T + bias``, computed in ``dtype``.

    Attributes:
        weight: ``[vocabulary, width]``.
        bias: ``[vocabulary]``, or none.
        dtype: in which the products are made; losses and sums of gradients are float32, or float64 where this is.
        chunk: bytes of logits that exist at a time; ``None``: as suits the device.
    """

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    chunk: int | None = None

    @classmethod
    def of(
        cls, features: Tensor, weight: Tensor, bias: Tensor | None = None, *, chunk: int | None = None
    ) -> LinearHead:
        """The head for such features, in the type that ``torch.nn.functional.linear`` would compute in here."""
        return cls(weight=weight, bias=bias, dtype=_computing_type(features, weight), chunk=chunk)

    def logits(self, features: Tensor) -> Tensor:
        """All of them: ``[..., width]`` -> ``[..., vocabulary]``."""
        bias = None if self.bias is None else self.bias.to(self.dtype)
        with exactly(features.device):
            return functional.linear(features.to(self.dtype), self.weight.to(self.dtype), bias)

    def rows(self) -> int:
        """Rows of a chunk."""
        vocabulary, device = len(self.weight), self.weight.device.type
        row = vocabulary * self.dtype.itemsize
        if self.chunk is not None:
            return max(1, self.chunk // row)
        return max(_BYTES.get(device, _OTHER_BYTES) // row, _LEAST_ROWS.get(device, _OTHER_LEAST_ROWS))


@dataclass(frozen=True)
class Computing:
    """How a loss is computed, beside its tensors.

    Attributes:
        dtype: as of a :class:`LinearHead`.
        chunk: the same.
        smoothing: of labels.
    """

    dtype: torch.dtype
    chunk: int | None
    smoothing: float

    def head(self, weight: Tensor, bias: Tensor | None) -> LinearHead:
        """The head with these tensors."""
        return LinearHead(weight=weight, bias=bias, dtype=self.dtype, chunk=self.chunk)


def linear_cross_entropy_total(
    features: Tensor, head: LinearHead, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropies of ``head.logits(features)`` over valid targets, in nats, without these logits.

    The gradients are made in the forward pass, so this costs no more products than the plain way; it can be
    differentiated once.

    Args:
        features: ``[..., width]``.
        targets: int64 ``[...]``; -100 is not counted.
        label_smoothing: the share of a target that is spread evenly over the vocabulary.

    Raises:
        ModelwrightError: a target is no class (found on CPU).
    """
    tensors = (features, head.weight, head.bias, targets)
    if has_torch_function(tensors):  # as where ranks hold pieces of them
        how = Computing(head.dtype, head.chunk, label_smoothing)
        return handle_torch_function(flat_total, tensors, *tensors, how)
    if head.dtype == torch.float16 or not _differentiated(features, head):
        # Unscaled, a float16 gradient would vanish: there it is made in the backward pass, behind the loss scale.
        return linear_cross_entropies(features, head, targets, label_smoothing=label_smoothing).sum()
    rows, wanted = _rows(features, head, targets)
    total: Tensor = _Total.apply(rows, head.weight, head.bias, wanted, head, label_smoothing)  # type: ignore[no-untyped-call]
    return total


def linear_cross_entropies(
    features: Tensor, head: LinearHead, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each target, in the shape of ``targets``: 0 where it is -100.

    The logits are made again in the backward pass, which costs a third more than
    :func:`linear_cross_entropy_total` and lets every loss have a weight of its own.
    """
    tensors = (features, head.weight, head.bias, targets)
    if has_torch_function(tensors):
        how = Computing(head.dtype, head.chunk, label_smoothing)
        return handle_torch_function(flat_losses, tensors, *tensors, how)
    rows, wanted = features.flatten(0, -2), targets.flatten()
    check_targets(wanted, len(head.weight))
    losses: Tensor = _Losses.apply(rows, head.weight, head.bias, wanted, head, label_smoothing)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


def flat_total(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Computing) -> Tensor:
    """:func:`linear_cross_entropy_total` with its tensors side by side, for a ``TorchFunctionMode`` to see them."""
    return linear_cross_entropy_total(features, how.head(weight, bias), targets, label_smoothing=how.smoothing)


def flat_losses(features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Computing) -> Tensor:
    """:func:`linear_cross_entropies` in the same way."""
    return linear_cross_entropies(features, how.head(weight, bias), targets, label_smoothing=how.smoothing)


def chunks(features: Tensor, head: LinearHead) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows of ``features [rows, width]``, with the logits of each; not differentiable."""
    weight = head.weight.detach().to(head.dtype)
    bias = None if head.bias is None else head.bias.detach().to(head.dtype)
    size = head.rows()
    for start in range(0, len(features), size):
        part = features[start : start + size].detach().to(head.dtype)
        with torch.no_grad(), exactly(features.device):
            yield slice(start, start + len(part)), functional.linear(part, weight, bias)


class _Gradients:
    """Gradients by features, weight and bias, summed chunk by chunk in float32 or more; ``None`` where unwanted."""

    def __init__(self, features: Tensor, head: LinearHead, wanted: tuple[bool, ...]) -> None:
        dtype = widened_type(head.dtype)
        self._head = head.weight.detach().to(head.dtype)
        self.features = torch.empty_like(features) if wanted[0] else None
        self.weight = torch.zeros_like(head.weight, dtype=dtype) if wanted[1] else None
        self.bias = torch.zeros(len(head.weight), dtype=dtype, device=features.device) if wanted[2] else None

    def add(self, part: slice, features: Tensor, errors: Tensor) -> None:
        """Take in the gradients by the logits of some rows."""
        if self.features is not None:
            self.features[part] = errors @ self._head
        if self.weight is not None:
            _add_product_(self.weight, errors.t(), features[part].to(errors.dtype))
        if self.bias is not None:
            self.bias += errors.sum(0, dtype=self.bias.dtype)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """In the order of a head's arguments."""
        return self.features, self.weight, self.bias


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: LinearHead, s: float
    ) -> Tensor:
        gradients = _Gradients(features, head, ctx.needs_input_grad[:3])
        losses = torch.zeros(len(features), dtype=widened_type(head.dtype), device=features.device)
        with exactly(features.device):
            for part, logits in chunks(features, head):
                losses[part] = softmax_errors_(logits, targets[part], s)
                gradients.add(part, features, logits)
        ctx.save_for_backward(*gradients.tensors())
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (features, weight, bias)]
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if tensor is None else (tensor * upstream[0]).to(dtype) for tensor, dtype in gradients]
        return (*scaled, None, None, None)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: LinearHead, s: float
    ) -> Tensor:
        ctx.save_for_backward(features, weight, bias, targets)
        ctx.head, ctx.smoothing = (head.dtype, head.chunk), s
        losses = torch.zeros(len(features), dtype=widened_type(head.dtype), device=features.device)
        for part, logits in chunks(features, head):
            losses[part] = cross_entropies(logits, targets[part], label_smoothing=s)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        features, weight, bias, targets = ctx.saved_tensors
        head = LinearHead(weight=weight, bias=bias, dtype=ctx.head[0], chunk=ctx.head[1])
        gradients = _Gradients(features, head, ctx.needs_input_grad[:3])
        with exactly(features.device):
            for part, logits in chunks(features, head):
                softmax_errors_(logits, targets[part], ctx.smoothing, upstream[0][part])
                gradients.add(part, features, logits)
        inputs = zip(gradients.tensors(), (features, weight, bias), strict=True)
        typed = [None if tensor is None else tensor.to(like.dtype) for tensor, like in inputs]
        return (*typed, None, None, None)


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():  # so it is in a backward pass whose graph is kept
        raise ModelwrightError(
            "the loss of chunked logits can be differentiated once only",
            where="objective.logits",
            remedy="set objective.logits to full",
        )


def _rows(features: Tensor, head: LinearHead, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[rows, width]`` and their targets; on a CPU, where counting waits for nobody, only the valid ones."""
    rows, wanted = features.flatten(0, -2), targets.flatten()
    check_targets(wanted, len(head.weight))
    if features.device.type != "cpu":
        return rows, wanted
    valid = (wanted != IGNORED).nonzero()[:, 0]
    if len(valid) == len(wanted):
        return rows, wanted
    return rows.index_select(0, valid), wanted.index_select(0, valid)


def _differentiated(features: Tensor, head: LinearHead) -> bool:
    inputs = (features, head.weight, head.bias)
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, autocast changes no type; the meta device has none."""
    knows = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if knows else nullcontext()


def _computing_type(features: Tensor, weight: Tensor) -> torch.dtype:
    dtype, device = torch.promote_types(features.dtype, weight.dtype), features.device.type
    knows_autocast = torch.amp.is_autocast_available(device)  # the meta device does not
    if dtype == torch.float64 or not (knows_autocast and torch.is_autocast_enabled(device)):
        return dtype
    return torch.get_autocast_dtype(device)


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``; short factors give a product that is as short, but it is added in ``total``'s type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
