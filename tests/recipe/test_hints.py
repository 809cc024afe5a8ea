from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from tests.recipe.techniques import SOLVERS, Adam, Job

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import Count
from modelwright.recipe.hints import described, documented, is_simple, slots


def test_the_docstring_tells_what_fields_mean() -> None:
    assert documented(Adam) == {
        "lr": "peak learning rate.",
        "betas": "decay of the first and of the second moment.",
        "fused": "one kernel for all parameters.",
        "mode": "how it works.",
    }


def test_several_fields_in_one_entry_and_inherited_ones() -> None:
    class Base:
        """A base.

        Attributes:
            low, high: the interval.

        Other words: that are no field.
        """

    class Derived(Base):
        """More.

        Attributes:
            high: its ``end``: inclusive.
        """

    assert documented(Derived) == {"low": "the interval.", "high": "its end: inclusive."}


def test_every_field_of_the_recipe_is_documented() -> None:
    assert all(slot.doc for slot in slots(Job).values())


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (Count, "a count such as 500, 20k or 5M"),
        (Literal["a", "b"], "one of a, b"),
        (int | Literal["auto"], "a whole number or auto"),
        (tuple[int, ...] | None, "a list or null"),
        (dict[str, int], "a mapping (name: value)"),
        (Annotated[object, SOLVERS], "the name of a technique (solver), or  use: NAME  with its fields"),
    ],
)
def test_annotations_in_words(hint: Any, words: str) -> None:
    assert described(hint) == words


def test_which_annotations_a_recipe_can_write() -> None:
    assert all(map(is_simple, [int, Path, Count, tuple[int, ...], dict[str, float], Literal["a"] | None, Adam]))
    assert not any(map(is_simple, [bytes, complex, tuple[bytes, ...], int | bytes]))


def test_unreadable_annotations_are_the_users_to_mend() -> None:
    @dataclass
    class Bad:
        field: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ModelwrightError, match="Nowhere") as caught:
        slots(Bad)
    assert "TYPE_CHECKING" in caught.value.remedy
