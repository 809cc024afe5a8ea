"""Where things lie outside a run's directory."""

from __future__ import annotations

import os
from pathlib import Path


def data_cache() -> Path:
    """Folder of prepared data, shared by all runs: ``$XDG_CACHE_HOME/modelwright`` or ``~/.cache/modelwright``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelwright"
