"""Stacks of a rank, as the fault handler writes them, read back: where does it stand?"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_STANDARD = str(Path(sysconfig.get_path("stdlib")))
_OURS = str(Path(__file__).parents[1])
_LIBRARIES = ("site-packages", "dist-packages", "/torch/", "<frozen", "<string>")
_WAITING = ("torch/distributed/", "modelwright/base/group.py", "modelwright/parallel/exchanges/")
_DEVICE = (
    "torch/cuda/streams.py",
    "torch/cuda/__init__.py",
    "modelwright/training/reading.py",
    "modelwright/training/update.py",
)
_READERS = ("modelwright/data/loader.py", "modelwright/data/reading/")
_NEAR = 3  # frames from the top within which a collective shows


@dataclass(frozen=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


def main_stack(text: str) -> tuple[Frame, ...]:
    """The stack of the main thread, innermost frame first, from the last dump in ``text``."""
    stacks = _stacks(text)
    main = [stack for stack in stacks if stack[-1].function != "_bootstrap"]
    chosen = main or stacks
    return chosen[-1] if chosen else ()


def reader_stack(text: str) -> tuple[Frame, ...]:
    """The stack of the thread that reads data ahead; the main thread's where there is none."""
    readers = [stack for stack in _stacks(text) if any(_reads(frame) for frame in stack)]
    threads = [stack for stack in readers if stack[-1].function == "_bootstrap"]
    return threads[-1] if threads else main_stack(text)


def _reads(frame: Frame) -> bool:
    return any(part in frame.file for part in _READERS)


def place(stack: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the user's own code; else of ours; else the innermost."""
    for fits in (_is_users, _is_ours):
        for frame in stack:
            if fits(frame.file):
                return frame
    return stack[0] if stack else None


def waits(stack: Sequence[Frame]) -> bool:
    """Whether it waits for other ranks: in a collective, or for its device, which may be in one."""
    return any(part in frame.file for frame in stack[:_NEAR] for part in (*_WAITING, *_DEVICE))


def _stacks(text: str) -> list[tuple[Frame, ...]]:
    stacks: list[list[Frame]] = []
    for line in text.splitlines():
        found = _FRAME.match(line)
        if line.startswith(("Thread ", "Current thread ", "Stack (")):
            stacks.append([])
        elif found and stacks:
            stacks[-1].append(Frame(found["file"], int(found["line"]), found["function"]))
    return [tuple(stack) for stack in stacks if stack]


def _is_users(file: str) -> bool:
    library = file.startswith(_STANDARD) or any(part in file for part in _LIBRARIES)
    return not library and not _is_ours(file)


def _is_ours(file: str) -> bool:
    return file.startswith(_OURS)
