"""Optimizers that call the model themselves do not fit a loop that has the gradients already."""

from __future__ import annotations

import inspect

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Optimizer
from modelwright.optim.joined import parts


def check_closure_free(optimizer: Optimizer, where: str = "optimizer") -> None:
    """Refuse an optimizer whose ``step`` cannot be called without arguments, such as ``torch.optim.LBFGS``.

    Raises:
        ModelwrightError: naming the optimizer and the argument.
    """
    for part in parts(optimizer):
        if (needed := _needed(part)) is not None:
            raise ModelwrightError(
                f"{type(part).__name__}.step() needs the argument '{needed}': it evaluates the loss several times in a "
                "step, and a training step has the gradients of one batch",
                where=where,
                remedy="choose an optimizer that steps from gradients, such as adamw, sgd or muon",
            )


def _needed(optimizer: Optimizer) -> str | None:
    try:
        signature = inspect.signature(optimizer.step)
    except (TypeError, ValueError):  # a built-in tells nothing
        return None
    for name, parameter in signature.parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and parameter.default is parameter.empty:
            return name
    return None
