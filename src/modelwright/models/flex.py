"""Causal attention by ``flex_attention``: compiled for a GPU, it skips the blocks of scores that are masked."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from modelwright.base.errors import ModelwrightError


def flex(query: Tensor, key: Tensor, value: Tensor, seen: BlockMask | None = None) -> Tensor:
    """``query [batch, heads, time, head_width]``, key and value ``[batch, kv_heads, time, head_width]``.

    Args:
        query: what asks.
        key: what is compared.
        value: what is mixed.
        seen: what each query sees; ``None``: everything up to itself.

    Raises:
        ModelwrightError: the tensors are not on a GPU, where alone it has a backward pass.
    """
    if query.device.type != "cuda":
        raise ModelwrightError(
            f"the attention kernel 'flex' needs a GPU, and the model is on {query.device.type}",
            where="plan.attention",
            remedy="choose sdpa or explicit, or leave plan.attention out",
        )
    return attended(_compiled(), query, key, value, seen)


def attended(attend: Any, query: Tensor, key: Tensor, value: Tensor, seen: BlockMask | None = None) -> Tensor:
    """The same, by a given form of ``flex_attention``."""
    mask = _causal_blocks(query.size(2), query.device) if seen is None else seen
    grouped = query.size(1) != key.size(1)
    mixed: Tensor = attend(query, key, value, block_mask=mask, enable_gqa=grouped)
    return mixed


def blocks_within(segments: Tensor) -> BlockMask:
    """What each query sees: everything up to itself that has its number in ``segments [batch, time]``."""

    def within(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segments[batch, query] == segments[batch, key])

    batch, time = segments.shape
    return create_block_mask(within, batch, None, time, time, device=segments.device)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention)


@cache
def _causal_blocks(time: int, device: torch.device) -> BlockMask:
    return create_block_mask(_causal, None, None, time, time, device=device)


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
