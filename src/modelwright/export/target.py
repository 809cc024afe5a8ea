"""A target: a format and where it is computed. The fastest way there that keeps the metric is found by measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.base.events import emit
from modelwright.export.call import Call
from modelwright.export.choice import Candidate, Choice, candidates, choose
from modelwright.export.file_module import FileModule
from modelwright.export.judge import HeldOut, differences
from modelwright.export.probe import check_outputs
from modelwright.export.runtimes.module import ModuleRunner

TARGETS = {"onnx:cpu": "onnx", "torch-export:cpu": "torch-export"}
"""Name -> the export format."""

EAGER = "the model in torch, fp32"
SECONDS = 4.0
"""Of measuring, for each batch size."""

_EXACT = "fp32"
_BATCHES = (1, 32)
_EXAMPLE = 3  # samples of the call that files are made for


@dataclass(frozen=True, kw_only=True)
class Settled:
    """How a file is best computed on a target.

    Attributes:
        target: a name of :data:`TARGETS`.
        choice: what was chosen, from what.
        scores: loss and metrics by runtime and precision; empty where nothing is held out.
        refused: runtime and precision -> why it was not to choose from.
    """

    target: str
    choice: Choice
    scores: Mapping[str, Mapping[str, float]]
    refused: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """What was chosen and why, for a receipt; times in milliseconds, medians."""
        chosen, baseline = self.choice.chosen, self.choice.baseline
        return {
            "target": self.target,
            "chosen": _told(chosen),
            "baseline": _told(baseline),
            "times_as_fast": {
                str(batch): round(1 / timings[chosen.name].ratio(timings[baseline.name]), 3)
                for batch, timings in self.choice.timings.items()
            },
            "milliseconds": self.choice.milliseconds(),
            "scores": {name: dict(scores) for name, scores in self.scores.items()},
            "refused": dict(self.refused),
        }


def format_of(target: str) -> str:
    """The format that a target computes.

    Raises:
        ModelwrightError: it is not known.
    """
    if target not in TARGETS:
        raise ModelwrightError(
            f"there is no target '{target}'",
            where="--target",
            remedy=f"known: {', '.join(TARGETS)}. {nearest(target, TARGETS)}".strip(),
        )
    return TARGETS[target]


def settle(
    target: str,
    path: Path,
    model: nn.Module,
    calls: Callable[[int], Call],
    *,
    held_out: HeldOut | None = None,
    reported: Mapping[str, float] | None = None,
    threads: Sequence[int] | None = None,
    seconds: float = SECONDS,
) -> Settled:
    """Measure each way to compute an exported file that keeps what was reported, side by side; and choose.

    The file in its first runtime, in float32 with all threads, is the baseline: nothing slower is chosen. Every other
    runtime is judged before: in float32 its outputs are the model's, and on held-out data its metrics are, as of an
    export. What computes in fewer bits is chosen only where there are such data.

    Args:
        target: a name of :data:`TARGETS`.
        path: the file.
        model: what it was exported from, on the CPU in float32; measured beside, in eager torch.
        calls: how the model is called with so many samples.
        held_out: what judged the file.
        reported: scores of the model on it.
        threads: numbers to try; ``None``: 1, 2, 4, ... up to torch's.
        seconds: of measuring, for each batch size.

    Raises:
        ModelwrightError: no such target, or the file cannot be opened.
    """
    format_of(target)
    options = candidates([path], threads=threads, trust=True)
    judging = _Judging(path, model, calls(_EXAMPLE), held_out, reported or {})
    fit = [each for each in options if judging.admits(each)]
    if not fit:
        raise ModelwrightError("no runtime keeps what the model computes", where=str(path), remedy="export it anew")
    runner = fit[0].runner
    sizes = _BATCHES if "batch" in runner.signature.varying() else (_EXAMPLE,)
    batches = {size: calls(size).tensors for size in sizes}
    beside = {EAGER: ModuleRunner(model, judging.call, runner.signature)}
    choice = choose(fit, batches, beside=beside, budget=seconds)
    return Settled(target=target, choice=choice, scores=judging.scores, refused=judging.refused)


class _Judging:
    """Judges each runtime and precision once."""

    def __init__(
        self, path: Path, model: nn.Module, call: Call, held_out: HeldOut | None, reported: Mapping[str, float]
    ) -> None:
        self.call = call
        self.scores: dict[str, dict[str, float]] = {}
        self.refused: dict[str, str] = {}
        self._path, self._model, self._held_out, self._reported = path, model, held_out, reported
        self._judged: set[str] = set()

    def admits(self, candidate: Candidate) -> bool:
        """Whether to choose from it."""
        name = f"{candidate.runtime}, {candidate.precision}"
        if name not in self._judged:
            self._judged.add(name)
            if reason := self._wrong(candidate, name):
                self.refused[name] = reason
                emit("runtime-refused", f"{name} is not to choose from: {reason}", runtime=name)
        return name not in self.refused

    def _wrong(self, candidate: Candidate, name: str) -> str:
        try:
            if candidate.precision == _EXACT:
                check_outputs(candidate.runner, self._model, self.call, self._path)
            if self._held_out is None:
                return "" if candidate.precision == _EXACT else "nothing is held out to judge its precision by"
            self.scores[name] = self._held_out.score(FileModule(candidate.runner))
        except ModelwrightError as error:
            return error.what
        return "; ".join(map(str, differences(self._reported, self.scores[name], len(self._held_out.data))))


def _told(candidate: Candidate) -> dict[str, Any]:
    return {"runtime": candidate.runtime, "precision": candidate.precision, "threads": candidate.threads}
