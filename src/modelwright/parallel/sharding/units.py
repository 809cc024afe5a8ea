"""Units: which parameters of a model travel together, and which stay whole on every rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import torch
from torch import nn

from modelwright.base.events import emit
from modelwright.parallel.regions import regions


@dataclass(frozen=True)
class Units:
    """How a model falls into parts that are gathered one at a time.

    Attributes:
        blocks: modules, each a unit of its own, in the order of the model; what is outside of them is one unit more.
        outside: parameters within blocks that belong to the unit outside of them: used there too.
        whole: parameters that are not divided.
    """

    blocks: list[nn.Module]
    outside: set[nn.Parameter]
    whole: set[nn.Parameter]


def units(model: nn.Module, absent: Set[nn.Parameter] = frozenset(), kept: Set[nn.Parameter] = frozenset()) -> Units:
    """The repeated blocks of ``model``, and what cannot be divided: scalars, and types that a unit has few of.

    Blocks that share a parameter with each other are not gathered apart.

    Args:
        model: any module.
        absent: what stands in for parameters of other ranks; blocks of nothing else are left out.
        kept: parameters that other layouts want whole.
    """
    named = dict.fromkeys(model.get_submodule(name) for name in regions(model))
    blocks = [block for block in named if any(p not in absent for p in block.parameters())]
    within = Counter(parameter for block in blocks for parameter in set(block.parameters()))
    rest = _outside(model, set(blocks))
    apart = [block for block in blocks if all(within[p] == 1 or p in rest for p in block.parameters())]
    if len(apart) < len(blocks):
        rest = _outside(model, set(apart))
    groups = [[p for p in block.parameters() if p not in rest] for block in apart]
    rows = [[p for p in group if p not in absent and p not in kept] for group in (*groups, rest)]
    whole = {parameter for group in rows for parameter in _whole(group)}
    _tell(model, whole)
    whole |= kept
    return Units(apart, {parameter for block in apart for parameter in block.parameters() if parameter in rest}, whole)


def _outside(model: nn.Module, blocks: set[nn.Module]) -> dict[nn.Parameter, None]:
    """Parameters that are used by modules that are no part of a block, in order."""
    return {parameter: None for module in _around(model, blocks) for parameter in module.parameters(recurse=False)}


def _around(module: nn.Module, blocks: set[nn.Module]) -> Iterator[nn.Module]:
    if module in blocks:
        return
    yield module
    for child in module.children():
        yield from _around(child, blocks)


def _whole(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Trained parameters of one unit have one type, that of most of their numbers."""
    trained = [parameter for parameter in parameters if _divisible(parameter) and parameter.requires_grad]
    sizes: dict[torch.dtype, int] = {}
    for parameter in trained:
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    usual = max(sizes, key=lambda kind: sizes[kind], default=None)
    return [p for p in parameters if not _divisible(p) or (p.requires_grad and p.dtype != usual)]


def _divisible(parameter: nn.Parameter) -> bool:
    return parameter.dim() > 0 and parameter.numel() > 0 and parameter.is_floating_point()


def _tell(model: nn.Module, whole: set[nn.Parameter]) -> None:
    large = [name for name, parameter in model.named_parameters() if parameter in whole and parameter.dim() > 0]
    if large:
        emit(
            "shard-whole",
            f"{len(large)} parameters stay whole on every rank: they are of another type than those around them",
            parameters=large,
        )
