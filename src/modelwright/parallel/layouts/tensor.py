"""Tensor: the ranks of the axis divide the parameters within layers, and compute the same samples together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.graph import Graph, trace
from modelwright.parallel.divided import Axes, Division, Sequence, whole
from modelwright.parallel.draft import Draft
from modelwright.parallel.parts import Part
from modelwright.parallel.tensor import Decision, derive


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Tensor parallelism: heads, feed-forward units, channels and vocabularies are divided, derived from the model.

    Sources: Shoeybi et al. 2019 (arXiv:1909.08053); Korthikanti et al. 2022 (arXiv:2205.05198) for ``sequence``.

    Attributes:
        sequence: between divided layers, where norms work, activations ``[batch, time, ...]`` are divided along time:
            each rank keeps less, and sends about a fifth more, as inputs are gathered again in the backward.
        pins: by a pattern of parameters' names (``blocks.*.up.weight``) the dim to divide, or ``None`` to stay whole.
    """

    sequence: bool = True
    pins: Mapping[str, int | None] = field(default_factory=dict)

    axis: ClassVar[str] = "tensor"

    def __post_init__(self) -> None:
        for pattern, dim in self.pins.items():
            if dim is not None and not isinstance(dim, int):
                raise ModelwrightError(
                    f"a pin is the number of a dim, or none to stay whole, not {dim!r}",
                    where=f"plan.layout.tensor.pins.{pattern}",
                )

    def decide(self, graph: Graph, size: int) -> Decision:
        """How a model is divided over ``size`` ranks; see :func:`~modelwright.parallel.tensor.derive`."""
        return derive(graph, size, pins=self.pins, axis=self.axis)

    def axes(self, mesh: Mesh) -> Axes:
        """What divided tensors of a mesh compute with."""
        return Axes.of(mesh, sequence=self._scattering)

    def sketch(self, draft: Draft) -> Draft:
        """Leave of the draft's parameters the first rank's pieces; all ranks have pieces of the same size.

        Raises:
            ModelwrightError: the model cannot be traced.
        """
        objective = draft.objective
        graph = trace(draft.model, draft.example, forward=objective.forward, loss=objective.loss)
        draft.divisions = divide(draft.model, self.decide(graph, draft.sizes[self.axis]), 0).divisions
        draft.sequence = self._scattering
        return draft

    @property
    def _scattering(self) -> Sequence | None:
        return Sequence(self.axis, 1) if self.sequence else None


@dataclass(frozen=True)
class Pieces:
    """What a rank holds of a model.

    Attributes:
        parts: by each name of a parameter where its piece lies in the whole.
        divisions: of each parameter, also of those that are whole: what ``parallel.divided.dividing`` needs.
    """

    parts: Mapping[str, Part]
    divisions: Mapping[torch.Tensor, Division]


@torch.no_grad()
def divide(model: nn.Module, decision: Decision, rank: int) -> Pieces:
    """Leave of each parameter only the piece of a rank, in place: parameters stay the same objects, and ties tied.

    Buffers stay whole.

    Args:
        model: with whole parameters, on any device.
        decision: of its graph.
        rank: of this process along the axis.

    Raises:
        ModelwrightError: the model is not the one that was traced.
    """
    parts: dict[str, Part] = {}
    divisions: dict[torch.Tensor, Division] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter not in divisions:
            divisions[parameter] = _division(name, parameter, decision)
        division = divisions[parameter]
        parts[name] = Part(division.shape, division.ranges({decision.axis: rank}, decision.sizes))
    for name, parameter in model.named_parameters():
        if not parts[name].is_whole:
            parameter.data = parts[name].take(parameter.data).clone(memory_format=torch.contiguous_format)
    return Pieces(parts, divisions)


def _division(name: str, parameter: torch.Tensor, decision: Decision) -> Division:
    division = decision.divisions.get(name) or whole(tuple(parameter.shape))
    if division.shape != tuple(parameter.shape):
        raise ModelwrightError(
            f"'{name}' has shape {list(parameter.shape)}, but {list(division.shape)} was traced",
            remedy="trace the model that is to be divided, before anything of it is",
        )
    return division
