"""bfloat16 on the wire: half the bytes of float32.

Every rank sums in full what came in short, and rounds each number once: what its own roundings leave out stays with it
for the next step. So over the steps nothing is lost, whatever rounds: a gradient, a partial sum or the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modelwright.base.group import Work
from modelwright.parallel import Channel, Reduction
from modelwright.parallel.exchanges.compressions.errors import Errors
from modelwright.parallel.exchanges.contents import Contents


@dataclass(frozen=True, kw_only=True)
class Bf16:
    """Gradients travel as bfloat16.

    Attributes:
        error_feedback: what rounding leaves out is added to the next step's gradient.
    """

    error_feedback: bool = True
    exact: ClassVar[bool] = False

    def channel(self, contents: Contents) -> Channel:
        """The way of one bucket."""
        return _Short(contents, self.error_feedback)


class _Short:
    def __init__(self, contents: Contents, error_feedback: bool) -> None:
        self._count = sum(contents.sizes)
        self._wide = contents.wide
        self._errors = Errors(contents, error_feedback)

    def sum(self, flat: Tensor, reduction: Reduction, number: int) -> Iterator[Work]:
        flags = flat[self._count :].to(self._wide)
        wide = torch.cat([self._errors.added(flat[: self._count]), flags])
        left_out = yield from reduction.sum_short(wide, number, torch.bfloat16)
        self._errors.note(left_out[: self._count], wide[self._count :])
        flat.copy_(wide)

    def keep(self, masked: Tensor | bool) -> None:
        self._errors.keep(masked)

    def state(self) -> list[dict[str, Tensor]]:
        return self._errors.state()

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        self._errors.load(states)
