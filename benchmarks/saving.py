"""How long training waits for a checkpoint, beside the synchronous way, torch.distributed.checkpoint and torch.save.

    python benchmarks/saving.py [--width 512 --layers 8 --vocabulary 8192] [--steps 12 --every 6] [--repeats 5]

A GPT with AdamW, in one process; the ways alternate within each repeat, each into a folder of its own that is removed
afterwards. Medians over all repeats. First saves alone, each awaited before the next; then, with ``--steps``, a
training that saves after every ``--every``.

- stall: seconds that the training thread spends in the call that saves; the wait for an earlier save is part of it.
- copies: stall over the time of one copy of the state (weights and moments) into memory that is there already.
- first: the stall of the very first save, in which memory is allocated.
- run: seconds of all steps with their saves, over those without a save; then the wait for the last write.

Ours hashes every file and flushes it to the disk before its name appears; torch.save does neither, and
torch.distributed.checkpoint flushes. Both of its stagers are there: its default, and the one that keeps its memory.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.nn import functional

from modelwright.base.detect import detect
from modelwright.base.group import Group
from modelwright.models.gpt import GPT
from modelwright.optim.adamw import AdamW
from modelwright.training import checkpoints
from modelwright.training.settings import Saving
from modelwright.training.state import State

ALONE = Group(0, 1)
TOKENS = (2, 128)  # batch, time


class Way:
    """One way to save: ``save`` is called after a step, ``finish`` after the last."""

    def __init__(self, state: State, folder: Path) -> None:
        self.state, self.folder = state, folder

    def save(self) -> None:
        """Save nothing."""

    def finish(self) -> None:
        """Wait for nothing."""


class Ours(Way):
    def __init__(self, state: State, folder: Path) -> None:
        super().__init__(state, folder)
        self.saver = checkpoints.Saver(state, folder, ALONE, Saving(every=1))

    def save(self) -> None:
        self.saver.begin()

    def finish(self) -> None:
        self.saver.finish()


class Synchronous(Way):
    def save(self) -> None:
        checkpoints.save(self.state, self.folder, ALONE, keep=2)


class TorchSave(Way):
    def save(self) -> None:
        torch.save({**self.state.model_tensors(), **self.state.optimizer_tensors()}, self.folder / "state.pt")


class AsyncSave(Way):
    def __init__(self, state: State, folder: Path, stager: Any = None) -> None:
        super().__init__(state, folder)
        self.stager, self.pending = stager, None

    def save(self) -> None:
        self.finish()
        tensors = {**self.state.model_tensors(), **self.state.optimizer_tensors()}
        target = self.folder / str(self.state.step)
        future: Any = dcp.async_save(tensors, checkpoint_id=target, async_stager=self.stager, no_dist=True)
        self.pending = future

    def finish(self) -> None:
        if isinstance(self.pending, Future):
            self.pending.result()
        self.pending = None


class CachedAsyncSave(AsyncSave):
    def __init__(self, state: State, folder: Path) -> None:
        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
        super().__init__(state, folder, DefaultStager(options))


WAYS: dict[str, Callable[[State, Path], Way]] = {
    "no saving": Way,
    "modelwright": Ours,
    "modelwright, synchronous": Synchronous,
    "dcp.async_save": AsyncSave,
    "dcp.async_save, memory kept": CachedAsyncSave,
    "torch.save": TorchSave,
}


class Trial:
    """A model with moments that takes steps."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.options = options
        self.places: list[torch.Tensor] = []
        gpt = GPT(vocabulary=options.vocabulary, width=options.width, layers=options.layers, heads=options.heads)
        self.model: nn.Module = gpt.build()
        self.optimizer = AdamW(lr=1e-4).build(self.model)
        self.tokens = torch.randint(options.vocabulary, TOKENS)
        self.state = State(model=self.model, optimizer=self.optimizer, batch=TOKENS[0], seed=0, total=10**6)
        for _ in range(2):
            self.step()

    def step(self) -> None:
        logits = self.model(self.tokens)
        functional.cross_entropy(logits.flatten(0, 1), self.tokens.flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.advance(0.0)

    def tensors(self) -> list[torch.Tensor]:
        return [
            one.detach() for one in (*self.state.model_tensors().values(), *self.state.optimizer_tensors().values())
        ]

    def copy(self) -> float:
        """Seconds of one copy of the state into memory that is there."""
        sources = list({one.data_ptr(): one for one in self.tensors()}.values())
        if not self.places:
            self.places = [one.clone() for one in sources]
        return timed(lambda: torch._foreach_copy_(self.places, sources))

    def run(self, way: Way) -> tuple[float, float, list[float]]:
        """Seconds of all steps with their saves, of waiting for the last write, and of each save."""
        stalls, begin = [], time.perf_counter()
        for number in range(1, self.options.steps + 1):
            self.step()
            if number % self.options.every == 0:
                stalls.append(timed(way.save))
        done = time.perf_counter()
        way.finish()
        return done - begin, time.perf_counter() - done, stalls


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measured(trial: Trial, repeats: int) -> tuple[dict[str, list[tuple[float, float, list[float]]]], list[float]]:
    found: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in WAYS}
    copies = []
    for _ in range(repeats):
        for name, way in WAYS.items():
            folder = Path(tempfile.mkdtemp(prefix="saving-"))
            try:
                found[name].append(trial.run(way(trial.state, folder)))
            finally:
                shutil.rmtree(folder)
        copies.append(trial.copy())
    return found, copies


