"""What encoders and decoders of transformers share: attention over anything, feed-forward, layers, positions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.stochastic_depth import StochasticDepth


class MaskedAttention(nn.Module):
    """Attention of ``x [batch, time, width]`` to itself or to ``memory [batch, source, width]``.

    Vaswani et al. 2017 (arXiv:1706.03762). The kernels compute the same: ``sdpa`` is torch's fused one;
    ``explicit`` is the textbook formula, with scores ``[batch, heads, time, source]`` in memory. A query whose
    sources are all masked reads zeros.

    Args:
        width: width of the residual stream.
        heads: divides ``width``.
        causal: let position t read the positions up to t only.
    """

    kernels: ClassVar[tuple[str, ...]] = ("sdpa", "explicit")

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.head_width = width // heads
        self.causal = causal
        self.kernel = "sdpa"
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """``x [batch, time, width]`` -> the same shape.

        Args:
            x: what asks.
            memory: what is read ``[batch, source, width]``; ``None``: ``x``.
            mask: bool ``[batch, source]``, false where ``memory`` must not be read; not of causal attention, where
                what follows is not read anyway.
        """
        read = x if memory is None else memory
        query, key, value = self._heads(self.query(x)), self._heads(self.key(read)), self._heads(self.value(read))
        seen = None if mask is None else mask[:, None, None, :]
        attend = _sdpa if self.kernel == "sdpa" else _explicit
        return self.output(attend(query, key, value, seen, self.causal).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """``down(dropout(gelu(up(x))))``.

    Args:
        width: width of the residual stream.
        hidden: width inside.
        dropout: dropout after the activation.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., width]`` -> the same shape."""
        return self.down(self.dropout(functional.gelu(self.up(x))))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention in both directions, then feed-forward, each behind a norm and added to the residual stream.

    Args:
        width: width of the residual stream.
        heads: divides ``width``.
        hidden: width inside the feed-forward.
        dropout: dropout inside the feed-forward and of what is added.
        stochastic_depth: chance that what is added is left out.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MaskedAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x [batch, source, width]``, ``mask`` bool ``[batch, source]`` -> the shape of ``x``."""
        x = x + self._branch(self.attention(self.attention_norm(x), mask=mask))
        return x + self._branch(self.feed_forward(self.feed_forward_norm(x)))

    def _branch(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(self.dropout(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Causal attention, attention to the encoder's memory, feed-forward; for arguments see :class:`EncoderLayer`."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, stochastic_depth: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MaskedAttention(width, heads, causal=True)
        self.memory_norm = nn.LayerNorm(width)
        self.memory_attention = MaskedAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """``x [batch, target, width]``, ``memory [batch, source, width]``, ``mask [batch, source]`` -> as ``x``."""
        x = x + self._branch(self.attention(self.attention_norm(x)))
        x = x + self._branch(self.memory_attention(self.memory_norm(x), memory, mask))
        return x + self._branch(self.feed_forward(self.feed_forward_norm(x)))

    def _branch(self, x: Tensor) -> Tensor:
        return self.stochastic_depth(self.dropout(x))  # type: ignore[no-any-return]


def waves(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of positions at ``width / 2`` frequencies from 1 down to 1/10,000.

    Vaswani et al. 2017, with the two halves side by side. Computed anew in each forward pass, so a model needs no
    buffer that building on the meta device would leave empty.

    Args:
        positions: floats ``[...]``.
        width: even.

    Returns:
        ``[..., width]`` in the dtype of ``positions``.
    """
    halves = torch.arange(width // 2, dtype=positions.dtype, device=positions.device)
    frequencies = torch.exp(halves * (-math.log(10000.0) / max(1, width // 2 - 1)))
    angles = positions.unsqueeze(-1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def counted(length: int, like: Tensor) -> Tensor:
    """Positions ``0 .. length - 1`` on the device of ``like``; float64 where it is, else float32."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.arange(length, dtype=dtype, device=like.device)


def check_heads(model: str, width: int, heads: int) -> None:
    """Refuse a width that the heads do not divide.

    Raises:
        ModelwrightError: names the model and a width that fits.
    """
    if width % heads:
        raise ModelwrightError(
            f"{model}: width {width} must be a multiple of heads {heads}",
            remedy=f"for example width {max(1, round(width / heads)) * heads}",
        )


def _sdpa(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
    """``query [batch, heads, time, head_width]``, ``seen`` bool ``[batch, 1, 1, source]``."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)


def _explicit(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(-2, -1)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if seen is None:
        return functional.softmax(scores, dim=-1) @ value
    # The lowest number in place of minus infinity: where all is masked, gradients would else be no numbers.
    shares = functional.softmax(scores.masked_fill(~seen, torch.finfo(scores.dtype).min), dim=-1)
    return shares.masked_fill(~seen, 0) @ value
