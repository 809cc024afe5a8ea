"""What an objective took from the start of training is the same on every rank and in every sitting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import alone, prepare
from tests.world import run_world

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.data.memory import InMemory
from modelwright.models.gpt import GPT
from modelwright.objectives.preference import Preference
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared

HERE = "tests.training.test_reference"


def preferring(mesh: Mesh, seed: int, **fields: Any) -> Prepared:
    torch.manual_seed(0)
    tokens = torch.randint(0, 24, (12, 6))
    data = {"chosen": tokens, "chosen_targets": tokens, "rejected": tokens.flip(1), "rejected_targets": tokens.flip(1)}
    torch.manual_seed(seed)
    model = GPT(vocabulary=24, layers=1, width=16, heads=2).build()
    return prepare(InMemory(data), mesh, model=model, objective=Preference(), **fields)


def distance(mesh: Mesh) -> float:
    """Between the reference of this rank, which brings weights of its own, and the model that training starts from."""
    program = preferring(mesh, seed=mesh.rank).program
    pairs = zip(program.objective.reference.parameters(), program.model.parameters(), strict=True)  # type: ignore[attr-defined]
    return float(sum((one - other).abs().sum() for one, other in pairs))


def test_every_rank_compares_with_the_weights_of_the_first() -> None:
    assert run_world(f"{HERE}:distance", 2) == [0.0, 0.0]


def test_another_start_is_refused_when_training_goes_on(tmp_path: Path) -> None:
    first = preferring(alone(), seed=1)
    list(first.run(tmp_path, lambda: first.state.step == 3))
    same, other = preferring(alone(), seed=1), preferring(alone(), seed=2)
    assert checkpoints.load_newest(same.state, tmp_path, same.group) is not None
    assert same.state.step == 3
    with pytest.raises(ModelwrightError, match="other weights") as caught:
        checkpoints.load_newest(other.state, tmp_path, other.group)
    assert caught.value.where == "objective.reference"
    assert "began from" in caught.value.remedy
