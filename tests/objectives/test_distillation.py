"""Distances to a teacher, against formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.objectives.classification import Classification
from modelwright.objectives.distillation.answers import Answers
from modelwright.objectives.distillation.distillation import Distillation
from modelwright.objectives.distillation.features import Features
from modelwright.objectives.distillation.logits import Logits
from modelwright.objectives.distillation.relations import Relations
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression

VOCABULARY, TIME = 23, 6


def network(width: int, outputs: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def language_model(width: int, layers: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return GPT(vocabulary=VOCABULARY, layers=layers, width=width, heads=2).build().double()


def samples(ignored: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(7)
    targets = torch.randint(5, (6,))
    if ignored:
        targets[1:3] = -100
    return {"inputs": torch.randn(6, 4, dtype=torch.float64), "targets": targets}


def tokens() -> dict[str, Tensor]:
    torch.manual_seed(8)
    drawn = torch.randint(VOCABULARY, (4, TIME + 1))
    targets = drawn[:, 1:].clone()
    targets[0, :4] = -100
    return {"inputs": drawn[:, :-1], "targets": targets}


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 KL(teacher || student) of one row, by the definition."""
    p, q = (torch.softmax(x / temperature, -1).tolist() for x in (teacher, student))
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def losses(objective: Distillation, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return objective.loss(objective.forward(model, batch), batch)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits_are_compared_by_their_divergence(temperature: float) -> None:
    student, teacher, batch = network(3), network(8, seed=1), samples()
    objective = Distillation(task=Classification(), teacher=teacher, by=(Logits(temperature=temperature),))
    found = losses(objective, student, batch)
    valid = [row for row in range(6) if batch["targets"][row] != -100]
    rows = [(student(batch["inputs"][row]).detach(), teacher(batch["inputs"][row]).detach()) for row in valid]
    assert found["teacher-1"].item() == pytest.approx(sum(divergence(*row, temperature) for row in rows), abs=1e-12)
    assert found["cross-entropy"].item() == pytest.approx(
        functional.cross_entropy(student(batch["inputs"]), batch["targets"], reduction="sum").item(), abs=1e-12
    )
    assert objective.counts(batch) == {"cross-entropy": 4, "teacher-1": 4}


def test_a_teacher_that_is_the_student_teaches_nothing() -> None:
    student, batch = network(3), samples()
    objective = Distillation(task=Classification(), by=(Logits(), Answers())).build(student)
    found = losses(objective, student, batch)
    assert found["teacher-1"].item() == pytest.approx(0, abs=1e-12)
    assert found["teacher-2"].item() == 0
    with torch.no_grad():
        student[0].weight += 0.1
    assert losses(objective, student, batch)["teacher-1"].item() > 1e-6  # it was a copy


def test_the_teacher_gets_no_gradient_and_stays_the_users() -> None:
    student, teacher = network(3), network(8, seed=1)
    objective = Distillation(task=Classification(), teacher=teacher)
    sum(losses(objective, student, samples()).values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert teacher.training and all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert objective.teacher is not None and not objective.teacher.training


@pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY * 8, None])
def test_the_logits_of_a_vocabulary_need_not_exist_at_once(chunk: int | None) -> None:
    student, teacher, batch = language_model(8, 1, 0), language_model(16, 2, 1), tokens()
    gradients = []
    for task in (NextToken(logits="full"), NextToken(logits="chunked", chunk=chunk)):
        objective = Distillation(task=task, teacher=teacher, by=(Logits(temperature=3.0),), task_weight=0.5)
        student.zero_grad()
        total = losses(objective, student, batch)["teacher-1"]
        total.backward()  # type: ignore[no-untyped-call]
        gradients.append([total.detach(), *(p.grad.clone() for p in student.parameters() if p.grad is not None)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_totals_of_micro_batches_add_up_to_those_of_the_batch() -> None:
    student, teacher, batch = language_model(8, 2, 0), language_model(16, 2, 1), tokens()
    objective = Distillation(
        task=NextToken(), teacher=teacher, by=(Logits(), Relations(heads=4), Features(pairs={"head": "head"}))
    )
    whole, counts = losses(objective, student, batch), objective.counts(batch)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 1), slice(1, 4))]
    parts, counted = [losses(objective, student, half) for half in halves], [objective.counts(half) for half in halves]
    for term, total in whole.items():
        torch.testing.assert_close(parts[0][term] + parts[1][term], total, rtol=1e-12, atol=1e-12)
        assert counted[0][term] + counted[1][term] == counts[term]


