"""Arithmetic on the axes of a mesh."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.axes import fitted, product_text


@given(micro_batch=st.integers(1, 40), replicas=st.integers(1, 6), each=st.integers(1, 40))
def test_the_micro_batch_of_a_pipeline_is_the_largest_divisor_of_a_share(
    micro_batch: int, replicas: int, each: int
) -> None:
    found = fitted(micro_batch, {"pipeline": 2, "replicate": replicas}, replicas * each)
    assert found == max(size for size in range(1, each + 1) if each % size == 0 and size <= micro_batch)


def test_elsewhere_it_is_at_most_the_share() -> None:
    assert fitted(3, {"shard": 2, "tensor": 2}, 8) == 3
    assert fitted(8, {"shard": 2, "tensor": 2}, 9) == 5


def test_a_layout_in_words() -> None:
    assert product_text({"pipeline": 2, "tensor": 4}) == "pipeline 2 x tensor 4"
