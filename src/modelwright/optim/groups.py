"""Which parameters an optimizer updates, and which of them decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelwright.base.errors import ModelwrightError

if TYPE_CHECKING:
    from torch import nn


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient by name; tied ones once, under their first name.

    Raises:
        ModelwrightError: there are none.
    """
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ModelwrightError(
            f"the model {type(model).__name__} has no parameter to train",
            remedy="set requires_grad on the parameters that should learn",
        )
    return found


def decayed(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and larger tensors do; norms, biases and scales do not."""
    return parameter.dim() >= 2


def decay_groups(parameters: Mapping[str, nn.Parameter], *, lr: float, **decays: float) -> list[dict[str, Any]]:
    """One group of what decays and one of what does not, without empty ones, for a torch optimizer.

    Args:
        parameters: to be split, by name.
        lr: learning rate of both groups.
        decays: settings of the first group, such as ``weight_decay``, that are 0 in the second.
    """
    none = dict.fromkeys(decays, 0.0)
    split = [
        (decays, [parameter for parameter in parameters.values() if decayed(parameter)]),
        (none, [parameter for parameter in parameters.values() if not decayed(parameter)]),
    ]
    if not any(decays.values()):
        split = [(none, list(parameters.values()))]
    return [{"params": members, "lr": lr, "base_lr": lr, **settings} for settings, members in split if members]


def check_nonnegative(technique: str, **values: float) -> None:
    """Refuse negative values and NaN.

    Raises:
        ModelwrightError: naming the first such value.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ModelwrightError(f"{technique}: {name} is at least 0, not {value}")


def check_fraction(technique: str, **values: float) -> None:
    """Refuse values outside of [0, 1).

    Raises:
        ModelwrightError: naming the first such value.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ModelwrightError(f"{technique}: {name} is at least 0 and below 1, not {value}")
