"""A run that came from elsewhere and names foreign classes would run foreign code: the user has to say so."""

from __future__ import annotations

from modelwright.base.errors import ModelwrightError
from modelwright.recipe import foreign_classes
from modelwright.runs import Run


def check_trust(run: Run, trust: bool) -> None:
    """Let through what this user started, what names no foreign class, and what is trusted explicitly.

    Raises:
        ModelwrightError: the recipe came from elsewhere and would import code.
    """
    foreign = foreign_classes(run.recipe(), source=str(run.recipe_path))
    if foreign and not trust and not run.ours():
        raise ModelwrightError(
            f"this run came from elsewhere and would run code of its own: {', '.join(foreign)}",
            where=str(run.recipe_path),
            remedy="read that code, then add --trust",
        )
