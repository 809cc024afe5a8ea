from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.recipe.scalars import scalar

YAML_1_2 = {
    "3e-4": 3e-4, "1e6": 1e6, "1.5": 1.5, ".5": 0.5, "5.": 5.0, "-2": -2, "+3": 3, "5_000": 5000,
    "0x1F": 31, "0o17": 15, "010": 10, "true": True, "False": False, "null": None, "~": None, "": None,
    "no": "no", "on": "on", "1:30": "1:30", "10m": "10m", "2024-01-01": "2024-01-01", "a.b:C": "a.b:C",
    "e5": "e5", ".": ".", "-": "-", "1e": "1e", "0x": "0x",
}  # fmt: skip


@pytest.mark.parametrize(("word", "value"), YAML_1_2.items())
def test_words_are_read_as_yaml_1_2_has_it(word: str, value: object) -> None:
    assert scalar(word) == value
    assert type(scalar(word)) is type(value)


def test_unbounded_numbers() -> None:
    assert scalar(".inf") == math.inf
    assert scalar("-.INF") == -math.inf
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_that_python_writes_is_read_back(number: float) -> None:
    assert scalar(repr(number)) == number


@given(st.integers(min_value=-(10**300), max_value=10**300))
def test_any_whole_number_is_read_back(number: int) -> None:
    assert scalar(str(number)) == number


def test_a_very_long_number_is_text_and_no_crash() -> None:
    assert scalar("9" * 5000) == "9" * 5000
