"""Area under the ROC curve."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelwright.objectives.calling import logits_of
from modelwright.objectives.fields import IGNORED, check_logits, class_targets, field, same_shape
from modelwright.objectives.metrics.rows import Rows
from modelwright.objectives.metrics.undefined import undefined

_READER = "metric auc"


class AUC(Rows):
    """The chance that a yes has a higher score than a no, a tie counting half; exact, from ranks of all scores.

    Logits of a yes for answers ``[batch]``, or of two classes for numbers of classes, give the AUC; those of more
    classes the mean over classes of one against the rest (by probability), and those of labels
    ``[batch, labels]`` the mean over labels. Every score is kept until the end: ``samples * classes`` float64.
    Source: the Mann-Whitney statistic; Hanley & McNeil 1982.
    """

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits; targets of -100 are not counted."""
        logits, targets = logits_of(outputs), field(batch, "targets", _READER)
        if isinstance(logits, Tensor) and logits.shape in (targets.shape, (*targets.shape, 1)):
            scores, wanted = same_shape(logits, targets, _READER), targets
            width = 1 if targets.dim() == 1 else targets.shape[-1]
            self._append({"scores": scores.double().reshape(-1, width), "targets": wanted.double().reshape(-1, width)})
            return
        classes = class_targets(batch, "targets", _READER)
        check_logits(logits, classes, _READER)
        scores = _scores(logits.double()).flatten(0, -2)
        self._append({"scores": scores, "targets": _one_against_rest(classes.flatten(), scores.shape[-1])})

    def compute(self) -> float:
        """0 to 1, 0.5 for guessing; NaN where a class has no sample, or nothing but samples.

        Raises:
            ModelwrightError: nothing was seen.
        """
        seen = self._seen()
        if bool((seen["targets"] == IGNORED).all()):
            raise self._nothing()
        columns = [
            _area(scores[targets != IGNORED], targets[targets != IGNORED] >= 0.5)
            for scores, targets in zip(seen["scores"].unbind(1), seen["targets"].unbind(1), strict=True)
        ]
        without = [str(number) for number, area in enumerate(columns) if area is None]
        if without:
            named = f"class {', '.join(without)} has" if len(columns) > 1 else "there are"
            return undefined("auc", f"{named} no samples of both kinds")
        return sum(area for area in columns if area is not None) / len(columns)


def _scores(logits: Tensor) -> Tensor:
    """Two classes have one score between them; of more each has its own."""
    return logits[..., 1:] - logits[..., :1] if logits.shape[-1] == 2 else logits.log_softmax(-1)


def _one_against_rest(targets: Tensor, columns: int) -> Tensor:
    """Answers ``[rows, columns]``: whether the target is the column's class; -100 where it is ignored."""
    numbers = torch.arange(columns, device=targets.device) if columns > 1 else torch.ones_like(targets[:1])
    answers = (targets[:, None] == numbers).double()
    return answers.masked_fill((targets == IGNORED)[:, None], IGNORED)


def _area(scores: Tensor, positive: Tensor) -> float | None:
    """In whole numbers: twice the ranks, where ties share the mean of theirs."""
    yes = int(positive.sum())
    no = len(positive) - yes
    if not yes or not no:
        return None
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    twice = (2 * counts.cumsum(0) - counts + 1)[place]
    return (int(twice[positive].sum()) - yes * (yes + 1)) / (2 * yes * no)
