"""Runs that are killed and resumed: the benchmark of the same name in small, and what would have it say no."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.command import change_json, make_home

from modelwright.runs import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import chaos
import chaos_jobs
from chaos_evidence import Allowed, accounting, judge
from chaos_looks import is_worker
from chaos_trials import Chaos, Strike, Trial

TRIALS = 5
SHORT = {"budget": "{steps: 16}"}
"""In which both sources end an epoch."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """Dropout, accumulation, mixture, packing, averages; in commands that can be killed."""
    folder = tmp_path_factory.mktemp("chaos")
    with pytest.MonkeyPatch.context() as patch:
        make_home(folder, patch)
        fields = chaos_jobs.job("text", folder) | SHORT
        yield Chaos("text", folder / "text", fields, seed=5, most_kills=1, inside=0.2)


@pytest.fixture(scope="module")
def trials(job: Chaos) -> list[Trial]:
    return [job.trial(number) for number in range(TRIALS)]


def test_runs_that_are_killed_end_in_the_same_bits_and_lose_no_sample(job: Chaos, trials: list[Trial]) -> None:
    drawn = np.concatenate(list(job.undisturbed.outcome.samples.values()))
    assert job.undisturbed.sources == [100, 50] and (drawn < 100).sum() > 100 and (drawn >= 100).sum() > 50
    told = chaos.summary(trials)
    assert told["exact"] == told["same_sequence"] == told["byte_equal"] == told["trials"] == TRIALS
    assert told["samples_lost"] == told["samples_repeated"] == told["largest_loss_difference"] == 0
    assert told["kills"] >= TRIALS and told["recoveries"] >= TRIALS


def of_a_weight(run: Path) -> None:
    flip_a_bit(run / "artifacts" / "model.safetensors")


def of_a_moment(run: Path) -> None:
    flip_a_bit(max((run / "checkpoints").glob("step-*")) / "optimizer.safetensors")


def swapped(run: Path) -> None:
    rows, one, other = last_lines(run)
    one["indices"][0], other["indices"][0] = other["indices"][0], one["indices"][0]
    write_lines(run, rows)


def lost(run: Path) -> None:
    rows, one, _ = last_lines(run)
    del one["indices"][2]
    write_lines(run, rows)


def repeated(run: Path) -> None:
    rows, one, other = last_lines(run)
    one["indices"].append(other["indices"][1])
    write_lines(run, rows)


def replaced(run: Path) -> None:
    rows, one, _ = last_lines(run)
    one["indices"][0] = one["indices"][1]
    write_lines(run, rows)


def step_lost(run: Path) -> None:
    rows, one, _ = last_lines(run)
    write_lines(run, [row for row in rows if row["step"] != one["step"]])


def loss_off(run: Path) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    next(row for row in rows if row["kind"] == "step")["loss"] += 2e-6
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("tamper", "count"),
    [
        (of_a_weight, (0, 0)),
        (of_a_moment, (0, 0)),
        (swapped, (0, 0)),
        (lost, (1, 0)),
        (repeated, (0, 1)),
        (replaced, (1, 1)),
        (step_lost, None),
        (loss_off, (0, 0)),
    ],
)
def test_a_tampered_outcome_is_not_exact(
    job: Chaos, trials: list[Trial], tmp_path: Path, tamper: Callable[[Path], None], count: tuple[int, int] | None
) -> None:
    trial = trials[0]
    copy = shutil.copytree(trial.path, tmp_path / "copy")
    assert job.judged(Run(copy)).exact
    tamper(copy)
    found = replace(trial, verdict=job.judged(Run(copy)))
    assert not found.exact
    assert count in (None, (found.verdict.lost, found.verdict.repeated))
    assert chaos.verdict([trial]) == 0 and chaos.verdict([trial, found]) == 1 and chaos.verdict([]) == 1


def test_an_elastic_outcome_may_differ_by_rounding_alone(job: Chaos) -> None:
    expected, sources = job.undisturbed.outcome, job.undisturbed.sources

    def exact(losses: float, weights: float) -> bool:
        name = next(name for name in expected.state if name.startswith("artifacts"))
        changed = {name: expected.state[name] + np.float32(weights) * np.sqrt(np.mean(expected.state[name] ** 2))}
        found = replace(
            expected, losses=[expected.losses[0] + losses, *expected.losses[1:]], state=expected.state | changed
        )
        return judge(found, expected, sources, Allowed(losses=1e-6, weights=1e-5)).exact

    assert exact(0, 0) and exact(5e-7, 5e-6)
    assert not exact(2e-6, 0) and not exact(0, 2e-5) and not exact(float("nan"), 0) and not exact(0, float("nan"))


@pytest.mark.parametrize("told", [False, True])
def test_a_strike_of_which_nobody_died_is_no_kill(job: Chaos, tmp_path: Path, told: bool) -> None:
    """The workers' processes end, and the run either says that it was by a signal or knows nothing of it."""
    run = Run(shutil.copytree(job.undisturbed.run.path, tmp_path / "copy"))
    change_json(run.path / "run.json", status="running", error={"what": "killed by SIGKILL"} if told else None)
    sleepers = [sleeper(run.logs / f"rank-{rank}.txt") for rank in range(2)]
    kill = job.strike(run, Ended(), Strike(at=0.0, victim="all workers"))
    for each in sleepers:
        each.kill()
        each.wait()
    assert (kill is not None) == told


