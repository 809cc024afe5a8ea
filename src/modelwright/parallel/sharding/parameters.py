"""What a rank holds of each parameter, as an ordinary tensor that shares memory with torch's sharded one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.parallel.parts import Part

Places = list[tuple[nn.Module, str]]


@dataclass(frozen=True, eq=False)
class ShardedParameter:
    """One parameter.

    Attributes:
        names: all those that the model has for it.
        places: modules that use it, with its name in each.
        sharded: torch's own; the parameter itself where it is whole.
        plain: this rank's rows, in the same memory.
        part: which entries of the logical tensor these are.
    """

    names: tuple[str, ...]
    places: Places
    sharded: nn.Parameter
    plain: nn.Parameter
    part: Part

    @property
    def whole(self) -> bool:
        """Whether every rank holds all of it."""
        return self.sharded is self.plain

    @property
    def present(self) -> nn.Parameter | None:
        """What the model computes with while it is gathered; else ``None``."""
        module, name = self.places[0]
        parameter = module._parameters[name]
        return None if isinstance(parameter, DTensor) or parameter is self.plain else parameter

    def take_gradient(self) -> None:
        """Give ``plain`` the gradient of ``sharded``.

        Raises:
            ModelwrightError: the model was moved or converted after it had been sharded.
        """
        if self.whole:
            return
        gradient, self.sharded.grad = self.sharded.grad, None
        local = _local(self.sharded)
        if local.numel() and local.data_ptr() != self.plain.data_ptr():
            raise ModelwrightError(
                f"the parameter '{self.names[0]}' was moved or converted after it had been sharded",
                remedy="move and convert the model before the layout is applied",
            )
        self.plain.grad = None if gradient is None else _local(gradient)


@torch.no_grad()
def sharded_parameters(
    model: nn.Module,
    whole: set[nn.Parameter],
    part_of: Callable[[str], Part],
    group: Group,
    absent: Set[nn.Parameter] = frozenset(),
) -> list[ShardedParameter]:
    """Those of a model that torch has sharded among ``group``.

    Args:
        whole: parameters that were left as they are.
        part_of: a logical name -> what this rank held of it before.
        absent: what stands in for parameters of other ranks.
    """
    found: dict[nn.Parameter, tuple[list[str], Places]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter not in absent:
                names, places = found.setdefault(parameter, ([], []))
                names.append(f"{prefix}.{name}" if prefix else name)
                places.append((module, name))
    return [
        _sharded(parameter, tuple(names), places, part_of(names[0]), None if parameter in whole else group)
        for parameter, (names, places) in found.items()
    ]


def _sharded(
    parameter: nn.Parameter, names: tuple[str, ...], places: Places, part: Part, group: Group | None
) -> ShardedParameter:
    if group is None:
        return ShardedParameter(names, places, parameter, parameter, part)
    rows = parameter.shape[0]
    size = -(-rows // group.size)
    start, stop = min(group.rank * size, rows), min((group.rank + 1) * size, rows)
    plain = nn.Parameter(_local(parameter), requires_grad=parameter.requires_grad)
    return ShardedParameter(names, places, parameter, plain, part.rows(0, start, stop))


@torch.no_grad()
def _local(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.to_local().detach()


@contextmanager
def local_parameters(holdings: Sequence[ShardedParameter], units: Sequence[FSDPModule]) -> Iterator[None]:
    """Inside, the model's modules hold the plain parameters: it cannot compute, but be saved, loaded and optimized."""
    for unit in units:
        unit.reshard()
    before = [(module, name, module._parameters[name]) for one in holdings for module, name in one.places]
    hooks = {module: module._load_state_dict_post_hooks for module, _, _ in before}
    for one in holdings:
        for module, name in one.places:
            module._parameters[name] = one.plain
    for module in hooks:  # torch's own expect sharded parameters; values are loaded into their memory
        module._load_state_dict_post_hooks = _none()
    try:
        yield
    finally:
        for module, name, parameter in before:
            module._parameters[name] = parameter
        for module, kept in hooks.items():
            module._load_state_dict_post_hooks = kept


def _none() -> OrderedDict[int, Any]:
    return OrderedDict()
