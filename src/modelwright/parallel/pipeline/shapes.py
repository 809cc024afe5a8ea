"""Shapes and types of what travels between stages, for any shape of batch, found without computing numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from modelwright.base.errors import ModelwrightError
from modelwright.graph import trace
from modelwright.graph.meta_copy import copy_to_meta
from modelwright.objectives import Objective
from modelwright.parallel import Precision
from modelwright.parallel.pipeline.analysis import Cut, free_outer_modules
from modelwright.parallel.pipeline.calls import Call, calls_through
from modelwright.parallel.pipeline.flow import Leaf

Batch = Mapping[str, Tensor]
Signature = tuple[Any, ...]
Shape = tuple[torch.Size, torch.dtype]
_REMEMBERED = 512


def signature(batch: Batch) -> Signature:
    """What the shapes within the model depend on."""
    return tuple((name, tuple(value.shape), value.dtype) for name, value in sorted(batch.items()))


class _Both(nn.Module):
    """The model beside its precision, whose hooks on it are copied with it."""

    model: nn.Module
    precision: Precision

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.precision = precision


class Shapes:
    """Runs a copy of the model that has no memory.

    Args:
        model: the whole model; it may be changed and cut afterwards.
        objective: what calls it.
        precision: in which numbers it computes.
        cut: its stages.
        device: where it computes.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, precision: Precision, cut: Cut, device: torch.device
    ) -> None:
        self._whole = cast(_Both, copy_to_meta(_Both(model, precision)))
        self._fake = cast(_Both, copy_to_meta(_Both(model, precision)))
        self._objective, self._cut, self._device = objective, cut, device
        self._wanted = {leaf for leaves in cut.received for leaf in leaves}
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._known: dict[Signature, dict[Leaf, Shape]] = {}
        _put_fakes(self._fake.model, self._mode, device)

    def of(self, batch: Batch, training: bool) -> dict[Leaf, Shape]:
        """Shape and type of every tensor that a stage sends."""
        key = (signature(batch), training)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._found(batch, training)
        return self._known[key]

    def _found(self, batch: Batch, training: bool) -> dict[Leaf, Shape]:
        try:
            return self._faked(batch, training)
        except Exception:  # code that asks for numbers, or an operator that has no fake: the tracer knows more ways
            return self._traced(batch, training)

    def _faked(self, batch: Batch, training: bool) -> dict[Leaf, Shape]:
        both = self._fake.train(training)
        with self._mode, torch.no_grad():
            fakes = {
                name: FakeTensor(self._mode, torch.empty_like(value, device="meta"), self._device)
                for name, value in batch.items()
            }
            found: dict[Leaf, Shape] = {}
            with suppress(_Enough), both.precision.forward(both.model, self._device):
                self._run(both.model, fakes, found)
        return self._complete(found)

    def _traced(self, batch: Batch, training: bool) -> dict[Leaf, Shape]:
        found: dict[Leaf, Shape] = {}

        def run(copied: Any, example: Any) -> None:
            free_outer_modules(copied.model, self._cut.blocks)
            found.clear()
            with copied.precision.forward(copied.model, self._device):
                self._run(copied.model, example, found)

        with suppress(_Enough):
            trace(self._whole.train(training), dict(batch), forward=run)
        return self._complete(found)

    def _complete(self, found: dict[Leaf, Shape]) -> dict[Leaf, Shape]:
        if missing := sorted(self._wanted - found.keys()):
            raise ModelwrightError(
                f"the model did not run its block {self._cut.blocks[missing[0][0]]}, as it did when it was traced",
                where="plan.layout.pipeline",
                remedy="let the model run the same blocks for every batch",
            )
        return found

    def _run(self, model: nn.Module, batch: Any, found: dict[Leaf, Shape]) -> None:
        wraps = {name: self._noting(number, found) for number, name in enumerate(self._cut.blocks)}
        with calls_through(model, wraps):
            self._objective.forward(model, batch)

    def _noting(self, number: int, found: dict[Leaf, Shape]) -> Callable[[Call], Call]:
        def wrap(call: Call) -> Call:
            def block(*args: Any, **kwargs: Any) -> Any:
                outputs = call(*args, **kwargs)
                for place, leaf in enumerate(pytree.tree_leaves(outputs)):
                    if (number, place) in self._wanted:
                        found[number, place] = (leaf.shape, leaf.dtype)
                if len(found) == len(self._wanted):
                    raise _Enough
                return outputs

            return block

        return wrap


class _Enough(BaseException):
    """Unwinds the model's code once all shapes are known."""


def _head(model: nn.Module) -> nn.Module | None:
    """The last layer, which is never reached, but which objectives look at: not every tensor will do there."""
    head = getattr(model, "head", None)
    if head is None and callable(ask := getattr(model, "get_output_embeddings", None)):
        head = ask()
    return head if type(head) is nn.Linear else None


def _put_fakes(model: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Tensors that say they are on ``device`` in the places of parameters and buffers; ties are kept."""
    fakes: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in fakes:
            fakes[id(tensor)] = FakeTensor(mode, tensor.detach(), device)
        return fakes[id(tensor)]

    head = _head(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and module is not head:
                module._parameters[name] = nn.Parameter(fake(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
