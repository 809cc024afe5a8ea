"""Kill real runs at random, resume them, and count what was lost.

    python benchmarks/chaos.py [--trials N] [--seed S] [--kills K] [--elastic] [--json FILE]

Each trial trains a small classifier through the command line (dropout, accumulation and an average of the weights on,
two workers, a checkpoint every few steps), and kills -9 one worker, all of them, or all of them and the command, at an
instant drawn uniformly from the time that an undisturbed run takes; then it resumes until the run is finished. With
``--elastic`` there are three workers, the run goes on by itself with those that are left and grows again; losses are
compared although the world changed its size (dropout off).

What was learnt from comes from each worker's own log of the samples it used, and from nothing else: of every step the
last generation that did it counts. Exits with 1 if anything was lost or repeated, or the outcome differs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file

from modelwright.app.assemble import assemble
from modelwright.base.phases import Phase
from modelwright.launch.pulse import read_beat
from modelwright.runs import Run, read_metrics
from modelwright.runs.metrics import steps
from modelwright.runs.sample_log import counted, read_samples

BATCH, EPOCHS = 32, 6
EXACT = {
    "model": "{use: mlp, hidden: [64], dropout: 0.2}",
    "data": "sklearn",
    "objective": "classification",
    "optimizer": "{use: adamw, lr: 1e-3}",
    "averaging": "ema",
    "batch": str(BATCH),
    "budget": f"{{epochs: {EPOCHS}}}",
    "saving": "{every: 4}",
    "watch": "{samples: true, utilisation: false}",
    "plan": "{measure: false, workers: 2, threads: 1, micro_batch: 6, precision: fp32}",
}
ELASTIC = EXACT | {
    "model": "{use: mlp, hidden: [64]}",
    "plan": "{measure: false, workers: 3, threads: 1, micro_batch: 6, precision: fp32}",
    "launch": "{min: 1, max: 3, rejoin: 1s}",
}
TOLERANCE = 1e-6  # Of losses at other world sizes, whose sums round otherwise.
PATIENCE = 300.0
MOST_SITTINGS = 20
VICTIMS = ("one worker", "all workers", "command and workers")


class Command(Protocol):
    """A command under way."""

    pid: int | None

    def running(self) -> bool: ...

    def wait(self) -> None: ...


Begin = Callable[[list[str]], Command]


class Process:
    """The command line, in a process of its own."""

    def __init__(self, arguments: list[str]) -> None:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, "-m", "modelwright", *arguments], **quiet)
        self.pid: int | None = self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> None:
        self._process.wait(PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill: ``at`` seconds after the workers were there; what it hit."""

    at: float
    victim: str
    inside_save: bool
    furthest: int  # step that had been begun
    time: float
    useful_after: float | None = None  # seconds to the next step that had not been done before

    def known(self, run: Run, ended: float) -> Kill:
        """With the time until a worker wrote down that it goes beyond ``furthest``, which is then done."""
        later = [used.time for used in read_samples(run) if used.time > self.time and used.step > self.furthest]
        return Kill(**{**asdict(self), "useful_after": min(later, default=ended) - self.time})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run says of itself."""

    sequence: list[int]
    losses: list[float]
    weights: dict[str, bytes]
    lost: int
    repeated: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run, its kills, and what became of it; ``recoveries`` counts the worlds that were formed after the first."""

    number: int
    kills: list[Kill]
    recoveries: int
    lost: int
    repeated: int
    same_sequence: bool
    same_bytes: bool
    loss_difference: float

    def exact(self, elastic: bool) -> bool:
        numbers = self.loss_difference <= TOLERANCE if elastic else self.same_bytes and self.loss_difference == 0
        return numbers and self.same_sequence and self.lost == self.repeated == 0


