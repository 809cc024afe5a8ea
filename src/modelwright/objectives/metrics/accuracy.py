"""How often the answer is right."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modelwright.objectives.calling import logits_of
from modelwright.objectives.fields import IGNORED, class_targets, field, same_shape, valid
from modelwright.objectives.metrics.ratio import Ratio
from modelwright.objectives.reading import likeliest, ranks


class Accuracy(Ratio):
    """The share of valid ``targets`` that are the likeliest class."""

    better: ClassVar[Literal["lower", "higher"]] = "higher"
    _reader = "metric accuracy"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, ..., classes]``, or features that stand for them."""
        targets = class_targets(batch, "targets", self._reader)
        # An ignored target, -100, is never the likeliest class.
        right = likeliest(outputs, targets, self._reader) == targets
        self._add(right.sum().double(), valid(targets))


class TokenAccuracy(Accuracy):
    """The share of valid tokens that are the likeliest one, given those before them: accuracy, as texts name it."""

    _reader = "metric token-accuracy"


class TopFiveAccuracy(Ratio):
    """The share of valid ``targets`` that are among the five likeliest classes.

    Among equals those of smaller numbers come first, so a model that cannot tell classes apart gets no credit.
    """

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, ..., classes]``, or features that stand for them."""
        targets = class_targets(batch, "targets", "metric top-5-accuracy")
        among = (ranks(outputs, targets, "metric top-5-accuracy") < 5) & (targets != IGNORED)
        self._add(among.sum().double(), valid(targets))


class BinaryAccuracy(Ratio):
    """The share of valid ``targets`` that are answered rightly: yes where the logit is above 0.

    A target is a yes from 0.5 on.
    """

    better: ClassVar[Literal["lower", "higher"]] = "higher"

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits in the shape of the targets, or ``[batch, 1]`` for ``[batch]``."""
        targets = field(batch, "targets", "metric binary-accuracy")
        logits = same_shape(logits_of(outputs), targets, "metric binary-accuracy")
        right = ((logits > 0) == (targets >= 0.5)) & (targets != IGNORED)
        self._add(right.sum().double(), valid(targets))
