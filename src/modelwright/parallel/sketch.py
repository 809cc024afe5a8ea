"""Sketch: what a rank of a layout holds and sends in a step, foretold without other ranks and without weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.graph import trace
from modelwright.graph.compiling import as_if_compiling
from modelwright.graph.meta_copy import copy_to_meta, example_to_meta
from modelwright.objectives import Objective
from modelwright.parallel.divided import Division, DryAxes, Sequence, dividing, full, whole
from modelwright.parallel.layouts.context import Context, dividing_inputs
from modelwright.parallel.layouts.shard import Shard
from modelwright.parallel.layouts.tensor import Tensor, divide
from modelwright.parallel.sharding.units import Units, units

Batch = Mapping[str, torch.Tensor]
_KNOWN = frozenset({"replicate", "shard", "tensor", "context"})


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Of a rank; where ranks differ (causal attention in a ring), of all on average.

    What layouts along different axes send adds up once each is sketched for what the ones before have left: as
    :func:`sketch` does it. Sums over ranks of a few numbers - counts, losses, norms, flags of use - are left out.

    Attributes:
        parameters: bytes of the parameters that a rank keeps.
        gathered: bytes of the largest parts that are gathered at a time, beyond these.
        sent: bytes of a step by ``KIND AXIS``, as ``all-reduce replicate``.
    """

    parameters: int
    gathered: int = 0
    sent: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Bytes that a rank sends in a step."""
        return sum(self.sent.values())

    def __add__(self, other: Sketch) -> Sketch:
        """What ``other``, sketched for what this one has left, sends as well."""
        kinds = {**self.sent, **other.sent}
        sent = {kind: self.sent.get(kind, 0.0) + other.sent.get(kind, 0.0) for kind in kinds}
        return Sketch(parameters=other.parameters, gathered=self.gathered + other.gathered, sent=sent)


def sketch(
    model: nn.Module,
    objective: Objective,
    example: Batch,
    sizes: Mapping[str, int],
    layouts: Mapping[str, Any] | None = None,
    rounds: int = 1,
) -> Sketch:
    """What a layout of axes replicate, shard, context and tensor makes of a training step.

    Exact where parameters and gradients have one type, replicas exchange by all-reduce, and every parameter is used.
    Attention in a ring is taken to be causal: of full attention twice as much travels.

    Args:
        model: on any device, also on meta; left as it is.
        objective: what is minimised.
        example: a micro-batch, of which shapes and types matter.
        sizes: of the axes.
        layouts: configured techniques by axis; the usual ones where there is none.
        rounds: micro-batches of a rank in a step.

    Raises:
        ModelwrightError: an axis of which nothing is foretold, or a model that cannot be traced.
    """
    wide = {axis: size for axis, size in sizes.items() if size > 1}
    if unknown := sorted(wide.keys() - _KNOWN):
        raise ModelwrightError(
            f"there is no sketch of the axis {unknown[0]}",
            where="layout",
            remedy=f"sketch the axes {', '.join(sorted(_KNOWN))} without it",
        )
    settings = layouts or {}
    copied, batch = copy_to_meta(model), example_to_meta(dict(example))
    found = _divided(copied, objective, batch, wide, settings, rounds)
    others = wide.get("replicate", 1) * wide.get("context", 1)
    if "shard" in wide:
        return found + _sharded(copied, wide["shard"], others, settings.get("shard") or Shard(), rounds, wide)
    return found + _replicated(copied, others, wide)


def _divided(
    model: nn.Module,
    objective: Objective,
    batch: dict[str, torch.Tensor],
    sizes: Mapping[str, int],
    settings: Mapping[str, Any],
    rounds: int,
) -> Sketch:
    """A dry run of the very code that divides computation; leaves of the model's parameters the first rank's."""
    if not {"tensor", "context"} & sizes.keys():
        return Sketch(parameters=_bytes(model))
    tensor: Tensor = settings.get("tensor") or Tensor()
    context: Context = settings.get("context") or Context()
    divisions: Mapping[torch.Tensor, Division] = {p: whole(tuple(p.shape)) for p in model.parameters()}
    if "tensor" in sizes:
        graph = trace(model, batch, forward=objective.forward, loss=objective.loss)
        divisions = divide(model, tensor.decide(graph, sizes["tensor"]), 0).divisions
    sequence = Sequence("tensor", 1) if "tensor" in sizes and tensor.sequence else None
    axes = _Kinds.sized({axis: sizes.get(axis, 1) for axis in ("context", "tensor")}, sequence)
    with as_if_compiling(), dividing(divisions, axes, deferred=("context",)), dividing_inputs(model, axes):
        totals = full(objective.loss(objective.forward(model, batch), batch))
        torch.stack([total.float() for total in totals.values()]).sum().backward()  # type: ignore[no-untyped-call]
    sent = {key: float(rounds * size) for key, size in axes.by_kind.items() if key != "all-reduce context"}
    return Sketch(parameters=_bytes(model), sent=_ring(sent, context, sizes.get("context", 1)))


class _Kinds(DryAxes):
    """Counts kinds of collectives apart."""

    @staticmethod
    def sized(sizes: Mapping[str, int], sequence: Sequence | None = None) -> _Kinds:
        made = _Kinds(DryAxes.sized(sizes).groups, sequence)
        made.by_kind = Counter()
        return made

    by_kind: Counter[str]

    def _all_reduce(self, tensor: torch.Tensor, axis: str, op: Any) -> torch.Tensor:
        self._note("all-reduce", axis, 2 * tensor.nbytes * (self.sizes[axis] - 1) // self.sizes[axis])
        return super()._all_reduce(tensor, axis, op)

    def _all_gather(self, tensor: torch.Tensor, axis: str) -> torch.Tensor:
        self._note("all-gather", axis, tensor.nbytes * (self.sizes[axis] - 1))
        return super()._all_gather(tensor, axis)

    def _reduce_scatter(self, tensor: torch.Tensor, axis: str) -> torch.Tensor:
        self._note("reduce-scatter", axis, tensor.nbytes * (self.sizes[axis] - 1) // self.sizes[axis])
        return super()._reduce_scatter(tensor, axis)

    def _note(self, kind: str, axis: str, size: int) -> None:
        self.by_kind[f"{kind} {axis}"] += size


def _ring(sent: dict[str, float], context: Context, ranks: int) -> dict[str, float]:
    """A dry run gathers keys and values once; a step does it twice, in a ring with half of it hidden by causality."""
    gathered = sent.pop("all-gather context", 0)
    scattered = sent.pop("reduce-scatter context", 0)
    if not gathered:
        return sent
    if context.attention == "all-gather":
        return sent | {"all-gather context": 2 * gathered, "reduce-scatter context": scattered}
    return sent | {"send context": (2 * gathered + scattered) / 2}


def _replicated(model: nn.Module, ranks: int, sizes: Mapping[str, int]) -> Sketch:
    """Gradients, and with each a flag that says whether there is one."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.nbytes + p.element_size() for p in parameters)
    sent = {f"all-reduce {_replicas(sizes)}": 2 * (ranks - 1) / ranks * size} if ranks > 1 else {}
    return Sketch(parameters=_bytes(model), sent=sent)


