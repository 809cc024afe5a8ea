"""How sets of parameters are updated: the settings of one update, and the building of its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.patterns import matches, matching
from modelwright.optim import Optimizer, OptimizerTechnique, Schedule
from modelwright.optim.joined import Joined, parts
from modelwright.optim.rules import GroupRule, apply_rules
from modelwright.parallel.owning import Owning
from modelwright.parallel.program import LocalProgram


@dataclass(frozen=True, kw_only=True)
class Updating:
    """What one update does. A GAN has two: each has its own parameters and terms.

    Attributes:
        optimizer: its configuration.
        schedule: factor on the learning rate.
        momentum_schedule, weight_decay_schedule: factors on those settings; none leaves them alone.
        groups: rules that change settings by name of parameter.
        clip: largest norm of the gradient of these parameters, or ``None``.
        parameters: patterns of the names it trains; empty for all.
        terms: of the objective that it minimises; empty for all.
        every: it acts in every so many steps, the first one among them.
    """

    optimizer: OptimizerTechnique
    schedule: Schedule
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None
    groups: tuple[GroupRule, ...] = ()
    clip: float | None = 1.0
    parameters: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    every: int = 1

    def build(self, model: nn.Module, trained: Sequence[nn.Parameter], elsewhere: Collection[str] = ()) -> Optimizer:
        """The optimizer of the parameters ``trained`` of ``model``, its groups set by the rules.

        ``elsewhere`` are the names of those that other ranks train: a rule may be about them alone.
        """
        with _only(model, trained):
            optimizer = self.optimizer.build(model)
            names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            if rules := [rule for rule in self.groups if self._about(rule, names, elsewhere)]:
                apply_rules(optimizer, model, rules)
        return optimizer

    def _about(self, rule: GroupRule, names: Collection[str], elsewhere: Collection[str]) -> bool:
        """Whether a rule is to be applied here; one that fits nothing anywhere is, and complains."""
        others = bool(self.parameters) or any(matches(name, rule.names) for name in elsewhere)
        return not others or any(matches(name, rule.names) for name in names)


def shares(model: nn.Module, updatings: Mapping[str, Updating]) -> dict[str, list[nn.Parameter]]:
    """The parameters that each update trains.

    Raises:
        ModelwrightError: a parameter belongs to two updates or to none, a pattern fits nothing, or no update acts in
            each step.
    """
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not any(updating.every == 1 for updating in updatings.values()):
        raise ModelwrightError("no update acts in every step", where="updates", remedy="give one of them  every: 1")
    found = {
        key: matching(names, updating.parameters, f"updates.{key}.parameters") if updating.parameters else list(names)
        for key, updating in updatings.items()
    }
    for name in names:
        owners = [key for key, members in found.items() if name in members]
        if len(owners) != 1:
            said = f"belongs to the updates {' and '.join(owners)}" if owners else "belongs to no update"
            raise ModelwrightError(
                f"the parameter '{name}' {said}",
                where="updates",
                remedy="let the patterns of each update's parameters name what it alone trains, or freeze it",
            )
    return {key: [names[name] for name in members] for key, members in found.items()}


def laid_out(
    updating: Updating, program: LocalProgram, trained: Sequence[nn.Parameter], elsewhere: Collection[str] = ()
) -> tuple[Optimizer, Owning | None]:
    """The optimizer of an update, and what puts together for it the tensors that it has to see whole; a collective."""
    held, model = program.held, program.model
    if not held.divided or getattr(updating.optimizer, "sees", "model") != "tensors":
        return updating.build(model, trained, elsewhere), None
    owning = Owning(held, program.together, trained)
    return owning.build(model, lambda wholes: updating.build(model, wholes, elsewhere)), owning


def joined(optimizers: Sequence[Optimizer]) -> Optimizer:
    """Several optimizers as one."""
    if len(optimizers) == 1:
        return optimizers[0]
    return Joined(*(part for whole in optimizers for part in parts(whole)))


@contextmanager
def _only(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Whoever collects the trainable parameters inside sees these alone."""
    mine = set(trained)
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in mine]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
