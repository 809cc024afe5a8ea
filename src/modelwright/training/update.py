"""Update: one optimizer over one program; and the rule by which a step is applied or masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn

from modelwright.base.events import emit
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.optim import Optimizer, Schedule
from modelwright.optim.clipping import clip_
from modelwright.optim.scaling import LossScale
from modelwright.optim.settings import apply_schedules
from modelwright.optim.stepping import take_step
from modelwright.parallel import Program
from modelwright.parallel.owning import Owning
from modelwright.training.reading import Reading


@dataclass(frozen=True, slots=True)
class Applied:
    """What one update did in a step; numbers on the device, or of the host.

    Attributes:
        losses: mean loss over all valid targets of the step, by term.
        norm: global gradient norm before clipping.
        masked: whether the step was left out.
        valid: valid targets, over all ranks and terms.
        learning_rate: of the optimizer's first group.
    """

    losses: dict[str, Tensor | float]
    norm: Tensor
    masked: Tensor | bool
    valid: Tensor
    learning_rate: float


@dataclass(kw_only=True)
class Update:
    """What one optimizer does in its steps.

    On a GPU an optimizer whose step torch can mask on the device, such as the fused AdamW, never waits for it. With
    any other (Muon, SGD), the host reads in each step whether to apply it and so waits until the gradients are
    there; with a loss scale it waits for those of the step before.

    Attributes:
        program: yields the gradients.
        optimizer: applies them.
        schedule: factor on each group's ``base_lr``.
        clip: largest global gradient norm, or ``None``.
        name: of the update, where there are several.
        every: acts in every so many steps, the first one among them.
        momentum_schedule, weight_decay_schedule: factors on those settings of each group.
        scale: of the loss, where gradients would vanish in the program's precision.
        owning: puts tensors together that the optimizer has to see whole, where ranks divide them.
    """

    program: Program
    optimizer: Optimizer
    schedule: Schedule
    clip: float | None = None
    name: str = ""
    every: int = 1
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None
    scale: LossScale | None = None
    owning: Owning | None = None
    _overflowed: Reading | None = field(default=None, init=False)
    _parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self._parameters = self.program.parameters()

    def __call__(
        self,
        micro_batches: Sequence[dict[str, Tensor]],
        counts: Mapping[str, Tensor],
        group: Group,
        step: int,
        total: int,
    ) -> Applied:
        """Take step ``step`` (from 0) of ``total`` on this rank's micro-batches; ``counts`` are those of all ranks."""
        self._adapt_scale(group)
        rate = self.set_rates(step, total)
        scale = self.scale.value if self.scale is not None else 1.0
        totals = self.program.forward_backward(micro_batches, counts, scale)
        enter(Phase.EXCHANGE)
        self.program.exchange.before_step()
        losses = _mean(totals, counts, group)
        valid = _total(list(counts.values()))
        enter(Phase.OPTIMIZER)
        norm, masked = self.apply(valid, scale)
        if self.scale is not None:
            self._overflowed = Reading([~torch.isfinite(norm)])
            if self._overflowed.immediate:
                self._adapt_scale(group)
        return Applied(losses, norm, masked, valid, rate)

    def set_rates(self, step: int, total: int) -> float:
        """Put the settings of step ``step`` (from 0) in place; return the learning rate of the first group."""
        return apply_schedules(
            self.optimizer,
            step,
            total,
            learning_rate=self.schedule,
            momentum=self.momentum_schedule,
            weight_decay=self.weight_decay_schedule,
        )

    def apply(self, valid: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor | bool]:
        """Clip and update, unless the gradients are non-finite or ``valid`` (number of valid targets) is zero.

        Args:
            valid: number of valid targets of the step.
            scale: what the loss was multiplied by; the gradients are divided by it.

        Returns:
            Global gradient norm before clipping, 0-dim, and whether the update was masked; on the device, if there is
            one to wait for.
        """
        trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if scale != 1.0 and gradients:
            torch._foreach_mul_(gradients, 1.0 / scale)
        norm = self.program.norm(trained)
        # Where reading costs nothing, numbers of the host are cheaper than tensors of one number.
        on_host = not norm.is_cuda
        masked = not (isfinite(norm.item()) and valid.item() > 0) if on_host else ~torch.isfinite(norm) | (valid <= 0)
        if self.clip is not None:
            clip_(gradients, norm, self.clip)
        self._step_unless(masked)
        self.program.exchange.after_step(masked)
        self.drop_gradients()
        return norm, masked

    def drop_gradients(self) -> None:
        """Forget all gradients, those of parameters among them that the optimizer does not know."""
        for parameter in self._parameters:
            parameter.grad = None

    def settle(self, group: Group) -> None:
        """Take in what is still on its way from the device, as before a save."""
        self._adapt_scale(group)

    def _step_unless(self, masked: Tensor | bool) -> None:
        # Zeroed gradients would still move momentum and decay weights: the optimizer must not step at all.
        # Reading the flag costs nothing on CPU; an optimizer that takes `found_inf` spares a GPU the wait.
        if isinstance(masked, Tensor) and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = masked.float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            with self._whole():
                self.optimizer.step()
        elif not masked:
            with self._whole():
                take_step(self.optimizer)

    def _whole(self) -> AbstractContextManager[None]:
        return nullcontext() if self.owning is None else self.owning.whole()

    def _adapt_scale(self, group: Group) -> None:
        """Let the loss scale see whether the last step overflowed; every rank sees the same."""
        if self.scale is None or self._overflowed is None:
            return
        before, overflowed = self.scale.value, self._overflowed.values()[0] > 0
        self._overflowed = None
        change = self.scale.update(overflowed)
        if change is not None and group.rank == 0:
            why = "the scaled gradients overflowed" if overflowed else "no overflow for a while"
            emit(
                "loss-scale",
                f"the loss scale went from {before:g} to {self.scale.value:g}: {why}",
                level="warning" if overflowed else "info",
                before=before,
                now=self.scale.value,
            )


def _mean(totals: Mapping[str, Tensor], counts: Mapping[str, Tensor], group: Group) -> dict[str, Tensor | float]:
    terms = sorted(counts)  # ranks may have met the terms in different orders, or have no sample of the step
    summed = [totals[term] if term in totals else torch.zeros_like(counts[term]) for term in terms]
    if group.size > 1 and terms:
        summed = list(group.all_reduce(torch.stack(summed)))
    return {term: _divided(total, counts[term]) for term, total in zip(terms, summed, strict=True)}


def _divided(total: Tensor, count: Tensor) -> Tensor | float:
    return total / count.clamp(min=1) if total.is_cuda else float(total.item() / max(count.item(), 1))


def _total(counts: Sequence[Tensor]) -> Tensor:
    if not counts:  # no rank has a sample of the step
        return torch.zeros(())
    return counts[0] if len(counts) == 1 else torch.stack(list(counts)).sum()
