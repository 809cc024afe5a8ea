"""Settings of an optimizer by the names of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matching
from modelwright.optim import Optimizer
from modelwright.optim.groups import check_fraction, check_nonnegative
from modelwright.optim.joined import parts
from modelwright.optim.settings import momentum_of, set_momentum

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class GroupRule:
    """Other settings for the parameters whose names fit.

    Attributes:
        names: patterns; ``encoder.3.*`` is compared with the whole name, ``head`` with each part between the dots.
        lr: learning rate instead of the optimizer's.
        factor: multiplies the learning rate; below 1 for layers that should change less.
        weight_decay: instead of the optimizer's, for every parameter that is named, norms and biases too.
        momentum: instead of the optimizer's, where Adam's is the first of its betas.
    """

    names: tuple[str, ...]
    lr: float | None = None
    factor: float = 1.0
    weight_decay: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if not self.names or isinstance(self.names, str):
            raise ModelwrightError(
                f"a rule of groups names a list of patterns, not {self.names!r}",
                remedy='write for example names: ["head"]',
            )
        check_nonnegative("groups", lr=self.lr or 0.0, factor=self.factor, weight_decay=self.weight_decay or 0.0)
        check_fraction("groups", momentum=self.momentum or 0.0)


def apply_rules(optimizer: Optimizer, model: nn.Module, rules: Sequence[GroupRule]) -> None:
    """Split the groups of a new ``optimizer`` in place; of several rules that fit a parameter the first counts.

    Raises:
        ModelwrightError: a pattern fits no parameter of the optimizer, a rule is left with none, or it sets what
            the optimizer does not have.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    chosen = _chosen(held, rules)
    for part in parts(optimizer):
        part.param_groups[:] = [
            split
            for group in part.param_groups
            for number, members in _by_rule(group["params"], names, chosen).items()
            for split in [_changed(group, members, rules, number)]
        ]


def _chosen(names: list[str], rules: Sequence[GroupRule]) -> dict[str, int]:
    """The number of the first rule that fits, by name."""
    chosen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        where = f"groups[{number}].names"
        new = [name for name in matching(names, rule.names, where) if name not in chosen]
        if not new:
            raise ModelwrightError(
                "every parameter that fits this rule belongs to an earlier one",
                where=where,
                remedy="put the narrower rule first, or leave this one out",
            )
        chosen.update(dict.fromkeys(new, number))
    return chosen


def _by_rule(
    parameters: Sequence[Tensor], names: dict[nn.Parameter, str], chosen: dict[str, int]
) -> dict[int | None, list[Tensor]]:
    split: dict[int | None, list[Tensor]] = {}
    for parameter in parameters:
        split.setdefault(chosen.get(names[parameter]), []).append(parameter)  # type: ignore[index]
    return split


def _changed(
    group: dict[str, Any], members: list[Tensor], rules: Sequence[GroupRule], number: int | None
) -> dict[str, Any]:
    """A copy of ``group`` with ``members``, and the settings of the rule of that number."""
    new: dict[str, Any] = {key: members if key == "params" else copy(value) for key, value in group.items()}
    if number is None:
        return new
    rule, where = rules[number], f"groups[{number}]"
    base = new.get("base_lr", new["lr"]) if rule.lr is None else rule.lr
    new["base_lr"] = new["lr"] = base * rule.factor
    if rule.weight_decay is not None:
        _check_known("weight_decay" in new, "weight decay", f"{where}.weight_decay")
        new["weight_decay"] = rule.weight_decay
    if rule.momentum is not None:
        _check_known(momentum_of(new) is not None, "momentum", f"{where}.momentum")
        set_momentum(new, rule.momentum)
    for key in ("base_momentum", "base_weight_decay"):
        new.pop(key, None)
    return new


def _check_known(known: bool, setting: str, where: str) -> None:
    if not known:
        raise ModelwrightError(f"the optimizer has no {setting}", where=where, remedy="leave it out")
