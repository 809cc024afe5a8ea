"""Tell a model's code, for a while, that it is being compiled, so that it asks for no tensor's content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FLAGS = ("_is_compiling_flag", "_is_exporting_flag")


@contextmanager
def as_if_compiling() -> Iterator[None]:
    """``torch.compiler.is_compiling()`` and ``is_exporting()`` are true inside; nothing is compiled.

    A torch that has no such flags is left alone: the code then sees what it sees in eager.
    """
    before = {flag: getattr(torch.compiler, flag) for flag in _FLAGS if hasattr(torch.compiler, flag)}
    try:
        for flag in before:
            setattr(torch.compiler, flag, True)
        yield
    finally:
        for flag, value in before.items():
            setattr(torch.compiler, flag, value)
