from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.tabular import crc32c_bitwise

from modelwright.data.tables.crc32c import crc32c, masked

COMMAND = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000020000000000000000"
)[:48]
RFC_3720 = [  # appendix B.4, the sums as they stand on the wire
    (bytes(32), "aa36918a"),
    (b"\xff" * 32, "43aba862"),
    (bytes(range(32)), "4e79dd46"),
    (bytes(range(31, -1, -1)), "5cdb3f11"),
    (COMMAND, "563a96d9"),
]


@pytest.mark.parametrize(("data", "sum_on_the_wire"), RFC_3720)
def test_the_vectors_of_rfc_3720(data: bytes, sum_on_the_wire: str) -> None:
    assert crc32c(data).to_bytes(4, "little").hex() == sum_on_the_wire


def test_the_check_of_the_catalogue() -> None:
    assert (crc32c(b"123456789"), crc32c(b"")) == (0xE3069283, 0)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 767, 768, 5000])
def test_long_data_is_summed_alike(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c(data) == crc32c_bitwise(data)


@given(st.binary(max_size=600), st.integers(0, 599))
def test_a_changed_bit_changes_the_sum(data: bytes, place: int) -> None:
    if place < len(data):
        changed = bytearray(data)
        changed[place] ^= 4
        assert crc32c(bytes(changed)) != crc32c(data)
    assert 0 <= masked(data) < 2**32
