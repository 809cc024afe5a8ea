"""Update: one optimizer over one program; and the rule by which a step is applied or masked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.optim import Optimizer, Schedule
from modelwright.optim.clipping import clip_
from modelwright.parallel import Program


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one optimizer does each step.

    On a GPU an optimizer whose step torch can mask on the device, such as the fused AdamW, never waits for it. With
    any other (Muon, SGD), the host reads in each step whether to apply it and so waits until the gradients are
    there.

    Attributes:
        program: yields the gradients.
        optimizer: applies them.
        schedule: factor on each group's ``base_lr``.
        clip: largest global gradient norm, or ``None``.
    """

    program: Program
    optimizer: Optimizer
    schedule: Schedule
    clip: float | None = None

    def set_learning_rate(self, step: int, total: int) -> float:
        """Put the learning rates of step ``step`` (from 0) in place; return that of the first group."""
        factor = self.schedule.factor(step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def apply(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and update, unless the gradients are non-finite or ``valid`` (number of valid targets) is zero.

        Returns:
            Global gradient norm before clipping, and whether the update was masked; both 0-dim, on the device.
        """
        program = self.program
        gradients = [parameter.grad for parameter in program.parameters() if parameter.grad is not None]
        norm = program.norm(gradients)
        masked = ~torch.isfinite(norm) | (valid <= 0)
        if self.clip is not None:
            clip_(gradients, norm, self.clip)
        self._step_unless(masked)
        program.exchange.after_step()
        self.drop_gradients()
        return norm, masked

    def drop_gradients(self) -> None:
        """Forget all gradients, those of parameters among them that the optimizer does not know."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.program.parameters():
            parameter.grad = None

    def _step_unless(self, masked: Tensor) -> None:
        # Zeroed gradients would still move momentum and decay weights: the optimizer must not step at all.
        # Reading the flag costs nothing on CPU; an optimizer that takes `found_inf` spares a GPU the wait.
        if masked.is_cuda and getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.optimizer.found_inf = masked.float()  # type: ignore[attr-defined]
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not masked.item():
            self.optimizer.step()