def alone(trial: Trial, repeats: int) -> None:
    """The stall of saves that nothing else disturbs: the first of a training, and a later one."""
    firsts: dict[str, list[float]] = {name: [] for name in WAYS if name != "no saving"}
    laters: dict[str, list[float]] = {name: [] for name in firsts}
    trial.copy()
    copies: list[float] = []
    for _ in range(repeats):
        for name in firsts:
            folder = Path(tempfile.mkdtemp(prefix="saving-"))
            way = WAYS[name](trial.state, folder)
            for stalls in (firsts[name], laters[name]):
                trial.state.step += 1
                stalls.append(timed(way.save))
                way.finish()
                copies.append(trial.copy())
            shutil.rmtree(folder)
    copy = statistics.median(copies)
    print(f"\nsaves alone, {repeats} repeats, one copy of the state {copy * 1e3:.0f} ms\n")
    print("| way | first ms | later ms | later / copy |")
    print("|---|---|---|---|")
    for name in firsts:
        first, later = statistics.median(firsts[name]), statistics.median(laters[name])
        print(f"| {name} | {first * 1e3:.0f} | {later * 1e3:.0f} | {later / copy:.2f} |", flush=True)


def show(found: dict[str, list[tuple[float, float, list[float]]]], copy: float) -> None:
    plain = statistics.median(seconds for seconds, _, _ in found["no saving"])
    print("| way | stall ms | copies | first ms | run | last write s |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        run = statistics.median(seconds for seconds, _, _ in runs) / plain
        last = statistics.median(seconds for _, seconds, _ in runs)
        later = [stall for _, _, stalls in runs for stall in stalls[1:]]
        first = statistics.median([stalls[0] for _, _, stalls in runs]) if later else 0.0
        stall = statistics.median(later) if later else 0.0
        print(f"| {name} | {stall * 1e3:.0f} | {stall / copy:.2f} | {first * 1e3:.0f} | {run:.3f} | {last:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("width", 512), ("layers", 8), ("heads", 8), ("vocabulary", 8192)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name, usual in (("steps", 12), ("every", 6), ("repeats", 5), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    trial, machine = Trial(options), detect()
    count = sum(one.numel() for one in trial.model.parameters())
    size = sum(one.nbytes for one in {one.data_ptr(): one for one in trial.tensors()}.values())
    print(f"{machine.device_name}, {machine.cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{count / 1e6:.1f} M parameters, state of {size / 1e6:.0f} MB", flush=True)
    alone(trial, options.repeats)
    if options.steps:
        found, copies = measured(trial, options.repeats)
        print(f"\n{options.steps} steps, a save every {options.every}, {options.repeats} repeats\n")
        show(found, statistics.median(copies))


if __name__ == "__main__":
    main()
