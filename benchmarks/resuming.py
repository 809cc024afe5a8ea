"""Kill trainers at random, resume each by its own documentation, and count how far they drift.

    pip install -e '.[dev,sklearn]' torchdata
    python benchmarks/resuming.py [--trials 10] [--seed 0] [--only ARM ...] [--warm] [--json FILE]

modelwright, Lightning, the Trainer of transformers and Accelerate do the same job (``resuming_arms/job.py``), each in
a script of its own that does what that library's documentation says on checkpoints. Every trial starts the script,
kills it with -9 - every second one at an instant uniform over the time that training takes, the others while a
checkpoint is being written - and starts it again. Where that ends in an error it is started from the checkpoint
before; this counts as a failed resume.

What was learnt from is read from the samples themselves: each carries its index, and the loss function writes down
those it is given, with the step as the library counts it. Of a step that was done again the last time counts. The
outcome is compared with that of an undisturbed run, of which there are two, to see that the job itself is
deterministic. With ``--warm`` the scripts are run by forks of one process that has imported what they import: for
counts on a slow or busy machine, where seconds would tell of nothing but starting Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from chaos import account, difference
from chaos_evidence import same_bytes
from resuming_arms import job

PATIENCE = 300.0
MOST_STARTS = 6
SCRIPTS = Path(__file__).parent / "resuming_arms"
Weights = Mapping[str, np.ndarray[Any, Any]]


class Process(Protocol):
    """A script under way."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...

    def kill(self) -> None: ...


class Forked:
    """A script that a fork of this process runs."""

    def __init__(self, script: Path, arguments: Sequence[str], said: Path) -> None:
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=run_script, args=(script, arguments, said))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self._process.pid} does not end")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def run_script(script: Path, arguments: Sequence[str], said: Path) -> None:
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


@dataclass(frozen=True)
class Arm:
    """A script and its switches; ``needs`` are the packages to be installed."""

    script: str
    switches: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def start(self, folder: Path, *, passed_over: int = 0, warm: bool = False) -> Process:
        folder.mkdir(exist_ok=True)
        script, said = SCRIPTS / self.script, folder / "said.txt"
        arguments = [*self.switches, "--passed-over", str(passed_over), str(folder)]
        if warm:
            return Forked(script, arguments, said)
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with said.open("wb") as file:
            return subprocess.Popen([sys.executable, str(script), *arguments], stdout=file, stderr=file, env=alone)

    def warm_up(self) -> None:
        """Import what the script imports."""
        runpy.run_path(str(SCRIPTS / self.script), run_name="imported")


ARMS = {
    "modelwright": Arm("on_modelwright.py"),
    "lightning": Arm("on_lightning.py", needs=("lightning",)),
    "lightning-stateful": Arm("on_lightning.py", ("--stateful",), ("lightning", "torchdata")),
    "transformers": Arm("on_transformers.py", needs=("transformers", "accelerate")),
    "accelerate": Arm("on_accelerate.py", needs=("accelerate",)),
    "accelerate-seedable": Arm("on_accelerate.py", ("--seedable",), ("accelerate",)),
    "accelerate-stateful": Arm("on_accelerate.py", ("--stateful",), ("accelerate", "torchdata")),
}


# --- what the logs say


@dataclass(frozen=True)
class Line:
    """One micro-batch: the step it belongs to, in which sitting, when, and its samples."""

    step: int
    generation: str
    time: float
    indices: tuple[int, ...]
    loss: float


@dataclass(frozen=True)
class Outcome:
    """What a finished job learnt from, step by step, and what became of it."""

    samples: dict[int, list[int]]
    losses: dict[int, float]
    weights: Weights


def read_lines(folder: Path) -> list[Line]:
    """The whole lines of a job's log, in the order in which they were written."""
    path, lines = folder / job.LOG, []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(text)
        except ValueError:  # blank, or torn by a kill
            continue
        lines.append(Line(**{**row, "indices": tuple(row["indices"])}))
    return lines