def _sharded(
    model: nn.Module, ranks: int, replicas: int, technique: Shard, rounds: int, sizes: Mapping[str, int]
) -> Sketch:
    found = units(model)
    blocks, rest = _padded(model, found, ranks)
    padded = sum(blocks) + rest
    gathered = padded if technique.stage < 3 else rounds * (2 * sum(blocks) + rest)
    reduced = padded * (rounds if technique.stage > 1 else 1)
    sent = {
        "all-gather shard": (ranks - 1) / ranks * gathered,
        "reduce-scatter shard": (ranks - 1) / ranks * reduced,
    }
    if replicas > 1:
        sent[f"all-reduce {_replicas(sizes)}"] = 2 * (replicas - 1) / replicas * padded / ranks
    held = padded if technique.stage < 3 else rest + max(blocks, default=0)
    return Sketch(parameters=math.ceil(padded / ranks), gathered=math.ceil(held), sent=sent)


def _padded(model: nn.Module, found: Units, ranks: int) -> tuple[list[int], int]:
    """Bytes of each block, and of what is around them, where rows are filled up to be shared evenly."""
    apart = [{p for p in block.parameters() if p not in found.outside | found.whole} for block in found.blocks]
    within = {parameter for block in apart for parameter in block}
    rest = [p for p in model.parameters() if p not in within and p not in found.whole]
    return [sum(_rows(p, ranks) for p in block) for block in apart], sum(_rows(p, ranks) for p in rest)


def _rows(parameter: nn.Parameter, ranks: int) -> int:
    return -(-parameter.shape[0] // ranks) * ranks * (parameter.nbytes // max(1, parameter.shape[0]))


def _replicas(sizes: Mapping[str, int]) -> str:
    return "+".join(axis for axis in ("replicate", "context") if axis in sizes)


def _bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())
