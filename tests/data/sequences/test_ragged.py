from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.sequences.ragged import Ragged, write_ragged

ROWS = st.lists(st.lists(st.integers(-100, 2**31 - 1), max_size=6), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, length=st.none() | st.integers(1, 8), data=st.data())
def test_rows_come_back_cut_and_filled(
    rows: list[list[int]], length: int | None, data: st.DataObject, tmp_path: Path
) -> None:
    assert write_ragged(tmp_path, "train", ["a"], ({"a": np.array(row, dtype=np.int64)} for row in rows)) == len(rows)
    positions = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1)))
    chosen = [rows[position] for position in positions]
    width = max(map(len, chosen)) if length is None else length
    ragged = Ragged(tmp_path, "train", ["a"])
    found = ragged.padded("a", positions, length, -7)
    assert found.dtype == np.int64 and found.shape == (len(chosen), width)
    assert found.tolist() == [(row + [-7] * width)[:width] for row in chosen]
    assert ragged.lengths("a", positions).tolist() == [len(row) for row in chosen]


@pytest.mark.parametrize("name", ["train.a.bin", "train.a.ends.npy"])
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    write_ragged(tmp_path, "train", ["a"], [{"a": np.arange(5)}])
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelwrightError, match="cannot be read") as caught:
        Ragged(tmp_path, "train", ["a"])
    assert caught.value.where == str(tmp_path / name)
