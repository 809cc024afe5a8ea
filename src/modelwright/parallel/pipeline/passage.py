"""Run one stage of a model: earlier blocks hand on what was received, and what comes after its own is not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from modelwright.base.errors import ModelwrightError
from modelwright.parallel.pipeline.analysis import Cut
from modelwright.parallel.pipeline.calls import Call, calls_through
from modelwright.parallel.pipeline.flow import Leaf, Returned, places


class _Leaving(BaseException):
    """Unwinds the model's code behind the last block of a stage; not an ``Exception``, which that code may catch."""


def run_stage(cut: Cut, stage: int, model: nn.Module, received: Sequence[Tensor], compute: Callable[[], Any]) -> Any:
    """What ``compute``, which calls ``model``, gives on the last stage; on others what the next stage receives.

    Args:
        cut: of the model.
        stage: its number.
        model: the user's module.
        received: from the stage before.
        compute: the objective's forward and loss.
    """
    passage = _Passage(cut, stage, dict(zip(cut.received[stage], received, strict=True)))
    with calls_through(model, passage.wraps()):
        if stage == cut.stages - 1:
            return compute()
        try:
            compute()
        except _Leaving:
            return tuple(passage.known[leaf] for leaf in cut.received[stage + 1])
    raise ModelwrightError(
        f"the model did not run its block {cut.blocks[passage.last]}, as it did when it was traced",
        where="plan.layout.pipeline",
        remedy="let the model run the same blocks for every batch",
    )


class _Passage:
    """One pass through one stage; ``known`` are tensors that its blocks, or earlier ones, returned."""

    def __init__(self, cut: Cut, stage: int, known: dict[Leaf, Tensor]) -> None:
        self.cut, self.known = cut, known
        self.begin, self.last = cut.borders[stage], cut.borders[stage + 1] - 1
        self.leaves = frozenset(cut.received[stage + 1]) if stage < cut.stages - 1 else None

    def wraps(self) -> Mapping[str, Callable[[Call], Call]]:
        """By name of each block that does not simply run."""
        found: dict[str, Callable[[Call], Call]] = {}
        for number, name in enumerate(self.cut.blocks[: self.last + 1]):
            if number < self.begin:
                found[name] = self._handing_on(number)
            elif self.leaves is not None:
                found[name] = self._noting(number)
        return found

    def _handing_on(self, number: int) -> Callable[[Call], Call]:
        returned = self.cut.returned[number]

        def wrap(call: Call) -> Call:
            def block(*args: Any, **kwargs: Any) -> Any:
                given = places((args, kwargs))
                leaves = [self._leaf(returned, number, place, given) for place in range(len(returned.leaves))]
                return pytree.tree_unflatten(leaves, returned.spec)

            return block

        return wrap

    def _leaf(self, returned: Returned, number: int, place: int, given: Mapping[str, Tensor]) -> Any:
        kind = returned.leaves[place]
        if isinstance(kind, tuple):
            return kind[0]
        if (number, place) in self.known:
            return self.known[number, place]
        name = returned.like[place] if kind is None else kind
        return given[name] if name in given else next(iter(given.values()), None)

    def _noting(self, number: int) -> Callable[[Call], Call]:
        def wrap(call: Call) -> Call:
            def block(*args: Any, **kwargs: Any) -> Any:
                outputs = call(*args, **kwargs)
                for place, leaf in enumerate(pytree.tree_leaves(outputs)):
                    if (number, place) in (self.leaves or ()):
                        self.known[number, place] = leaf
                if number == self.last:
                    raise _Leaving
                return outputs

            return block

        return wrap
