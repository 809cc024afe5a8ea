"""Causal self-attention with rotary positions and grouped queries, and the choice of its kernel."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError

Kernel = Literal["sdpa", "explicit"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


class Attention(nn.Module):
    """Causal self-attention: ``x [batch, time, width] -> [batch, time, width]``.

    Grouped queries (Ainslie et al. 2023, arXiv:2305.13245): several heads of the query share one head of key
    and value. Rotary positions (Su et al. 2021, arXiv:2104.09864). Optionally query and key are normalised
    before the rotation (Henry et al. 2020, arXiv:2010.04245), which bounds the scores whatever the optimizer
    does.

    The kernels compute the same: ``sdpa`` is torch's fused one; ``explicit`` is the textbook formula in four
    operators, which on CPUs with bfloat16 matrix units is often the faster one. The latter keeps scores
    ``[batch, heads, time, time]`` and, under bfloat16 autocast on CPU, rounds them to bfloat16 (the softmax
    still sums in float32).

    Args:
        width: width of the residual stream.
        heads: heads of the query; divides ``width``, and ``width / heads`` is even.
        kv_heads: heads of key and value; divides ``heads``.
        qk_norm: normalise query and key per head.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_width = width // heads
        self.kernel: Kernel = "sdpa"
        self.query = nn.Linear(width, heads * self.head_width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(heads * self.head_width, width, bias=False)
        self.query_norm = HeadNorm(heads) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(kv_heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Mix ``x [batch, time, width]`` over time; ``rotation`` is that of :func:`rotations`."""
        query = rotate(self.query_norm(self._split(self.query(x))), rotation)
        key = rotate(self.key_norm(self._split(self.key(x))), rotation)
        attend = _sdpa if self.kernel == "sdpa" else _explicit
        mixed = attend(query.transpose(1, 2), key.transpose(1, 2), self._split(self.value(x)).transpose(1, 2))
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_width)


class HeadNorm(nn.Module):
    """Give each head of ``x [batch, time, heads, head_width]`` root mean square ``weight [heads]``.

    Written out, with one weight a head, because on CPU in bfloat16 this takes half the time of
    ``nn.RMSNorm``, which moreover warns that input and weight differ in dtype. The weight is no matrix, so that
    optimizers neither decay nor orthogonalise it.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor) -> Tensor:
        """``x [batch, time, heads, head_width]`` -> the same shape and dtype."""
        # That of bfloat16 would be as large as a fresh query's mean square: another function than in float32.
        eps = min(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return x * (scale * self.weight.to(x.dtype).unsqueeze(-1))


def rotations(time: int, head_width: int, base: float, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines ``[time, 1, head_width]`` of the rotary angles, on the device of ``like``.

    They are float64 where ``like`` is, else float32: positions are lost in bfloat16. Computed anew in each
    forward
    pass: that costs nothing beside the pass, works for any length, and leaves no buffer that a model built on
    the meta device would have to fill.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    halves = torch.arange(head_width // 2, dtype=dtype, device=like.device)
    frequencies = torch.exp(halves * (-2 * math.log(base) / head_width))
    angles = torch.outer(torch.arange(time, dtype=dtype, device=like.device), frequencies).unsqueeze(1)
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat((cosines, cosines), dim=-1), torch.cat((-sines, sines), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs ``(i, i + head_width / 2)`` of ``x [batch, time, heads, head_width]``; keeps the dtype."""
    cosines, sines = rotation[0].to(x.dtype), rotation[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosines, torch.cat((second, first), dim=-1), sines)


def set_attention(model: nn.Module, kernel: str) -> int:
    """Set the kernel of every :class:`Attention` in ``model``; how many there are.

    Raises:
        ModelwrightError: no such kernel.
    """
    if kernel not in KERNELS:
        raise ModelwrightError(f"there is no attention kernel '{kernel}'", remedy=f"known: {', '.join(KERNELS)}")
    found = [module for module in model.modules() if isinstance(module, Attention)]
    for module in found:
        module.kernel = kernel
    return len(found)


def attention_kernels(model: nn.Module) -> tuple[str, ...]:
    """The kernels ``model`` can choose from; empty where it offers no choice."""
    return KERNELS if any(isinstance(module, Attention) for module in model.modules()) else ()


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``query [batch, heads, time, head_width]``, key and value ``[batch, kv_heads, time, head_width]``."""
    grouped = query.size(1) != key.size(1)
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


def _explicit(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    batch, heads, time, head_width = query.shape
    flat_key = _share(key, heads).flatten(0, 1)
    flat_value = _share(value, heads).flatten(0, 1)
    # One operator scales, multiplies and masks: fewer passes over the largest tensor of the block.
    mask = query.new_full((time, time), -math.inf).triu(1)
    scores = torch.baddbmm(mask, query.flatten(0, 1), flat_key.transpose(1, 2), alpha=head_width**-0.5)
    mixed = torch.bmm(functional.softmax(scores, dim=-1), flat_value)
    return mixed.view(batch, heads, time, head_width)


def _share(x: Tensor, heads: int) -> Tensor:
    return x if x.size(1) == heads else x.repeat_interleave(heads // x.size(1), dim=1)
