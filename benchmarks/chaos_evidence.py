"""What a run did, by the logs of its workers and the files it left, and how far that is from an undisturbed run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from modelwright.runs import Run, read_metrics
from modelwright.runs.metrics import steps
from modelwright.runs.sample_log import counted, read_samples

Samples = Mapping[int, Sequence[int]]
_MODELS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run says of itself.

    Attributes:
        samples: by step, those that the weights have learnt from, in the order of ranks.
        losses: of each step.
        state: every tensor of the file of weights and of the last checkpoint: weights in training, their average,
            moments.
    """

    samples: dict[int, list[int]]
    losses: list[float]
    state: dict[str, NDArray[Any]]

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        """The averaged weights and those in training, without moments."""
        return {name: value for name, value in self.state.items() if _MODELS in name}


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """How far numbers may differ; nothing at all where both are 0."""

    losses: float = 0.0
    weights: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One run beside the undisturbed one.

    Attributes:
        lost, repeated: samples, counted within each epoch of each source.
        same_sequence: the same samples in the same order.
        same_bytes: of all weights, averages and moments.
        loss_difference: the largest, of a step.
        weight_difference: the largest, over the root mean square of the tensor it is in.
        allowed: what differences are.
    """

    lost: int
    repeated: int
    same_sequence: bool
    same_bytes: bool
    loss_difference: float
    weight_difference: float
    allowed: Allowed

    @property
    def exact(self) -> bool:
        """Whether nothing was lost or repeated and the outcome is the same."""
        numbers = self.loss_difference <= self.allowed.losses and self.weight_difference <= self.allowed.weights
        same = numbers and (self.same_bytes or self.allowed != Allowed())
        return same and self.same_sequence and self.lost == self.repeated == 0


def outcome(run: Run) -> Outcome:
    """What a finished run's logs, metrics and files of weights say."""
    last = max((run.checkpoints).glob("step-*"), key=lambda path: path.name)
    files = [run.artifacts / _MODELS, *sorted(last.rglob("*.safetensors"))]
    return Outcome(
        samples=counted(read_samples(run)),
        losses=[row["loss"] for row in steps(read_metrics(run.metrics_path))],
        state={f"{_place(file, run)}: {name}": value for file in files for name, value in load_file(file).items()},
    )


def _place(file: Path, run: Run) -> str:
    return str(file.relative_to(run.path))


def judge(found: Outcome, expected: Outcome, sources: Sequence[int], allowed: Allowed) -> Verdict:
    """Compare with the undisturbed run; ``sources`` are the sizes of those that are mixed, in their order."""
    lost, repeated = accounting(found.samples, expected.samples, sources)
    return Verdict(
        lost=lost,
        repeated=repeated,
        same_sequence=found.samples == expected.samples,
        same_bytes=same_bytes(found.state, expected.state),
        loss_difference=difference(found.losses, expected.losses),
        weight_difference=weight_difference(found.weights, expected.weights),
        allowed=allowed,
    )


def accounting(found: Samples, expected: Samples, sources: Sequence[int]) -> tuple[int, int]:
    """Samples that were lost, and those that were repeated: each source has every one of its own once an epoch.

    The undisturbed run says only how many samples each step has, and of which source each is: where one source
    passes into its next epoch is then counted from the logs, and not asked of what made the order.
    """
    ends = np.cumsum(sources)
    laid = {step: laid_out(found.get(step, ()), wished) for step, wished in sorted(expected.items())}
    repeated = sum(extra for _, extra in laid.values())
    repeated += sum(len(samples) for step, samples in found.items() if step not in expected)
    drawn = np.array([sample for row, _ in laid.values() for sample in row])
    owners = np.searchsorted(ends, [sample for _, row in sorted(expected.items()) for sample in row], side="right")
    lost = 0
    for source, length in enumerate(sources):
        own = drawn[owners == source] - (ends[source] - length)
        strange = (own >= length) | ((own < 0) & (drawn[owners == source] >= 0))
        repeated += int(strange.sum())  # it stands in another's place
        counts = account(np.where(strange | (own < 0), -1, own), length)
        lost, repeated = lost + counts[0], repeated + counts[1]
    return lost, repeated


def laid_out(used: Sequence[int], wished: Sequence[int]) -> tuple[list[int], int]:
    """The samples of a step at the places they belong to, -1 where one is missing; and how many are left over."""
    if len(used) == len(wished):
        return list(used), 0
    left = Counter(used)
    row = []
    for sample in wished:
        there = left[sample] > 0
        left[sample] -= there
        row.append(sample if there else -1)
    return row, left.total()


def account(drawn: NDArray[Any], length: int) -> tuple[int, int]:
    """Samples that an epoch lacks, and those it has more than once; -1 stands where none was drawn."""
    lost = repeated = 0
    for begin in range(0, len(drawn), length):
        epoch = drawn[begin : begin + length]
        there = epoch[epoch >= 0]
        distinct = len(np.unique(there))
        repeated += len(there) - distinct
        lost += length - distinct if len(epoch) == length else len(epoch) - len(there)
    return lost, repeated


def difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest; infinite where there are not as many, or one is no number."""
    if len(found) != len(expected):
        return math.inf
    apart = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    return max((math.inf if math.isnan(gap) else gap for gap in apart), default=0.0)


def same_bytes(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> bool:
    """Whether all tensors are there and none differs in a bit."""
    return _bytes(found) == _bytes(expected)


def _bytes(tensors: Mapping[str, NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(value.dtype), value.shape, value.tobytes()) for name, value in tensors.items()}


def weight_difference(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The largest, over the root mean square of the tensor that it is in; infinite where they cannot be compared."""
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (found, expected)]
    if shapes[0] != shapes[1]:
        return math.inf
    gaps = [_relative(found[name].astype(np.float64), expected[name].astype(np.float64)) for name in expected]
    return max(gaps, default=0.0)


def _relative(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    gap, scale = float(np.abs(found - expected).max(initial=0.0)), float(np.sqrt(np.mean(expected**2)))
    if gap == 0.0:
        return 0.0
    return gap / scale if math.isfinite(gap) and scale > 0 else math.inf
