"""Weights as people write them, as whole numbers without a common factor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from modelwright.base.errors import ModelwrightError

LARGEST = 2**31  # the square of a sum must fit into an int64


def exact(weights: Mapping[str, float], where: str = "") -> list[int]:
    """Whole numbers in the proportions of ``weights``, in the order of the names: 0.7 and 0.3 are 7 and 3.

    Raises:
        ModelwrightError: a weight is negative or not finite, all are 0, or they have too many digits to be kept to.
    """
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ModelwrightError(
                f"the weight of '{name}' is {weight}", where=where, remedy="give 0 or more; 0 draws nothing"
            )
    fractions = [Fraction(str(weights[name])) for name in sorted(weights)]
    if not any(fractions):
        raise ModelwrightError("no source has a weight", where=where, remedy="give at least one of them more than 0")
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    whole = [int(fraction * scale) for fraction in fractions]
    whole = [weight // math.gcd(*whole) for weight in whole]
    if sum(whole) > LARGEST:
        raise ModelwrightError(
            f"these weights repeat after {sum(whole)} samples only, too many to keep to them exactly",
            where=where,
            remedy=f"round them, such as to {_rounded(weights)}",
        )
    return whole


def _rounded(weights: Mapping[str, float]) -> str:
    total = math.fsum(weights.values())
    return ", ".join(f"{name}: {weight / total:.4g}" for name, weight in weights.items())
