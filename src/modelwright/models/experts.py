"""A mixture of experts in the place of a feed-forward: each token is worked on by the few that a router chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from modelwright.models.balance import ALONE, Balance, Sharing

Compute = Callable[[Tensor, Tensor], Tensor]
"""Rows ``[rows, width]`` in the order of their experts, and how many there are of each -> the same shape."""


class Weights(NamedTuple):
    """What experts compute with: ``router [experts, width]``, the others ``[experts, in, out]``."""

    router: Tensor
    up: Tensor
    down: Tensor
    gate: Tensor | None


class Experts(nn.Module):
    """``sum over the chosen e of share_e * feed_forward_e(x)``; no token is dropped, however many choose an expert.

    The router works in float32 at least: a softmax over all experts, of which the ``chosen`` largest count. With one
    expert a token its probability is the share, as in Switch (Fedus et al. 2021, arXiv:2101.03961); with more, theirs
    are scaled to the sum 1, as in Mixtral (Jiang et al. 2024, arXiv:2401.04088).

    Args:
        width: of the residual stream.
        hidden: width inside each expert.
        experts: how many there are.
        chosen: how many work on a token.
        gated: each is ``down(silu(gate(x)) * up(x))``, else ``down(gelu(up(x)))``.
        balance: coefficient of the loss that keeps all experts in use; see :mod:`~modelwright.models.balance`.

    Attributes:
        travel: where experts are spread over ranks: called with the rows, their numbers and what computes them here.
    """

    def __init__(
        self, width: int, hidden: int, *, experts: int, chosen: int, gated: bool = True, balance: float = 0.01
    ) -> None:
        super().__init__()
        self.experts, self.chosen = experts, chosen
        self.balance = Balance(balance)
        self.travel: Callable[[Tensor, Tensor, Compute], Tensor] | None = None
        self.router = nn.Linear(width, experts, bias=False)
        self.gate = nn.Parameter(torch.empty(experts, width, hidden)) if gated else None
        self.up = nn.Parameter(torch.empty(experts, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self._initialise()

    @property
    def stacked(self) -> list[str]:
        """Names of the parameters with a row for each expert, ``[experts, in, out]``."""
        return [name for name, parameter in self.named_parameters(recurse=False) if parameter.dim() == 3]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """``x [batch, time, width]`` -> the same shape."""
        return mixed(x, self.router.weight, self.up, self.down, self.gate, self)

    def mix(self, x: Tensor, weights: Weights, sharing: Sharing = ALONE) -> Tensor:
        """The forward with weights that are given: all, or a part of every expert's hidden units.

        Args:
            x: ``[batch, time, width]``, of whole samples or of some of their positions.
            weights: of the experts here, which are all of them unless tokens ``travel``.
            sharing: the ranks that work on the same samples.
        """
        shares, chosen = self.route(x, weights.router, sharing)
        rows = x.flatten(0, -2)
        order = chosen.flatten().argsort(stable=True)  # choices in the order of their experts
        back = order.argsort()
        sent: Tensor = _Sent.apply(rows, order, back, self.chosen)  # type: ignore[no-untyped-call]
        done = self._work(sent, numbers(chosen.flatten(), self.experts), weights)
        done = in_order(done, back).view(len(rows), self.chosen, rows.size(1))
        return (done * shares.flatten(0, -2).unsqueeze(-1).to(done.dtype)).sum(1).view_as(x)

    def route(self, x: Tensor, router: Tensor, sharing: Sharing = ALONE) -> tuple[Tensor, Tensor]:
        """How much each chosen expert counts, and which they are: ``[batch, time, chosen]`` both."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            every = functional.softmax(functional.linear(x.to(wide), router.to(wide)), dim=-1)
            chosen = every.topk(self.chosen, dim=-1).indices
            shares = self.balance(every, chosen, sharing).gather(-1, chosen)
            return (shares if self.chosen == 1 else shares / shares.sum(-1, keepdim=True)), chosen

    def _work(self, rows: Tensor, sizes: Tensor, weights: Weights) -> Tensor:
        def compute(rows: Tensor, sizes: Tensor) -> Tensor:
            return _computed(rows, sizes, weights)

        return compute(rows, sizes) if self.travel is None else self.travel(rows, sizes, compute)

    def _initialise(self) -> None:
        for name in self.stacked:
            parameter = getattr(self, name)
            nn.init.normal_(parameter, std=parameter.size(1) ** -0.5)


