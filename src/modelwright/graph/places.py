"""Which line of a model's code did it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

import torch

_MODES = ("__torch_function__", "__torch_dispatch__")
_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def line_outside_torch(raised: TracebackType | None = None) -> str:
    """``file:line: text`` of the innermost frame that is neither torch's nor a watcher's; of ``raised``, or of now."""
    frames = traceback.extract_stack() if raised is None else traceback.extract_tb(raised)
    for frame in reversed(frames):
        if frame.name not in _MODES and not frame.filename.startswith(_NOT_THE_MODEL):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return ""
