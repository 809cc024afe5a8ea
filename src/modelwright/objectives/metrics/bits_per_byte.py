"""Bits a language model needs for one byte of text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modelwright.objectives.fields import IGNORED, field
from modelwright.objectives.metrics.perplexity import nats
from modelwright.objectives.metrics.ratio import Ratio


class BitsPerByte(Ratio):
    """Cross-entropy in bits over the bytes of the text, comparable between tokenizers and with compressors.

    Reads ``targets`` and ``bytes``: either ``[batch]``, the bytes that a sample's valid targets stand for, or
    the shape of the targets, the bytes of each; there, those of ignored targets are not counted.
    """

    @torch.no_grad()
    def update(self, outputs: Any, batch: dict[str, Tensor]) -> None:
        """Take in logits ``[batch, time, vocabulary]``, or features that stand for them."""
        sizes = field(batch, "bytes", "metric bits-per-byte")
        total, _ = nats(outputs, batch, "metric bits-per-byte")
        targets = batch["targets"]
        if sizes.shape == targets.shape:
            sizes = sizes.masked_fill(targets == IGNORED, 0)
        self._add(total, sizes.sum(dtype=torch.int64))

    def compute(self) -> float:
        """Bits per byte."""
        return super().compute() / math.log(2)
