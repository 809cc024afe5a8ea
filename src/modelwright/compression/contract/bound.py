"""How much worse one model may be than another, at most, from their scores on the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import ModelwrightError

Numbers = NDArray[np.float64]
_GRID = 256
_SHARE_AT_STAKE = 0.9


@dataclass(frozen=True, eq=False)
class Scores:
    """What a metric that is a total over a count made of each sample, such as accuracy or a mean loss.

    Attributes:
        totals: float64 ``[samples]``, such as how many answers were right.
        counts: float64 ``[samples]``, of how many.
    """

    totals: Numbers
    counts: Numbers

    @property
    def value(self) -> float:
        """Of all samples together."""
        return float(self.totals.sum() / self.counts.sum())


def drop_of(before: Scores, after: Scores, *, higher_is_better: bool) -> float:
    """How much worse ``after`` scores than ``before``; negative where it is better."""
    change = after.value - before.value
    return -change if higher_is_better else change


def upper_bound(
    before: Scores,
    after: Scores,
    *,
    higher_is_better: bool,
    spread: float | None = 1.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> float:
    """What the drop is at most, on all the data of which the samples were drawn.

    Both models were scored on the same samples, so that what is hard for both says nothing. Samples are to be drawn
    independently; what is inside of one, such as the tokens of a text, may depend on each other.

    With ``spread`` it holds for any number of samples and whatever their distribution: a bet that the drop is at least
    m is a supermartingale if it is so, and each m at which the gambler became rich enough is ruled out (Waudby-Smith
    and Ramdas 2024, arXiv:2010.09686). Without, it is the normal approximation for a ratio of sums, which some
    thousand samples allow.

    Args:
        before: of the model that is compared with.
        after: of the other one, on the same samples in the same order.
        higher_is_better: as of accuracy.
        spread: the largest difference that is possible of one answer: 1 of accuracies; ``None`` of what has no bounds.
        confidence: with which probability it holds.
        seed: of the order in which samples are bet on, which may not depend on them.

    Raises:
        ModelwrightError: the two are not of the same samples, or there are too few.
    """
    drops, counts = _paired(before, after, higher_is_better)
    if not 0.5 <= confidence < 1:
        raise ModelwrightError(f"a confidence is from 0.5 to below 1, not {confidence}", where="confidence")
    if spread is None:
        return _normal_bound(drops, counts, confidence)
    if bool((np.abs(drops) > spread * counts * (1 + 1e-9)).any()):
        raise ModelwrightError(
            f"answers differ by more than {spread:g}, which was said to be the most",
            where="spread",
            remedy="give the largest difference that is possible, or none",
        )
    order = np.random.default_rng(seed).permutation(len(drops))
    bound = spread * _betting_bound(drops[order] / spread, counts[order], math.log(1 / (1 - confidence)))
    return max(bound, float(drops.sum() / counts.sum()))  # what was seen in the middle may say less than all of it


def _paired(before: Scores, after: Scores, higher_is_better: bool) -> tuple[Numbers, Numbers]:
    """Drops and counts of the samples that count."""
    if before.counts.shape != after.counts.shape or not np.array_equal(before.counts, after.counts):
        raise ModelwrightError(
            "the two models were not scored on the same samples",
            where="certifying data",
            remedy="score both on the same samples, in the same order",
        )
    drops = before.totals - after.totals if higher_is_better else after.totals - before.totals
    counted = before.counts > 0
    if not np.isfinite(drops).all():
        raise ModelwrightError("a score is not a finite number", where="certifying data")
    if counted.sum() < 2:
        raise ModelwrightError("a bound takes samples, at least two", where="certifying data")
    return drops[counted], before.counts[counted]


def _normal_bound(drops: Numbers, counts: Numbers, confidence: float) -> float:
    samples, drop = len(drops), drops.sum() / counts.sum()
    spread = math.sqrt(samples / (samples - 1) * np.square(drops - drop * counts).sum()) / counts.sum()
    return float(drop + NormalDist().inv_cdf(confidence) * spread)


def _betting_bound(drops: Numbers, counts: Numbers, rich: float) -> float:
    """The largest m that is not ruled out: from 1 downwards, then between two places of the grid."""
    stakes = _stakes(drops, counts, rich)

    def ruled_out(m: float) -> bool:
        most = counts.max() * (1 - min(m, 0.0))
        wins = np.log1p(-np.minimum(stakes, _SHARE_AT_STAKE / most) * (drops - m * counts))
        return bool(np.cumsum(wins).max() >= rich)

    places = np.linspace(1, -1, 2 * _GRID + 1)
    first = next((number for number, m in enumerate(places) if not ruled_out(float(m))), len(places) - 1)
    if first == 0:
        return 1.0
    low, high = float(places[first]), float(places[first - 1])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(middle) else (middle, high)
    return high


def _stakes(drops: Numbers, counts: Numbers, rich: float) -> Numbers:
    """How much is bet on each sample: about what is best for the variance seen in those before it."""
    samples = np.arange(1, len(drops) + 1)
    scale = float(counts.max())
    drop = np.cumsum(drops) / (np.cumsum(counts) + scale)
    squares = scale**2 / 4 + np.cumsum(np.square(drops - drop * counts))
    variance = squares / (samples + 1)
    before = np.concatenate([[scale**2 / 4], variance[:-1]])
    return np.asarray(np.sqrt(2 * rich / (len(drops) * before)))
