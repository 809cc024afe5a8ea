"""State: the one canonical logical state of a training run.

Parameters, buffers and moments by the user's own module names and global shapes, the position in the data, and the
keys of the random numbers. Random numbers of a step are drawn from (seed, step, rank), so no generator has to be
saved for a resumed run to repeat them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Optimizer
from modelwright.optim.state import changed_settings, group_settings, load_optimizer_state, optimizer_state


@dataclass(kw_only=True)
class State:
    """Where a run stands.

    Attributes:
        model: holds parameters and buffers.
        optimizer: holds the moments.
        batch: samples per step, over all workers.
        seed: of the data order and of dropout.
        total: steps in all, as schedules see it.
        step: attempted so far.
        samples: drawn so far.
        seconds: spent in steps so far, over all sittings.
    """

    model: nn.Module
    optimizer: Optimizer
    batch: int
    seed: int
    total: int
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    _built: list[dict[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._built = group_settings(self.optimizer)

    def advance(self, seconds: float) -> None:
        """Count one more step."""
        self.step += 1
        self.samples += self.batch
        self.seconds += seconds

    def seed_step(self, rank: int) -> None:
        """Key this rank's random numbers for the coming step."""
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{rank}".encode(), digest_size=8).digest()
        seed = int.from_bytes(digest, "little") >> 1
        # Not torch.manual_seed: for every kind of device that is not in use it would format this stack, each step.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed(seed)

    def names(self) -> dict[nn.Parameter, str]:
        """Each parameter's logical name; a tied one has the first of its names."""
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def model_tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by logical name."""
        return dict(self.model.state_dict())

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Moments and counters as ``PARAMETER/moment``, and what the optimizer changed in its groups."""
        changed = changed_settings(self.optimizer, self._built)
        return {**optimizer_state(self.optimizer, self.names()), **changed}

    def numbers(self) -> dict[str, Any]:
        """Everything that is no tensor, JSON-ready."""
        return {
            "step": self.step,
            "total": self.total,
            "batch": self.batch,
            "samples": self.samples,
            "seed": self.seed,
            "seconds": self.seconds,
        }

    def load(self, model: dict[str, Tensor], optimizer: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ModelwrightError: names, types or shapes differ from this model's, or what places the samples differs.
        """
        self._check_same_order(numbers)
        _check_same(self.model.state_dict(), model)
        self.model.load_state_dict(model)
        load_optimizer_state(self.optimizer, self.names(), optimizer)
        self.step, self.samples, self.seconds = numbers["step"], numbers["samples"], numbers["seconds"]

    def _check_same_order(self, numbers: dict[str, Any]) -> None:
        """Another batch, seed or total would go on with other samples and another schedule, without a word."""
        for name in ("batch", "seed", "total"):
            if numbers[name] != getattr(self, name):
                raise ModelwrightError(
                    f"the saved run has {name} {numbers[name]}, this one {getattr(self, name)}",
                    where=name,
                    remedy=f"resume with {name} {numbers[name]}, or give the new run another name",
                )


def _check_same(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    differences = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    differences += [f"unexpected: {name}" for name in sorted(found.keys() - expected.keys())]
    differences += [
        f"{name}: {_kind(found[name])} saved, {_kind(expected[name])} in the model"
        for name in sorted(expected.keys() & found.keys())
        if _kind(found[name]) != _kind(expected[name])
    ]
    if differences:
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ModelwrightError(
            f"the saved weights do not fit this model: {listed}",
            remedy="build the model as the run's recipe says",
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
