"""Killed at random instants within saves: there is always a whole newest checkpoint, and the end is the same."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tests.training.small import heard, network, points, prepare
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.optim.averages.ema import Ema
from modelwright.training import checkpoints
from modelwright.training.fit import Saved
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Saving

HERE = "tests.training.checkpoints.test_kill"
TOTAL, TRIALS, PATIENCE = 500, 20, 30.0
FILES = ("model.safetensors", "optimizer.safetensors", "further.safetensors", "shown/model.safetensors")


def training(every: int) -> Prepared:
    saving = Saving(every=every, keep=2)
    return prepare(
        points(), model=network(dropout=0.5), averaging=Ema(decay=0.9), micro_batch=2, total=TOTAL, saving=saving
    )


def train(folder: Path, every: int, mark: Path | None = None) -> None:
    """From the newest checkpoint to the end; ``mark`` appears with the first checkpoint of this sitting."""
    prepared = training(every)
    checkpoints.load_newest(prepared.state, folder, Group(0, 1))
    for record in prepared.run(folder, lambda: False):
        if mark is not None and isinstance(record, Saved):
            mark.touch()


def killed_once(folder: Path, mark: Path, seconds: float) -> bool:
    """Train in a process that saves after each step, and kill it; whether that hit a save."""
    mark.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        train(folder, 1, mark)
        os._exit(0)
    end = time.monotonic() + PATIENCE
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return any(path.name.endswith(".part") for path in folder.glob(".step-*"))


def trials(mesh: Mesh, folder: str) -> list[int]:
    """In a process without other threads, whose children are forked at once: kills within a save, and the last step."""
    torch.set_num_threads(1)
    path, draw, inside = Path(folder), random.Random(4), 0
    for _ in range(TRIALS):
        inside += killed_once(path, path.with_name("mark"), draw.uniform(0.0, 0.05))
        with heard() as events:
            newest = checkpoints.find_newest(path)
        assert events == [], "a damaged checkpoint"
        assert newest is not None
        assert newest == checkpoints.list_checkpoints(path)[0]
    return [inside, int(newest.name[5:])]


def test_killed_within_saves_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "one", tmp_path / "other"
    train(undisturbed, TOTAL)
    ((inside, reached),) = run_world(f"{HERE}:trials", 1, folder=str(disturbed))
    assert inside >= TRIALS // 5
    assert TRIALS <= reached < TOTAL
    train(disturbed, TOTAL)
    (path,) = checkpoints.list_checkpoints(undisturbed)
    assert path.name == f"step-{TOTAL:08d}"
    for name in FILES:
        assert (disturbed / path.name / name).read_bytes() == (path / name).read_bytes()


def test_a_truncated_file_would_be_found(tmp_path: Path) -> None:
    prepared = training(1)
    path = checkpoints.save(prepared.state, tmp_path, Group(0, 1), 2, prepared.weights)
    for name in FILES:
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[:-8])
        with heard() as events:
            assert checkpoints.find_newest(tmp_path) is None
        assert [event.kind for event in events] == ["checkpoint-damaged"]
        with pytest.raises(ModelwrightError, match=f"{name} has {len(whole) - 8} bytes instead of {len(whole)}"):
            checkpoints.load(prepared.state, path)
        (path / name).write_bytes(whole)
    assert checkpoints.find_newest(tmp_path) == path
