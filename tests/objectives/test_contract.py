from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import Preference
from modelwright.testing.metrics import MetricContract
from modelwright.testing.objectives import Batch, ObjectiveContract


class TestObjectives(ObjectiveContract):
    pass


class Headed(nn.Module):
    """A language model whose logits can be made some at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.embedding(inputs))  # type: ignore[no-any-return]


def texts() -> tuple[nn.Module, Batch, Batch]:
    inputs, targets = torch.randint(11, (2, 4, 5))
    targets[0, 1:] = -100
    batch = {"inputs": inputs, "targets": targets}
    return Headed().double(), batch, batch | {"targets": torch.full_like(targets, -100)}


def pairs() -> tuple[nn.Module, Batch, Batch]:
    chosen, rejected, chosen_targets, rejected_targets = torch.randint(11, (4, 4, 5))
    chosen_targets[1] = -100
    batch = {"chosen": chosen, "chosen_targets": chosen_targets}
    batch |= {"rejected": rejected, "rejected_targets": rejected_targets}
    return Headed().double(), batch, batch | {"rejected_targets": torch.full_like(rejected_targets, -100)}


class TestLogitsInChunks(ObjectiveContract):
    techniques: ClassVar = {
        "chunks of one row": NextToken(logits="chunked", chunk=1),
        "smoothed": NextToken(logits="chunked", label_smoothing=0.1),
        "full": NextToken(logits="full"),
        "pairs": Preference(logits="chunked", chunk=200),
        "pairs without reference": Preference(reference="none"),
    }
    cases: ClassVar = {
        "chunks of one row": texts,
        "smoothed": texts,
        "full": texts,
        "pairs": pairs,
        "pairs without reference": pairs,
    }


class TestMetrics(MetricContract):
    pass
