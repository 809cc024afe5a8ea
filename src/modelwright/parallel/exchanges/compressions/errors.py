"""Error feedback: what compression leaves out of a step is added to the gradient of the next one.

Karimireddy et al. (ICML 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modelwright.parallel.exchanges.contents import Contents


class Errors:
    """What was left out so far of one bucket, on this rank.

    Args:
        contents: of the bucket.
        fed_back: whether anything is remembered.
    """

    def __init__(self, contents: Contents, fed_back: bool) -> None:
        self._contents, self._fed_back = contents, fed_back
        self._sizes = torch.tensor(contents.sizes, device=contents.device)
        self._error: Tensor | None = None
        self._next: Tensor | None = None

    def added(self, values: Tensor) -> Tensor:
        """A wide copy of the gradients, with what was left out before."""
        wide = values.to(self._contents.wide, copy=True)
        return wide if self._error is None else wide.add_(self._error)

    def note(self, left_out: Tensor, used: Tensor) -> None:
        """What the step under way leaves out; parameters that no rank ``used`` sent nothing."""
        if not self._fed_back:
            return
        before = torch.zeros_like(left_out) if self._error is None else self._error
        taken = torch.repeat_interleave(used > 0, self._sizes, output_size=left_out.numel())
        self._next = torch.where(taken, left_out, before)

    def keep(self, masked: Tensor | bool) -> None:
        """Take over what was noted, unless the step was masked: then nothing of it has arrived anywhere."""
        self._error, self._next = unless(masked, self._error, self._next), None

    def state(self) -> list[dict[str, Tensor]]:
        """By parameter."""
        if self._error is None:
            return [{} for _ in self._contents.shapes]
        pieces = torch.split(self._error, self._contents.sizes)
        return [{"error": piece.view(shape)} for piece, shape in zip(pieces, self._contents.shapes, strict=True)]

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Become what :meth:`state` gave."""
        if not self._fed_back or not any("error" in state for state in states):
            self._error = None
            return
        zeros = (torch.zeros(shape) for shape in self._contents.shapes)
        held = [state.get("error", zero).reshape(-1) for state, zero in zip(states, zeros, strict=True)]
        self._error = torch.cat([piece.to(self._contents.device, self._contents.wide) for piece in held])


def unless(masked: Tensor | bool, before: Tensor | None, after: Tensor | None) -> Tensor | None:
    """``after``, or ``before`` where the step was masked; ``None`` before the first step is zero."""
    if after is None or masked is True:
        return before
    if not isinstance(masked, Tensor):
        return after
    return torch.where(masked, torch.zeros_like(after) if before is None else before, after)
