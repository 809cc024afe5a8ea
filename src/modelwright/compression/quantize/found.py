"""Which layers of a model can hold their weight encoded, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from modelwright.base.patterns import matches, matching
from modelwright.compression.quantize.layers import QuantizedLayer, kind_of
from modelwright.compression.quantize.weights import EncodedWeight
from modelwright.reforms.matrices import plain

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, kw_only=True)
class Found:
    """The layers of a model that have a matrix.

    Attributes:
        names: of those that can be encoded, in the order of the model.
        left_alone: the reason by the name of the others.
        tied: of the names, those that share their weight, each with the first of them; so ``{}`` where none do.
    """

    names: tuple[str, ...]
    left_alone: Mapping[str, str]
    tied: Mapping[str, str]


def find(model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Found:
    """Sort the layers of ``model``.

    Args:
        model: any module.
        include: patterns of names; empty for all.
        exclude: patterns of names to leave out.

    Raises:
        ModelwrightError: a pattern fits no layer.
    """
    known = {name: module for name, module in model.named_modules() if _has_matrix(module)}
    wanted = set(matching(known, include, "include")) if include else set(known)
    matching(known, exclude, "exclude")
    reasons = {
        name: _why_not(name, module, model) or _unwanted(name, wanted, exclude) for name, module in known.items()
    }
    sharing = _sharing(model)
    for name, module in known.items():
        if not reasons[name] and (other := _breaks_tie(module, sharing, reasons)):
            reasons[name] = f"its weight is tied to that of '{other}', which stays as it is"
    names = tuple(name for name, reason in reasons.items() if not reason)
    tied = {name: holders[0] for name in names if len(holders := sharing[id(_weight(known[name]))]) > 1}
    return Found(names=names, left_alone={name: reason for name, reason in reasons.items() if reason}, tied=tied)


def _has_matrix(module: nn.Module) -> bool:
    if isinstance(module, EncodedWeight):
        return False
    return isinstance(module, QuantizedLayer) or any(each.dim() > 1 for each in module.parameters(recurse=False))


def _why_not(name: str, module: nn.Module, model: nn.Module) -> str:
    if isinstance(module, QuantizedLayer):
        return "it is encoded already"
    if not kind_of(module):
        return f"nothing stands in for a {type(module).__name__}"
    if not name:
        return "it is the model itself, and a module cannot be replaced in itself: put it into an nn.Sequential"
    if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
        return "it has hooks, which would be lost"
    weight = module._parameters.get("weight")
    if weight is None or not plain(weight):
        return "its weight is no plain parameter of floating-point numbers"
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        return "torch's MultiheadAttention reads its weight without calling it"
    return ""


def _unwanted(name: str, wanted: set[str], exclude: Sequence[str]) -> str:
    if name not in wanted:
        return "it was not included"
    return "it was excluded" if matches(name, exclude) else ""


def _weight(module: nn.Module) -> Any:
    return module._parameters.get("weight")


def _sharing(model: nn.Module) -> dict[int, list[str]]:
    """By the identity of each parameter, the modules that hold it."""
    held: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in {id(each) for each in module._parameters.values() if each is not None}:
            held.setdefault(parameter, []).append(name)
    return held


def _breaks_tie(module: nn.Module, sharing: Mapping[int, list[str]], reasons: Mapping[str, str]) -> str:
    """A module with the same weight that cannot be encoded; empty where there is none."""
    holders = sharing[id(_weight(module))]
    return next((each for each in holders if reasons.get(each, "no layer")), "")
