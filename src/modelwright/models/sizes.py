"""Sizes of models: those that are given, and those that the data gives."""

from __future__ import annotations

from modelwright.base.errors import ModelwrightError


def check_at_least_one(model: str, **sizes: int | None) -> None:
    """Refuse sizes below 1; ``None`` is still open.

    Raises:
        ModelwrightError: names the model and the field.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ModelwrightError(f"{model}: {name} is at least 1, not {size}")


def known(model: str, **facts: int | None) -> list[int]:
    """The facts of the data that a model needs, in their order.

    Raises:
        ModelwrightError: one is still open.
    """
    for name, value in facts.items():
        if value is None:
            raise ModelwrightError(
                f"{model}: the size '{name}' is not known",
                remedy=f"set model.{name}, or use data that states it",
            )
    return [value for value in facts.values() if value is not None]
