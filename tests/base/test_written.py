"""Techniques as plain data and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.written import chosen, written

HERE = "tests.base.test_written"
SPICES = Family("spice", {"salt": f"{HERE}:Salt", "pepper": f"{HERE}:Pepper"})
SOUPS = Family("soup", {"broth": f"{HERE}:Broth", "stew": f"{HERE}:Stew"})


@dataclass(frozen=True, kw_only=True)
class Salt:
    pass


@dataclass(frozen=True, kw_only=True)
class Pepper:
    grains: int = 3
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Broth:
    litres: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stew:
    spice: Annotated[object, SPICES] = field(default_factory=Salt)
    other: Annotated[object, SPICES] | None = None


@dataclass(frozen=True, kw_only=True)
class Own:
    """Of a user, not listed."""

    depth: int = 1


@dataclass(frozen=True)
class Named:
    """As a recipe keeps what is no dataclass."""

    use: str
    arguments: dict[str, Any]


def thinned(water: float = 0.0) -> Broth:
    return Broth(litres=1 + water)


@pytest.mark.parametrize(
    ("technique", "plain"),
    [
        (Broth(), "broth"),
        (Broth(litres=2.0), {"use": "broth", "litres": 2.0}),
        (Stew(), "stew"),
        (Stew(spice=Pepper()), {"use": "stew", "spice": "pepper"}),
        (Stew(other=Salt()), {"use": "stew", "other": "salt"}),
        (
            Stew(spice=Pepper(grains=5, kinds=("black",))),
            {"use": "stew", "spice": {"use": "pepper", "grains": 5, "kinds": ("black",)}},
        ),
        (Own(depth=2), {"use": f"{HERE}:Own", "depth": 2}),
    ],
)
def test_what_is_written_is_chosen_again(technique: object, plain: Any) -> None:
    assert written(technique, SOUPS) == plain
    assert chosen(json.loads(json.dumps(plain)), SOUPS) == technique


def test_a_function_is_written_with_its_arguments() -> None:
    plain = written(Named(f"{HERE}:thinned", {"water": 0.5}), SOUPS)
    assert plain == {"use": f"{HERE}:thinned", "water": 0.5}
    assert chosen(plain, SOUPS) == Broth(litres=1.5)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("broht", "no soup named 'broht'"),
        ({"use": "stew", "spice": "sugar"}, "no spice named 'sugar'"),
        ({"use": "broth", "liters": 2}, "refused its settings"),
        ({"litres": 2.0}, "names no soup"),
        (3, "names no soup"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_family(plain: Any, said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        chosen(plain, SOUPS)