@dataclass
class Chaos:
    """Trials of one kind of job, beside an undisturbed run of it."""

    folder: Path
    fields: dict[str, str]
    begin: Begin = Process
    generator: random.Random = field(default_factory=random.Random)
    victims: Sequence[str] = VICTIMS
    most_kills: int = 2

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recipe = self.folder / "recipe.yaml"
        self.recipe.write_text("".join(f"{name}: {value}\n" for name, value in self.fields.items()))
        self.elastic = "launch" in self.fields
        self.seconds, self.undisturbed = self._undisturbed()

    def _undisturbed(self) -> tuple[float, Outcome]:
        run, command = self._train("undisturbed")
        await_true(lambda: living(run), command)
        begin = time.monotonic()
        await_true(lambda: run.status() == "finished", command)
        seconds = time.monotonic() - begin
        command.wait()
        return seconds, outcome(run)

    def _train(self, name: str) -> tuple[Run, Command]:
        run = Run(self.folder / name)
        return run, self.begin(["train", str(self.recipe), "--name", name, "--folder", str(self.folder)])

    def trial(self, number: int) -> Trial:
        """Train, kill, go on until it is finished; a kill that comes too late is drawn again."""
        run, command = self._train(f"trial-{number}")
        kills: list[Kill] = []
        wished, sittings = self.generator.randint(1, self.most_kills), 1
        while not is_finished(run):
            if len(kills) < wished and (kill := self._strike(run, command)) is not None:
                kills.append(kill)
            if self.elastic and len(kills) < wished and command.running():
                continue
            command.wait()
            if not is_finished(run):
                if sittings == MOST_SITTINGS:
                    raise RuntimeError(f"{run.path} is not finished after {sittings} sittings: {run.record.error}")
                command, sittings = self.begin(["resume", run.name, "--folder", str(self.folder)]), sittings + 1
        command.wait()
        ended = time.time()
        if not kills:
            return self.trial(number + 10_000)
        return self._judged(number, run, [kill.known(run, ended) for kill in kills])

    def _strike(self, run: Run, command: Command) -> Kill | None:
        """Wait for the workers and for the instant; ``None`` where the run was faster."""
        await_true(lambda: living(run) or is_finished(run), command)
        there = time.time()
        at, victim = self.generator.uniform(0, self.seconds), self.generator.choice(self.victims)
        await_true(lambda: not command.running() or is_finished(run), command, at)
        pids = living(run)
        if not pids or is_finished(run):
            return None
        struck = [self.generator.choice(pids)] if victim == VICTIMS[0] else pids
        if victim == VICTIMS[2] and command.pid is not None:
            struck = [command.pid, *pids]
        inside = saving(run, there)
        for pid in struck:
            kill_if_there(pid)
        now = time.time()
        furthest = max((used.step for used in read_samples(run)), default=0)
        await_true(lambda: not set(struck) & set(living(run)), command, 5.0)
        return Kill(at=at, victim=victim, inside_save=inside, furthest=furthest, time=now)

    def _judged(self, number: int, run: Run, kills: list[Kill]) -> Trial:
        found, expected = outcome(run), self.undisturbed
        attempts = (run.logs / "rank-0.txt").read_text().count("--- attempt ")
        return Trial(
            number=number,
            kills=kills,
            recoveries=attempts - 1,
            lost=found.lost,
            repeated=found.repeated,
            same_sequence=found.sequence == expected.sequence,
            same_bytes=found.weights == expected.weights,
            loss_difference=difference(found.losses, expected.losses),
        )


def await_true(condition: Callable[[], object], command: Command, limit: float | None = None) -> bool:
    """Wait until the condition holds, the command has ended, or ``limit`` seconds have passed (never mind which)."""
    end = time.monotonic() + (PATIENCE if limit is None else limit)
    while not condition() and command.running() and time.monotonic() < end:
        time.sleep(0.01)
    if limit is None and time.monotonic() >= end:
        raise TimeoutError("the run does nothing any more")
    return bool(condition())


def is_finished(run: Run) -> bool:
    return (run.path / "run.json").exists() and run.record.status == "finished"


def living(run: Run) -> list[int]:
    """Process ids of the present world's workers, once all of them are there."""
    plan = run.plan()
    if plan is None:
        return []
    found = [pid for rank in range(plan.workers) if (pid := newest_pid(run.logs / f"rank-{rank}.txt"))]
    return found if len(found) == plan.workers and all(map(is_worker, found)) else []


def newest_pid(log: Path) -> int | None:
    pids = re.findall(r"^--- attempt .*, pid (\d+)$", log.read_text(), re.MULTILINE) if log.exists() else []
    return int(pids[-1]) if pids else None


