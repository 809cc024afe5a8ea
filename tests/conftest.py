from __future__ import annotations

from collections.abc import Iterator

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
