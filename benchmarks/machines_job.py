"""What the workers of ``benchmarks/machines.py`` run: a small regression through ``train()``, as any user's script.

    torchrun ... benchmarks/machines_job.py RUN STEPS SECONDS

Each micro-batch takes at least ``SECONDS``, so that there is time to lose a machine and to take one in again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import modelwright as mw
from modelwright.optim.adamw import AdamW
from modelwright.training.watching import Watch

SAMPLES, BATCH, SAVE_EVERY = 1024, 32, 20


def main(run: Path, steps: int, seconds: float) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 16, generator=generator)
    targets = torch.sin(inputs.sum(dim=1, keepdim=True))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))

    def squared(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        time.sleep(seconds)
        return (model(batch["inputs"]) - batch["targets"]).square().mean(dim=1)

    mw.train(
        model,
        (inputs, targets),
        objective=squared,
        optimizer=AdamW(lr=3e-3),
        budget=f"{steps} steps",
        batch=BATCH,
        saving=mw.Saving(every=SAVE_EVERY),
        watch=Watch(samples=True),
        run=run,
        quiet=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
