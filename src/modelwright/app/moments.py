"""Whether an optimizer's moments mean the same under other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from modelwright.recipe.changes import Change, below

_OTHERS = ("optimizer.use", "updates", "freeze")
_FREE = {
    *("lr", "weight_decay", "l2", "eps", "nesterov", "clip", "smallest", "beta2_decay", "adjust_lr"),
    *("adamw_lr", "adamw_weight_decay", "adamw_eps"),
}
"""What is done with moments, or with what decay a mean goes on whose parts always sum to one."""
_BETAS = {"betas", "adamw_betas"}
_FADED = 0.01


def moments_fit(found: Sequence[Change], moments: Mapping[str, Tensor]) -> bool:
    """Whether moments go on after these changes: with the same parameters, by the same rule, for the same mean.

    Args:
        found: what the recipe has otherwise.
        moments: as a checkpoint has them, by ``PARAMETER/KEY``.
    """
    if any(below(change.path, _OTHERS) for change in found):
        return False
    groups = [change for change in found if below(change.path, ("groups",))]
    if groups and (_counts_in_groups(moments) or any(map(_sets_momentum, groups))):
        return False
    return all(_fits(change, moments) for change in found if below(change.path, ("optimizer",)))


def _fits(change: Change, moments: Mapping[str, Tensor]) -> bool:
    name = change.path.removeprefix("optimizer.")
    if name == "momentum":  # without one the buffers stand still: they are not of the last gradients any more
        return bool(change.before and change.after)
    return name in _FREE or (name in _BETAS and _betas_fit(change.before, change.after, moments))


def _betas_fit(before: Any, after: Any, moments: Mapping[str, Tensor]) -> bool:
    """A mean that began at zero is divided by what it lacks, which follows from its age and from one decay.

    Under two decays that is right only where neither lacks anything any more. A mean that is not corrected goes on.
    """
    if _counts_in_groups(moments):
        return False
    if before[0] != after[0] and any(_key(path) == "z" for path in moments):
        return False  # of a schedule-free one the average would be another
    ages = [int(value) for path, value in moments.items() if _key(path) == "step"]
    changed = [beta for pair in zip(before, after, strict=True) if pair[0] != pair[1] for beta in pair]
    return all(beta**age <= _FADED for beta in changed for age in ages)


def _sets_momentum(change: Change) -> bool:
    rules = [rule for rules in (change.before, change.after) for rule in rules or ()]
    return any(rule.get("momentum") is not None for rule in rules)


def _counts_in_groups(moments: Mapping[str, Tensor]) -> bool:
    return any(path.startswith("param_groups/") for path in moments)


def _key(path: str) -> str:
    return path.rpartition("/")[2].partition(":")[0]
