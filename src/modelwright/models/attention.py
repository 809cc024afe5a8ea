"""Causal self-attention with rotary positions and grouped queries, and the choice of its kernel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.flex import blocks_within, flex
from modelwright.models.writing.cache import Cache

KERNELS = ("sdpa", "explicit", "flex")
_OF_TRANSFORMERS = {"sdpa": "sdpa", "explicit": "eager"}


class Attention(nn.Module):
    """Causal self-attention: ``x [batch, time, width] -> [batch, time, width]``.

    Grouped queries (Ainslie et al. 2023, arXiv:2305.13245): several heads of the query share one head of key
    and value. Rotary positions (Su et al. 2021, arXiv:2104.09864). Optionally query and key are normalised
    before the rotation (Henry et al. 2020, arXiv:2010.04245), which bounds the scores whatever the optimizer
    does.

    The kernels compute the same: ``sdpa`` is torch's fused one; ``explicit`` is the textbook formula in four
    operators, which on CPUs with bfloat16 matrix units is often the faster one. It keeps scores
    ``[batch, heads, time, time]`` and, under bfloat16 autocast on CPU, rounds them to bfloat16 (the softmax
    still sums in float32). ``flex`` is compiled for a GPU, and there only.

    Args:
        width: width of the residual stream.
        heads: heads of the query; divides ``width``, and ``width / heads`` is even.
        kv_heads: heads of key and value; divides ``heads``.
        qk_norm: normalise query and key per head.
        dropout: dropout of the shares in which values are mixed; ``flex`` has none.

    Attributes:
        kernels: those to choose from.
        kernel: the one chosen; see :func:`set_attention`.
    """

    kernels: tuple[str, ...] = KERNELS

    def __init__(self, width: int, heads: int, kv_heads: int, *, qk_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_width = width // heads
        self.kernel = "sdpa"
        self.dropout = dropout
        if dropout > 0:
            self.kernels = tuple(kernel for kernel in KERNELS if kernel != "flex")
        self.query = nn.Linear(width, heads * self.head_width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(heads * self.head_width, width, bias=False)
        self.query_norm = HeadNorm(heads) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(kv_heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: Cache | None = None,
        layer: int = 0,
        seen: Any = None,
    ) -> Tensor:
        """Mix ``x [batch, time, width]`` over time.

        Args:
            x: what the block reads.
            rotation: that of :func:`rotations`.
            cache: what was read before; the tokens of ``x`` follow it.
            layer: number of this block in the cache.
            seen: what each position sees, without a cache: that of :func:`seen_within` for the kernel; ``None``:
                everything up to itself.
        """
        query = rotate(self.query_norm(self._split(self.query(x))), rotation).transpose(1, 2)
        key = rotate(self.key_norm(self._split(self.key(x))), rotation).transpose(1, 2)
        value = self._split(self.value(x)).transpose(1, 2)
        mixed = self._attend(query, key, value, seen) if cache is None else _recall(query, key, value, cache, layer)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Any) -> Tensor:
        if self.kernel == "flex":
            return flex(query, key, value, seen)
        attend = _sdpa if self.kernel == "sdpa" else _explicit
        return attend(query, key, value, self.dropout if self.training else 0.0, seen)

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
    forward pass: that costs nothing beside the pass, works for any length, and leaves no buffer that a model
    built on the meta device would have to fill.
    """
    return rotations_at(torch.arange(time, device=like.device), head_width, base, like=like)


