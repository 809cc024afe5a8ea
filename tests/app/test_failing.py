"""What a run that ends early says."""

from __future__ import annotations

import pytest
import torch

from modelwright.app.failing import short_of_memory
from modelwright.base.errors import RunFailed


def test_a_want_of_memory_is_named() -> None:
    with pytest.raises(RunFailed, match=r"memory ran out: .*memory") as caught, short_of_memory():
        torch.empty(2**60, dtype=torch.uint8)
    assert "plan.micro_batch" in caught.value.remedy
    with pytest.raises(RunFailed, match="memory ran out: MemoryError"), short_of_memory():
        raise MemoryError


def test_other_failures_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="the cat sat on it"), short_of_memory():
        raise RuntimeError("the cat sat on it")
