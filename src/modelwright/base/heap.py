"""The process's memory: freed blocks that a step takes again (glibc, that is most of Linux), and garbage collection."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of <malloc.h>
_LARGEST_THRESHOLD = 32 * 2**20  # glibc takes no larger one
# What glibc comes to by itself; with its first 128 KiB, and its adapting now off, each large block would be trimmed.
_USUAL_TRIM = 2 * _LARGEST_THRESHOLD


@contextmanager
def kept_heap(wanted: bool = True) -> Iterator[None]:
    """Within the block freed memory stays with the process; afterwards it is given back.

    Otherwise a step's tensors are handed to the system when it ends, and come back page by page, each filled with
    zeros and out of the caches: a tenth and more of a step's time on a CPU (``benchmarks/loop.md``). The process holds
    no more than its peak. Nothing happens where memory is managed by another library.
    """
    libc = _glibc() if wanted else None
    if libc is None:
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        libc.malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block no cycles are looked for: many small objects, none of which is garbage, take half the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
