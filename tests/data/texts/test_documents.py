from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.texts.documents import Files, held_out_names

NAMES = [f"package/module_{number}.py" for number in range(2000)]


def test_about_the_part_asked_for_is_held_out() -> None:
    for fraction in (0.05, 0.3):
        assert abs(len(held_out_names(NAMES, fraction, 0)) / len(NAMES) - fraction) < 0.02


def test_more_files_leave_the_others_where_they_are() -> None:
    few = held_out_names(NAMES[:1500], 0.05, 0)
    assert held_out_names(NAMES, 0.05, 0) & set(NAMES[:1500]) == few


def test_another_seed_is_another_split() -> None:
    assert held_out_names(NAMES, 0.05, 0) != held_out_names(NAMES, 0.05, 1)


def test_the_split_never_changes() -> None:
    assert sorted(held_out_names(NAMES[:60], 0.05, 0)) == GOLDEN


@given(
    names=st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True),
    fraction=st.floats(0.0001, 0.9999),
    seed=st.integers(),
)
def test_both_parts_have_a_file(names: list[str], fraction: float, seed: int) -> None:
    assert 0 < len(held_out_names(names, fraction, seed)) < len(names)


@pytest.mark.parametrize(("names", "fraction"), [(NAMES, 0.0), (NAMES[:1], 0.5), ([], 0.5)])
def test_nothing_is_held_out(names: list[str], fraction: float) -> None:
    assert held_out_names(names, fraction, 0) == frozenset()


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(name.encode() + b"\xff")
    files = Files([(name, tmp_path / name) for name in ("b", "a")])
    assert list(files) == [("a", b"a\xff"), ("b", b"b\xff")]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError, match="cannot be read") as caught:
        list(Files([("gone", tmp_path / "gone")]))
    assert caught.value.where == str(tmp_path / "gone")


GOLDEN = ["package/module_23.py", "package/module_5.py"]
