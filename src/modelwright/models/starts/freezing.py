"""Freezing: parameters that do not learn."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelwright.base.events import emit
from modelwright.models.starts.naming import choose


def freeze(model: nn.Module, patterns: Iterable[str], *, except_: Iterable[str] = ()) -> list[str]:
    """Take parameters out of training: they require no gradient, so optimizers never see them.

    Batch norms whose parameters are all frozen are put to evaluation mode, or their running averages would go on
    changing. Dropout stays as it is. A tied parameter is frozen under any of its names.

    Args:
        model: changed in place.
        patterns: of parameters, or of modules with all inside, as of :func:`modelwright.base.patterns.matches`.
        except_: what among these learns all the same.

    Returns:
        The names of the frozen parameters.

    Raises:
        ModelwrightError: a pattern fits nothing.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen, spared = choose(parameters, patterns, "freeze"), choose(parameters, except_, "freeze, except_")
    members = {id(parameters[name]) for name in chosen} - {id(parameters[name]) for name in spared}
    frozen = [name for name, parameter in parameters.items() if id(parameter) in members]
    for name in frozen:
        parameters[name].requires_grad_(False)
    norms = _still_norms(model, frozen)
    if frozen:
        _tell(frozen, norms, sum({id(parameters[name]): parameters[name].numel() for name in frozen}.values()))
    return frozen


def _still_norms(model: nn.Module, frozen: list[str]) -> list[str]:
    owners = {name.rpartition(".")[0] for name in frozen}
    norms = [name for name in frozen_norms(model) if name in owners]
    for name in norms:
        model.get_submodule(name).eval()
    return norms


def frozen_norms(model: nn.Module) -> list[str]:
    """Names of the batch norms that have parameters, none of which learns."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and list(module.parameters())
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]


def _tell(frozen: list[str], norms: list[str], numbers: int) -> None:
    emit("frozen", f"{len(frozen)} tensors of {numbers:,} numbers do not learn", names=frozen, numbers=numbers)
    if norms:
        what = f"{len(norms)} frozen batch norms are in evaluation mode: their running averages stand still"
        emit("batch-norms-frozen", what, names=norms)
