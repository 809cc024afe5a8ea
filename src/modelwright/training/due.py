"""When a checkpoint is due: the same answer on every rank, whatever its clock says."""

from __future__ import annotations

from modelwright.base.group import Group
from modelwright.training.settings import Saving
from modelwright.training.state import State

LEARNED_AFTER = 10  # Steps of a sitting, the slow first ones among them, before their duration is taken.


class SavingDue:
    """Asked after each step whether to save.

    An interval in time becomes a number of steps once in a sitting, from the slowest rank's clock; a collective
    then, and only then.

    Args:
        saving: what the user wants.
        state: where the run stands.
        group: the ranks that train together.
    """

    def __init__(self, saving: Saving, state: State, group: Group) -> None:
        self._saving, self._state, self._group = saving, state, group
        self._first, self._begun = state.step, state.seconds
        self.every = saving.every

    def __call__(self) -> bool:
        """Whether a checkpoint is due after the step just done."""
        if self.every is None and self._state.step - self._first == LEARNED_AFTER:
            self.every = self._steps()
        return self.every is not None and self._state.step % self.every == 0

    def _steps(self) -> int:
        mine = (self._state.seconds - self._begun) / LEARNED_AFTER
        slowest = float(max(self._group.gather(mine)))
        return max(1, round(self._saving.interval / slowest))
