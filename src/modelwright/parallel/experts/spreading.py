"""Which parameters belong to experts, and this rank's share of them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.models.experts import Experts
from modelwright.parallel.experts.travel import Travel
from modelwright.parallel.parts import Part


def expert_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters with a row for each expert."""
    return [_joined(name, stack) for name, layer in _layers(model) for stack in layer.stacked]


def apply(model: nn.Module, group: Group) -> dict[str, Part]:
    """Keep this rank's equal share of each layer's experts, in place, and let tokens travel to the others.

    A gradient of what is kept then holds the tokens of all ranks of the group: it is to be summed over replicas of the
    group, and never within it. Every rank must run as many forward passes with gradients, and as many without.

    Args:
        model: with the same weights on every rank.
        group: the ranks that share the experts.

    Returns:
        What is held, by name of the parameter.

    Raises:
        ModelwrightError: there are no experts, or they cannot be shared out evenly.
    """
    layers = dict(_layers(model))
    check_experts(model, group.size)
    if group.size == 1:
        return {}
    parts = {}
    for name, layer in layers.items():
        for stack in layer.stacked:
            parts[_joined(name, stack)] = _kept(layer, stack, group)
        layer.travel = Travel(group)
    return parts


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


def _kept(layer: Experts, stack: str, group: Group) -> Part:
    whole: nn.Parameter = getattr(layer, stack)
    each = layer.experts // group.size
    part = Part.whole(whole.shape).rows(0, group.rank * each, (group.rank + 1) * each)
    mine = nn.Parameter(part.take(whole.detach()).clone(), requires_grad=whole.requires_grad)
    setattr(layer, stack, mine)
    return part


def _layers(model: nn.Module) -> Iterator[tuple[str, Experts]]:
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            yield name, module


def _joined(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name
