"""Run a model on examples and look at what its layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating
from modelwright.reforms.moments import Forward, call

Look = Callable[[Tensor], None]


def read(model: nn.Module, looks: Mapping[str, Look], batches: Iterable[Any], forward: Forward | None) -> None:
    """Run ``model`` on each of ``batches`` without gradients, in evaluation mode.

    Args:
        model: left in its own mode.
        looks: by name of a layer, what is called with each tensor that it reads.
        batches: examples: a dict of arguments by name, a tuple of arguments, or one argument.
        forward: of ``(model, example)``, where an example is not simply the model's arguments.

    Raises:
        ModelwrightError: there is no example, or what a layer reads is not finite.
    """
    count = 0
    with evaluating(model), _looking(model, looks), torch.no_grad():
        for example in batches:
            (forward or call)(model, example)
            count += 1
    if not count:
        raise ModelwrightError("there are no examples to calibrate on", where="batches", remedy="give at least one")


@contextmanager
def _looking(model: nn.Module, looks: Mapping[str, Look]) -> Iterator[None]:
    def hook_of(name: str, look: Look) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            if not bool(torch.isfinite(inputs).all()):
                raise ModelwrightError(
                    "the layer reads numbers that are not finite",
                    where=name,
                    remedy="look for the example that makes them, or leave the layer out: exclude",
                )
            look(inputs)

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook_of(name, look), with_kwargs=True)
        for name, look in looks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
