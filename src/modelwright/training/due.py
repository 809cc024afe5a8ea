"""When a checkpoint is due: the same answer on every rank, whatever its clock says."""

from __future__ import annotations

import statistics

from modelwright.base.group import Group
from modelwright.training.settings import Saving
from modelwright.training.state import State

LEARNED_AFTER = 10  # Steps of a sitting, the slow first ones among them, before their duration is taken.


class SavingDue:
    """Asked after each step whether to save.

    An interval in time becomes a number of steps once in a sitting, from the median step of the slowest rank. Until
    then the slowest rank's clock decides, so that long steps are not lost; a collective in each of these first steps,
    and never later. Both count the time in steps, not that of evaluating and saving.

    Args:
        saving: what the user wants.
        state: where the run stands.
        group: the ranks that train together.
    """

    def __init__(self, saving: Saving, state: State, group: Group) -> None:
        self._saving, self._state, self._group = saving, state, group
        self._clock = self._saved = state.seconds
        self._taken: list[float] = []
        self.every = saving.every

    def __call__(self) -> bool:
        """Whether a checkpoint is due after the step just done."""
        passed = self.every is None and self._learn()
        return passed or (self.every is not None and self._state.step % self.every == 0)

    def _learn(self) -> bool:
        """Note the step just done; whether the interval has passed on the slowest rank."""
        now = self._state.seconds
        self._taken.append(now - self._clock)
        self._clock = now
        ranks = self._group.gather([now - self._saved, statistics.median(self._taken)])
        since, usual = (max(values) for values in zip(*ranks, strict=True))
        if len(self._taken) == LEARNED_AFTER:
            self.every = max(1, round(self._saving.interval / usual))
        if since < self._saving.interval:
            return False
        self._saved = now
        return True
