"""Which layers of a model may be factored, and why others may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from modelwright.base.patterns import matches, matching
from modelwright.graph import Graph
from modelwright.reforms.factors import Factored, can_be_factored
from modelwright.reforms.matrices import plain

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of a model that have a matrix.

    Attributes:
        names: of those that may be factored.
        refused: the reason by the name of the others.
    """

    names: tuple[str, ...]
    refused: Mapping[str, str]


def layers_of(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = (), graph: Graph | None = None
) -> Layers:
    """Sort the layers of ``model``.

    Args:
        model: of any module.
        include: patterns of names; empty for all.
        exclude: patterns of names that are left out, and not said to be refused.
        graph: of the model; with it, layers whose weight other modules read are found.

    Raises:
        ModelwrightError: a pattern fits no layer.
    """
    known = _with_matrix(model)
    wanted = matching(known, include, "include") if include else list(known)
    matching(known, exclude, "exclude")
    reasons = {name: _why_not(name, known[name], model, graph) for name in wanted if not matches(name, exclude)}
    return Layers(
        names=tuple(name for name, reason in reasons.items() if not reason),
        refused={name: reason for name, reason in reasons.items() if reason},
    )


def _with_matrix(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with a matrix of their own; a factored layer counts once, not as its two parts."""
    whole = {name: module for name, module in model.named_modules() if isinstance(module, Factored)}
    inside = {part for module in whole.values() for part in module.modules()} - set(whole.values())
    return {
        name: module
        for name, module in model.named_modules()
        if module not in inside and (name in whole or can_be_factored(module) or _has_matrix(module))
    }


def _has_matrix(module: nn.Module) -> bool:
    return any(each.dim() > 1 for each in module.parameters(recurse=False))


def _why_not(name: str, module: nn.Module, model: nn.Module, graph: Graph | None) -> str:
    """Why a layer may not be factored; empty if it may."""
    if not can_be_factored(module):
        return f"{type(module).__name__} has no factors"
    if not name:
        return "it is the model itself, and a module cannot be replaced in itself: put it into an nn.Sequential"
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        return "it has hooks, which would be lost"
    if isinstance(module, Factored):
        parts = [(f"{name}.{part}", getattr(module, part)) for part in ("first", "second")]
    else:
        parts = [(name, module)]
    return next((reason for each in parts if (reason := _weight_refused(*each, model, graph))), "")


def _weight_refused(name: str, module: nn.Module, model: nn.Module, graph: Graph | None) -> str:
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed, not a parameter"
    if not plain(weight):
        return f"its weight is no plain tensor of floating-point numbers, but {_kind(weight)}"
    if weight.is_meta:
        return "its weight has no content: it is on the meta device"
    tied = [other for other, each in model.named_modules() if each is not module and _holds(each, weight)]
    if tied:
        return f"its weight is tied to that of '{tied[0]}', and a product would end the tie"
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "torch's MultiheadAttention reads its weight without calling it"
    readers = _readers(name, graph) if graph else []
    return f"its weight is read outside of it, in '{readers[0]}'" if readers else ""


def _kind(weight: nn.Parameter) -> str:
    return f"a {type(weight.data).__name__} of {weight.dtype}".replace("torch.", "")


def _holds(module: nn.Module, weight: nn.Parameter) -> bool:
    return any(each is weight for each in module._parameters.values())


def _readers(name: str, graph: Graph) -> list[str]:
    """The modules, but for the layer itself, whose operators read its weight."""
    number = graph.parameters[f"{name}.weight"].id
    return [
        operator.module
        for operator in graph.operators
        if operator.phase == "forward" and number in operator.inputs and operator.module != name
    ]
