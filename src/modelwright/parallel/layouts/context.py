"""Context: the ranks of the axis share each sequence; every rank holds the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.parallel.divided import Axes, Division, Factor, dividing, piece, whole
from modelwright.parallel.divided.division import axes_of, dim_of
from modelwright.parallel.divided.rules.attention import attending
from modelwright.parallel.draft import Draft

_TIME = 1  # of [batch, time, ...]
_HEIGHT = 2  # of images [batch, channels, height, width]


@dataclass(frozen=True, kw_only=True)
class Context:
    """Long sequences: each rank of the axis computes a part of the positions, with the whole model.

    Inputs ``[batch, time, ...]`` are divided along their time, images ``[batch, channels, height, width]`` along their
    height, as they enter the model; all that follows stays divided. Attention alone needs other positions. Gradients
    of parameters are each rank's share, to be summed over the axis once a step.

    Attributes:
        attention: ``ring`` passes keys and values from rank to rank while scores are computed; ``all-gather`` collects
            them first.
        balanced: let each rank compute an early and a late part of causal attention, so that all have equal work; for
            long sequences, as parts travel for it.
    """

    attention: Literal["ring", "all-gather"] = "ring"
    balanced: bool = False

    axis: ClassVar[str] = "context"

    def __post_init__(self) -> None:
        if self.attention not in ("ring", "all-gather"):
            raise ModelwrightError(
                f"context: attention is ring or all-gather, not {self.attention!r}",
                where="plan.layout.context.attention",
                remedy="ring sends less at a time; all-gather collects first",
            )

    @contextmanager
    def over(self, model: nn.Module, mesh: Mesh) -> Iterator[Axes]:
        """Inside, ``model`` computes with divided inputs; loss and backward belong inside too.

        Gradients are left to be summed over the axis.
        """
        axes = Axes.of(mesh, (self.axis,))
        divisions: dict[Tensor, Division] = {tensor: whole(tuple(tensor.shape)) for tensor in model.parameters()}
        with dividing_inputs(model, axes), dividing(divisions, axes, deferred=(self.axis,)), self.attending():
            yield axes

    @contextmanager
    def attending(self) -> Iterator[None]:
        """Inside, attention over divided time travels as is configured here."""
        with attending(self.attention, balanced=self.balanced):
            yield

    def sketch(self, draft: Draft) -> Draft:
        """Let the draft's model compute with divided inputs."""
        draft.surroundings += [dividing_inputs, lambda model, axes: self.attending()]
        return draft


@contextmanager
def dividing_inputs(model: nn.Module, axes: Axes, axis: str = "context") -> Iterator[None]:
    """Inside, what enters ``model`` is divided over an axis along its time."""
    if axis not in axes.sizes:
        yield
        return
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: divided_inputs(args, kwargs, axes, axis), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def divided_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], axes: Axes, axis: str) -> Any:
    """The arguments of a model with their time divided.

    Raises:
        ModelwrightError: it does not divide, or there is none.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    time = _time(tensors, axes.sizes[axis])
    return (
        tuple(_divided(value, time, axes, axis) for value in args),
        {name: _divided(value, time, axes, axis) for name, value in kwargs.items()},
    )


def check_inputs(tensors: Iterable[Tensor], ranks: int) -> None:
    """Refuse inputs whose time so many ranks cannot share evenly.

    Raises:
        ModelwrightError: naming numbers that would do.
    """
    _time(list(tensors), ranks)


def _time(tensors: list[Tensor], ranks: int) -> tuple[int, int]:
    """The dim of the first tensor that has one, and its length."""
    for tensor in tensors:
        if tensor.dim() >= 2:
            dim = _HEIGHT if tensor.dim() == 4 and tensor.is_floating_point() else _TIME
            if tensor.shape[dim] % ranks:
                raise _indivisible(tensor, dim, ranks)
            return dim, tensor.shape[dim]
    raise ModelwrightError(
        "the model reads no tensor [batch, time, ...] that the ranks of the axis context could share",
        where="plan.layout.context",
        remedy="leave the axis context out, or give the model inputs [batch, time, ...]",
    )


def _indivisible(tensor: Tensor, dim: int, ranks: int) -> ModelwrightError:
    word, size = ("heights" if dim == _HEIGHT else "positions"), tensor.shape[dim]
    return ModelwrightError(
        f"the inputs {list(tensor.shape)} have {size} {word}, which {ranks} ranks cannot share evenly",
        where="plan.layout.context",
        remedy=f"use windows of {-(-size // ranks) * ranks} {word}, or {_ways(size)} ranks along the axis context",
    )


def _ways(size: int) -> str:
    return " or ".join(str(ways) for ways in range(1, min(size, 17)) if size % ways == 0)


def _divided(value: Any, time: tuple[int, int], axes: Axes, axis: str) -> Any:
    dim, size = time
    if not isinstance(value, Tensor) or value.dim() <= dim or value.shape[dim] != size:
        return value
    division = getattr(value, "division", whole(tuple(value.shape)))
    if axis in division.axes or axes_of(division.dims[dim]):
        return value
    return piece(value, Division(division.with_dim(dim, dim_of([(Factor(size, axis),)])).dims), axes)


def exchanged(model: nn.Module, mesh: Mesh, axis: str = "context") -> None:
    """Sum the gradients of a model's parameters over the axis, in place; a collective."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = mesh.axis(axis).all_reduce(gradient)
