"""The program of a rank that holds some of the experts: it takes part in the forwards of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.parallel.program import LocalProgram


class ExpertProgram(LocalProgram):
    """A program whose ranks run equally many micro-batches: who has fewer repeats a sample first, which counts nothing.

    First, because what others send to the experts here belongs to the step too, and the exchange begins with the last.

    Args:
        program: with this rank's experts.
        group: ranks that share the experts.
    """

    def __init__(self, program: LocalProgram, group: Group) -> None:
        vars(self).update(vars(program))
        self.in_step = True
        self._group = group

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; return the local totals by term."""
        numbers = self._group.gather(len(micro_batches))
        idle = max(numbers) - len(micro_batches)
        again = self._sample(micro_batches, needed=min(numbers) == 0 < max(numbers))
        if idle and again is not None:
            self._idle(again, idle)
        return super().forward_backward(micro_batches, counts, scale)

    def _idle(self, batch: dict[str, Tensor], rounds: int) -> None:
        with self.precision.step(), self._others_frozen(), self.surrounded():
            for _ in range(rounds):
                enter(Phase.FORWARD)
                nothing = torch.stack(list(self.whole(self._losses(batch)).values())).sum() * 0
                enter(Phase.BACKWARD)
                with self.exchange.backward(last=False):
                    nothing.backward()  # type: ignore[no-untyped-call]

    def _sample(self, micro_batches: Sequence[dict[str, Tensor]], *, needed: bool) -> dict[str, Tensor] | None:
        """One sample; where a rank has none, all ask who has one."""
        mine = {name: value[:1] for name, value in micro_batches[0].items()} if micro_batches else {}
        if not needed:
            return mine or None
        found = next(sample for sample in self._group.gather(mine) if sample)
        return mine or self.place(found)
