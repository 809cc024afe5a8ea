"""Replay: a step once more, with its own samples and random numbers, leaving no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelwright.data.batches import there
from modelwright.training.prepared import Prepared


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of the step, where it comes from.

    Attributes:
        number: among those of this rank, from 0.
        batch: on the device.
        positions: of its samples in the order.
        samples: their indices in the data set.
    """

    number: int
    batch: dict[str, Tensor]
    positions: np.ndarray[Any, Any]
    samples: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, rows: list[int]) -> dict[str, Tensor]:
        """Some of its samples, as a batch."""
        index = torch.tensor(rows)
        return {
            name: value[index.to(value.device)] if value.ndim and len(value) == len(self) else value
            for name, value in self.batch.items()
        }


@contextmanager
def rewound(prepared: Prepared, number: int) -> Iterator[None]:
    """Within the block the training stands before step ``number`` (from 1), but for its weights.

    Afterwards place, random numbers, buffers, gradients and the attributes of modules (counters, tensors kept for
    later) are as they were, bit for bit; not what an attribute of another kind than dict, list and set holds inside.
    """
    state, model = prepared.state, prepared.program.model
    with ExitStack() as stack:
        stack.enter_context(_random_numbers_kept(prepared.program.device))
        stack.enter_context(_attributes_kept(model))
        stack.enter_context(_buffers_kept(model))
        stack.enter_context(_gradients_kept(model))
        stack.enter_context(_eager(model))
        place = state.step, state.samples
        try:
            state.step, state.samples = number - 1, (number - 1) * state.batch
            yield
        finally:
            state.step, state.samples = place


def micro_batches(prepared: Prepared) -> list[MicroBatch]:
    """This rank's micro-batches of the step before which the training stands."""
    positions, samples = _drawn(prepared)
    found, first = [], 0
    for place, part in enumerate(prepared.loader().step(0)):
        here = slice(first, first + len(next(iter(part.values()))))
        found.append(MicroBatch(place, prepared.program.place(part), positions[here], samples[here]))
        first = here.stop
    return found


def _drawn(prepared: Prepared) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Positions and indices of this rank's samples of the step, without the holes."""
    group, state, training = prepared.data, prepared.state, prepared.training
    begin, end = (rank * state.batch // group.size for rank in (group.rank, group.rank + 1))
    positions = np.arange(state.samples + begin, state.samples + end)
    samples = training.order(positions)
    held = there(training.data.train, samples)
    return positions[held], samples[held]


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    ours, numpys = random.getstate(), np.random.get_state()  # a user's model may draw from them
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """The values of all buffers; and the attributes under which they lie, where a forward replaces them."""
    kept = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    buffer.copy_(value)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    kept = [(module, dict(vars(module)), _contents(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, contents in kept:
            vars(module).clear()
            vars(module).update(attributes)
            for holder, content in contents:
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(content)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """What the user's own containers hold; torch's, which begin with an underscore, hold what others keep."""
    mine = [value for name, value in vars(module).items() if not name.startswith("_")]
    return [(value, value.copy()) for value in mine if type(value) in (dict, list, set)]


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Compiled parts run uncompiled: their hooks are seen. Nothing is imported where nothing is compiled."""
    if all(module._compiled_call_impl is None for module in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
