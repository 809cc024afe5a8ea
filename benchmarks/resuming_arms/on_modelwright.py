"""The job on modelwright: a run with a name goes on where it stood."""

from __future__ import annotations

import json
from pathlib import Path

import job
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright import train
from modelwright.optim.adamw import AdamW
from modelwright.planning.request import PlanRequest
from modelwright.training.settings import Saving
from modelwright.training.watching import Watch


def step_now(samples: Path) -> int:
    """The step that the library has written down it is about to compute."""
    with samples.open("rb") as file:
        file.seek(max(0, samples.stat().st_size - 4096))
        return int(json.loads(file.read().splitlines()[-1])["step"])


def main() -> None:
    options = job.wishes()
    log, run = job.Log(options.folder), options.folder / "run"

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found = functional.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")
        log(step_now(run / "samples" / "rank-0.jsonl"), batch["index"], found.mean())
        return found

    torch.manual_seed(job.SEED)
    model = job.classifier()
    train(
        model,
        job.Digits(options.folder),
        objective=losses,
        optimizer=AdamW(lr=job.RATE, weight_decay=job.WEIGHT_DECAY),
        batch=job.BATCH,
        budget=f"{job.EPOCHS} epochs",
        clip=job.CLIP,
        seed=job.SEED,
        plan=PlanRequest(micro_batch=job.MICRO_BATCH),
        saving=Saving(every=job.EVERY),
        watch=Watch(samples=True, utilisation=False),
        run=run,
        quiet=True,
    )
    job.finish(options.folder, model)


if __name__ == "__main__":
    main()
