"""A rank that stays behind is named, with its line; a run that goes on is left in peace."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.launch import hanging

from modelwright.base import phases
from modelwright.base.phases import Phase
from modelwright.launch import Job, Placement, Warm, start
from modelwright.launch.hang import Hang, HangWatch, Standing
from modelwright.launch.pulse import Pulse, pulse_path, read_beat, stack_path
from modelwright.launch.stacks import main_stack, place, waits

LOOP = "tests.launch.hanging:loop"
TWO = Placement(2, 1, start="fork", grace=0.2)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm(["tests.launch.hanging"]) as parent:
        assert parent.wait_ready()
        yield parent


def watched(job: Job, logs: Path, threshold: float, seconds: float) -> list[Hang]:
    """What a watch finds in ``seconds``, or until the job ends."""
    watch, found = HangWatch(job, logs, 2, threshold), []
    end = time.monotonic() + seconds
    while time.monotonic() < end and job.wait(0.05).state == "running":
        if hang := watch.look():
            found.append(hang)
            if len(found) == 2:
                break
    return found


def line_of(function: object, words: str) -> int:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return next(first + place for place, line in enumerate(lines) if words in line)


@pytest.mark.parametrize(("stuck", "words"), [("sleep", "time.sleep(60)"), ("spin", "while stuck")])
def test_the_rank_that_stays_behind_is_named_with_its_line(stuck: str, words: str, tmp_path: Path, warm: Warm) -> None:
    with start(LOOP, [stuck, "5", "60"], TWO, logs=tmp_path, warm=warm) as job:
        begun = time.monotonic()
        (hang,) = watched(job, tmp_path, threshold=0.5, seconds=2.0)
        assert time.monotonic() - begun < 10
    (culprit,) = hang.culprits
    assert (culprit.rank, culprit.step, culprit.phase) == (1, 3, "forward")
    line = line_of(hanging.model, words)
    near = {f"{hanging.__file__}:{line} (model)", f"{hanging.__file__}:{line + 1} (model)"}
    assert culprit.place in near if stuck == "spin" else culprit.place == min(near)
    assert re.search(r"^rank 1 is in forward of step 3 at .*hanging\.py:\d+ \(model\) since", hang.what)
    assert hang.what.endswith("; rank 0 waits for it in exchange of step 3")
    waiting = next(standing for standing in hang.standings if standing.rank == 0)
    assert waiting.waits and "hanging.py" in waiting.place
    assert "hread 0x" in stack_path(tmp_path, 1).read_text() and not pulse_path(tmp_path, 1).exists()


def test_a_rank_that_was_only_slow_is_taken_back(tmp_path: Path, warm: Warm) -> None:
    with start(LOOP, ["pause", "100", "60"], TWO, logs=tmp_path, warm=warm) as job:
        hang, end = watched(job, tmp_path, threshold=0.4, seconds=10)
    assert (hang.over, end.over) == (False, True)
    assert [culprit.rank for culprit in hang.culprits] == [1]


def test_a_run_that_goes_on_raises_no_alarm(tmp_path: Path, warm: Warm) -> None:
    with start(LOOP, ["", "150", "60"], TWO, logs=tmp_path, warm=warm) as job:
        assert watched(job, tmp_path, threshold=0.5, seconds=20) == []
        assert job.poll().state == "finished"
    assert not list(tmp_path.glob("*.pulse")) + list(tmp_path.glob("*.stack"))


def test_the_timeout_of_a_collective_tells_what_each_rank_did(tmp_path: Path, warm: Warm) -> None:
    with start(LOOP, ["sleep", "5", "1.0"], TWO, logs=tmp_path, warm=warm) as job:
        failure = job.wait(30).failure
    assert failure and failure.rank == 0
    assert "last signs of life: rank 0 in exchange of step 3" in failure.what
    assert "rank 1 in forward of step 3" in failure.what


def test_a_beat_comes_back_and_costs_little(tmp_path: Path) -> None:
    pulse = Pulse(pulse_path(tmp_path, 0))
    with phases.watching(pulse):
        phases.enter(Phase.DATA, 7)
        phases.enter(Phase.BACKWARD)
        beat = read_beat(tmp_path, 0)
        assert beat and (beat.step, beat.phase, beat.count) == (7, Phase.BACKWARD, 3)
        assert abs(beat.at - time.monotonic()) < 1
        best = min(_seconds(1000) for _ in range(5))
    assert best / 1000 < 5e-6  # about 0.7 us on an idle core; 2 us is what it may take
    phases.enter(Phase.SAVE)
    assert read_beat(tmp_path, 0).phase is Phase.FORWARD  # type: ignore[union-attr]
    assert read_beat(tmp_path, 1) is None


def _seconds(times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        phases.enter(Phase.FORWARD)
    return time.perf_counter() - begun


def test_all_waiting_for_each_other_is_said() -> None:
    ranks = [Standing(rank=rank, step=4, phase="exchange", seconds=9, waits=True) for rank in range(2)]
    assert Hang(standings=tuple(ranks)).what.startswith("all ranks wait for each other: rank 0 in exchange of step 4")


def test_a_rank_that_is_a_step_behind_is_the_one_waited_for() -> None:
    ahead = [Standing(rank=rank, step=5, phase="exchange", seconds=9, waits=True) for rank in (0, 2)]
    behind = Standing(rank=1, step=4, phase="exchange", seconds=9, waits=True)
    assert Hang(standings=(ahead[0], behind, ahead[1])).what == (
        "rank 1 is in exchange of step 4 since 9 s; ranks 0, 2 wait for it in exchange of step 5"
    )


DUMP = """\
Thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 1 in wait
  File "/x/modelwright/data/loader.py", line 7 in _run
  File "/usr/lib/python3.11/threading.py", line 1 in _bootstrap

Current thread 0x00007f2 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py", line 3117 in all_reduce
  File "/home/me/model.py", line 33 in forward
  File "<frozen runpy>", line 88 in _run_code
"""


def test_stacks_are_read_from_the_last_dump_and_the_main_thread() -> None:
    stack = main_stack(DUMP.replace("model.py", "old.py") + DUMP)
    assert str(place(stack)) == "/home/me/model.py:33 (forward)"
    assert waits(stack) and not waits(stack[1:])
    assert main_stack("") == () and place(()) is None
