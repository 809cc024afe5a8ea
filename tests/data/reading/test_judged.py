from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
from tests.data.reading.sets import ORDER, Images, Locked

from modelwright.base.events import Event, listening
from modelwright.data.loader import Loader
from modelwright.data.reading import judged
from modelwright.data.reading.judged import spare_cores


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge at once, as if cores were idle."""
    monkeypatch.setattr(judged, "_SECONDS", 0.01)
    monkeypatch.setattr(judged, "_WORTH", 1.0)
    monkeypatch.setattr(judged, "spare_cores", lambda device: 1)


def _run(dataset: Any, steps: int, computing: float, until: str = "") -> tuple[list[torch.Tensor], list[Event]]:
    """Take steps; up to ``steps``, or until some process has read that is not this one."""
    told: list[Event] = []
    taken = []
    with listening(told.append):
        for step in Loader(dataset, ORDER, batch=4, micro_batch=4, steps=steps):
            time.sleep(computing)
            taken.append(step[0])
            if until == "helped" and (step[0]["process"] != os.getpid()).any():
                break
            if until and [event for event in told if event.kind == until]:
                break
    return taken, told


def _all_in_order(taken: list[Any]) -> bool:
    numbers = torch.cat([batch["numbers"] for batch in taken])
    return torch.equal(numbers, torch.from_numpy(ORDER(torch.arange(len(numbers)).numpy())))


@pytest.mark.usefixtures("hasty")
def test_processes_take_over_where_the_training_waits() -> None:
    taken, told = _run(Images(seconds=0.002), 100_000, computing=0.0, until="helped")
    assert _all_in_order(taken)
    assert [event.kind for event in told] == ["loader-workers"]
    assert len({int(batch["process"][0]) for batch in taken}) > 1


@pytest.mark.usefixtures("hasty")
def test_the_thread_goes_on_where_processes_cannot_read() -> None:
    taken, told = _run(Locked(seconds=0.002), 100_000, computing=0.0, until="loader-workers-refused")
    assert _all_in_order(taken)
    assert [event.kind for event in told] == ["loader-workers", "loader-workers-refused"]
    assert {int(batch["process"][0]) for batch in taken} == {os.getpid()}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("reason", ["computing", "few steps", "copying"])
def test_the_thread_reads_alone_where_processes_do_not_pay(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Images(seconds=0.0005)
    monkeypatch.setattr(dataset, "decodes", reason != "copying", raising=False)
    _, told = _run(dataset, 30 if reason == "few steps" else 40, computing=0.006 if reason == "computing" else 0.0)
    assert told == []


def test_spare_cores_are_those_that_no_rank_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "cores", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (spare_cores(device=True), spare_cores(device=False)) == (15, 13)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (spare_cores(device=True), spare_cores(device=False)) == (1, 0)
