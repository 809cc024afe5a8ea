"""Windows of contiguous text: what a language model sees as one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.indexed import Indexed

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

NOT_SCORED = -100


class TokenWindows:
    """Fixed windows over all tokens of a set of documents.

    Window ``i`` begins at token ``i * stride``; its targets are the tokens that follow its inputs. To train,
    leave ``stride`` away: windows stand side by side and a last part that fills no window is dropped. To
    judge, give one: every token but the first is scored exactly once, with at least ``context - stride``
    tokens before it (near the start there are fewer); targets that an earlier window has scored, and those
    after the end, are -100.

    Windows cross the borders of documents: the first tokens of a document see the end of the one before it, then
    its end of text. A compressor that is given each file alone has no such sight.

    Args:
        indexed: the tokens.
        context: tokens in a window.
        stride: tokens from one window to the next, at most ``context``.
        token_bytes: bytes each token stands for, ``[vocabulary]``; adds ``bytes`` to a batch.

    Raises:
        ModelwrightError: the data is shorter than one window, or a size makes no sense.
    """

    alike: ClassVar[bool] = True

    def __init__(
        self,
        indexed: Indexed,
        context: int,
        stride: int | None = None,
        token_bytes: NDArray[np.int64] | None = None,
    ) -> None:
        if context < 1 or (stride is not None and not 1 <= stride <= context):
            raise ModelwrightError(
                f"windows of {context} tokens every {stride or context} leave tokens out",
                remedy="choose 1 <= stride <= context",
            )
        self._tokens = indexed.tokens
        self._context, self._stride = context, stride or context
        self._overlap = context - self._stride
        self._token_bytes = token_bytes
        self._targets = max(0, len(self._tokens) - 1)
        self._length = self._targets // context if stride is None else self._covering()
        if self._length == 0:
            raise ModelwrightError(
                f"the context of {context} tokens is longer than the data of {len(self._tokens)} tokens",
                where="data.context",
                remedy="choose a shorter context, or more text",
            )

    def __len__(self) -> int:
        return self._length

    def __getitems__(self, positions: Positions) -> Batch:
        """Windows at ``positions``.

        Returns:
            ``inputs`` and ``targets``, int64 ``[windows, context]``; with ``token_bytes`` also ``bytes``,
            int64 ``[windows]``: the bytes that the scored targets stand for.
        """
        numbers = np.asarray(positions, dtype=np.int64)[:, None]
        places = numbers * self._stride + np.arange(self._context + 1)
        tokens = np.take(self._tokens, places, mode="clip").astype(np.int64)
        targets = np.where(self._scored(numbers, places[:, 1:]), tokens[:, 1:], NOT_SCORED)
        batch = {"inputs": tokens[:, :-1].copy(), "targets": targets}
        if self._token_bytes is not None:
            batch["bytes"] = _bytes(targets, self._token_bytes)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _covering(self) -> int:
        """Windows it takes to score every target."""
        if self._targets == 0:
            return 0
        return 1 + -(-max(0, self._targets - self._context) // self._stride)

    def _scored(self, numbers: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        fresh = (np.arange(self._context) >= self._overlap) | (numbers == 0)
        return np.asarray(fresh & (places <= self._targets))


def _bytes(targets: NDArray[np.int64], token_bytes: NDArray[Any]) -> NDArray[np.int64]:
    scored = targets != NOT_SCORED
    sums = (token_bytes[np.where(scored, targets, 0)] * scored).sum(axis=1)
    return np.asarray(sums, dtype=np.int64)
