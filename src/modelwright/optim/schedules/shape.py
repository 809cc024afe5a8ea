"""What the schedules share: the warm-up, and how far the rest has come."""

from __future__ import annotations

from modelwright.base.errors import ModelwrightError


def steps_of(amount: float, total: int) -> int:
    """Steps: ``amount`` itself from 1 up, below 1 that fraction of ``total``, rounded."""
    return round(amount if amount >= 1 else amount * total)


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up, as :func:`steps_of`."""
    return steps_of(warmup, total)


def warmup_factor(step: int, steps: int) -> float:
    """From ``1 / steps`` at step 0, so that the first step does something, to 1 from ``steps - 1`` on."""
    return min(1.0, (step + 1) / max(1, steps))


def progress(step: int, total: int, steps: int) -> float:
    """How far ``step`` is from the end of a warm-up of ``steps`` (0) to one step after the last, ``total`` (1)."""
    top = max(steps - 1, 0)
    if step <= top:
        return 0.0
    return min(1.0, (step - top) / (total - top)) if total > top else 1.0


def check_position(step: int, total: int) -> None:
    """Refuse a position that is none.

    Raises:
        ModelwrightError: ``step`` below 0, or no steps at all.
    """
    if step < 0 or total < 1:
        raise ModelwrightError(f"a schedule needs step >= 0 and total >= 1, not {step=}, {total=}")


def check_shape(technique: str, *, warmup: float, floor: float = 0.0) -> None:
    """Refuse values out of range.

    Raises:
        ModelwrightError: naming the value.
    """
    check_amounts(technique, warmup=warmup)
    if not 0 <= floor <= 1:
        raise ModelwrightError(f"{technique}: floor is between 0 and 1, not {floor}")


def check_amounts(technique: str, **amounts: float) -> None:
    """Refuse what is neither a fraction of all steps nor a whole number of steps.

    Raises:
        ModelwrightError: naming the first such value.
    """
    for name, amount in amounts.items():
        if not amount >= 0 or (amount >= 1 and amount != round(amount)):
            raise ModelwrightError(
                f"{technique}: {name} is a fraction of the steps, below 1, or a number of steps, not {amount}"
            )


def check_share(technique: str, **values: float) -> None:
    """Refuse values outside of (0, 1].

    Raises:
        ModelwrightError: naming the first such value.
    """
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ModelwrightError(f"{technique}: {name} is above 0 and at most 1, not {value}")
