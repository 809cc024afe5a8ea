"""What the tests of training run: data, models and objectives as a user would bring them, and a way to launch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from modelwright.app.assemble import assemble
from modelwright.app.session import run_training
from modelwright.base.plan import Plan
from modelwright.base.world import world
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.launch import Placement, Warm, raise_failure, start
from modelwright.models.gpt import GPT
from modelwright.parallel.exchanges.none import NoExchange
from modelwright.runs import Run
from modelwright.runs.metrics import read_metrics
from modelwright.training.prepared import Prepared

VOCABULARY, TIME = 32, 12
PATIENCE = 180.0


# --- a job as a user would write it


def sparse_targets(seed: int, batch: int, steps: int) -> InMemory:
    """A small language in which one half of every batch has next to no valid targets; the halves take turns.

    The half is that of the order of the same seed, so it is what one of two ranks gets. In every fifth step it has
    no valid target at all.
    """
    random = np.random.default_rng(seed)
    length, half = batch * steps, batch // 2
    tokens = np.zeros((length, TIME + 1), dtype=np.int64)
    tokens[:, 0] = random.integers(VOCABULARY, size=length)
    for place in range(TIME):
        tokens[:, place + 1] = (5 * tokens[:, place] + random.choice([3, 7], size=length)) % VOCABULARY
    valid = random.integers(TIME // 2, TIME + 1, size=length)  # of the rich halves
    for step in range(steps):
        lean = step * batch + half * (step % 2)
        valid[lean : lean + half] = 0
        valid[lean] = 0 if step % 5 == 0 else 1 + step % 3
    ranks = random.random((length, TIME)).argsort(axis=1).argsort(axis=1)
    targets = np.where(ranks < valid[:, None], tokens[:, 1:], -100)
    stored = np.argsort(Order(length, seed)(np.arange(length)))  # the sample at each index, by its position
    return InMemory({"inputs": tokens[stored, :-1], "targets": targets[stored]})


def small_gpt(dtype: str = "float32", dropout: float = 0.0) -> nn.Module:
    config = GPT(vocabulary=VOCABULARY, layers=1, width=16, heads=2, hidden=32, dropout=dropout)
    return config.build().to(getattr(torch, dtype))


def mean_of_means(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """What not to do: each micro-batch divides by its own number of valid targets."""
    logits, targets = model(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()
    total = functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def without_exchange(arguments: list[str]) -> None:
    """The worker, but nobody sums the gradients."""
    run = Run.open(Path(arguments[0]))
    plan = run.plan()
    assert plan is not None
    with world(plan.layout) as mesh:
        prepared = Prepared(assemble(run), plan, mesh)
        prepared.program.exchange = NoExchange()
        run_training(prepared, run, stop=lambda: False)


# --- launching it


@dataclass(frozen=True)
class Split:
    """How one global batch is divided."""

    workers: int
    micro_batch: int

    def plan(self, steps: int) -> Plan:
        return Plan(workers=self.workers, layout={"replicate": self.workers}, micro_batch=self.micro_batch, steps=steps)


@dataclass(frozen=True)
class Outcome:
    """What a finished run left on disk."""

    run: Run

    @property
    def losses(self) -> np.ndarray[Any, Any]:
        return np.array([row["loss"] for row in read_metrics(self.run.metrics_path) if row["kind"] == "step"])

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.run.artifacts / "model.safetensors")

    @property
    def norm(self) -> float:
        return float(torch.stack([value.double().norm() for value in self.weights.values()]).norm())


def launch(
    folder: Path,
    warm: Warm,
    recipe: str,
    splits: Sequence[Split],
    *,
    steps: int,
    entry: str = "modelwright.app.worker",
) -> list[Outcome]:
    """Run a recipe once for each split, all of them at once, as the command line would."""
    runs = []
    with ExitStack() as stack:
        for split in splits:
            run = Run.create(folder, None, "train")
            run.write_recipe(recipe)
            run.write_plan(split.plan(steps))
            runs.append((run, stack.enter_context(resumed(run, warm, entry))))
        for _, job in runs:
            status = job.wait(PATIENCE)
            if status.failure:
                raise_failure(status.failure)
            assert status.state == "finished"
    return [Outcome(run) for run, _ in runs]


def resumed(run: Run, warm: Warm, entry: str = "modelwright.app.worker") -> Any:
    """The job of a run that has a recipe and a plan."""
    plan = run.plan()
    assert plan is not None
    placement = Placement(workers=plan.workers, threads=1, start="fork")
    return start(entry, [str(run.path)], placement, logs=run.logs, warm=warm)
