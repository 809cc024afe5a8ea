"""How long computations take, measured side by side: on a machine that others use too, only that compares them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_SHORTEST = 2e-3  # seconds of one sample: below, the clock and the loop would count
_FEWEST = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one computation took.

    Attributes:
        samples: seconds of one call, one for each round; rounds of computations measured together correspond.
    """

    samples: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles."""
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    def ratio(self, other: Timing) -> float:
        """This one's seconds as a multiple of the other's, round by round: the median."""
        return statistics.median(one / two for one, two in zip(self.samples, other.samples, strict=True))


def measure(
    computations: Mapping[str, Callable[[], object]], *, rounds: int = 15, budget: float | None = None
) -> dict[str, Timing]:
    """Time computations interleaved: each once a round, and each round begins with another.

    Args:
        computations: by name; each is called a few times before, unmeasured.
        rounds: how many samples of each, at least 5.
        budget: seconds after which no further round begins, five at the least are done; ``None``: all of them.
    """
    names = list(computations)
    often = {name: _often(computations[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    begun = time.perf_counter()
    for number in range(max(rounds, _FEWEST)):
        if number >= _FEWEST and budget is not None and time.perf_counter() - begun > budget:
            break
        for name in _from(names, number):
            samples[name].append(_sample(computations[name], often[name]))
    return {name: Timing(samples=tuple(samples[name])) for name in names}


def fastest(timings: Mapping[str, Timing], baseline: str, margin: float = 0.02) -> str:
    """The computation that takes the least time; the baseline, unless one is faster by more than the margin.

    Args:
        timings: measured together, the baseline among them.
        baseline: its name.
        margin: the part of the baseline's time that a faster one must save: less is noise.
    """
    ratios = {name: timing.ratio(timings[baseline]) for name, timing in timings.items()}
    best = min(ratios, key=lambda name: ratios[name])
    return best if ratios[best] < 1 - margin else baseline


def _often(compute: Callable[[], object]) -> int:
    """How many calls make a sample that is long enough; the first calls are slower, and do not count."""
    compute()
    compute()
    return max(1, round(_SHORTEST / max(_sample(compute, 1), 1e-9)))


def _sample(compute: Callable[[], object], often: int) -> float:
    begun = time.perf_counter()
    for _ in range(often):
        compute()
    return (time.perf_counter() - begun) / often


def _from(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]