def test_features_are_compared_sample_by_sample() -> None:
    student, teacher, batch = network(8), network(8, seed=1), samples(ignored=False)
    objective = Distillation(task=Classification(), teacher=teacher, by=(Features(pairs={"0": "0", "1": "1"}),))
    mine, theirs = student[0](batch["inputs"]), teacher[0](batch["inputs"])
    expected = sum(((a - b) ** 2).sum() / 8 for a, b in ((mine, theirs), (mine.tanh(), theirs.tanh())))
    torch.testing.assert_close(losses(objective, student, batch)["teacher-1"], expected)


def test_relations_of_positions_by_the_definition() -> None:
    student, teacher, batch = language_model(8, 2, 0), language_model(12, 3, 1), tokens()
    objective = Distillation(task=NextToken(), teacher=teacher, by=(Relations(pairs=((0, -2),), heads=2),))
    mine, theirs = attended(student, batch, 0), attended(teacher, batch, 1)
    expected = sum(relation(a[sample], b[sample], 2) for a, b in zip(mine, theirs, strict=True) for sample in range(4))
    assert losses(objective, student, batch)["teacher-1"].item() == pytest.approx(expected, rel=1e-10)


def attended(model: nn.Module, batch: dict[str, Tensor], layer: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of one layer, taken at torch's own function."""
    found: list[Any] = []
    plain = functional.scaled_dot_product_attention

    def noting(*args: Any, **kwargs: Any) -> Tensor:
        found.append(args[:3])
        return plain(*args, **kwargs)

    functional.scaled_dot_product_attention = noting
    try:
        model(batch["inputs"])
    finally:
        functional.scaled_dot_product_attention = plain
    return tuple(tensor.detach() for tensor in found[layer])


def relation(mine: Tensor, theirs: Tensor, heads: int) -> float:
    """Mean over relation heads and positions of the divergence of one sample, with loops."""
    total = 0.0
    for head in range(heads):
        rows = []
        for x in (mine, theirs):  # [heads, time, width]
            joined = torch.cat([*x], -1)
            width = joined.shape[-1] // heads
            part = joined[:, head * width : (head + 1) * width]
            rows.append(torch.softmax(part @ part.T / math.sqrt(width), -1))
        own, wished = rows
        total += (wished * (wished.log() - own.log())).sum().item() / len(own)
    return total / heads


def test_answers_are_compared_in_regression() -> None:
    student, teacher, batch = network(3, outputs=2), network(8, outputs=2, seed=1), samples()
    batch["targets"] = torch.randn(6, 2, dtype=torch.float64)
    objective = Distillation(task=Regression(), teacher=teacher, by=(Answers(weight=0.25),), task_weight=0)
    expected = (student(batch["inputs"]) - teacher(batch["inputs"])).square().mean(1).sum()
    torch.testing.assert_close(losses(objective, student, batch)["teacher-1"], expected)
    assert objective.coefficients["teacher-1"] == 0.25
    assert sum(objective.coefficients.values()) == 0.25


def test_held_out_data_is_scored_by_the_task_alone() -> None:
    objective = Distillation(task=Classification(), teacher=network(8, seed=1))
    assert objective.scored is objective.task and objective.metrics == ("accuracy",)
    with torch.no_grad():
        assert isinstance(objective.forward(network(3), samples()), Tensor)


@pytest.mark.parametrize(
    ("by", "teacher", "wrong"),
    [
        ((Logits(),), network(8, outputs=4), "5 classes, the teacher 4"),
        ((Features(pairs={"0": "0"}),), network(8), r"\[6, 3\], the teacher \[6, 8\]"),
        ((Features(pairs={"0": "layer"}),), network(8), "no module 'layer'"),
        ((Relations(),), network(8), "has no attention -1"),
    ],
)
def test_what_cannot_be_compared_is_said(by: tuple[Any, ...], teacher: nn.Module, wrong: str) -> None:
    objective = Distillation(task=Classification(), teacher=teacher, by=by)
    with pytest.raises(ModelwrightError, match=wrong):
        losses(objective, network(3), samples())


def test_without_a_teacher_nothing_is_learnt() -> None:
    with pytest.raises(ModelwrightError, match="no teacher yet"):
        losses(Distillation(task=Classification()), network(3), samples())
    with pytest.raises(ModelwrightError, match="needs a distance"):
        Distillation(task=Classification(), by=())
