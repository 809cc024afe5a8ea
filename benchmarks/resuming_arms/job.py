"""The job that every trainer of ``resuming.py`` is given, and the log of what it learnt from.

An MLP with dropout on 1,600 of scikit-learn's digits: AdamW, a cosine, clipping, two micro-batches a step, 12 epochs
of 50 steps, shuffled; a checkpoint every 40 steps, so that four of five fall inside an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

SAMPLES, MICRO_BATCH, ACCUMULATION, EPOCHS, EVERY = 1600, 16, 2, 12, 40
BATCH = MICRO_BATCH * ACCUMULATION
STEPS = EPOCHS * SAMPLES // BATCH
WIDTH, RATE, CLIP, WEIGHT_DECAY, SEED = 128, 1e-3, 1.0, 0.01, 0

LOG, WEIGHTS, DIGITS = "learnt.jsonl", "weights.safetensors", "digits.safetensors"


class Digits(Dataset):  # type: ignore[type-arg]
    """Each sample carries its own ``index``, so that the training step can say what it was given."""

    def __init__(self, folder: Path) -> None:
        self.fields = load_file(folder.parent / DIGITS)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.fields.items()}


def classifier() -> nn.Module:
    layers = [nn.Linear(64, WIDTH), nn.ReLU(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


class Log:
    """One line for each micro-batch, handed to the system at once, so that a kill loses none that was whole."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._generation = uuid.uuid4().hex
        os.write(self._file, b"\n")  # ends a line that a kill has torn

    def __call__(self, step: int, index: Tensor, loss: Tensor) -> None:
        """The optimizer step that this micro-batch belongs to, counted by the trainer; the first is 1."""
        row = {
            "step": step,
            "generation": self._generation,
            "time": time.time(),
            "indices": index.tolist(),
            "loss": loss.item(),
        }
        os.write(self._file, json.dumps(row).encode() + b"\n")


def wishes(*switches: str) -> argparse.Namespace:
    """``FOLDER --passed-over N`` and the switches of an arm; one thread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--passed-over", type=int, default=0, help="newest checkpoints that cannot be loaded")
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true")
    torch.set_num_threads(1)
    return parser.parse_args()


def newest(checkpoints: Sequence[Path], passed_over: int) -> Path | None:
    """The last of the checkpoints, oldest first, without those that are passed over."""
    left = checkpoints[: len(checkpoints) - passed_over]
    return left[-1] if left else None


def numbered(folder: Path, prefix: str) -> list[Path]:
    """Checkpoints whose names end in their step."""
    return sorted(folder.glob(f"{prefix}*"), key=lambda path: int(path.name.removeprefix(prefix)))


def finish(folder: Path, model: nn.Module) -> None:
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
