from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.phases import Phase
from modelwright.launch import Job, Placement, Warm, raise_failure, start
from modelwright.launch.pulse import Pulse, furthest_step, pulse_path

ENTRIES = "tests.launch.entries"
TWO = Placement(2, 1, start="fork")


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm([ENTRIES]) as parent:
        assert parent.wait_ready()
        yield parent


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def said(job: Job, logs: Path, words: str, ranks: int = 2) -> bool:
    """Wait until every rank has written ``words``."""

    def heard() -> bool:
        job.poll()
        if None in job.pids:
            return False
        texts = [path.read_text() for path in logs.glob("rank-*.txt")]
        return len(texts) == ranks and all(words in text for text in texts)

    return until(heard)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_ranks_get_arguments_environment_and_logs(how: str, tmp_path: Path, warm: Warm) -> None:
    placement = Placement(2, 3, start=how)  # type: ignore[arg-type]
    arguments = [str(tmp_path), "a b", "ü"]
    logs = tmp_path / "logs"
    with start(ENTRIES, arguments, placement, environment={"EXTRA": "1"}, logs=logs, attempt=4, warm=warm) as job:
        assert job.wait(30).state == "finished"
    told = [json.loads((tmp_path / f"main-{rank}.json").read_text()) for rank in range(2)]
    for rank, values in enumerate(told):
        environment = values["environment"]
        assert values["arguments"] == arguments
        assert values["pid"] == job.pids[rank]
        assert environment["RANK"] == environment["LOCAL_RANK"] == str(rank)
        assert environment["WORLD_SIZE"] == environment["LOCAL_WORLD_SIZE"] == "2"
        assert environment["OMP_NUM_THREADS"] == environment["MODELWRIGHT_THREADS"] == "3"
        assert (environment["MODELWRIGHT_ATTEMPT"], environment["EXTRA"]) == ("4", "1")
        assert "attempt 4" in (logs / f"rank-{rank}.txt").read_text()
    assert len({values["environment"]["MASTER_PORT"] for values in told}) == 1
    assert len({values["environment"]["MODELWRIGHT_GENERATION"] for values in told}) == 1


def test_each_forming_has_its_own_generation_and_logs_are_appended(tmp_path: Path, warm: Warm) -> None:
    generations = set()
    for attempt in range(2):
        with start(ENTRIES, [str(tmp_path)], TWO, logs=tmp_path, attempt=attempt, warm=warm) as job:
            job.wait(10)
        told = json.loads((tmp_path / "main-0.json").read_text())
        generations.add(told["environment"]["MODELWRIGHT_GENERATION"])
    assert len(generations) == 2
    assert (tmp_path / "rank-0.txt").read_text().count("--- attempt") == 2


