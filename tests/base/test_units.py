from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.base.units import (
    bytes_text,
    count_text,
    parse_bytes,
    parse_count,
    parse_seconds,
    seconds_text,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500", 500), ("20k", 20_000), ("5M", 5_000_000), ("1.5B", 1_500_000_000), ("1_000", 1000), ("2e3", 2000)],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("1d", 86400)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("2GB", 2 * 10**9), ("2GiB", 2 * 2**30), ("100", 100), ("5kB", 5000)])
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("parse", [parse_count, parse_seconds, parse_bytes])
@pytest.mark.parametrize("text", ["", "  ", "lots", "5Q", "-3", "1 2 x", "M5"])
def test_what_is_no_number_is_refused_with_an_example(parse: object, text: str) -> None:
    with pytest.raises(ModelwrightError, match="such as"):
        parse(text)  # type: ignore[operator]


@given(st.integers(0, 10**15))
def test_plain_numbers_are_themselves(value: int) -> None:
    assert parse_count(str(value)) == value == parse_bytes(str(value))


def test_numbers_as_people_read_them() -> None:
    assert [count_text(value) for value in (7, 999, 1234, 2_164_416, 3.5e9)] == ["7", "999", "1.23k", "2.16M", "3.5B"]
    assert [seconds_text(value) for value in (0.0123, 5, 75, 3700)] == ["12.3 ms", "5 s", "1m15s", "1h01m"]
    assert [bytes_text(value) for value in (12, 2500, 8_660_000)] == ["12 B", "2.5 kB", "8.66 MB"]
