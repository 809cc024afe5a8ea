"""Where models are cut, what each stage holds, and which models, schedules and numbers are refused."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from tests.parallel.pipeline.models import Residual, ResidualMLP, make
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.mlp import MLP
from modelwright.objectives.regression import Regression
from modelwright.parallel.layouts.pipeline import Pipeline
from modelwright.parallel.pipeline import schedules
from modelwright.parallel.pipeline.analysis import analyse, cut
from modelwright.parallel.pipeline.balance import split, table
from modelwright.parallel.pipeline.schedules import SCHEDULES, check_micro_batches, placement, possible
from modelwright.parallel.pipeline.stage import apart

ROWS = {"inputs": torch.randn(4, 3), "targets": torch.randn(4, 2)}


def loads(costs: list[int], borders: tuple[int, ...]) -> list[int]:
    return [sum(costs[begin:end]) for begin, end in itertools.pairwise(borders)]


def test_the_largest_stage_is_as_small_as_can_be() -> None:
    """Against all splits there are."""
    chance = random.Random(0)
    for _ in range(60):
        costs = [chance.choice([1, 2, 3, 10, 40]) for _ in range(chance.randint(1, 8))]
        stages = chance.randint(1, len(costs))
        found = split(costs, stages)
        inner = itertools.combinations(range(1, len(costs)), stages - 1)
        every = [loads(costs, (0, *borders, len(costs))) for borders in inner]
        best = min(every, key=lambda each: (max(each), sum(load**2 for load in each)))
        mine = loads(costs, found)
        assert len(mine) == stages
        assert (max(mine), sum(load**2 for load in mine)) == (max(best), sum(load**2 for load in best))


def test_free_blocks_are_split_too() -> None:
    assert split([0, 0, 0], 3) == (0, 1, 2, 3)


def test_a_head_weighs_as_much_as_it_computes() -> None:
    model, objective, batch = make("gpt-tied")
    costs = analyse(model, objective, batch(2)).costs
    assert costs[0] == costs[1] == costs[2]
    assert costs[3] - costs[0] >= 2 * (2 * 7) * 8 * 23  # a multiplication and an addition for each number of the logits


def test_costs_may_be_given() -> None:
    model, objective, batch = make("residual")
    analysis = analyse(model, objective, batch(2))
    assert Pipeline(costs=(8, 1, 1, 1, 1, 1, 1, 1, 1)).borders(analysis, 2) == (0, 1, 9)
    with pytest.raises(ModelwrightError, match="2 costs, but the model has 9 blocks"):
        Pipeline(costs=(1, 1)).borders(analysis, 2)


def test_the_split_is_told_as_a_table() -> None:
    said = table(["a.0", "a.1", "a.2"], [1, 1, 2], (0, 2, 3), (0, 1))
    assert said.splitlines() == [
        "stage  rank  share  blocks",
        "    0     0    50%  a.0 .. a.1 (2)",
        "    1     1    50%  a.2",
    ]


def holders(name: str, borders: tuple[int, ...]) -> dict[str, list[int]]:
    model, objective, batch = make(name)
    return {key: sorted(stages) for key, stages in cut(analyse(model, objective, batch(2)), borders).holders.items()}


def test_parameters_are_where_they_are_needed() -> None:
    tied = holders("gpt-tied", (0, 1, 3, 4))
    assert tied["embedding.weight"] == tied["head.weight"] == [0, 2]
    assert tied["norm.weight"] == [2]
    assert {name: stages for name, stages in tied.items() if name.startswith("blocks.1.")} == {
        name: [1] for name in tied if name.startswith("blocks.1.")
    }
    assert holders("residual", (0, 3, 6, 9))["gain"] == [0, 1, 2]  # used between all blocks
    whisper = holders("whisper", (0, 1, 2, 3, 4))
    assert whisper["model.encoder.conv1.weight"] == [0]
    assert whisper["model.encoder.layer_norm.weight"] == [2, 3]  # what decoders read is normed on each
    assert whisper["model.decoder.embed_tokens.weight"] == [2, 3]  # first decoder block, and the head


def test_what_the_next_stage_needs_travels() -> None:
    model, objective, batch = make("t5")
    found = cut(analyse(model, objective, batch(2)), (0, 1, 3, 4, 5))
    hidden, bias, cross = 0, 1, 2
    assert found.received == (
        (),
        ((0, hidden), (0, bias)),
        ((1, hidden), (2, hidden), (2, bias), (2, cross)),  # the encoder's, and the decoder's with its biases
        ((1, hidden), (2, bias), (2, cross), (3, hidden)),
    )


# --- refusals


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ResidualMLP(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs) + self.body(-inputs)


class Whispering(Residual):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = x.sum()
        return super().forward(x)


class Hiding(ResidualMLP):
    def __init__(self) -> None:
        super().__init__(3)
        self.blocks = nn.ModuleList(Whispering(6) for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + sum(block.kept for block in self.blocks)


REFUSED: list[tuple[Any, int, str]] = [
    (lambda: MLP(features=3, classes=2, hidden=(4, 4)).build(), 2, "has no repeated blocks"),
    (lambda: ResidualMLP(3), 4, "3 repeated blocks, too few for 4"),
    (Twice, 2, "runs more than once"),
    (Hiding, 2, "leaves a tensor behind"),
]


@pytest.mark.parametrize(("build", "stages", "said"), REFUSED)
def test_what_cannot_be_cut_is_refused(build: Any, stages: int, said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        analysis = analyse(build(), Regression(), ROWS)
        cut(analysis, split(analysis.costs, stages))


def test_schedules_ask_for_stages_and_micro_batches() -> None:
    assert Pipeline().stages(4) == 4
    assert Pipeline(schedule="dualpipe-v").stages(4) == 8
    assert Pipeline(schedule="interleaved-1f1b", stages_per_rank=3).stages(2) == 6
    for wrong in ({"schedule": "1f1b", "stages_per_rank": 2}, {"schedule": "zbv-zero-bubble", "stages_per_rank": 1}):
        with pytest.raises(ModelwrightError, match="on each rank, not"):
            Pipeline(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelwrightError, match="no pipeline schedule"):
        Pipeline(schedule="1b1f")  # type: ignore[arg-type]
    with pytest.raises(ModelwrightError, match="at least 4 micro-batches"):
        Pipeline().check(4, 3)
    with pytest.raises(ModelwrightError, match="has 4 or 6 micro-batches") as caught:
        Pipeline(schedule="interleaved-1f1b").check(2, 5)
    assert "plan.micro_batch" in str(caught.value)
    for name in possible(SCHEDULES):
        check_micro_batches(name, 2, 4, 8)


def test_schedules_that_an_older_torch_gets_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch 2.11 and 2.12 gradients were 0.08 to 0.77 apart from one process, or the backward failed."""
    monkeypatch.setattr(schedules, "TORCH", (2, 12))
    assert possible(SCHEDULES) == ["gpipe", "1f1b", "looped-bfs", "interleaved-1f1b"]
    with pytest.raises(ModelwrightError, match="computes wrong gradients in the schedule dualpipe-v"):
        Pipeline(schedule="dualpipe-v").check(2, 8)
    Pipeline(schedule="looped-bfs").check(2, 8)


def test_stages_lie_in_rounds_or_in_a_v() -> None:
    assert placement("looped-bfs", 2, 6) == (0, 1, 0, 1, 0, 1)
    assert placement("zbv-zero-bubble", 3, 6) == (0, 1, 2, 2, 1, 0)


def test_what_two_groups_of_parameters_share_counts_once() -> None:
    """As torch groups them: the third parameter's paths meet those of the first and of the second."""
    groups = [
        {"params": {1, 3}, "intermediates": ["a", "b"], "grads": [(1.0,), (2.0,)]},
        {"params": {1, 2, 3}, "intermediates": ["b"], "grads": [(2.0,)]},
        {"params": {4}, "intermediates": ["c", "unused"], "grads": [(3.0,), None]},
        {"params": {5}, "intermediates": []},
    ]
    assert apart(groups) == [
        {"params": {1, 2, 3}, "intermediates": ["a", "b"], "grads": [(1.0,), (2.0,)]},
        {"params": {4}, "intermediates": ["c"], "grads": [(3.0,)]},
    ]
