"""Schedule-free AdamW: an average of the weights in place of a falling learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim.adamw import check_betas
from modelwright.optim.groups import check_nonnegative, decay_groups, trainable
from modelwright.optim.lists import ListOptimizer

Ages = dict[tuple[int, float], tuple[list[Tensor], list[Tensor]]]


@dataclass(frozen=True, kw_only=True)
class ScheduleFree:
    """Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682).

    Weights ``z`` take AdamW's steps without momentum, ``x`` is their average, and gradients are of
    ``y = (1 - b1) z + b1 x``. The parameters hold ``y`` while training and ``x`` inside of ``evaluating()``, for
    whatever is scored or shipped. Choose the schedule ``constant`` with a warm-up: a rate that falls would be
    averaged away, since a step counts in the average with the square of its rate.

    Attributes:
        lr: learning rate; 1 to 10 times AdamW's with a schedule.
        betas: share of the average in ``y``, above 0, and decay of the mean of squared gradients; below 1.
        eps: added to the root of that mean.
        weight_decay: share of ``y`` that is taken off ``z`` in each step, times ``lr``; tensors of fewer than
            two dims, such as norms and biases, are left out.
    """

    lr: float = 2.5e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    sees: ClassVar[Literal["elements", "tensors"]] = "elements"

    def __post_init__(self) -> None:
        check_nonnegative("schedule-free", lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        check_betas("schedule-free", self.betas)
        if self.betas[0] == 0:
            raise ModelwrightError(
                "schedule-free: betas[0] is above 0: without it the average could not be found again",
                remedy="set betas, for example [0.9, 0.999]",
            )

    def build(self, model: nn.Module) -> ScheduleFreeAdamW:
        """A multi-tensor optimizer over the trainable parameters."""
        groups = decay_groups(trainable(model), lr=self.lr, weight_decay=self.weight_decay)
        return ScheduleFreeAdamW(groups, share=self.betas[0], decay=self.betas[1], eps=self.eps)


class ScheduleFreeAdamW(ListOptimizer):
    """The parameters hold ``y``; the state holds ``z``, and ``x`` follows from the two.

    Counters are kept per parameter, so that one whose first gradient comes late starts as if it were alone.

    Args:
        groups: each with ``lr`` and ``weight_decay``.
        share: of the average ``x`` in ``y``; no momentum, so no schedule of the momentum may change it.
        decay: of the mean of squared gradients.
        eps: added to the root of that mean.
    """

    state_keys: ClassVar[frozenset[str]] = frozenset({"z", "exp_avg_sq", "step", "rates"})
    _averaged = False

    def __init__(self, groups: list[dict[str, Any]], *, share: float, decay: float, eps: float) -> None:
        super().__init__(groups, {"share": share, "decay": decay, "eps": eps})

    def update(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """One step.

        Raises:
            ModelwrightError: inside of :meth:`evaluating`.
        """
        if self._averaged:
            raise ModelwrightError("the parameters hold their averages; train after evaluating(), not inside of it")
        rate = group["lr"]
        for (count, rates), (members, theirs) in self._by_age(parameters, gradients, rate).items():
            newest = rate**2 / rates if rates else 0.0
            self._update(members, theirs, group, newest, correction=1 - group["decay"] ** count)

    def _by_age(self, parameters: list[Tensor], gradients: list[Tensor], rate: float) -> Ages:
        """Count one more step of each parameter; those that have taken the same steps belong together."""
        ages: Ages = {}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if "z" not in state:
                state.update(z=parameter.detach().clone(memory_format=torch.preserve_format), step=0, rates=0.0)
            state["step"] += 1
            state["rates"] += rate**2
            members, theirs = ages.setdefault((state["step"], state["rates"]), ([], []))
            members.append(parameter)
            theirs.append(gradient)
        return ages

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        group: dict[str, Any],
        newest: float,
        correction: float,
    ) -> None:
        """One step, where the new ``z`` has the share ``newest`` in the average."""
        rate, share, decay = group["lr"], group["share"], group["decay"]
        squares, latest = self.kept(parameters, "exp_avg_sq"), [self.state[p]["z"] for p in parameters]
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
        steps = torch._foreach_div(squares, correction)
        torch._foreach_sqrt_(steps)
        torch._foreach_add_(steps, group["eps"])
        torch._foreach_reciprocal_(steps)
        torch._foreach_mul_(steps, gradients)
        if group["weight_decay"]:
            torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
        # y moves to z by its share in the average, and along the step; z moves along the step. x is never needed.
        torch._foreach_lerp_(parameters, latest, newest)
        torch._foreach_add_(parameters, steps, alpha=rate * (share * (1 - newest) - 1))
        torch._foreach_sub_(latest, steps, alpha=rate)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the averages into the parameters, and afterwards the very bits back that were there.

        Raises:
            ModelwrightError: the averages are there already.
        """
        if self._averaged:
            raise ModelwrightError("the parameters hold their averages already: evaluating() is entered twice")
        before = [(parameter, parameter.detach().clone()) for parameter in self._begun()]
        self._averaged = True
        try:
            self._put_averages()
            yield
        finally:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)
            self._averaged = False

    def _begun(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"] if "z" in self.state.get(p, ()))

    @torch.no_grad()
    def _put_averages(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if "z" in self.state.get(parameter, ()):
                    z = self.state[parameter]["z"].to(parameter.device)  # it may be off-loaded
                    parameter.lerp_(z, 1 - 1 / group["share"])
