"""What a user decides about seeing: profiles, gradient norms by module, spikes, hangs, samples used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Seconds

USUAL_PATIENCE = 600.0


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Looking into a run while it trains.

    Attributes:
        profile: a step, or steps, to profile: where the time goes, and a trace for Perfetto.
        gradients: steps between two rows of gradient norms by module; none means no rows.
        depth: how many parts of a module's name tell one module from another in these rows.
        spikes: tell of steps whose loss leaps, and of the samples that made it.
        diagnose: how many left-out steps are replayed to find the first module, the rank and the samples.
        utilisation: count the model's operations and compare them with what the device could do.
        hang: without a sign of life from a worker for so long, say which one stands where; none means never.
        hang_action: what then follows: a warning, or the end of the run.
        samples: each worker writes down the samples of every step before it computes it, in the run's samples folder.
    """

    profile: int | tuple[int, ...] | None = None
    gradients: int | None = None
    depth: int = 2
    spikes: bool = True
    diagnose: int = 3
    utilisation: bool = True
    hang: Seconds | None = USUAL_PATIENCE
    hang_action: Literal["warn", "stop"] = "warn"
    samples: bool = False

    def __post_init__(self) -> None:
        for step in self.profiled:
            _at_least("profile", step, 1, "name a step; the first is 1")
        _at_least("gradients", self.gradients, 1, "a number of steps, or null for no rows")
        _at_least("depth", self.depth, 1, "1 for the modules at the top, 2 for those inside them")
        _at_least("diagnose", self.diagnose, 0, "0 for never")
        if self.hang is not None and not self.hang > 0:
            raise ModelwrightError(
                f"'hang' must be more than zero, not {self.hang:g}",
                where="hang",
                remedy="a duration, or null for never",
            )

    @property
    def profiled(self) -> frozenset[int]:
        """The steps to profile."""
        if self.profile is None:
            return frozenset()
        return frozenset([self.profile] if isinstance(self.profile, int) else self.profile)


def _at_least(name: str, value: int | None, least: int, remedy: str) -> None:
    if value is not None and value < least:
        raise ModelwrightError(f"'{name}' must be at least {least}, not {value}", where=name, remedy=remedy)