def rotations_at(positions: Tensor, head_width: int, base: float, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Those of ``positions [..., time]``: ``[..., time, 1, head_width]``."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    halves = torch.arange(head_width // 2, dtype=dtype, device=like.device)
    frequencies = torch.exp(halves * (-2 * math.log(base) / head_width))
    angles = (positions.to(dtype).unsqueeze(-1) * frequencies).unsqueeze(-2)
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat((cosines, cosines), dim=-1), torch.cat((-sines, sines), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs ``(i, i + head_width / 2)`` of ``x [batch, time, heads, head_width]``; keeps the dtype."""
    cosines, sines = rotation[0].to(x.dtype), rotation[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosines, torch.cat((second, first), dim=-1), sines)


def seen_within(segments: Tensor, kernels: Iterable[str]) -> dict[str, Any]:
    """What each position sees where documents are kept apart: its own document, up to itself.

    Args:
        segments: number of the document at each position, int64 ``[batch, time]``.
        kernels: those that are to read it.

    Returns:
        By kernel: bool ``[batch, 1, time, time]``, or the ``BlockMask`` of ``flex``.
    """
    chosen, seen = set(kernels), dict[str, Any]()
    if "flex" in chosen:
        seen["flex"] = blocks_within(segments)
    if others := chosen - {"flex"}:
        same = segments.unsqueeze(-1) == segments.unsqueeze(-2)
        seen |= dict.fromkeys(others, same.tril().unsqueeze(1))
    return seen


def set_attention(model: nn.Module, kernel: str) -> int:
    """Set the kernel of every module of ``model`` that offers it; how many there are.

    A module offers a choice where it has the names ``kernels`` and the one chosen, ``kernel``, as
    :class:`Attention` has; a model of transformers offers ``sdpa`` and ``explicit``, which it calls ``eager``.

    Raises:
        ModelwrightError: no such kernel, or none for this machine.
    """
    choosing = [*_choosing(model), *_of_transformers(model)]
    offered = dict.fromkeys(name for module in choosing for name in _offered(module))
    known = offered or KERNELS
    if kernel not in known:
        raise ModelwrightError(f"there is no attention kernel '{kernel}'", remedy=f"known: {', '.join(known)}")
    if kernel == "flex" and not torch.cuda.is_available():
        raise ModelwrightError(
            "the attention kernel 'flex' needs a GPU, and there is none",
            where="plan.attention",
            remedy="choose sdpa or explicit, or leave plan.attention out",
        )
    return sum(_set(module, kernel) for module in choosing)


def attention_kernels(model: nn.Module, device: str = "cpu") -> tuple[str, ...]:
    """The kernels ``model`` can choose from on ``device`` (``cpu`` or ``cuda``); empty where it offers no choice."""
    choosing = [*_choosing(model), *_of_transformers(model)]
    offered = dict.fromkeys(name for module in choosing for name in _offered(module))
    return tuple(name for name in offered if name != "flex" or device == "cuda")


def _choosing(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if isinstance(getattr(module, "kernels", None), tuple) and isinstance(getattr(module, "kernel", None), str):
            yield module


def _of_transformers(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost models of transformers in ``model``: they tell those inside."""
    if hasattr(model, "set_attn_implementation"):
        yield model
        return
    for child in model.children():
        yield from _of_transformers(child)


def _offered(module: nn.Module) -> tuple[str, ...]:
    if not hasattr(module, "set_attn_implementation"):
        return tuple(map(str, module.kernels))  # type: ignore[arg-type]
    return ("sdpa", "explicit") if getattr(module, "_supports_sdpa", False) else ("explicit",)


def _set(module: nn.Module, kernel: str) -> bool:
    if kernel not in _offered(module):
        return False
    if hasattr(module, "set_attn_implementation"):
        module.set_attn_implementation(_OF_TRANSFORMERS[kernel])  # type: ignore[operator]
    else:
        module.kernel = kernel  # type: ignore[assignment]
    return True


def _recall(query: Tensor, key: Tensor, value: Tensor, cache: Cache, layer: int) -> Tensor:
    """The tokens of ``query`` follow those of the cache, and see them too."""
    time, mask = query.size(2), cache.mask(query.size(2))
    keys, values = cache.extend(layer, key, value)
    causal = mask is None and time > 1
    grouped = query.size(1) != keys.size(1)
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def _sdpa(query: Tensor, key: Tensor, value: Tensor, dropout: float, seen: Tensor | None) -> Tensor:
    """``query [batch, heads, time, head_width]``, key and value ``[batch, kv_heads, time, head_width]``."""
    grouped, causal = query.size(1) != key.size(1), seen is None
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
    )


def _explicit(query: Tensor, key: Tensor, value: Tensor, dropout: float, seen: Tensor | None) -> Tensor:
    batch, heads, time, head_width = query.shape
    flat_key = _share(key, heads).flatten(0, 1)
    flat_value = _share(value, heads).flatten(0, 1)
    # One operator scales, multiplies and masks: fewer passes over the largest tensor of the block.
    mask = query.new_full((time, time), -math.inf).triu(1)
    scores = torch.baddbmm(mask, query.flatten(0, 1), flat_key.transpose(1, 2), alpha=head_width**-0.5)
    if seen is not None:
        scores = scores.view(batch, heads, time, time).masked_fill(~seen, -math.inf).flatten(0, 1)
    shares = functional.softmax(scores, dim=-1)
    shares = functional.dropout(shares, dropout) if dropout else shares
    mixed = torch.bmm(shares, flat_value)
    return mixed.view(batch, heads, time, head_width)


def _share(x: Tensor, heads: int) -> Tensor:
    return x if x.size(1) == heads else x.repeat_interleave(heads // x.size(1), dim=1)
