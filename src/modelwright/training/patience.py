"""Early stopping: training ends when the held-out score no longer gains, and the best weights are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.parallel.holdings import Holdings


class Patience:
    """Watches one score.

    Args:
        monitor: ``loss`` or the name of a metric.
        better: which direction is better.
        patience: evaluations without a gain after which training ends.
        minimum_gain: less than this, in the score's own unit, is no gain to wait on for; it may be the best even so.
    """

    def __init__(
        self, *, monitor: str, better: Literal["lower", "higher"], patience: int, minimum_gain: float = 0.0
    ) -> None:
        self.monitor, self.better = monitor, better
        self.patience, self.minimum_gain = patience, minimum_gain
        self.best = self.mark = math.inf if better == "lower" else -math.inf
        self.best_step = 0
        self.without_gain = 0

    def observe(self, score: float, step: int) -> bool:
        """Take in the score after ``step``; whether it is the best so far. An undefined score never is."""
        if self._gains(score, self.mark, self.minimum_gain):
            self.mark, self.without_gain = score, 0
        else:
            self.without_gain += 1
        if not self._gains(score, self.best, 0.0):
            return False
        self.best, self.best_step = score, step
        return True

    def _gains(self, score: float, before: float, least: float) -> bool:
        gain = before - score if self.better == "lower" else score - before
        return gain > least and math.isfinite(score)

    @property
    def exhausted(self) -> bool:
        """Whether training should end."""
        return self.without_gain >= self.patience

    def state(self) -> dict[str, Any]:
        """Best score, its step, and how many evaluations passed since."""
        best, mark = (each if math.isfinite(each) else None for each in (self.best, self.mark))
        counted = {"best": best, "mark": mark, "best_step": self.best_step, "without_gain": self.without_gain}
        return {"monitor": self.monitor, **counted}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` described.

        Raises:
            ModelwrightError: that watched another score.
        """
        if state["monitor"] != self.monitor:
            raise ModelwrightError(
                f"the run that is to go on watched '{state['monitor']}', not '{self.monitor}'",
                where="evaluation.monitor",
                remedy=f"watch {state['monitor']}, or give the new run another name",
            )
        if state["best"] is not None:
            self.best, self.mark = float(state["best"]), float(state["mark"])
        self.best_step, self.without_gain = int(state["best_step"]), int(state["without_gain"])


class BestWeights:
    """Copies of the weights of the best evaluation so far, in the memory of the host."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def keep(self, held: Holdings) -> None:
        """Copy parameters and buffers as they are."""
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in held.tensors().items()}

    def restore(self, held: Holdings) -> None:
        """Put them back; nothing happens where none were kept."""
        if self.tensors:
            held.put(self.tensors)

    def state(self) -> dict[str, Tensor]:
        """By name."""
        return self.tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Become what :meth:`state` described."""
        self.tensors = dict(state)


def check_monitor(monitor: str, metrics: tuple[str, ...]) -> None:
    """Refuse to watch what is not scored.

    Raises:
        ModelwrightError: naming what is.
    """
    known = ("loss", *metrics)
    if monitor not in known:
        raise ModelwrightError(
            f"'{monitor}' is not among the scores of the held-out data",
            where="evaluation.monitor",
            remedy=f"{nearest(monitor, known)} or add it to evaluation.metrics",
        )
