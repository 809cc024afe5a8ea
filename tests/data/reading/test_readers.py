from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.reading.sets import LENGTH, ORDER, Holed, Images, Locked
from tests.data.tabular import write_tar

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.data.batches import decodes
from modelwright.data.loader import Loader
from modelwright.data.media.webdataset import WebDataset
from modelwright.data.reading.sending import pickled

Steps = list[list[dict[str, torch.Tensor]]]


def _loader(dataset: Any = None, **settings: Any) -> Loader:
    settings = {"batch": 6, "part": (1, 6), "micro_batch": 2, "position": 12, "steps": 9, "workers": 2} | settings
    return Loader(dataset if dataset is not None else Images(), settings.pop("order", ORDER), **settings)


def _processes(steps: Steps) -> set[int]:
    return {int(number) for step in steps for batch in step for number in batch["process"]}


def _same(ours: Steps, theirs: Steps) -> bool:
    """Values, types and places in memory, of all but the process that read."""
    pairs = zip(_flat(ours), _flat(theirs), strict=True)
    return all(
        one.dtype == two.dtype and one.stride() == two.stride() and torch.equal(one, two) for one, two in pairs
    ) and [len(step) for step in ours] == [len(step) for step in theirs]


def _flat(steps: Steps) -> list[torch.Tensor]:
    return [batch[name] for step in steps for batch in step for name in batch if name != "process"]


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_processes_read_what_the_thread_reads() -> None:
    """Bit by bit and with the same notes, holes included; on after a kill, with another number of processes."""
    dataset = Images(missing=frozenset(range(0, LENGTH, 7)), seconds=0.001)
    told: list[tuple[int, list[int]]] = []
    settings = {"order": Holed(), "note": lambda number, indices: told.append((number, indices.tolist()))}
    here = list(_loader(dataset, workers=0, **settings))
    expected, told[:] = list(told), []
    steps = iter(_loader(dataset, steps=10**9, **settings))
    first = [next(steps) for _ in range(4)]
    before = time.monotonic()
    steps.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < 5
    assert len(_processes(first)) == 2 and os.getpid() not in _processes(first)
    assert all(_gone(pid) for pid in _processes(first))
    assert not [thread for thread in threading.enumerate() if thread.name == "modelwright-loader"]
    rest = list(_loader(dataset, position=12 + 4 * 6, steps=5, workers=1, **settings))
    assert _same(first + rest, here) and told == expected
    assert not _same(first[1:] + first[:1] + rest, here)
    assert any(len(step) < 3 for step in here)


def test_the_sample_that_failed_is_named() -> None:
    position = int(np.flatnonzero(ORDER(np.arange(LENGTH)) == 7)[0])
    errors = []
    for workers in (0, 1):
        steps = _loader(Images(broken=7), batch=1, part=(0, 1), position=0, steps=LENGTH, workers=workers)
        read = 0
        with pytest.raises(ModelwrightError, match="ValueError: bad record") as caught:
            for _ in steps:
                read += 1
        assert read == position
        errors.append(caught.value)
    assert errors[0].to_json() == errors[1].to_json()
    assert f"positions {position} to {position} of the order" in errors[1].where


def test_a_killed_process_is_an_error_that_says_so() -> None:
    steps = iter(_loader(Images(seconds=0.01), steps=10**9, workers=1))
    (pid,) = _processes([next(steps)])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="a process that reads data was killed by SIGKILL") as caught:
        for _ in steps:
            pass
    assert "of the order" in caught.value.where and "memory" in caught.value.remedy


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="cannot be sent to another process") as caught:
        next(iter(_loader(Locked())))
    assert "workers=0" in caught.value.remedy


def test_a_class_that_only_the_script_knows_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("only_this_process_has_it")
    monkeypatch.setitem(sys.modules, script.__name__, script)
    mine = type("Mine", (Images,), {"__module__": script.__name__})
    script.Mine = mine  # type: ignore[attr-defined]
    with pytest.raises(ModelwrightError, match="No module named 'only_this_process_has_it'") as caught:
        next(iter(_loader(mine(), workers=1)))
    assert "define its class in a module of its own" in caught.value.remedy


UNGUARDED = """
from tests.data.reading.sets import ORDER, Images
from modelwright.data.loader import Loader

with open("began.txt", "a") as file:
    file.write("once\\n")
for step in Loader(Images(), ORDER, batch=4, micro_batch=4, steps=10**9, workers=1):
    print(*step[0]["process"].tolist(), flush=True)
"""


def test_processes_leave_with_a_training_that_is_killed_and_never_run_its_script(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        (reader,) = {int(number) for number in training.stdout.readline().split()}
        assert reader != training.pid
        training.kill()
        assert _until(lambda: _gone(reader))
    assert (tmp_path / "began.txt").read_text() == "once\n"


def test_images_in_shards_are_decoded_by_a_process_as_by_the_thread(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng, members = np.random.default_rng(0), dict[str, bytes]()
    for number in range(LENGTH):
        file = io.BytesIO()
        image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8)).save(file, "png")
        members |= {f"{number:03}.png": file.getvalue(), f"{number:03}.cls": str(number % 4).encode()}
    write_tar(tmp_path / "one.tar", members)
    data = WebDataset(files=(str(tmp_path / "*.tar"),), inputs=("png",), size=8, held_out=0.0)
    dataset = data.open(data.prepare(tmp_path / "cache")).train
    assert decodes(dataset)
    here = list(_loader(dataset, workers=0))
    assert len(pickled(dataset)) < 5000  # neither the shard nor its index
    assert _same(list(_loader(dataset, workers=1)), here)
