"""Seconds of a training step: a hand-written torch loop, Accelerate, Lightning, the transformers Trainer and ours.

    pip install -e '.[all,bench]' && python benchmarks/loop.py [--suite same best defaults] [--repeats 5]

Three tasks (an MLP and a convnet on scikit-learn's digits, a GPT on the standard library's source) and three suites:

- same: one fused AdamW, one batch, one order of samples, batched reads and one thread in every arm; ours also clips,
  guards and logs each step. Losses are printed: they are to be equal.
- best: every rival at several settings that its documentation recommends for a CPU (``loop_arms.BEST`` cites the
  pages); ours as its planner chooses.
- defaults: every arm as its quick start has it.

Each measurement is a process of its own, forked from one that has imported everything. In the suite same the arms of a
repeat take turns of a quarter of a second, so that all see the machine as it is at that time; in the others they run
one after another. A step lasts from its end to the end of the next, whatever happens between, so that logging counts;
the first steps, in which things are compiled, do not. Ratios to the hand-written loop (suite best: to the fastest
rival) come first; they are medians of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from loop_arms import ARMS, BEST, TASKS, Measured, Setting, Task, ours_auto
from modelwright.base.detect import detect

Job = Callable[[], Measured]

TURN, WHOLE = 0.25, 1e9  # Seconds.


class Result(NamedTuple):
    """Seconds of a step, the mean loss of the last ones, and what was chosen."""

    step: float
    loss: float
    note: str


class Child:
    """A job in a process of its own, which is stopped until its turn comes."""

    def __init__(self, job: Job, threads: int, folder: Path) -> None:
        self._result = folder / "result.json"
        self.turns: list[tuple[float, float]] = []
        self.running = True
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._work(job, threads, folder)

    def _work(self, job: Job, threads: int, folder: Path) -> None:
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.chdir(folder)
            torch.set_num_threads(threads)
            with Path("said.txt").open("w") as said:
                os.dup2(said.fileno(), 1)
                measured = job()
            self._result.write_text(json.dumps(vars(measured)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def turn(self, seconds: float) -> None:
        """Let it work for so long, or until it is done."""
        begin = time.time()
        os.kill(self._pid, signal.SIGCONT)
        while self.running and time.time() - begin < seconds:
            time.sleep(min(TURN, seconds) / 10)
            self.running = os.waitpid(self._pid, os.WNOHANG)[0] == 0
        if self.running:
            os.kill(self._pid, signal.SIGSTOP)
        self.turns.append((begin, time.time()))

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def measured(self) -> Measured | None:
        """What it found; ``None`` where it failed, its reason on stderr."""
        return Measured(**json.loads(self._result.read_text())) if self._result.exists() else None

    def step(self) -> float:
        """Seconds of a step, of those in which it worked."""
        found = self.measured()
        assert found is not None
        worked = sum(max(0.0, min(end, found.end) - max(begin, found.begin)) for begin, end in self.turns)
        return worked / found.steps


def repeat(jobs: dict[str, Job], threads: int, turn: float) -> dict[str, Result]:
    """All arms once, in turns of so many seconds."""
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / str(number) for number, name in enumerate(jobs)}
        for folder in folders.values():
            folder.mkdir()
        children = {name: Child(job, threads, folders[name]) for name, job in jobs.items()}
        try:
            while any(child.running for child in children.values()):
                for child in children.values():
                    if child.running:
                        child.turn(turn)
        finally:
            for child in children.values():
                child.end()
        return {
            name: Result(child.step(), found.loss, found.note)
            for name, child in children.items()
            if (found := child.measured())
        }


def show(repeats: list[dict[str, Result]], names: Iterable[str], base: str) -> None:
    for name in names:
        both = [(found[name], found[base]) for found in repeats if name in found and base in found]
        if not both:
            print(f"  {'failed':>8}  {name}")
            continue
        ratios, seconds = [mine.step / its.step for mine, its in both], [mine.step for mine, _ in both]
        further = statistics.median(mine.step - its.step for mine, its in both)
        print(
            f"  {statistics.median(ratios):6.3f} x ({min(ratios):.3f}-{max(ratios):.3f})  "
            f"{statistics.median(seconds) * 1e3:9.3f} ms a step ({min(seconds) * 1e3:.3f}-{max(seconds) * 1e3:.3f})  "
            f"{further * 1e6:+8.0f} us  loss {both[-1][0].loss:.6f}  {name} {both[-1][0].note}"
        )


def same(task: Task, repeats: int) -> None:
    jobs = {name: (lambda arm=arm: arm(task, Setting(fused=True, batched=True))) for name, arm in ARMS.items()}
    show([repeat(jobs, 1, TURN) for _ in range(repeats)], jobs, "hand-written loop")


def defaults(task: Task, repeats: int) -> None:
    jobs = {name: (lambda arm=arm: arm(task, Setting())) for name, arm in ARMS.items()}
    show([repeat(jobs, os.cpu_count() or 1, WHOLE) for _ in range(repeats)], jobs, "hand-written loop")


def best(task: Task, repeats: int) -> None:
    rivals: dict[str, Job] = {
        f"{name}: {words}": (lambda arm=ARMS[name], setting=setting: arm(task, setting))
        for name, settings in BEST.items()
        for words, setting in settings.items()
    }
    jobs: dict[str, Job] = {**rivals, "modelwright: auto": lambda: ours_auto(task)}
    found = [repeat(jobs, os.cpu_count() or 1, WHOLE) for _ in range(repeats)]
    seconds = {name: statistics.median(each[name].step for each in found) for name in rivals if name in found[0]}
    show(found, jobs, min(seconds, key=seconds.__getitem__))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", nargs="+", choices=["same", "best", "defaults"], default=["same", "best", "defaults"]
    )
    parser.add_argument("--task", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads that exist would be missing in the forked processes, which would wait for them
    machine = detect()
    print(f"{machine.device_name} ({', '.join(machine.features)}), {os.cpu_count()} cores, torch {torch.__version__}")
    for suite in options.suite:
        for name in options.task:
            print(f"{suite}: {name}")
            {"same": same, "best": best, "defaults": defaults}[suite](TASKS[name](), options.repeats)


if __name__ == "__main__":
    main()
