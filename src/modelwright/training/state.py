"""State: the one canonical logical state of a training run.

Parameters, buffers and moments by the user's own module names and global shapes, the position in the data, and the
keys of the random numbers. Random numbers of a step are drawn from (seed, step, rank), so no generator has to be
saved for a resumed run to repeat them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim import Average, Optimizer
from modelwright.optim.state import changed_settings, group_settings, load_optimizer_state, optimizer_state
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.owning import Owning
from modelwright.parallel.parts import Part


class Numbers(Protocol):
    """A part of the state that is a few numbers: a loss scale, a schedule that looks at scores."""

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state` described."""
        ...


class Tensors(Protocol):
    """A part of the state that is tensors: averages of weights, the best ones so far."""

    def state(self) -> dict[str, Tensor]:
        """By name."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Become what :meth:`state` described."""
        ...


@dataclass(kw_only=True)
class State:
    """Where a run stands.

    Attributes:
        held: parameters and buffers, as this rank has them.
        optimizer: holds the moments; several are joined.
        batch: samples per step, over all workers.
        seed: of the data order and of dropout.
        total: steps in all, as schedules see it.
        step: attempted so far.
        samples: drawn so far.
        seconds: spent in steps so far, over all sittings.
        scored: the last step that held-out data was scored after, on the way.
        averages: of the weights, if any.
        owning: of optimizers whose state of a divided tensor is whole on one rank.
        numbers_of, tensors_of: further parts by name.
    """

    held: Holdings
    optimizer: Optimizer
    batch: int
    seed: int
    total: int
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    scored: int = 0
    averages: Average | None = None
    owning: Sequence[Owning] = ()
    numbers_of: dict[str, Numbers] = field(default_factory=dict)
    tensors_of: dict[str, Tensors] = field(default_factory=dict)
    _built: list[dict[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._built = group_settings(self.optimizer)

    def average(self) -> None:
        """Let the averages take in the weights as they are."""
        if self.averages is not None:
            self.averages.update(self.step, self.total)

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
        return self.held.names()

    def model_tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by logical name, as this rank has them."""
        return {name: tensor.detach() for name, tensor in self.held.tensors().items()}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Moments and counters as ``PARAMETER/moment``, and what the optimizer changed in its groups."""
        changed = changed_settings(self.optimizer, self._built)
        return {**optimizer_state(self.optimizer, self._optimized()), **changed}

    def _optimized(self) -> dict[nn.Parameter, str]:
        """Names of the parameters that this rank's optimizer has."""
        return {**self.names(), **{whole: name for each in self.owning for whole, name in each.names.items()}}

    def further_tensors(self) -> dict[str, Tensor]:
        """Those of the further parts, as ``PART/NAME``."""
        parts: dict[str, Tensors] = {**self.tensors_of, **({"averages": self.averages} if self.averages else {})}
        return {f"{part}/{name}": tensor for part, held in parts.items() for name, tensor in held.state().items()}

    def numbers(self) -> dict[str, Any]:
        """Everything that is no tensor, JSON-ready."""
        return {
            "parts": {name: part.state() for name, part in self.numbers_of.items()},
            "step": self.step,
            "total": self.total,
            "batch": self.batch,
            "samples": self.samples,
            "seed": self.seed,
            "seconds": self.seconds,
            "scored": self.scored,
        }

    def load(
        self,
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        numbers: dict[str, Any],
        further: dict[str, Tensor],
    ) -> None:
        """Take over a saved state, of which this rank picks its pieces.

        Raises:
            ModelwrightError: names, types or shapes differ from this model's, or what places the samples differs.
        """
        self._check_same_order(numbers)
        self._check_same_parts(numbers.get("parts", {}), further)
        self.held.check(model)
        self.held.put(self.held.pieces(model))
        load_optimizer_state(self.optimizer, self._optimized(), self._optimizer_pieces(optimizer))
        for name, part in self.numbers_of.items():
            part.load(numbers["parts"][name])
        tensors = _by_part(self.pieces(further))
        for name, held in self.tensors_of.items():
            held.load(tensors.get(name, {}))
        if self.averages is not None:
            self.averages.load(tensors["averages"])
        self.step, self.samples, self.seconds = numbers["step"], numbers["samples"], numbers["seconds"]
        self.scored = numbers.get("scored", self.step)

    def pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole tensors of the state, what this rank holds."""
        if not self.held.divided:
            return dict(tensors)
        pieces = {}
        for path, tensor in tensors.items():
            name = self.parameter_of(path)
            if name is None:
                pieces[path] = tensor
            elif name not in self.held.absent:
                part = self.held.part(name)
                pieces[path] = part.take(tensor).clone() if tensor.shape == part.shape else tensor
        return pieces

    def _optimizer_pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the optimizer's whole tensors, what this rank holds: of those that have an owner all, or nothing."""
        names = {path: self.parameter_of(path) for path in tensors}
        divided = {path: tensor for path, tensor in tensors.items() if names[path] not in self._gathered()}
        owned = {name for each in self.owning for name in each.names.values()}
        return self.pieces(divided) | {path: tensor for path, tensor in tensors.items() if names[path] in owned}

    def _gathered(self) -> set[str]:
        return {name for each in self.owning for name in each.gathered}

    def optimizer_part_of(self, path: str, tensor: Tensor) -> Part:
        """Where this rank's piece of a tensor of the optimizer lies in the whole."""
        whole = self.parameter_of(path) in self._gathered()
        return Part.whole(tensor.shape) if whole else self.part_of(path, tensor)

    def part_of(self, path: str, tensor: Tensor) -> Part:
        """Where this rank's piece of another tensor of the state lies in the whole."""
        name = self.parameter_of(path)
        if name is not None:
            part = self.held.part(name)
            if tuple(tensor.shape) == part.local_shape:
                return part
        return Part.whole(tensor.shape)

    def parameter_of(self, path: str) -> str | None:
        """The tensor of the model that a tensor of the state, such as ``PARAMETER/moment``, is about."""
        words = path.split("/")  # of which a name may have several
        spans = ("/".join(words[a:b]) for a in range(len(words)) for b in range(len(words), a, -1))
        return next((name for name in spans if name in self.held.whole), None)

    def _check_same_parts(self, numbers: dict[str, Any], further: dict[str, Tensor]) -> None:
        """Parts of which nothing was saved would begin anew, and saved ones would be lost, without a word."""
        mine = self.numbers_of.keys() | ({"averages"} if self.averages is not None else set())
        saved = numbers.keys() | (_by_part(further).keys() - self.tensors_of.keys())
        if mine != saved:
            raise ModelwrightError(
                f"the saved state has {_listed(saved)}, this training {_listed(mine)}",
                remedy="resume with the settings that the run was begun with, or give the new run another name",
            )

    def _check_same_order(self, numbers: dict[str, Any]) -> None:
        """Another batch or seed would go on with other samples; how many steps there are in all, the plan says."""
        for name in ("batch", "seed"):
            if numbers[name] != getattr(self, name):
                raise ModelwrightError(
                    f"the saved run has {name} {numbers[name]}, this one {getattr(self, name)}",
                    where=name,
                    remedy=f"resume with {name} {numbers[name]}, or give the new run another name",
                )


def _by_part(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "no further parts"