def counted(lines: Iterable[Line]) -> dict[int, list[Line]]:
    """The micro-batches of each step, those of the last sitting that did it."""
    last: dict[int, list[Line]] = {}
    for line in lines:
        there = last.get(line.step)
        last[line.step] = [*there, line] if there and there[0].generation == line.generation else [line]
    return dict(sorted(last.items()))


def outcome(folder: Path) -> Outcome:
    steps = counted(read_lines(folder))
    return Outcome(
        samples={step: [index for line in lines for index in line.indices] for step, lines in steps.items()},
        losses={step: statistics.fmean(line.loss for line in lines) for step, lines in steps.items()},
        weights=load_file(folder / job.WEIGHTS),
    )


def lost_and_repeated(samples: Mapping[int, Sequence[int]], *, steps: int, batch: int, length: int) -> tuple[int, int]:
    """Samples that an epoch lacks, and those it has more than once; an epoch is ``length`` places of the steps.

    What a step has beyond its batch, and what comes in steps beyond the last, is repeated too.
    """
    drawn, beyond = np.full((steps, batch), -1), 0
    for step, indices in samples.items():
        within = batch if 1 <= step <= steps else 0
        beyond += len(indices[within:])
        if within:
            drawn[step - 1, : len(indices)] = indices[:batch]
    lost, repeated = account(drawn.ravel(), length)
    return lost, repeated + beyond


def same_sets(found: Mapping[int, Sequence[int]], expected: Mapping[int, Sequence[int]]) -> bool:
    return {step: sorted(indices) for step, indices in found.items()} == {
        step: sorted(indices) for step, indices in expected.items()
    }


def first_apart(found: Mapping[int, float], expected: Mapping[int, float]) -> int | None:
    """The first step whose loss is another, or that only one of them has."""
    return min((step for step in found.keys() | expected.keys() if found.get(step) != expected.get(step)), default=None)


def largest_apart(found: Mapping[int, float], expected: Mapping[int, float]) -> float:
    """Between the losses of the steps that both have."""
    both = sorted(found.keys() & expected.keys())
    return difference([found[step] for step in both], [expected[step] for step in both])


def weights_apart(found: Weights, expected: Weights) -> float:
    """The largest difference of a weight."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(float(np.abs(found[name] - expected[name]).max()) for name in found)


def first_line_of_error(said: str) -> str:
    """Of the last exception in a traceback; else the last line."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Failed|Interrupt)\b.*$", said, re.MULTILINE)
    return (errors or said.strip().splitlines() or ["nothing said"])[-1][:200]


# --- trials


@dataclass(frozen=True)
class Kill:
    """When: ``at`` seconds after the first micro-batch, or after the last one of the step that is being saved."""

    time: float
    furthest: int  # step that had been begun
    at: float
    saving: int | None = None


@dataclass(frozen=True)
class Trial:
    """One job that was killed once, beside the undisturbed one."""

    number: int
    kill: Kill
    resumed_at: int  # first step that was done after the kill
    failed: list[str]
    useful_after: float | None  # seconds from the kill to the next step that had not been begun before
    lost: int
    repeated: int
    same_order: bool
    same_sets: bool
    losses_apart_from: int | None
    losses_apart: float
    same_bytes: bool
    weights_apart: float

    @property
    def exact(self) -> bool:
        return self.same_order and self.losses_apart_from is None and self.same_bytes

    @property
    def said(self) -> str:
        words = f"lost {self.lost}, repeated {self.repeated}, weights {self.weights_apart:.2g} apart"
        failed = f", {len(self.failed)} failed resumes" if self.failed else ""
        return ("exact" if self.exact else words) + failed


