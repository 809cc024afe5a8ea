"""Windows of contiguous text: what a language model sees as one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.indexed import Indexed

if TYPE_CHECKING:
    from modelwright.data import Batch, Positions

NOT_SCORED = -100
Packing = Literal["joined", "separate"]
"""Whether tokens of a window see the documents before their own."""


class TokenWindows:
    """Fixed windows over all tokens of a set of documents.

    Window ``i`` begins at token ``i * stride``; its targets are the tokens that follow its inputs. To train,
    leave ``stride`` away: windows stand side by side and a last part that fills no window is dropped. To
    judge, give one: every token but the first is scored exactly once, with at least ``context - stride``
    tokens before it (near the start there are fewer); targets that an earlier window has scored, and those
    after the end, are -100.

    Windows cross the borders of documents. With ``documents="joined"`` the first tokens of a document see the end of
    the one before it, then its end of text; a compressor that is given each file alone has no such sight. With
    ``"separate"`` a batch says where documents begin, for models that keep them apart. The same targets are scored
    either way, none of them across a border: each document begins with an end of text, which is at once what ends the
    one before. As a target it is predicted from the document that it ends, as an input it is the first token of
    the document that it begins.

    Args:
        indexed: the tokens.
        context: tokens in a window.
        stride: tokens from one window to the next, at most ``context``.
        token_bytes: bytes each token stands for, ``[vocabulary]``; adds ``bytes`` to a batch.
        documents: ``separate`` adds ``segments`` and ``positions`` to a batch.

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
        documents: Packing = "joined",
    ) -> None:
        check_packing(documents)
        if context < 1 or (stride is not None and not 1 <= stride <= context):
            raise ModelwrightError(
                f"windows of {context} tokens every {stride or context} leave tokens out",
                remedy="choose 1 <= stride <= context",
            )
        self._tokens = indexed.tokens
        self._index = indexed if documents == "separate" else None
        self._context, self._stride = context, stride or context
        self._overlap = context - self._stride
        self._inside = stride is None
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
            int64 ``[windows]``: the bytes that the scored targets stand for. With separate documents also
            ``segments`` and ``positions``, int64 ``[windows, context]``: the number of each input's document within
            the window, from 0, and its place in the part of the document that is in the window, from 0. What
            stands behind the end of the data is a segment of its own.
        """
        numbers = np.asarray(positions, dtype=np.int64)
        batch = self._whole(numbers) if self._inside else self._in_parts(numbers)
        if self._token_bytes is not None:
            batch["bytes"] = torch.from_numpy(_bytes(batch["targets"].numpy(), self._token_bytes))
        if self._index is not None:
            begins = self._index.beginnings(numbers * self._stride, self._context)
            apart = _apart(*begins, (len(numbers), self._context))
            batch |= {name: torch.from_numpy(array) for name, array in apart.items()}
        return batch

    def _whole(self, numbers: NDArray[np.int64]) -> Batch:
        """Windows that end within the data and are scored in full: rows of a view, for a third of the time."""
        tokens = np.asarray(self._tokens)
        shape, size = (self._length, self._context + 1), tokens.itemsize
        rows = np.ndarray(shape, tokens.dtype, tokens, strides=(self._stride * size, size))[numbers]
        inputs, targets = (part.astype(np.int64) for part in (rows[:, :-1], rows[:, 1:]))
        return {"inputs": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}

    def _in_parts(self, numbers: NDArray[np.int64]) -> Batch:
        places = numbers[:, None] * self._stride + np.arange(self._context + 1)
        tokens = np.take(self._tokens, places, mode="clip").astype(np.int64)
        targets = np.where(self._scored(numbers[:, None], places[:, 1:]), tokens[:, 1:], NOT_SCORED)
        return {"inputs": torch.from_numpy(tokens[:, :-1].copy()), "targets": torch.from_numpy(targets)}

    def _covering(self) -> int:
        """Windows it takes to score every target."""
        if self._targets == 0:
            return 0
        return 1 + -(-max(0, self._targets - self._context) // self._stride)

    def _scored(self, numbers: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
        fresh = (np.arange(self._context) >= self._overlap) | (numbers == 0)
        return np.asarray(fresh & (places <= self._targets))


def check_packing(documents: str) -> None:
    """Refuse a value that the field ``documents`` does not know."""
    if documents not in get_args(Packing):
        raise ModelwrightError(
            f"documents are joined or separate, not {documents!r}", where="documents", remedy="documents: separate"
        )


def _apart(
    windows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, ...]
) -> dict[str, NDArray[np.int64]]:
    """``segments`` and ``positions`` of ``shape``, in which documents begin in these windows at these columns."""
    count, context = shape
    begins = np.arange(count) * context  # a window begins a segment, whether its document begins there or before
    starts = np.union1d(begins, windows * context + columns)
    lengths = np.diff(starts, append=count * context)
    numbers = np.arange(len(starts)) - np.searchsorted(starts, begins)[starts // context]
    positions = np.arange(count * context) - np.repeat(starts, lengths)
    return {"segments": np.repeat(numbers, lengths).reshape(shape), "positions": positions.reshape(shape)}


def _bytes(targets: NDArray[np.int64], token_bytes: NDArray[Any]) -> NDArray[np.int64]:
    scored = targets != NOT_SCORED
    sums = (token_bytes[np.where(scored, targets, 0)] * scored).sum(axis=1)
    return np.asarray(sums, dtype=np.int64)
