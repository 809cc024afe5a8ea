"""Which parameters belong to experts, and this rank's share of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.models.experts import Experts
from modelwright.parallel.divided.division import Division, whole_dim
from modelwright.parallel.experts.travel import Travel
from modelwright.parallel.parts import Part


def expert_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters with a row for each expert."""
    return [_joined(name, stack) for name, layer in _layers(model) for stack in layer.stacked]


def apply(
    model: nn.Module,
    group: Group,
    parts: Mapping[str, Part] | None = None,
    divisions: Mapping[Tensor, Division] | None = None,
) -> dict[str, Part]:
    """Keep this rank's equal share of each layer's experts, in place, and let tokens travel to the others.

    A gradient of what is kept then holds the tokens of all ranks of the group: it is to be summed over replicas of the
    group, and never within it. Every rank must run as many forward passes with gradients, and as many without.

    Args:
        model: with the same weights on every rank.
        group: the ranks that share the experts.
        parts: what is held of the whole, by name of the parameter, where that is not all.
        divisions: of the parameters over other axes, within the ranks that have the same experts; kept up to date.

    Returns:
        What is held, by name of the parameter.

    Raises:
        ModelwrightError: there are no experts, or they cannot be shared out evenly.
    """
    check_experts(model, group.size)
    if group.size == 1:
        return {}
    found = {}
    for owner, layer in _layers(model):
        for stack in layer.stacked:
            name, whole = _joined(owner, stack), getattr(layer, stack)
            mine = _kept(whole, group, cast(dict[Any, Any], {} if divisions is None else divisions))
            setattr(layer, stack, mine)
            part = (parts or {}).get(name) or Part.whole(whole.shape)
            found[name] = part.rows(0, group.rank * len(mine), (group.rank + 1) * len(mine))
        layer.travel = Travel(group)
    return found


def check_experts(model: nn.Module, ranks: int) -> None:
    """Refuse an expert axis of a size that does not fit.

    Raises:
        ModelwrightError: there are no experts, or they cannot be shared out evenly.
    """
    layers = dict(_layers(model))
    if ranks > 1 and not layers:
        raise ModelwrightError(
            f"the model {type(model).__name__} has no experts to spread over {ranks} ranks",
            where="plan.layout.expert",
            remedy="leave the axis out, or give a gpt  model: {experts: 8}",
        )
    for name, layer in layers.items():
        if layer.experts % ranks:
            raise ModelwrightError(
                f"{layer.experts} experts of '{name}' cannot be shared out evenly to {ranks} ranks",
                where="plan.layout.expert",
                remedy=f"choose a size that divides {layer.experts}, or another number of experts",
            )


def _kept(whole: nn.Parameter, group: Group, divisions: dict[Tensor, Division]) -> nn.Parameter:
    each, division = len(whole) // group.size, divisions.pop(whole, None)
    rows = whole.detach().narrow(0, group.rank * each, each)
    mine = nn.Parameter(rows.clone(), requires_grad=whole.requires_grad)
    if division is not None:  # of each expert by itself
        divisions[mine] = division.with_dim(0, whole_dim(each))
    return mine


def _layers(model: nn.Module) -> Iterator[tuple[str, Experts]]:
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            yield name, module


def _joined(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name
