"""The weights to be scored and shipped, where they are not those that are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from modelwright.optim import Optimizer
from modelwright.optim.joined import parts


@contextmanager
def evaluating(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the parameters hold what ``optimizer`` would have scored; afterwards the very bits that were there.

    An optimizer that trains other weights than its result, such as the schedule-free one, offers a context manager
    ``evaluating()``; for any other this does nothing.
    """
    with ExitStack() as stack:
        for part in parts(optimizer):
            if hasattr(part, "evaluating"):
                stack.enter_context(part.evaluating())
        yield
