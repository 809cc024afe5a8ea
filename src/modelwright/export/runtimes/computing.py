"""How torch computes for a while: threads and precision, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def computing(threads: int | None, precision: str) -> Iterator[None]:
    """Inside, so many threads (``None``: as many as there are), in ``fp32`` or, by autocast, in ``bf16``."""
    before = torch.get_num_threads()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
