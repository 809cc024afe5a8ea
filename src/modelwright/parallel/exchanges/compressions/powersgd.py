"""PowerSGD: two thin factors of each matrix travel in place of the matrix.

Vogels, Karimireddy and Jaggi (NeurIPS 2019, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization"): one power iteration a step, begun from the factor of the step before, with error feedback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Work
from modelwright.parallel import Channel, Reduction
from modelwright.parallel.exchanges.compressions.errors import Errors, unless
from modelwright.parallel.exchanges.contents import Contents


@dataclass(frozen=True, kw_only=True)
class PowerSGD:
    """Gradients of matrices travel as products of rank ``rank``; where that is not shorter, they travel whole.

    A tensor of more dims is a matrix of its first dim by all others; vectors travel whole.

    Attributes:
        rank: columns of the factors; more is closer to the gradient and longer.
        error_feedback: what the factors leave out is added to the next step's gradient.
    """

    rank: int = 4
    error_feedback: bool = True
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ModelwrightError(f"'rank' is at least 1 column, not {self.rank}", where="rank")

    def channel(self, contents: Contents) -> Channel:
        """The way of one bucket."""
        return _Factored(contents, self.rank, self.error_feedback)


class _Factored:
    """Of each matrix [m, n]: P = M Q is summed and made orthonormal, Q = M^T P is summed; P Q^T is the sum of M."""

    def __init__(self, contents: Contents, rank: int, error_feedback: bool) -> None:
        self._contents = contents
        self._errors = Errors(contents, error_feedback)
        self._shapes = {
            place: (shape[0], shape[1:].numel())
            for place, shape in enumerate(contents.shapes)
            if len(shape) > 1 and rank * (shape[0] + shape[1:].numel()) < shape.numel()
        }
        self._right = {place: self._begin(place, columns, rank) for place, (_, columns) in self._shapes.items()}
        self._next: dict[int, Tensor] = {}

    def _begin(self, place: int, columns: int, rank: int) -> Tensor:
        """The same on every rank, and in every run."""
        generator = torch.Generator().manual_seed(self._contents.first + place)
        drawn = torch.randn(columns, rank, generator=generator, dtype=torch.float64)
        return drawn.to(self._contents.device, self._contents.wide)

    def sum(self, flat: Tensor, reduction: Reduction, number: int) -> Iterator[Work]:
        sizes = self._contents.sizes
        values, flags = torch.split(flat, [sum(sizes), len(sizes)])
        wide = self._errors.added(values)
        pieces = list(torch.split(wide, sizes))
        matrices = {place: pieces[place].view(shape) for place, shape in self._shapes.items()}
        whole = [piece for place, piece in enumerate(pieces) if place not in matrices]

        thin = [matrix @ _orthonormal(self._right[place]) for place, matrix in matrices.items()]
        first = _joined([*thin, *whole, flags.to(wide.dtype)])
        yield from reduction.sum(first, number)
        *summed, used = _parted(first, [*thin, *whole, flags])
        left = dict(zip(matrices, map(_orthonormal, summed), strict=False))

        own = [matrix.T @ left[place] for place, matrix in matrices.items()]
        if own:
            second = _joined(own)
            yield from reduction.sum(second, number)
            self._next = dict(zip(matrices, _parted(second, own), strict=True))

        self._note(wide, left, dict(zip(matrices, own, strict=True)), used)
        for piece, total in zip(whole, summed[len(thin) :], strict=True):
            piece.copy_(total)
        for place, matrix in matrices.items():
            torch.mm(left[place], self._next[place].T, out=matrix)
            self._next[place] = torch.where(used[place] > 0, self._next[place], self._right[place])
        flat.copy_(torch.cat([wide, used]))

    def _note(self, wide: Tensor, left: dict[int, Tensor], own: dict[int, Tensor], used: Tensor) -> None:
        """What this rank's own factors leave out; the sum over the ranks is what the sum leaves out."""
        left_out = torch.zeros_like(wide)
        for place, piece in enumerate(torch.split(wide, self._contents.sizes)):
            if place in own:
                rest = piece.view(self._shapes[place]) - left[place] @ own[place].T
                torch.split(left_out, self._contents.sizes)[place].copy_(rest.view(-1))
        self._errors.note(left_out, used)

    def keep(self, masked: Tensor | bool) -> None:
        self._errors.keep(masked)
        for place, factor in self._next.items():
            kept = unless(masked, self._right[place], factor)
            assert kept is not None
            self._right[place] = kept
        self._next = {}

    def state(self) -> list[dict[str, Tensor]]:
        states = self._errors.state()
        for place, factor in self._right.items():
            states[place]["factor"] = factor
        return states

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._errors.load(states)
        for place, factor in self._right.items():
            saved = states[place].get("factor", factor)
            if saved.shape != factor.shape:
                ranks = f"{saved.shape[-1]}, and those of this run {factor.shape[-1]}"
                raise ModelwrightError(
                    f"the saved factors of PowerSGD have rank {ranks}",
                    remedy="resume with the exchange that the run was begun with",
                )
            self._right[place] = saved.to(factor.device, factor.dtype)


def _orthonormal(factor: Tensor) -> Tensor:
    """Columns that span at least the same; those that vanish give way to others, so that none stays zero for ever."""
    orthonormal: Tensor = torch.linalg.qr(factor).Q
    return orthonormal


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _parted(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = torch.split(flat, [tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]
