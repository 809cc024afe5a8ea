"""The samples behind a loss spike: those of the step whose loss is the largest."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from modelwright.models.modes import evaluating
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.diagnosis import _attempt
from modelwright.training.seeing.replay import MicroBatch, micro_batches, rewound
from modelwright.training.seeing.spikes import Spike

NAMED = 8
SECONDS = 10.0  # for looking at samples one by one, on each rank


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of the step.

    Attributes:
        rank: that computed it.
        position: in the order.
        sample: index in the data set.
        loss: mean over its own valid targets, without dropout.
    """

    rank: int
    position: int
    sample: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class SpikeDiagnosis:
    """A spike and its samples.

    Attributes:
        spike: the loss, and what was usual.
        worst: samples of the largest loss, the largest first; NaN before all.
        median: loss of the median sample of those looked at.
        looked_at: how many samples, over all ranks.
        gradient_norm, learning_rate: of the step.
    """

    spike: Spike
    worst: tuple[Sample, ...]
    median: float
    looked_at: int
    gradient_norm: float
    learning_rate: float

    @property
    def what(self) -> str:
        """The account, in two sentences."""
        spike, told = self.spike, ""
        if self.worst:
            listed = ", ".join(f"{each.sample} ({each.loss:.4g})" for each in self.worst[:4])
            told = (
                f". Of its samples, looked at with weights one update later, the worst are {listed}; "
                f"the median has {self.median:.4g}"
            )
        return (
            f"the loss of step {spike.step} leapt to {spike.loss:.4g}, where {spike.usual:.4g} was usual "
            f"(gradient norm {self.gradient_norm:.3g}){told}"
        )

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values."""
        return {"kind": "spike", "step": self.spike.step, "what": self.what, **asdict(self)}


def explain(prepared: Prepared, spike: Spike, *, gradient_norm: float, learning_rate: float) -> SpikeDiagnosis:
    """Compute each sample of the step by itself, with the weights as they are now; a collective.

    They are those after the step's own update: a sample that was hard is still hard, if less so.
    """
    group = prepared.group
    with rewound(prepared, spike.step), evaluating(prepared.program.model), torch.no_grad():
        samples, _ = _attempt(lambda: _samples(prepared))
    gathered = group.gather([asdict(sample) | {"loss": repr(sample.loss)} for sample in samples or []])
    every = [Sample(**{**entry, "loss": float(entry["loss"])}) for rank in gathered for entry in rank]
    every.sort(key=lambda sample: -math.inf if math.isnan(sample.loss) else -sample.loss)
    return SpikeDiagnosis(
        spike=spike,
        worst=tuple(every[:NAMED]),
        median=every[len(every) // 2].loss if every else math.nan,
        looked_at=len(every),
        gradient_norm=gradient_norm,
        learning_rate=learning_rate,
    )


def _samples(prepared: Prepared) -> list[Sample]:
    end = time.monotonic() + SECONDS
    found: list[Sample] = []
    for part in micro_batches(prepared):
        for row in range(len(part)):
            if time.monotonic() > end:
                return found
            found.append(
                Sample(
                    rank=prepared.group.rank,
                    position=int(part.positions[row]),
                    sample=int(part.samples[row]),
                    loss=_loss(prepared, part, row),
                )
            )
    return found


def _loss(prepared: Prepared, part: MicroBatch, row: int) -> float:
    program, objective = prepared.program, prepared.program.objective
    batch = part.rows([row])
    with program.computing():
        counts = objective.counts(batch)
        totals = objective.loss(objective.forward(program.model, batch), batch)
    coefficients = objective.coefficients
    return sum(
        coefficients.get(term, 1.0) * float(total) / max(float(counts[term]), 1.0) for term, total in totals.items()
    )
