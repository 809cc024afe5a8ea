"""Keys and values of the tokens a language model has read, so that the next token costs one step."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Keys and values of each block for a batch of texts, in memory that is taken once.

    The texts may differ in length: shorter ones are padded on the left, so that the last tokens of all stand in
    one column, and positions count from each text's own first token. Padding is seen by nobody.

    Args:
        layers: blocks of the model.
        padding: columns of padding before each text, int64 ``[batch]``.
        capacity: columns in all.

    Attributes:
        length: columns that are filled.
    """

    def __init__(self, layers: int, padding: Tensor, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._padding = padding
        self._padded = bool(padding.any())
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def positions(self, time: int) -> Tensor:
        """Positions of the next ``time`` columns ``[batch, time]``; those of padding are 0."""
        columns = torch.arange(self.length, self.length + time, device=self._padding.device)
        return (columns - self._padding.unsqueeze(1)).clamp(min=0)

    def mask(self, time: int) -> Tensor | None:
        """What the next ``time`` columns see, bool ``[batch, 1, time, length + time]``.

        ``None``: everything up to themselves, as in a forward pass without cache; or everything, where ``time``
        is 1.
        """
        if not self._padded and (time == 1 or self.length == 0):
            return None
        columns = torch.arange(self.length + time, device=self._padding.device)
        queries = columns[self.length :].unsqueeze(1)
        seen = (columns <= queries) & (columns >= self._padding.view(-1, 1, 1))
        # A column of padding sees itself: a softmax over nothing is not a number.
        return (seen | (columns == queries)).unsqueeze(1)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the next columns' key and value ``[batch, kv_heads, time, head_width]``; all so far."""
        kept = self._kept[layer]
        if kept is None:
            shape = (*key.shape[:2], self._capacity, key.shape[3])
            kept = self._kept[layer] = (key.new_zeros(shape), value.new_zeros(shape))
        end = self.length + key.size(2)
        kept[0][:, :, self.length : end] = key
        kept[1][:, :, self.length : end] = value
        return kept[0][:, :, :end], kept[1][:, :, :end]

    def advance(self, time: int) -> None:
        """Count ``time`` columns as filled, once all blocks kept theirs."""
        self.length += time
