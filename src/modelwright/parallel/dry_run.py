"""Dry run: the very code that computes a step together with other ranks, on the meta device and without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.graph.compiling import as_if_compiling
from modelwright.graph.guesses import assume, depends_on_data
from modelwright.graph.meta_copy import copy_to_meta
from modelwright.parallel.divided import Division, DryAxes, dividing, full, whole
from modelwright.parallel.draft import Draft, Spot, Stages
from modelwright.parallel.dry import DryGroup
from modelwright.parallel.pipeline.holding import drop_others, held_names
from modelwright.parallel.pipeline.passage import run_stage
from modelwright.parallel.pipeline.stage import arrived, departing

_COMPUTING = ("context", "tensor")


@dataclass(frozen=True)
class _Part:
    """What the ranks in a spot compute with, and which stages; none of a model that is not cut."""

    spot: Spot
    model: nn.Module
    divisions: Mapping[Tensor, Division]
    stages: Sequence[int | None]


def computed(draft: Draft) -> None:
    """Note what ranks send while they compute a step, forward and backward."""
    axes = DryAxes.sized({axis: draft.sizes.get(axis, 1) for axis in _COMPUTING}, draft.sequence)
    groups: dict[str, DryGroup] = {**axes.groups}
    if draft.experts is not None:
        groups["expert"] = draft.experts
    for part in _parts(draft) if groups else ():
        for stage in part.stages:
            _tried(draft, part, stage, axes, groups.values())
            for axis, group in groups.items():
                draft.take(group, (axis,), part.spot, draft.rounds)


class _Assuming(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Code that asks for numbers goes on as if its conditions held."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if depends_on_data(str(function), args, kwargs):
            return assume(str(function), function, args, kwargs)[0]
        return function(*args, **(kwargs or {}))


def _tried(draft: Draft, part: _Part, stage: int | None, axes: DryAxes, groups: Iterable[DryGroup]) -> None:
    """As in a real step; code that cannot do without numbers, as it is when it is compiled."""
    try:
        _passed(draft, part, stage, axes, groups)
    except Exception:
        with as_if_compiling():
            _passed(draft, part, stage, axes, groups)


def _passed(draft: Draft, part: _Part, stage: int | None, axes: DryAxes, groups: Iterable[DryGroup]) -> None:
    """Forward and backward of a micro-batch."""
    for group in groups:
        group.notes.clear()  # of what was tried before
    with _Assuming(), _surrounded(draft, part, axes):  # type: ignore[no-untyped-call]
        if stage is None or draft.stages is None:
            _differentiated(_loss(draft, part.model))
            return
        received = _received(draft.stages, stage)
        result = _stage(draft, draft.stages, part, stage, received)
        if not draft.stages.at_once(stage, draft.rounds):
            axes.latest.clear()
        _differentiated(result)
        full([each.grad for each in received])


def _differentiated(tensors: Iterable[Tensor]) -> None:
    outputs = [each for each in tensors if each.requires_grad]
    torch.autograd.backward(outputs, [torch.empty_like(each) for each in outputs])


def _parts(draft: Draft) -> Iterator[_Part]:
    if draft.stages is None:
        yield _Part((), draft.model, draft.divisions, (None,))
        return
    ranks = draft.stages.ranks
    for rank in range(max(ranks) + 1):
        own = [stage for stage, other in enumerate(ranks) if other == rank]
        yield _cut(draft, draft.stages, own, (("pipeline", rank),))


def _cut(draft: Draft, stages: Stages, own: Sequence[int], spot: Spot) -> _Part:
    model, names = copy_to_meta(draft.model), dict(draft.model.named_parameters(remove_duplicate=False))
    known = {name: draft.divisions[each] for name, each in names.items() if each in draft.divisions}
    divisions: dict[Tensor, Division] = {model.get_parameter(name): division for name, division in known.items()}
    shapes = {name: tuple(known[name].shape if name in known else each.shape) for name, each in names.items()}
    drop_others(model, stages.cut, held_names(stages.cut, own), shapes)
    return _Part(spot, model, divisions, own)


@contextmanager
def _surrounded(draft: Draft, part: _Part, axes: DryAxes) -> Iterator[None]:
    if not axes.groups:
        yield
        return
    own: dict[Tensor, Division] = {parameter: whole(tuple(parameter.shape)) for parameter in part.model.parameters()}
    with ExitStack() as stack:
        stack.enter_context(dividing({**own, **part.divisions}, axes, deferred=("context",)))
        for surrounding in draft.surroundings:
            stack.enter_context(surrounding(part.model, axes))
        yield


def _received(stages: Stages, stage: int) -> list[Tensor]:
    return [
        torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)
        for shape, dtype in (stages.shapes[leaf] for leaf in stages.cut.received[stage])
    ]


def _stage(draft: Draft, stages: Stages, part: _Part, stage: int, received: Sequence[Tensor]) -> Sequence[Tensor]:
    cut, shapes = stages.cut, stages.shapes
    result = run_stage(cut, stage, part.model, arrived(received), lambda: _loss(draft, part.model))
    if stage == cut.stages - 1:
        return result  # type: ignore[no-any-return]
    return departing(full(result), [shapes[leaf] for leaf in cut.received[stage + 1]])


def _loss(draft: Draft, model: nn.Module) -> list[Tensor]:
    totals = full(draft.objective.loss(draft.objective.forward(model, draft.example), draft.example))
    return [torch.stack([total.float() for total in totals.values()]).sum()]