def is_worker(pid: int) -> bool:
    """Whether a process is one of ours and lives: its number may have gone to another."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" and b"modelwright.launch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def saving(run: Run, since: float) -> bool:
    """Whether a checkpoint is being written: by the worker's own sign of life, or by a half-written folder.

    What a kill left half-written before ``since`` does not count.
    """
    beat = read_beat(run.logs, 0)
    return (beat is not None and beat.phase is Phase.SAVE) or any(
        changed(path) > since for path in run.checkpoints.glob(".*.part")
    )


def changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has just become whole
        return float("inf")


def outcome(run: Run) -> Outcome:
    """What the workers' own logs, the metrics and the weights of a finished run say."""
    plan = run.plan()
    assert plan is not None
    length = len(assemble(run).data.train)
    samples = counted(read_samples(run))
    drawn = np.full((plan.steps, BATCH), -1)
    for step, indices in samples.items():
        drawn[step - 1, : len(indices)] = indices[:BATCH]
    extra = sum(max(0, len(indices) - BATCH) for indices in samples.values())
    lost, repeated = account(drawn.ravel(), length)
    return Outcome(
        sequence=[index for step in sorted(samples) for index in samples[step]],
        losses=[row["loss"] for row in steps(read_metrics(run.metrics_path))],
        weights={name: value.tobytes() for name, value in load_file(run.artifacts / "model.safetensors").items()},
        lost=lost,
        repeated=repeated + extra,
    )


def account(drawn: np.ndarray[Any, Any], length: int) -> tuple[int, int]:
    """Samples that an epoch lacks, and those it has more than once; -1 stands where none was drawn."""
    lost = repeated = 0
    for begin in range(0, len(drawn), length):
        epoch = drawn[begin : begin + length]
        there = epoch[epoch >= 0]
        distinct = len(np.unique(there))
        repeated += len(there) - distinct
        lost += length - distinct if len(epoch) == length else len(epoch) - len(there)
    return lost, repeated


def difference(found: Sequence[float], expected: Sequence[float]) -> float:
    if len(found) != len(expected):
        return float("inf")
    apart = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    return max((math.inf if math.isnan(gap) else gap for gap in apart), default=0.0)


def summary(trials: Sequence[Trial], elastic: bool, seconds: float) -> dict[str, Any]:
    kills = [kill for trial in trials for kill in trial.kills]
    useful = [kill.useful_after for kill in kills if kill.useful_after is not None]
    return {
        "elastic": elastic,
        "trials": len(trials),
        "kills": len(kills),
        "kills_by_victim": {name: sum(kill.victim == name for kill in kills) for name in VICTIMS},
        "kills_inside_a_save": sum(kill.inside_save for kill in kills),
        "recoveries": sum(trial.recoveries for trial in trials),
        "undisturbed_seconds": seconds,
        "useful_step_seconds_median": statistics.median(useful),
        "useful_step_seconds_worst": max(useful),
        "useful_step_seconds_median_by_victim": by_victim(kills),
        "samples_lost": sum(trial.lost for trial in trials),
        "samples_repeated": sum(trial.repeated for trial in trials),
        "same_sequence": sum(trial.same_sequence for trial in trials),
        "byte_equal": sum(trial.same_bytes for trial in trials),
        "largest_loss_difference": max(trial.loss_difference for trial in trials),
        "exact": sum(trial.exact(elastic) for trial in trials),
    }


def by_victim(kills: Sequence[Kill]) -> dict[str, float]:
    waits = {name: [kill.useful_after for kill in kills if kill.victim == name] for name in VICTIMS}
    return {name: statistics.median(found) for name, found in waits.items() if found}  # type: ignore[type-var]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--elastic", action="store_true", help="let runs go on with the workers that are left")
    parser.add_argument("--kills", type=int, default=2, help="of one run, at most; some come too late")
    parser.add_argument("--json", type=Path, help="also write every trial here")
    wishes = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fields, generator = ELASTIC if wishes.elastic else EXACT, random.Random(wishes.seed)
        chaos = Chaos(Path(folder), fields, generator=generator, most_kills=wishes.kills)
        trials: list[Trial] = []
        for number in range(wishes.trials):
            trials.append(chaos.trial(number))
            print(f"trial {number}: {'exact' if trials[-1].exact(wishes.elastic) else 'NOT EXACT'}", file=sys.stderr)
            told = summary(trials, wishes.elastic, chaos.seconds)
            if wishes.json is not None:
                wishes.json.write_text(
                    json.dumps({**told, "all": [asdict(trial) for trial in trials]}, indent=2) + "\n"
                )
    print("\n".join(f"{name}: {value}" for name, value in told.items()))
    sys.exit(told["exact"] != told["trials"])


if __name__ == "__main__":
    main()