def mixed(x: Tensor, router: Tensor, up: Tensor, down: Tensor, gate: Tensor | None, layer: Experts) -> Tensor:
    """:meth:`Experts.forward` with its tensors side by side, for a ``TorchFunctionMode`` to see them."""
    given = (x, router, up, down, gate)
    if has_torch_function(given):  # as where ranks hold pieces of them
        return handle_torch_function(mixed, given, *given, layer)
    return layer.mix(x, Weights(router, up, down, gate))


def _computed(rows: Tensor, sizes: Tensor, weights: Weights) -> Tensor:
    products = Grouped(rows, sizes)
    inner = products(rows, weights.up)
    if weights.gate is None:
        return products(functional.gelu(inner), weights.down)
    return products(functional.silu(products(rows, weights.gate)) * inner, weights.down)


def numbers(chosen: Tensor, experts: int) -> Tensor:
    """How often each expert occurs in ``chosen [choices]``: int64 ``[experts]``."""
    if chosen.is_meta:  # nobody knows: evenly
        return torch.full((experts,), len(chosen) // experts, device="meta", dtype=torch.int64)
    return torch.bincount(chosen, minlength=experts)


class Grouped:
    """Products of rows with the matrix of their expert, rows being in the order of experts.

    On a GPU in bfloat16 it is torch's grouped product: how many rows there are of each expert is never read there.
    Elsewhere it is one product for each expert, in any type, and on a CPU about as fast.

    Args:
        rows: what is multiplied first.
        sizes: how many there are of each expert, int64 ``[experts]``.
        fused: whether to use the grouped product; ``None``: where it is made for.
    """

    def __init__(self, rows: Tensor, sizes: Tensor, fused: bool | None = None) -> None:
        self._dtype = _computing_type(rows)
        self._sizes = sizes
        self._fused = rows.is_cuda and self._dtype == torch.bfloat16 if fused is None else fused
        self._ends = sizes.cumsum(0).to(torch.int32) if self._fused else None
        self._lengths: list[int] | None = None

    def __call__(self, rows: Tensor, weights: Tensor) -> Tensor:
        """``rows [rows, in]``, ``weights [experts, in, out]`` -> ``[rows, out]``."""
        rows, weights = rows.to(self._dtype), weights.to(self._dtype)
        suits = (
            len(rows) > 0 and rows.size(1) % 8 == 0 and weights.size(2) % 8 == 0
        )  # its kernels read 16 bytes at a time
        if self._ends is not None and suits:
            return functional.grouped_mm(rows, weights, offs=self._ends)
        pairs = zip(torch.split(rows, self._read(len(rows))), weights.unbind(), strict=True)
        return torch.cat([some @ weight for some, weight in pairs])

    def _read(self, rows: int) -> list[int]:
        if self._lengths is None:
            sizes = self._sizes
            self._lengths = _even(rows, len(sizes)) if sizes.is_meta else sizes.tolist()
        return self._lengths


def _even(rows: int, groups: int) -> list[int]:
    return [rows // groups + (number < rows % groups) for number in range(groups)]


def _computing_type(rows: Tensor) -> torch.dtype:
    kind = rows.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and rows.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return rows.dtype


class _Sent(torch.autograd.Function):
    """Copies of rows in the order of the choices; back, the choices of a row are summed in one and the same order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.shape = (len(rows), chosen, rows.size(1))
        return rows.index_select(0, order // chosen)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back).view(ctx.shape).sum(1), None, None, None


class _Ordered(torch.autograd.Function):
    """Rows in another order, of which ``back`` is the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


def in_order(rows: Tensor, order: Tensor) -> Tensor:
    """``rows[order]``, ``order`` being a permutation: its gradient is the way back, and no sum."""
    return _Ordered.apply(rows, order, order.argsort())  # type: ignore[no-any-return, no-untyped-call]
