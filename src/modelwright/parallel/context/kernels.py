"""Attention of some queries to some keys, with the log-sum-exp that lets several such blocks be joined.

A kernel has a forward pass, which gives outputs and log-sum-exp, and a backward pass that takes the outputs and
log-sum-exp of *all* blocks: with them the gradients of a block are its share of the whole gradients (Dao et al. 2022,
arXiv:2205.14135).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

_aten = torch.ops.aten
_SHORT = (torch.float16, torch.bfloat16)
_WIDEST_HEAD = 256  # of torch's flash kernel
_ROWS_OF_SUMS = 32  # the memory-efficient kernel pads its log-sum-exp to a multiple of so many rows


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the queries of one block see of its keys.

    Attributes:
        scale: of the scores.
        diagonal: query i sees the keys up to ``i + diagonal``; ``None``: all.
        mask: bool (false is hidden) or added to the scores, broadcasts to ``[batch, heads, queries, keys]``.
        dropout: of the shares in which values are mixed.
        seed: of the dropout.
    """

    scale: float
    diagonal: int | None = None
    mask: Tensor | None = None
    dropout: float = 0.0
    seed: int = 0


class Found(NamedTuple):
    """Outputs of a block ``[batch, heads, queries, width]``, log-sum-exp ``[batch, heads, queries]``, kernel's own."""

    outputs: Tensor
    sums: Tensor
    rest: tuple[Any, ...] = ()


class Gradients(NamedTuple):
    """Those of a block; by the mask only where the kernel takes one that wants it."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None


class Kernel(Protocol):
    """Computes a block: query ``[batch, heads, queries, width]``, key and value ``[batch, kv_heads, keys, width]``."""

    def fits(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
        """Whether it computes these."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Found:
        """Outputs and log-sum-exp."""

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Found, sight: Sight
    ) -> Gradients:
        """Gradients by the block's tensors, where ``whole`` is of all blocks."""


def kernel_for(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Kernel:
    """The fastest that fits."""
    return next(kernel for kernel in KERNELS if kernel.fits(query, key, value, sight))


class WrittenOut:
    """The formula, operator by operator, for anything; the scores of the block exist. The reference."""

    def fits(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
        """Always."""
        return True

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Found:
        """See :class:`Kernel`."""
        scores = _scores(query, key, sight)
        sums = scores.logsumexp(-1)
        shares = _shares(scores, sums)
        if sight.dropout:
            shares = shares * _kept(shares, sight)
        return Found(_mixed(shares.to(value.dtype), value), sums)

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Found, sight: Sight
    ) -> Gradients:
        """See :class:`Kernel`."""
        shares = _shares(_scores(query, key, sight), whole.sums)
        kept = _kept(shares, sight) if sight.dropout else None
        dropped = shares if kept is None else shares * kept
        groups = query.size(1) // key.size(1)
        by_value = _over_groups(dropped.to(value.dtype), groups).mT @ _over_groups(upstream, groups)
        by_shares = _mixed(upstream, value.mT).to(shares.dtype)
        by_shares = by_shares if kept is None else by_shares * kept
        delta = (upstream.to(shares.dtype) * whole.outputs.to(shares.dtype)).sum(-1, keepdim=True)
        by_scores = shares * (by_shares - delta)
        scaled = (by_scores * sight.scale).to(query.dtype)
        by_key = _over_groups(scaled, groups).mT @ _over_groups(query, groups)
        wanted = sight.mask is not None and sight.mask.is_floating_point()
        by_mask = by_scores.sum_to_size(_aligned(sight.mask)) if wanted and sight.mask is not None else None
        return Gradients(_mixed(scaled, key), by_key, by_value, by_mask)


class CpuFlash:
    """torch's flash kernel of the CPU."""

    def fits(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
        """No mask, no dropout."""
        return query.device.type == "cpu" and _plain(query, key, value, sight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Found:
        """See :class:`Kernel`."""
        key, value = _shared(query, key), _shared(query, value)
        causal = sight.diagonal is not None
        outputs, sums = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=sight.scale
        )
        return Found(outputs, sums)

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Found, sight: Sight
    ) -> Gradients:
        """See :class:`Kernel`."""
        found = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            upstream,
            query,
            _shared(query, key),
            _shared(query, value),
            whole.outputs,
            whole.sums,
            0.0,
            sight.diagonal is not None,
            scale=sight.scale,
        )
        return _summed(found, key)


class CudaFlash:
    """torch's flash kernel of CUDA devices, for 16-bit types."""

    def fits(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
        """No mask, no dropout, and heads as it likes them."""
        usual = query.dtype in _SHORT and query.size(-1) % 8 == 0 and query.size(-1) <= _WIDEST_HEAD
        enabled = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        return query.is_cuda and enabled and usual and _plain(query, key, value, sight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Found:
        """See :class:`Kernel`."""
        key, value = _shared(query, key), _shared(query, value)
        causal = sight.diagonal is not None
        outputs, sums, *rest = _aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=sight.scale
        )
        return Found(outputs, sums, tuple(rest))

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Found, sight: Sight
    ) -> Gradients:
        """See :class:`Kernel`."""
        starts_query, starts_key, _, _, seed, offset = whole.rest[:6]
        found = _aten._scaled_dot_product_flash_attention_backward(
            upstream,
            query,
            _shared(query, key),
            _shared(query, value),
            whole.outputs,
            whole.sums,
            starts_query,
            starts_key,
            query.size(2),
            key.size(2),
            0.0,
            sight.diagonal is not None,
            seed,
            offset,
            scale=sight.scale,
        )
        return _summed(found, key)