def test_kill_of_a_rank_is_reported_soon_with_its_last_words(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:sleep", [], TWO, logs=tmp_path, warm=warm) as job:
        assert said(job, tmp_path, "about to sleep")
        pids = [pid for pid in job.pids if pid]
        begin = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        status = job.wait(10)
        assert time.monotonic() - begin < 1
    assert status.failure and status.failure.rank == 1
    assert (status.failure.signal, status.failure.exit_code) == ("SIGKILL", None)
    assert status.failure.last_lines == ("about to sleep",)
    assert "out-of-memory" in status.failure.what
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(RunFailed, match="rank 1 was killed by SIGKILL") as told:
        raise_failure(status.failure)
    assert "about to sleep" in str(told.value)


@pytest.mark.parametrize("killed", [(1,), (0, 1)])
def test_those_that_were_killed_are_lost_and_those_that_we_ended_are_not(
    killed: tuple[int, ...], tmp_path: Path, warm: Warm
) -> None:
    placement = Placement(2, 1, grace=0.0, start="fork")
    with start(f"{ENTRIES}:sleep", [], placement, logs=tmp_path, warm=warm) as job:
        assert said(job, tmp_path, "about to sleep")
        for rank in killed:
            os.kill(job.pids[rank] or 0, signal.SIGKILL)
        time.sleep(0.1)  # both are dead before we hear of the first
        failure = job.wait(10).failure
    assert failure and failure.lost == killed


def test_what_a_rank_raises_loses_nobody(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:bug", [], TWO, logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and failure.lost == ()


def test_signs_of_life_of_a_sitting_that_was_cut_off_are_taken_away(tmp_path: Path, warm: Warm) -> None:
    left_over = Pulse(pulse_path(tmp_path, 7))
    left_over(Phase.DATA, 99)
    assert furthest_step(tmp_path) == 99
    with start(f"{ENTRIES}:signal_itself", ["9"], Placement(1, 1), logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and (failure.lost, failure.step) == ((0,), 0)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_exit_codes_are_exact(how: str, tmp_path: Path, warm: Warm) -> None:
    placement = Placement(2, 1, start=how)  # type: ignore[arg-type]
    with start(f"{ENTRIES}:leave", ["1", "77"], placement, logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and (failure.rank, failure.exit_code, failure.signal) == (1, 77, None)


def test_a_rank_that_does_not_hear_is_killed_after_the_grace(tmp_path: Path, warm: Warm) -> None:
    placement = Placement(2, 1, grace=0.3, start="fork")
    begin = time.monotonic()
    with start(f"{ENTRIES}:deaf", [str(tmp_path)], placement, logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and (failure.rank, failure.exit_code) == (0, 5)
    assert time.monotonic() - begin < 3
    assert not any(alive(pid) for pid in job.pids if pid)


def test_signals_are_named(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:signal_itself", ["11"], Placement(1, 1), logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and failure.signal == "SIGSEGV"
    assert failure.last_lines[-1] == "last words"


def test_a_users_mistake_is_raised_again_in_its_own_words(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:mistake", [], TWO, logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and (failure.rank, failure.exit_code) == (1, 2)
    with pytest.raises(ModelwrightError) as told:
        raise_failure(failure)
    assert told.value.to_json() == {
        "what": "the rate is negative",
        "where": "recipe.yaml:3",
        "remedy": "make it positive",
    }
    assert "Traceback" not in (tmp_path / "rank-1.txt").read_text()


def test_a_run_that_failed_keeps_its_kind(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:give_up", [], Placement(1, 1), logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and failure.exit_code == 3
    with pytest.raises(RunFailed, match="the loss diverged"):
        raise_failure(failure)


def test_a_bug_leaves_its_traceback_in_the_log(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:bug", [], Placement(1, 1), logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and (failure.exit_code, failure.error) == (1, None)
    assert failure.exception == "KeyError: 'oops'"
    assert "Traceback" in (tmp_path / "rank-0.txt").read_text()


def test_an_old_error_is_not_told_again(tmp_path: Path, warm: Warm) -> None:
    for entry in ("bug", "signal_itself"):
        with start(f"{ENTRIES}:{entry}", ["9"], Placement(1, 1), logs=tmp_path, warm=warm) as job:
            failure = job.wait(10).failure
    assert failure and (failure.signal, failure.exception) == ("SIGKILL", None)


def test_a_victim_does_not_hide_the_culprit(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:victim_first", [], TWO, logs=tmp_path, warm=warm) as job:
        failure = job.wait(10).failure
    assert failure and failure.rank == 1
    assert failure.exception == "ValueError: the bug itself"


def test_terminate_lets_ranks_save(tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:save_and_leave", [str(tmp_path)], TWO, logs=tmp_path, warm=warm) as job:
        assert said(job, tmp_path, "ready")
        job.terminate()
        assert job.wait(5).state == "finished"
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_ranks_that_were_stopped_have_not_failed(how: str, tmp_path: Path, warm: Warm) -> None:
    with start(f"{ENTRIES}:sleep", [], TWO, logs=tmp_path, warm=warm) as job:
        assert said(job, tmp_path, "about to sleep")
        getattr(job, how)()
        assert job.wait(5).state == "stopped"


def test_leaving_the_block_leaves_no_process_not_even_grandchildren(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        start(f"{ENTRIES}:sleep_with_child", [], TWO, logs=tmp_path) as job,
    ):
        assert said(job, tmp_path, "child")
        pids = [pid for pid in job.pids if pid] + children(tmp_path)
        raise KeyboardInterrupt
    assert len(pids) == 4
    assert until(lambda: not any(alive(pid) for pid in pids))


def children(logs: Path) -> list[int]:
    texts = [path.read_text() for path in sorted(logs.glob("rank-*.txt"))]
    return [int(pid) for text in texts for pid in re.findall(r"^child (\d+)\n", text, re.MULTILINE)]


COMMAND = """
import os, signal, sys, time
from pathlib import Path
from modelwright.launch import Placement, start
logs, how = sys.argv[1:]
job = start("tests.launch.entries:sleep_with_child", [], Placement(2, 1, start=how), logs=Path(logs))
while None in job.pids:
    job.wait(0.02)
print(os.getpid(), job._warm.pid, *job.pids, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_no_orphan_is_left_when_the_command_is_killed(how: str, tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path), how], stdout=subprocess.PIPE, text=True)
    with command:
        try:
            assert command.stdout
            pids = [int(pid) for pid in command.stdout.readline().split()]
            assert until(lambda: len(children(tmp_path)) == 2)
            pids += children(tmp_path)
            assert len(pids) == 6 and all(alive(pid) for pid in pids)
        finally:
            command.kill()
    assert until(lambda: not any(alive(pid) for pid in pids)), [pid for pid in pids if alive(pid)]


def test_ranks_die_with_the_warm_parent_and_the_job_says_so(tmp_path: Path) -> None:
    with Warm() as parent:
        with start(f"{ENTRIES}:sleep", [], TWO, logs=tmp_path, warm=parent) as job:
            assert said(job, tmp_path, "about to sleep")
            os.kill(parent.pid, signal.SIGKILL)
            assert job.wait(5).state == "failed"
            assert until(lambda: not any(alive(pid) for pid in job.pids if pid))
        with pytest.raises(RunFailed, match="has died"):
            start(f"{ENTRIES}:sleep", [], TWO, logs=tmp_path, warm=parent)


def test_ctrl_c_reaches_the_command_alone(warm: Warm) -> None:
    assert os.getsid(warm.pid) == warm.pid != os.getsid(0)


def test_a_job_can_be_stopped_while_the_parent_still_imports(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(30)")
    sys.path.insert(0, str(tmp_path))
    begin = time.monotonic()
    try:
        with Warm(["slow_to_import"]) as parent, start(ENTRIES, [], TWO, logs=tmp_path, warm=parent) as job:
            assert job.poll().state == "running"
            job.terminate()
            assert job.wait(5).state == "stopped"
    finally:
        sys.path.remove(str(tmp_path))
    assert time.monotonic() - begin < 5


def test_a_module_that_cannot_be_imported_is_told_by_the_rank(tmp_path: Path) -> None:
    with start("tests.launch.no_such_module", [], Placement(1, 1), logs=tmp_path) as job:
        failure = job.wait(10).failure
    assert failure and failure.error
    assert failure.error["what"] == "there is no module 'tests.launch.no_such_module'"


LATER = """
import os
from pathlib import Path
with Path(__file__).with_suffix(".pids").open("a") as file:
    file.write(f"{os.getpid()}\\n")

def main(arguments):
    pass
"""


def test_modules_named_later_are_imported_once_for_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_later.py").write_text(LATER)
    monkeypatch.syspath_prepend(tmp_path)
    with Warm() as parent:
        parent.also(["named_later", "no_such_module"])
        for _ in range(2):
            parent.also(["named_later"])
            with start("named_later", [], TWO, logs=tmp_path, warm=parent) as job:
                assert job.wait(10).state == "finished"
        assert (tmp_path / "named_later.pids").read_text() == f"{parent.pid}\n"


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ModelwrightError, match=f"port {port} is taken") as told:
            start(ENTRIES, [], Placement(2, 1, port=port), logs=tmp_path)
    assert told.value.remedy
    assert not list(tmp_path.glob("rank-*"))


@pytest.mark.parametrize("entry", ["__main__:main", "not an entry", "module:", ""])
def test_what_cannot_be_an_entry_is_refused(entry: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError):
        start(entry, [], TWO, logs=tmp_path)


@pytest.mark.parametrize(
    "values",
    [{"workers": 0}, {"threads": 0}, {"port": 70000}, {"kind": "slurm"}, {"start": "threads"}, {"grace": -1}],
)
def test_placements_that_cannot_be_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError):
        Placement(**{"workers": 1, "threads": 1, **values})  # type: ignore[arg-type]


def test_no_zombies_are_left(tmp_path: Path, warm: Warm) -> None:
    for _ in range(10):
        with start(f"{ENTRIES}:speak", ["x"], TWO, logs=tmp_path, warm=warm) as job:
            assert job.wait(10).state == "finished"
    listed = Path(f"/proc/{warm.pid}/task/{warm.pid}/children").read_text()
    assert listed.strip() == ""