@dataclass
class Bench:
    """Trials of one arm."""

    arm: Arm
    folder: Path
    generator: random.Random
    warm: bool = False
    seconds: float = field(init=False)  # from the first micro-batch of an undisturbed run to its last
    saving: float = field(init=False)  # seconds after a step's last micro-batch in which its checkpoint is written
    deterministic: bool = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        prepare(self.folder)
        self.undisturbed, again = (self._undisturbed(name) for name in ("undisturbed", "again"))
        self.deterministic = equal(again, self.undisturbed)
        lines = read_lines(self.folder / "undisturbed")
        self.seconds, self.saving = training_seconds(lines), saving_seconds(self.folder / "undisturbed", lines)

    def _undisturbed(self, name: str) -> Outcome:
        process = self.arm.start(self.folder / name, warm=self.warm)
        if process.wait(PATIENCE) != 0:
            raise RuntimeError((self.folder / name / "said.txt").read_text())
        return outcome(self.folder / name)

    def trial(self, number: int) -> Trial:
        """Train, kill, go on to the end; a kill that comes too late is drawn again."""
        for attempt in range(20):
            folder = self.folder / f"trial-{number}-{attempt}"
            process = self.arm.start(folder, warm=self.warm)
            kill = self._strike(folder, process, aimed=number % 2 == 1)
            if kill is not None:
                return self._judged(number, folder, kill, self._resume(folder))
            self.seconds = min(self.seconds, training_seconds(read_lines(folder)))  # the machine has become faster
        raise RuntimeError("no kill came in time")

    def _strike(self, folder: Path, process: Process, *, aimed: bool) -> Kill | None:
        saving = job.EVERY * self.generator.randint(1, (job.STEPS - 1) // job.EVERY) if aimed else None
        at = self.generator.uniform(0, self.saving if aimed else self.seconds)
        written, lines = job.ACCUMULATION * saving if saving else 1, Counter(folder / job.LOG)
        await_true(lambda: lines.count() >= written or process.poll() is not None)
        time.sleep(at)
        process.kill()
        now = time.time()
        status = process.wait(PATIENCE)
        furthest = max((line.step for line in read_lines(folder)), default=0)
        if status == 0 or furthest == job.STEPS:
            return None
        return Kill(time=now, furthest=furthest, at=at, saving=saving)

    def _resume(self, folder: Path) -> list[str]:
        """Start it again until it is finished; the errors on the way."""
        failed: list[str] = []
        while self.arm.start(folder, passed_over=len(failed), warm=self.warm).wait(PATIENCE) != 0:
            said = (folder / "said.txt").read_text(errors="replace")
            failed.append(first_line_of_error(said.replace(f"{folder}/", "")))
            if len(failed) == MOST_STARTS:
                raise RuntimeError(f"{folder.name} cannot be resumed: {failed}")
        return failed

    def _judged(self, number: int, folder: Path, kill: Kill, failed: list[str]) -> Trial:
        found, expected = outcome(folder), self.undisturbed
        after = [line for line in read_lines(folder) if line.time > kill.time]
        useful = [line.time for line in after if line.step > kill.furthest]
        lost, repeated = lost_and_repeated(found.samples, steps=job.STEPS, batch=job.BATCH, length=job.SAMPLES)
        return Trial(
            number=number,
            kill=kill,
            resumed_at=after[0].step,
            failed=failed,
            useful_after=min(useful) - kill.time if useful else None,
            lost=lost,
            repeated=repeated,
            same_order=found.samples == expected.samples,
            same_sets=same_sets(found.samples, expected.samples),
            losses_apart_from=first_apart(found.losses, expected.losses),
            losses_apart=largest_apart(found.losses, expected.losses),
            same_bytes=same_bytes(found.weights, expected.weights),
            weights_apart=weights_apart(found.weights, expected.weights),
        )


def prepare(folder: Path) -> None:
    """Write the samples down once, so that no arm spends its start on reading them from scikit-learn."""
    pixels, digits = (torch.as_tensor(values)[: job.SAMPLES] for values in load_digits(return_X_y=True))
    fields = {"inputs": pixels.float() / 16, "targets": digits, "index": torch.arange(job.SAMPLES)}
    save_file({name: values.contiguous() for name, values in fields.items()}, folder / job.DIGITS)


def equal(found: Outcome, expected: Outcome) -> bool:
    """In samples, losses and every byte of the weights."""
    same = found.samples == expected.samples and found.losses == expected.losses
    return same and same_bytes(found.weights, expected.weights)


def training_seconds(lines: Sequence[Line]) -> float:
    return lines[-1].time - lines[0].time


def saving_seconds(folder: Path, lines: Sequence[Line]) -> float:
    """How long after the last micro-batch of a step its checkpoint is being written; the median.

    Until the next step begins, or, where that does not wait, until the last change below the job's folder.
    """
    ends = [(line.time, after.time) for line, after in pairwise(lines) if is_saved(line) and after.step > line.step]
    changes = [path.stat().st_mtime for path in folder.rglob("*") if "checkpoint" in str(path.relative_to(folder))]
    until = [later for (_, _), (later, _) in pairwise(ends)] + [lines[-1].time]
    return statistics.median(
        max([after, *(change for change in changes if begin < change < next_)]) - begin
        for (begin, after), next_ in zip(ends, until, strict=True)
    )


def is_saved(line: Line) -> bool:
    return line.step % job.EVERY == 0


class Counter:
    """Lines of a file that grows; only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._lines = path, 0, 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            self._lines += new.count(b"}\n")
        return self._lines


def await_true(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the job does nothing any more")
        time.sleep(0.001)


# --- the table


def summary(bench: Bench, trials: Sequence[Trial]) -> dict[str, Any]:
    waits = [trial.useful_after for trial in trials if trial.useful_after is not None]
    apart = [trial.losses_apart_from for trial in trials if trial.losses_apart_from is not None]
    return {
        "deterministic_undisturbed": bench.deterministic,
        "training_seconds": bench.seconds,
        "saving_milliseconds": bench.saving * 1e3,
        "trials": len(trials),
        "aimed_at_a_save": sum(trial.kill.saving is not None for trial in trials),
        "exact": sum(trial.exact for trial in trials),
        "weights_byte_equal": sum(trial.same_bytes for trial in trials),
        "same_order": sum(trial.same_order for trial in trials),
        "same_sets": sum(trial.same_sets for trial in trials),
        "lost": [trial.lost for trial in trials],
        "repeated": [trial.repeated for trial in trials],
        "losses_apart": max((trial.losses_apart for trial in trials), default=0.0),
        "steps_from_resume_to_first_loss_apart": [
            trial.losses_apart_from - trial.resumed_at for trial in trials if trial.losses_apart_from is not None
        ],
        "losses_apart_from": min(apart, default=None),
        "weights_apart": max((trial.weights_apart for trial in trials), default=0.0),
        "failed_resumes": sum(bool(trial.failed) for trial in trials),
        "errors": sorted({error for trial in trials for error in trial.failed}),
        "useful_step_seconds_median": statistics.median(waits) if waits else None,
        "useful_step_seconds_worst": max(waits, default=None),
    }


def missing(arm: Arm) -> list[str]:
    return [name for name in arm.needs if installed(name) is None]


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--warm", action="store_true", help="fork the scripts from one process")
    parser.add_argument("--json", type=Path, help="also write every trial here")
    wishes = parser.parse_args()
    sys.path.insert(0, str(SCRIPTS))
    torch.set_num_threads(1)  # threads that exist would be missing in forked processes, which would wait for them
    warnings.simplefilter("ignore")
    packages = sorted({name for arm in ARMS.values() for name in arm.needs} | {"torch"})
    told: dict[str, Any] = {"versions": {name: installed(name) for name in packages}, "load": os.getloadavg()}
    print(told, file=sys.stderr)
    for name in wishes.only:
        if absent := missing(ARMS[name]):
            print(f"{name}: left out, as {' and '.join(absent)} cannot be found", file=sys.stderr)
            continue
        if wishes.warm:
            ARMS[name].warm_up()
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(ARMS[name], Path(folder) / name, random.Random(wishes.seed), wishes.warm)
            trials: list[Trial] = []
            for number in range(wishes.trials):
                trials.append(bench.trial(number))
                print(f"{name}, trial {number}: {trials[-1].said}", file=sys.stderr)
        told[name] = summary(bench, trials) | {"load_after": os.getloadavg()}
        print(json.dumps({name: told[name]}, indent=2))
        told[name]["all"] = [asdict(trial) for trial in trials]
        if wishes.json is not None:
            wishes.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
