from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests import world


@pytest.fixture(scope="session", autouse=True)
def worlds() -> Iterator[None]:
    """End the process that forked the ranks, if any test needed some."""
    yield
    world.close()
