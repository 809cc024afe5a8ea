"""Seconds of a training step: a hand-written torch loop, Accelerate, Lightning, the transformers Trainer and ours.

    pip install -e '.[all,bench]' && python benchmarks/loop.py [--suite same best defaults] [--repeats 5]

Three tasks (an MLP and a convnet on scikit-learn's digits, a GPT on the standard library's source) and three suites:

- same: one fused AdamW, one batch, one order of samples, batched reads and one thread in every arm; ours also clips,
  guards and logs each step. Losses are printed: they are to be equal.
- best: every rival at several settings that its documentation recommends for a CPU (``loop_arms.BEST`` cites the
  pages); ours as its planner chooses.
- defaults: every arm as its quick start has it.

Each measurement is a process of its own, forked from one that has imported everything; arms alternate within a repeat.
A step lasts from its end to the end of the next, whatever happens between, so that logging counts; the first steps, in
which things are compiled, do not. Ratios to the hand-written loop (suite best: to the fastest rival) come first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from loop_arms import ARMS, BEST, TASKS, Measured, Setting, Task, ours_auto
from modelwright.base.detect import detect

Job = Callable[[], Measured]


def forked(job: Job, threads: int) -> Measured | None:
    """The job's result from a process of its own; ``None`` where it failed, its reason on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                os.chdir(folder)
                torch.set_num_threads(threads)
                with Path("said.txt").open("w") as said:
                    os.dup2(said.fileno(), 1)
                    measured = job()
                result.write_text(json.dumps(vars(measured)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return Measured(**json.loads(result.read_text())) if result.exists() else None


def alternated(jobs: dict[str, Job], threads: int, repeats: int) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            measured = forked(job, threads)
            if measured is not None:
                found[name].append(measured)
    return found


def show(found: dict[str, list[Measured]], base: str) -> None:
    medians = {name: statistics.median(m.step for m in all_) for name, all_ in found.items() if all_}
    for name, all_ in found.items():
        if not all_:
            print(f"  {'failed':>8}  {name}")
            continue
        seconds = [m.step for m in all_]
        print(
            f"  {medians[name] / medians[base]:6.3f} x  {medians[name] * 1e3:9.3f} ms a step "
            f"({min(seconds) * 1e3:.3f}-{max(seconds) * 1e3:.3f})  "
            f"{(medians[name] - medians[base]) * 1e6:+8.0f} us  loss {all_[-1].loss:.6f}  {name} {all_[-1].note}"
        )


def same(task: Task, repeats: int) -> None:
    jobs = {name: (lambda arm=arm: arm(task, Setting(fused=True, batched=True))) for name, arm in ARMS.items()}
    show(alternated(jobs, 1, repeats), "hand-written loop")


def defaults(task: Task, repeats: int) -> None:
    jobs = {name: (lambda arm=arm: arm(task, Setting())) for name, arm in ARMS.items()}
    show(alternated(jobs, os.cpu_count() or 1, repeats), "hand-written loop")


def best(task: Task, repeats: int) -> None:
    jobs: dict[str, Job] = {
        f"{name}: {words}": (lambda arm=ARMS[name], setting=setting: arm(task, setting))
        for name, settings in BEST.items()
        for words, setting in settings.items()
    }
    found = alternated(jobs, os.cpu_count() or 1, repeats)
    found["modelwright: auto"] = [m for m in (forked(lambda: ours_auto(task), os.cpu_count() or 1),) for _ in "1" if m]
    rivals = {
        name: statistics.median(m.step for m in all_)
        for name, all_ in found.items()
        if all_ and "modelwright" not in name
    }
    show(found, min(rivals, key=rivals.__getitem__))


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