class CudaEfficient:
    """torch's memory-efficient kernel of CUDA devices, for float32 too."""

    def fits(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
        """No mask, no dropout, and rows of 16 bytes."""
        usual = query.dtype in (*_SHORT, torch.float32) and query.size(-1) * query.itemsize % 16 == 0
        enabled = torch.backends.cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
        return query.is_cuda and enabled and usual and _plain(query, key, value, sight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Found:
        """See :class:`Kernel`."""
        key, value = _shared(query, key), _shared(query, value)
        causal = sight.diagonal is not None
        outputs, sums, *rest = _aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=sight.scale
        )
        return Found(outputs, sums[..., : query.size(2)], tuple(rest))

    def backward(
        self, upstream: Tensor, query: Tensor, key: Tensor, value: Tensor, whole: Found, sight: Sight
    ) -> Gradients:
        """See :class:`Kernel`."""
        padding = -query.size(2) % _ROWS_OF_SUMS
        found = _aten._scaled_dot_product_efficient_attention_backward(
            upstream,
            query,
            _shared(query, key),
            _shared(query, value),
            None,
            whole.outputs,
            functional.pad(whole.sums, (0, padding), value=math.inf),
            *whole.rest[:2],
            0.0,
            [True, True, True, False],
            sight.diagonal is not None,
            scale=sight.scale,
        )
        return _summed(found[:3], key)


KERNELS: tuple[Kernel, ...] = (CudaFlash(), CudaEfficient(), CpuFlash(), WrittenOut())


def _plain(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> bool:
    """What fused kernels ask for: everything is seen, or a square block up to its diagonal."""
    square = sight.diagonal is None or (sight.diagonal == 0 and query.size(2) == key.size(2))
    same = query.size(-1) == key.size(-1) == value.size(-1)
    filled = min(query.numel(), key.numel()) > 0
    return square and same and filled and query.dim() == 4 and sight.mask is None and not sight.dropout


def _scores(query: Tensor, key: Tensor, sight: Sight) -> Tensor:
    """``[batch, heads, queries, keys]``, in float32 or more."""
    scores = _mixed(query, key.mT)
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * sight.scale
    if sight.mask is not None and sight.mask.dtype == torch.bool:
        scores = scores.masked_fill(~sight.mask, -math.inf)
    elif sight.mask is not None:
        scores = scores + sight.mask
    if sight.diagonal is not None:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(sight.diagonal + 1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores


def _shares(scores: Tensor, sums: Tensor) -> Tensor:
    """Softmax by its log-sum-exp; zeros where nothing is seen."""
    return (scores - sums.masked_fill(sums == -math.inf, 0).unsqueeze(-1)).exp()


def _kept(shares: Tensor, sight: Sight) -> Tensor:
    """Zero, or what makes up for the zeros; the same whenever it is asked for."""
    generator = torch.Generator(shares.device).manual_seed(sight.seed)
    kept = torch.empty_like(shares).bernoulli_(1 - sight.dropout, generator=generator)
    return kept / max(1 - sight.dropout, torch.finfo(kept.dtype).tiny)


def _over_groups(x: Tensor, groups: int) -> Tensor:
    """Heads that share a key, one after the other: ``[batch, kv_heads, groups * queries, ...]``."""
    return x if groups == 1 else x.reshape(x.size(0), -1, groups * x.size(2), x.size(3))


def _mixed(rows: Tensor, shared: Tensor) -> Tensor:
    """``rows @ shared``, where ``shared`` may have fewer heads."""
    groups, queries = rows.size(1) // shared.size(1), rows.size(2)
    if groups == 1:
        return rows @ shared
    mixed = _over_groups(rows, groups) @ shared
    return mixed.view(rows.size(0), rows.size(1), queries, mixed.size(-1))


def _shared(query: Tensor, x: Tensor) -> Tensor:
    return x if x.size(1) == query.size(1) else x.repeat_interleave(query.size(1) // x.size(1), dim=1)


def _summed(gradients: Any, key: Tensor) -> Gradients:
    """Over the heads of the query that share one of the key."""
    by_query, by_key, by_value = gradients
    if by_key.size(1) == key.size(1):
        return Gradients(by_query, by_key, by_value)
    groups = by_key.size(1) // key.size(1)
    return Gradients(by_query, by_key.unflatten(1, (-1, groups)).sum(2), by_value.unflatten(1, (-1, groups)).sum(2))


def _aligned(mask: Tensor | None) -> tuple[int, ...]:
    shape = () if mask is None else tuple(mask.shape)
    return (1,) * (4 - len(shape)) + shape
