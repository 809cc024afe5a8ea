"""Activation checkpointing: what the forward computed is dropped and computed again when the backward needs it.

Source: Chen et al. 2016 (arXiv:1604.06174); selectively by operator as in Korthikanti et al. 2022 (arXiv:2205.05198).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.patterns import matching
from modelwright.base.units import bytes_text, parse_bytes
from modelwright.parallel.recompute.budget import fit
from modelwright.parallel.recompute.wrapping import forget, wrap
from modelwright.parallel.regions import regions

Recompute = str | int | Sequence[str]
"""``none``, ``full``, ``selective``, a size, or patterns of module names."""

_KINDS = ("none", "full", "selective")


def set_recompute(
    model: nn.Module,
    recompute: Recompute,
    probe: Callable[[], object] | None = None,
    group: Group = Group(0, 1),  # noqa: B008 - immutable
) -> list[str]:
    """Let parts of ``model`` recompute their activations, in place; names of parameters stay.

    The parts are those of :func:`recomputed`. Of a size, those that are needed: a micro-batch is tried.

    Args:
        model: any module.
        recompute: see :func:`recomputed`.
        probe: runs forward and loss of one micro-batch and returns what its backward starts from; wanted for a size.
        group: ranks that train together; for a size they choose alike, and all of them call this.

    Returns:
        Their names.

    Raises:
        ModelwrightError: the model has no such parts, or a size is too small even if all of them are recomputed.
    """
    forget(model)
    names = recomputed(model, recompute)
    budget = budget_of(recompute)
    if budget is None:
        for name in names:
            wrap(model.get_submodule(name), recompute if isinstance(recompute, str) else "full")
        return names
    if probe is None:
        raise ModelwrightError(
            "to recompute to a size, a micro-batch must be tried, and here is none",
            where="plan.recompute",
            remedy="choose none, full or selective",
        )
    return [name for name, kind in fit(model, names, budget, probe, group).items() if kind != "none"]


def budget_of(recompute: Recompute) -> int | None:
    """The size in bytes that activations are to fit in; ``None``: another wish.

    Raises:
        ModelwrightError: it is no size either.
    """
    if isinstance(recompute, int):
        return recompute
    if not isinstance(recompute, str) or recompute in _KINDS:
        return None
    try:
        return parse_bytes(recompute)
    except ModelwrightError as error:
        raise ModelwrightError(
            f"'{recompute}' is no way to recompute",
            where="plan.recompute",
            remedy="choose none, full, selective, a size such as 4GB, or a list of patterns of module names",
        ) from error


def recomputed(model: nn.Module, recompute: Recompute) -> list[str]:
    """Names of the modules whose activations are to be computed again.

    Args:
        model: any module.
        recompute: ``none``; ``full`` for every repeated block; ``selective`` for the same blocks, keeping the results
            of matrix products, convolutions and fused attention; a size such as ``4GB``, for as little of both as lets
            the activations of a micro-batch fit in it (these blocks may be); or patterns of module names, recomputed in
            full.

    Raises:
        ModelwrightError: the model has no repeated blocks, or a pattern fits no module.
    """
    if recompute == "none":
        return []
    if isinstance(recompute, str | int):
        budget_of(recompute)
        return _blocks(model)
    return _outermost(matching([name for name, _ in model.named_modules() if name], recompute, "plan.recompute"))


def _blocks(model: nn.Module) -> list[str]:
    names = list(regions(model))
    if not names:
        raise ModelwrightError(
            f"the model {type(model).__name__} has no repeated blocks to recompute: no nn.ModuleList or nn.Sequential "
            "of several modules of one class",
            where="plan.recompute",
            remedy="name the modules by patterns, for example  plan: {recompute: ['encoder.*']}",
        )
    return names


def _outermost(names: Iterable[str]) -> list[str]:
    """Without the modules inside others that are named: computing twice is enough."""
    kept: list[str] = []
    for name in names:
        if not any(name.startswith(f"{outer}.") for outer in kept):
            kept.append(name)
    return kept


def tell_recompute(names: Sequence[str], recompute: Recompute) -> None:
    """Say, once, what is recomputed."""
    if names:
        budget = budget_of(recompute)
        kind = "full" if not isinstance(recompute, str) else recompute
        kind = kind if budget is None else f"to {bytes_text(budget)}"
        emit("recompute", f"{len(names)} modules recompute their activations ({kind})", modules=list(names))
