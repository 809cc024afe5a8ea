"""The fence of a run: of all worlds that took it up, the last one may write."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.runs.fence import Fence, TakenOver


def test_who_took_it_up_last_may_write(tmp_path: Path) -> None:
    first = Fence.take(tmp_path)
    first.check()
    second = Fence.take(tmp_path)
    second.check()
    with pytest.raises(TakenOver, match="another world has taken the run over") as told:
        first.check()
    holder = json.loads((tmp_path / "world.json").read_text())
    assert platform.node() in told.value.what and holder["time"] in told.value.what
    assert holder["generation"] == second.generation != first.generation
    assert (told.value.where, told.value.exit_code) == (str(tmp_path), 3)
    Fence(tmp_path, second.generation).check()  # as the other ranks of the second world hold it


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_what_cannot_be_read_forbids_to_write(tmp_path: Path, content: str | None) -> None:
    fence = Fence.take(tmp_path)
    (tmp_path / "world.json").unlink()
    if content is not None:
        (tmp_path / "world.json").write_text(content)
    with pytest.raises(ModelwrightError) as told:
        fence.check()
    assert not isinstance(told.value, TakenOver)
