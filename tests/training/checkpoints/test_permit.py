"""Checkpoints are published by permission."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.small import points, prepare

from modelwright.training import checkpoints
from modelwright.training.settings import Saving


class Forbidden(Exception):
    pass


class Permit:
    """Given so many times, and then no more."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> None:
        if self.left == 0:
            raise Forbidden
        self.left -= 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Each save asks before it writes, before it publishes, before it drops others, and before it copies to a store.
@pytest.mark.parametrize(
    ("times", "steps"), [(0, []), (1, []), (2, [3]), (4, [3]), (5, [3]), (6, [3, 6]), (7, [6]), (8, [6])]
)
def test_without_it_nothing_is_published_or_removed(tmp_path: Path, times: int, steps: list[int]) -> None:
    prepared = prepare(points(), saving=Saving(every=3, keep=1))
    permit = Permit(times)
    with pytest.raises(Forbidden):
        list(prepared.run(tmp_path, lambda: False, permit=permit))
    assert names(tmp_path) == [f"step-{step:08d}" for step in steps]
    assert permit.left == 0


def test_what_is_damaged_stays_for_who_may_replace_it(tmp_path: Path) -> None:
    prepared = prepare(points(), saving=Saving(every=3))
    damaged = tmp_path / "step-00000003"
    damaged.mkdir()
    (damaged / "mine").write_text("")
    with pytest.raises(Forbidden):
        list(prepared.run(tmp_path, lambda: False, permit=Permit(1)))
    assert names(tmp_path) == ["step-00000003"] and names(damaged) == ["mine"]
    list(prepare(points(), saving=Saving(every=3)).run(tmp_path, lambda: False, permit=Permit(99)))
    assert not (damaged / "mine").exists()
    assert checkpoints.find_newest(tmp_path) is not None
