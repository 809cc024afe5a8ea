"""The judge: the metric of a file, computed on held-out data in its runtime, is the metric of the model, or it fails.

What counts as the same, for scores ``reported`` of the model and ``found`` of the file over so many samples:

- a number that is better the higher it is and lies between 0 and 1 (accuracy, F1, ...) may differ by 0.001 (0.1 points
  of a hundred) or by one sample, whichever is more;
- any other (losses, perplexity, bits per byte, squared errors) by one part in a thousand, or by 1e-6;
- one that is not defined for these samples must not be defined for the file either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.data import Dataset
from modelwright.data.batches import read
from modelwright.export.call import Call, called_by
from modelwright.export.file_module import FileModule
from modelwright.objectives import METRICS, Objective
from modelwright.parallel.program import LocalProgram
from modelwright.training.evaluation import evaluate

POINTS = 1e-3
PART = 1e-3
_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What models and files are judged by.

    Attributes:
        objective: calls the model, and reads what it returns.
        data: samples that were not trained on.
        metrics: names of :data:`~modelwright.objectives.METRICS`, or import paths.
        micro_batch: samples of one forward.
    """

    objective: Objective
    data: Dataset
    metrics: Sequence[str] = ()
    micro_batch: int = 32

    def score(self, model: nn.Module) -> dict[str, float]:
        """``loss`` and each metric of a module, or of a file in its place, in its own precision on the CPU."""
        objective = _full_logits(self.objective) if isinstance(model, FileModule) else self.objective
        program = LocalProgram(model, objective, device=torch.device("cpu"))
        return evaluate(program, self.data, self.metrics, Group(0, 1), micro_batch=self.micro_batch)

    def call(self, model: nn.Module, samples: int = 3) -> Call:
        """How the objective calls the model, with the first samples."""
        positions = [number % len(self.data) for number in range(samples)]
        batch = read(self.data, positions)
        return called_by(model, lambda: self.objective.forward(model, batch))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score of a file that is not the model's.

    Attributes:
        name: of the metric.
        reported: the model's.
        found: the file's.
        allowed: how far they may be apart.
    """

    name: str
    reported: float
    found: float
    allowed: float

    def __str__(self) -> str:
        return f"{self.name} is {self.found:.6g} in the file and {self.reported:.6g} in the model"


def differences(reported: Mapping[str, float], found: Mapping[str, float], samples: int) -> list[Difference]:
    """Scores that differ by more than is allowed; see the module.

    Args:
        reported: of the model.
        found: of the file, at least these.
        samples: that were judged.
    """
    pairs = [(name, value, found.get(name, math.nan)) for name, value in reported.items()]
    told = [
        Difference(name=name, reported=one, found=other, allowed=_allowed(name, one, samples))
        for name, one, other in pairs
    ]
    return [each for each in told if not _same(each)]


def check_scores(reported: Mapping[str, float], found: Mapping[str, float], samples: int, path: Path) -> None:
    """Refuse a file whose scores are not the model's.

    Raises:
        ModelwrightError: naming the scores that differ.
    """
    if wrong := differences(reported, found, samples):
        raise ModelwrightError(
            f"the exported file does not keep what the model scores on {samples} held-out samples: "
            + "; ".join(map(str, wrong)),
            where=str(path),
            remedy="export another format; and tell the authors of the exporter, with the model",
        )


def _allowed(name: str, value: float, samples: int) -> float:
    if _higher_is_better(name) and 0 <= value <= 1:
        return max(POINTS, 1 / max(samples, 1))
    return max(PART * abs(value), _FLOOR)


def _same(each: Difference) -> bool:
    if math.isnan(each.reported) or math.isnan(each.found):
        return math.isnan(each.reported) and math.isnan(each.found)
    return each.reported == each.found or abs(each.reported - each.found) <= each.allowed * (1 + 1e-9)


def _higher_is_better(name: str) -> bool:
    metric: Any = METRICS.resolve(name) if name in METRICS.listing or ":" in name else None
    return getattr(metric, "better", "lower") == "higher"


def _full_logits(objective: Objective) -> Objective:
    """A file has no head that could be applied elsewhere."""
    if is_dataclass(objective) and not isinstance(objective, type) and getattr(objective, "logits", "") == "chunked":
        changed: Objective = replace(objective, **{"logits": "full", "chunk": None})
        return changed
    return objective
