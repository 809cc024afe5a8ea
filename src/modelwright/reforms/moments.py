"""Mean and second moment of what layers read, gathered in one pass over examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating
from modelwright.reforms.factors import Factored, whole_shape
from modelwright.reforms.matrices import columns_of, is_convolution

Forward = Callable[[nn.Module, Any], Any]
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the columns of a layer's matrix; see :func:`~modelwright.reforms.matrices.columns_of`.

    Attributes:
        positions: over how many it is a mean.
        mean: float64 ``[groups, columns]``.
        second: mean of ``x x^T``, float64 ``[groups, columns, columns]``.
    """

    positions: int
    mean: Tensor
    second: Tensor

    def covariance(self) -> Tensor:
        """``[groups, columns, columns]``: what a layer that has a bias to make up for the mean has to follow."""
        return self.second - self.mean[:, :, None] * self.mean[:, None, :]


def gather(
    model: nn.Module,
    layers: Iterable[str],
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
) -> dict[str, Moments]:
    """Run the model on examples and take the moments of what its layers read.

    All positions count alike, padding too. Memory is ``8 * columns^2`` bytes a layer and group.

    Args:
        model: runs without gradients, in evaluation mode, and is left in its own.
        layers: names of modules, factored or not.
        batches: examples: a dict of arguments by name, a tuple of arguments, or one argument.
        forward: of ``(model, example)``, where an example is not simply the model's arguments.

    Returns:
        By layer; without those that did not run.

    Raises:
        ModelwrightError: there is no example, or what a layer reads is not finite.
    """
    sums = {name: _Sum(model.get_submodule(name)) for name in layers}
    count = 0
    with evaluating(model), _listening(model, sums), torch.no_grad():
        for example in batches:
            (forward or call)(model, example)
            count += 1
    if not count:
        raise ModelwrightError("there are no examples to calibrate on", where="batches", remedy="give at least one")
    return {name: each.moments(name) for name, each in sums.items() if each.positions}


def call(model: nn.Module, example: Any) -> Any:
    """The outputs of ``model`` for an example: a dict of arguments by name, a tuple of arguments, or one argument."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)


class _Sum:
    """The running sums of one layer."""

    def __init__(self, module: nn.Module) -> None:
        groups, _, columns = whole_shape(module)
        self.layer = module.first if isinstance(module, Factored) else module
        place: Any = {"device": _device(next(module.parameters())), "dtype": torch.float64}
        self.positions = 0
        self.sum = torch.zeros(groups, columns, **place)
        self.squares = torch.zeros(groups, columns, columns, **place)

    def add(self, products: _Products) -> None:
        self.positions += products.positions
        self.sum += products.sum.to(self.sum.device)
        self.squares += products.squares.to(self.squares.device)

    def moments(self, name: str) -> Moments:
        if not bool(torch.isfinite(self.squares).all()):
            raise ModelwrightError(
                "the layer reads numbers that are not finite",
                where=name,
                remedy="look for the example that makes them, or leave the layer out: exclude",
            )
        return Moments(self.positions, self.sum / self.positions, self.squares / self.positions)


class _Products:
    """Sums over the positions of one call."""

    def __init__(self, layer: nn.Module, inputs: Tensor) -> None:
        columns = columns_of(layer, inputs.detach())
        groups, self.positions, width = columns.shape
        place: Any = {"device": _device(inputs), "dtype": torch.float64}
        self.sum = torch.zeros(groups, width, **place)
        self.squares = torch.zeros(groups, width, width, **place)
        for part in torch.split(columns, _CHUNK, dim=1):
            wide = part.to(self.sum)
            self.sum += wide.sum(1)
            self.squares.baddbmm_(wide.mT, wide)


class _Recent:
    """The products of the last input, for linear layers that read the same, such as query, key and value."""

    def __init__(self) -> None:
        self._inputs: Tensor | None = None
        self._version = 0
        self._products: _Products | None = None

    def of(self, layer: nn.Module, inputs: Tensor) -> _Products:
        if is_convolution(layer):
            return _Products(layer, inputs)
        if self._products is None or self._inputs is not inputs or inputs._version != self._version:
            self._inputs, self._version, self._products = inputs, inputs._version, _Products(layer, inputs)
        return self._products


@contextmanager
def _listening(model: nn.Module, sums: Mapping[str, _Sum]) -> Iterator[None]:
    recent = _Recent()

    def hook_of(each: _Sum) -> Callable[..., None]:
        return lambda module, args, kwargs: each.add(recent.of(each.layer, *args[:1], *kwargs.values()))

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook_of(each), with_kwargs=True)
        for name, each in sums.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _device(tensor: Tensor) -> torch.device:
    """Where float64 sums lie: beside the tensor, where the device knows them."""
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device