def test_a_worker_is_known_by_its_log(tmp_path: Path) -> None:
    log, other = tmp_path / "rank-0.txt", tmp_path / "rank-1.txt"
    other.touch()
    process = sleeper(log)
    assert is_worker(process.pid, log) and not is_worker(process.pid, other) and not is_worker(None, log)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_worker(process.pid, log)  # an entry that waits to be read
    process.wait()


def test_accounting_finds_what_is_lost_and_repeated() -> None:
    epochs = np.concatenate([np.random.default_rng(epoch).permutation(10) for epoch in range(3)])
    assert chaos.account(epochs, 10) == (0, 0)
    assert chaos.account(epochs[:25], 10) == (0, 0)
    twice, hole = epochs.copy(), epochs.copy()
    twice[3] = twice[4]
    hole[[12, 24]] = -1
    assert chaos.account(twice, 10) == (1, 1)
    assert chaos.account(hole[:25], 10) == (2, 0)


def test_accounting_goes_by_epochs_of_each_source() -> None:
    expected = {step: row.tolist() for step, row in enumerate(mixed(sizes=(10, 7), samples=60).reshape(15, 4), 1)}
    assert accounting(expected, expected, (10, 7)) == (0, 0)
    short = {**expected, 3: expected[3][:1] + expected[3][2:]}
    long = {**expected, 3: [*expected[3], expected[9][0]]}
    other = {**expected, 8: [expected[8][1], *expected[8][1:]]}
    assert accounting(short, expected, (10, 7)) == (1, 0)
    assert accounting(long, expected, (10, 7)) == (0, 1)
    assert accounting(other, expected, (10, 7)) == (1, 1)
    never = {step: row for step, row in expected.items() if step != 15}
    assert accounting(never, expected, (10, 7)) == (4, 0)


def mixed(sizes: tuple[int, int], samples: int) -> np.ndarray[Any, Any]:
    """Two sources, taken in turns of two to one; each is drawn without replacement, epoch after epoch."""
    generator = np.random.default_rng(0)
    own = [np.concatenate([generator.permutation(size) for _ in range(samples)]) for size in sizes]
    source = np.arange(samples) % 3 == 2
    places = [np.cumsum(~source) - 1, np.cumsum(source) - 1]
    return np.where(source, own[1][places[1]] + sizes[0], own[0][places[0]])


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    pid: int = -1
    said: Path = Path("said.txt")
    code: int = 3

    def wait(self) -> None:
        return


def sleeper(log: Path) -> subprocess.Popen[bytes]:
    """A process that writes to the log of a worker, as a worker does."""
    with log.open("ab") as output:
        process = subprocess.Popen(["sleep", "60"], stdout=output)
        output.write(f"--- attempt 9, now, rank of some, pid {process.pid}\n".encode())
    return process


def flip_a_bit(path: Path) -> None:
    """Of the last byte, which is one of a tensor."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def last_lines(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Rank 0's log, and of two steps the lines that count."""
    rows = [json.loads(line) for line in samples_of(run).read_text().splitlines()]
    counts = {row["step"]: row for row in rows}
    return rows, counts[3], counts[5]


def write_lines(run: Path, rows: list[dict[str, Any]]) -> None:
    samples_of(run).write_text("".join(json.dumps(row) + "\n" for row in rows))


def samples_of(run: Path) -> Path:
    return run / "samples" / "rank-0.jsonl"
