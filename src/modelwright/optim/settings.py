"""Schedules of a group's settings: learning rate, momentum, weight decay."""

from __future__ import annotations

from typing import Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.optim import Optimizer, Schedule
from modelwright.optim.joined import parts


def note_bases(optimizer: Optimizer) -> None:
    """Write into each group what its settings are before any schedule: ``base_lr``, ``base_momentum`` and so on.

    To be called once, on a new optimizer, after :func:`modelwright.optim.rules.apply_rules`.
    """
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        if (momentum := momentum_of(group)) is not None:
            group.setdefault("base_momentum", momentum)
        if "weight_decay" in group:
            group.setdefault("base_weight_decay", group["weight_decay"])


def check_schedules(
    optimizer: Optimizer,
    *,
    learning_rate: Schedule | None = None,
    momentum: Schedule | None = None,
    weight_decay: Schedule | None = None,
) -> None:
    """Refuse a schedule of a setting that the optimizer does not use.

    A rate that falls under an optimizer that averages the weights, such as the schedule-free one, is told by an event.

    Raises:
        ModelwrightError: no group has a momentum, or a weight decay, that is not zero.
    """
    if momentum is not None and not any(momentum_of(group) for group in optimizer.param_groups):
        raise _unused("momentum", "momentum_schedule")
    if weight_decay is not None and not any(group.get("weight_decay") for group in optimizer.param_groups):
        raise _unused("weight decay", "weight_decay_schedule")
    averages = any(hasattr(part, "evaluating") for part in parts(optimizer))
    if averages and learning_rate is not None and learning_rate.factor(999, 1000) < 1:
        emit(
            "falling-rate-averaged",
            "the optimizer averages the weights, and the learning rate falls as well: choose the schedule constant",
            level="warning",
        )


def apply_schedules(
    optimizer: Optimizer,
    step: int,
    total: int,
    *,
    learning_rate: Schedule,
    momentum: Schedule | None = None,
    weight_decay: Schedule | None = None,
) -> float:
    """Put the settings of the update number ``step`` (from 0) of ``total`` in place.

    Each is its base times the schedule's factor. A momentum is ``momentum`` or the first of ``betas``.

    Returns:
        The learning rate of the first group.
    """
    groups = optimizer.param_groups
    factor = learning_rate.factor(step, total)
    for group in groups:
        group["lr"] = group["base_lr"] * factor
    if momentum is not None:
        _scale_momentum(groups, momentum.factor(step, total))
    if weight_decay is not None:
        factor = weight_decay.factor(step, total)
        for group in groups:
            if "base_weight_decay" in group:
                group["weight_decay"] = group["base_weight_decay"] * factor
    return float(groups[0]["lr"])


def momentum_of(group: dict[str, Any]) -> float | None:
    """``momentum``, or the first of ``betas``; ``None`` where there is neither."""
    if "momentum" in group:
        return float(group["momentum"])
    return float(group["betas"][0]) if "betas" in group else None


def set_momentum(group: dict[str, Any], value: float) -> None:
    """Write ``momentum``, or the first of ``betas``, whichever the group has."""
    if "momentum" in group:
        group["momentum"] = value
    elif "betas" in group:
        group["betas"] = (value, *group["betas"][1:])


def _scale_momentum(groups: list[dict[str, Any]], factor: float) -> None:
    for group in groups:
        if "base_momentum" in group:
            set_momentum(group, group["base_momentum"] * factor)


def _unused(setting: str, field: str) -> ModelwrightError:
    return ModelwrightError(
        f"the optimizer has no {setting} that a schedule could change",
        where=field,
        remedy=f"give the optimizer a {setting}, or leave out {field}",
    )
