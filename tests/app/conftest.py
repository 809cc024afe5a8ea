from __future__ import annotations

from pathlib import Path

import pytest
from tests import command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    command.make_home(tmp_path, monkeypatch)
    return tmp_path
