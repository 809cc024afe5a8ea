"""Checkpoints of other trainers: Lightning's file and the folder of the ``transformers`` Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.files import read_json
from modelwright.models.starts.weight_files import read_folder, read_torch, state_in

_LIGHTNING = {
    "optimizer_states": "the optimizer's state",
    "lr_schedulers": "the state of the schedule",
    "callbacks": "the states of callbacks",
    "loops": "the place in the loops",
    "hyper_parameters": "the module's arguments",
    "datamodule_hyper_parameters": "the data module's arguments",
    "MixedPrecision": "the state of the loss scaling",
}
_TRAINER = {
    "optimizer.pt": "the optimizer's state",
    "scheduler.pt": "the state of the schedule",
    "scaler.pt": "the state of the loss scaling",
    "rng_state*.pth": "the states of the random generators",
    "training_args.bin": "the Trainer's arguments",
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a checkpoint of another trainer gives.

    Attributes:
        tensors: the weights by name.
        kind: who wrote it: ``lightning``, ``trainer`` or ``torch``.
        step: optimizer updates made, where the checkpoint says so.
        epoch: passes over the data, where it says so.
        left: what else it holds, which is not taken, in words.
    """

    tensors: dict[str, Tensor]
    kind: str
    step: int | None = None
    epoch: float | None = None
    left: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Imported:
    """Read a Lightning ``.ckpt``, a checkpoint folder of the Trainer, or any file of ``torch.save``; no code is run.

    Raises:
        ModelwrightError: there is none, or it holds more than data.
    """
    return _trainer(path) if path.is_dir() else _file(path)


def _file(path: Path) -> Imported:
    content = read_torch(path)
    tensors = state_in(content, path)
    if not (isinstance(content, Mapping) and "state_dict" in content):
        return Imported(tensors=tensors, kind="torch")
    kind = "lightning" if "pytorch-lightning_version" in content else "torch"
    left = tuple(words for name, words in _LIGHTNING.items() if content.get(name))
    step, epoch = _whole(content.get("global_step")), _number(content.get("epoch"))
    return Imported(tensors=tensors, kind=kind, step=step, epoch=epoch, left=left)


def _trainer(folder: Path) -> Imported:
    state: Any = read_json(folder / "trainer_state.json") if (folder / "trainer_state.json").is_file() else {}
    if not isinstance(state, Mapping):
        raise ModelwrightError("the file is no mapping", where=str(folder / "trainer_state.json"))
    left = tuple(words for pattern, words in _TRAINER.items() if any(folder.glob(pattern)))
    return Imported(
        tensors=read_folder(folder),
        kind="trainer",
        step=_whole(state.get("global_step")),
        epoch=_number(state.get("epoch")),
        left=left,
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
