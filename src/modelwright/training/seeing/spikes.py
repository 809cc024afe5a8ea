"""Loss spikes: a step whose loss stands out from those before it, by robust statistics."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

LEVEL = 16  # steps whose median is the usual loss
WINDOW = 128  # steps whose distances from it are the usual noise
LEAST = 32  # distances to have seen before any is judged
DEVIATIONS = 12.0
LEAST_FACTOR = 1.5
QUIET = 64  # steps after a spike in which no other is told: the same trouble
_SIGMA = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A loss that stands out.

    Attributes:
        step: of which it is.
        loss, usual: it, and the median of the steps before it.
        deviations: how far above it lies, in robust standard deviations of the noise.
    """

    step: int
    loss: float
    usual: float
    deviations: float


class SpikeDetector:
    """Hears the loss of each step in turn.

    Losses are compared by their logarithm, in which noise has about the same width all along a training; where any
    is not positive, as they are. Of each step the distance from the median of the steps just before is taken, which
    follows the trend; the width of the noise is the median absolute deviation of these distances, which spikes do
    not move (Hampel 1974, "The influence curve and its role in robust estimation"). A spike lies more than
    ``DEVIATIONS`` widths and ``LEAST_FACTOR`` above, and twice as far as any other step of the window: heavy tails
    are no spikes.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=LEVEL)
        self._distances: deque[float] = deque(maxlen=WINDOW)
        self._quiet_until = 0
        self._logarithmic = True

    def __call__(self, step: int, loss: float) -> Spike | None:
        """The spike that this step is; ``None`` for an ordinary one. A non-finite loss is left to others."""
        if not math.isfinite(loss):
            return None
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < LEVEL or step < self._quiet_until:
            return None
        distance = self._distance(loss, before)
        spike = self._judged(step, loss, before, distance)
        if spike is None:
            self._distances.append(distance)
        else:
            self._quiet_until = step + QUIET
        return spike

    def _judged(self, step: int, loss: float, before: list[float], distance: float) -> Spike | None:
        known = self._distances
        if len(known) < LEAST:
            return None
        least = math.log(LEAST_FACTOR) if self._logarithmic else 0.0
        if distance <= least or distance <= 2 * max(known):  # nearly every step, and far cheaper than what follows
            return None
        middle = statistics.median(known)
        width = max(_SIGMA * statistics.median(abs(each - middle) for each in known), 1e-9)
        if distance <= DEVIATIONS * width:
            return None
        return Spike(step=step, loss=loss, usual=statistics.median(before), deviations=distance / width)

    def _distance(self, loss: float, before: list[float]) -> float:
        """How far ``loss`` lies above the median of those before it."""
        ordered = sorted(before)
        middle = (ordered[LEVEL // 2 - 1] + ordered[LEVEL // 2]) / 2  # statistics.median takes five times as long
        if self._logarithmic and min(loss, middle) <= 0:
            self._logarithmic = False
            self._distances.clear()
        return math.log(loss / middle) if self._logarithmic else loss - middle
