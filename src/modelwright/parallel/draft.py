"""Draft: a training step that layouts shape one after another, as a program without weights and other ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from modelwright.base.axes import ordered
from modelwright.graph.meta_copy import copy_to_meta, example_to_meta
from modelwright.objectives import Objective
from modelwright.parallel.dry import Bytes, DryGroup
from modelwright.parallel.holdings import Holdings

if TYPE_CHECKING:
    from modelwright.parallel.divided import Axes, Division
    from modelwright.parallel.divided import Sequence as Scattering
    from modelwright.parallel.pipeline.analysis import Cut
    from modelwright.parallel.pipeline.shapes import Shape

Surrounding = Callable[[nn.Module, "Axes"], AbstractContextManager[object]]
Spot = tuple[tuple[str, int], ...]
"""Ranks along some axes, as ``(("pipeline", 1),)``: all ranks of the mesh that have them."""
REPLICAS = ("replicate", "context")
"""Axes over which gradients of all parameters are summed."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A parameter of a rank.

    Attributes:
        name: the first of the user's own.
        parameter: what the rank keeps of it, on the meta device.
        over: axes of the mesh over which its gradient is still to be summed.
        stages: ranks of the axis pipeline over which it then is; none where it has one holder.
    """

    name: str
    parameter: nn.Parameter
    over: tuple[str, ...] = REPLICAS
    stages: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A model that is cut.

    Attributes:
        cut: how.
        ranks: by stage, along the axis pipeline.
        schedule: in which order they compute micro-batches.
        shapes: of what is sent.
    """

    cut: Cut
    ranks: tuple[int, ...]
    schedule: str
    shapes: Mapping[Any, Shape]

    def at_once(self, stage: int, rounds: int) -> bool:
        """Whether the backward of a micro-batch follows on its forward, which has gathered some things already."""
        return rounds == 1 or (self.schedule.endswith("1f1b") and stage == len(self.ranks) - 1)


@dataclass(kw_only=True)
class Draft:
    """What layouts have made of a step so far; each changes it in place.

    Attributes:
        model: on the meta device, as the first rank of each axis has it before it is cut.
        objective: what is minimised.
        example: a micro-batch, on the meta device.
        sizes: of the axes with several ranks, outermost first.
        rounds: micro-batches of a rank in a step.
        held: what ranks keep, in the order in which a program has it; those in one spot have the same.
        divisions: of the model's parameters, where computation is divided.
        sequence: where sums are scattered when they are resolved.
        surroundings: contexts in which a model, or what a rank has of it, is computed.
        experts: the ranks that share out experts.
        stages: of the model, where it is cut.
        gathered: bytes of the largest parts of parameters that are gathered at a time, beyond what is kept.
        sent: bytes of a step by ``KIND AXIS``, of each rank: an array with a dim for each axis.
    """

    model: nn.Module
    objective: Objective
    example: dict[str, Tensor]
    sizes: Mapping[str, int]
    rounds: int = 1
    held: dict[Spot, list[Held]] = field(default_factory=dict)
    divisions: Mapping[Tensor, Division] = field(default_factory=dict)
    sequence: Scattering | None = None
    surroundings: list[Surrounding] = field(default_factory=list)
    experts: DryGroup | None = None
    stages: Stages | None = None
    gathered: int = 0
    sent: dict[str, Bytes] = field(default_factory=dict)

    @staticmethod
    def of(
        model: nn.Module, objective: Objective, example: Mapping[str, Tensor], sizes: Mapping[str, int], rounds: int
    ) -> Draft:
        """A step of one rank, to be laid out over axes of these sizes; the model is left as it is."""
        wide = {axis: size for axis, size in ordered(sizes).items() if size > 1}
        copied, batch = copy_to_meta(model), example_to_meta(dict(example))
        draft = Draft(model=copied, objective=objective, example=batch, sizes=wide, rounds=rounds)
        draft.hold(lambda name: REPLICAS)
        return draft

    def hold(self, over: Callable[[str], tuple[str, ...]]) -> None:
        """Every rank keeps all parameters of the model; of the gradient of each ``over`` which axes it is summed."""
        named = Holdings(self.model).names().items()
        self.held = {(): [Held(name=name, parameter=each, over=over(name)) for each, name in named]}

    def along(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Those among axes that have several ranks, outermost first."""
        return tuple(axis for axis in self.sizes if axis in axes)

    def group(self, axes: Sequence[str]) -> DryGroup:
        """The ranks along axes."""
        return DryGroup(0, math.prod(self.sizes[axis] for axis in self.along(axes)))

    def send(self, kind: str, axes: Sequence[str], size: float | Bytes, at: Spot = ()) -> None:
        """Ranks at a spot send bytes to others along axes; an array has those of each by its number along the axes."""
        if not np.any(size):
            return
        wide = self.along(axes)
        sums = self.sent.setdefault(f"{kind} {'+'.join(wide)}", np.zeros([*self.sizes.values()]))
        if isinstance(size, np.ndarray):
            size = size.reshape([self.sizes[axis] if axis in wide else 1 for axis in self.sizes])
        sums[self._at(at)] += size

    def take(self, group: DryGroup, axes: Sequence[str], at: Spot = (), times: int = 1) -> None:
        """Add what has been noted of a group along axes, and forget it there."""
        for kind, sizes in group.notes.items():
            self.send(kind, axes, times * sizes, at)
        group.notes.clear()

    def kept(self) -> Bytes:
        """Bytes of the parameters that each rank keeps."""
        sums = np.zeros([*self.sizes.values()])
        for spot, held in self.held.items():
            sums[self._at(spot)] += sum(each.parameter.nbytes for each in held)
        return sums

    def parts(self) -> Iterator[tuple[Spot, list[Held]]]:
        """What is trained, by spot."""
        for spot, held in self.held.items():
            yield spot, [each for each in held if each.parameter.requires_grad]

    def _at(self, spot: Spot) -> tuple[slice, ...]:
        at = dict(spot)
        return tuple(slice(at[axis], at[axis] + 1) if axis in at else slice(None) for axis in self.sizes)
