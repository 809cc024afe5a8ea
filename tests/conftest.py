from __future__ import annotations

import os
from collections.abc import Iterator

# Tests are small and run side by side: threads of one would spin while they wait for the cores of another. What a
# test starts inherits it; before torch is imported, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tests import world


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run every combination, where a covering part is the default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def worlds() -> Iterator[None]:
    """End the process that forked the ranks, if any test needed some."""
    yield
    world.close()
