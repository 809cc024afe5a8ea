"""Held-out scores: the textbook's numbers, the same ones however many ranks share the work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import CLASSES, FEATURES, network, points, prepare
from tests.world import run_world
from torch import nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh
from modelwright.data.memory import InMemory
from modelwright.objectives.classification import Classification
from modelwright.objectives.regression import Regression
from modelwright.training.evaluation import evaluate
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Evaluation

HERE = "tests.training.test_evaluation"
CLASS_METRICS = ("accuracy", "perplexity")
SAMPLES = 23  # no multiple of anything


def held_out(samples: int = SAMPLES) -> InMemory:
    return InMemory({name: value[-samples:] if samples else value[:0] for name, value in points().items()})


def evaluated(mesh: Mesh | None = None, samples: int = SAMPLES, part: int | None = None, **fields: Any) -> Prepared:
    settings = {
        "held_out": held_out(samples),
        "evaluation": Evaluation(metrics=CLASS_METRICS, samples=part),
        **fields,
    }
    return prepare(points(), mesh, **settings)


def textbook(samples: int = SAMPLES) -> dict[str, float]:
    """Loss and metrics in numpy, sample by sample."""
    arrays = held_out(samples).arrays
    with torch.no_grad():
        logits = network()(arrays["inputs"]).numpy().reshape(-1, CLASSES)
    targets = arrays["targets"].numpy().ravel()
    nats, right = [], []
    for row, target in zip(logits, targets, strict=True):
        if target != -100:
            shares = np.exp(row - row.max())
            nats.append(-math.log(shares[target] / shares.sum()))
            right.append(row.argmax() == target)
    return {"loss": np.mean(nats), "accuracy": np.mean(right), "perplexity": math.exp(np.mean(nats))}


@pytest.mark.parametrize("micro_batch", [1, 4, SAMPLES, 100])
def test_scores_are_the_textbooks(micro_batch: int) -> None:
    scores = evaluated(micro_batch=micro_batch).evaluate(whole=True)
    assert list(scores) == ["loss", *CLASS_METRICS]
    assert scores == pytest.approx(textbook(), rel=1e-12)


def test_a_mean_of_means_is_another_number() -> None:
    """The control: samples have different numbers of valid targets, so this would be seen."""
    prepared = evaluated()
    samples = [held_out().__getitems__([index]) for index in range(SAMPLES)]
    means = [
        evaluate(prepared.program, InMemory(sample), (), prepared.group, micro_batch=1)["loss"]
        for sample in samples
        if sample["targets"].ne(-100).any()
    ]
    assert abs(np.mean(means) / textbook()["loss"] - 1) > 1e-3


def scores_of_ranks(mesh: Mesh, samples: int, part: int | None) -> dict[str, float]:
    return evaluated(mesh, samples, part, micro_batch=3).evaluate(whole=part is None)


@pytest.mark.parametrize(("workers", "samples"), [(2, SAMPLES), (3, SAMPLES), (3, 2)])
def test_ranks_share_the_work_and_agree(workers: int, samples: int) -> None:
    """With more ranks than samples, one has nothing to do."""
    found = run_world(f"{HERE}:scores_of_ranks", workers, samples=samples, part=None)
    assert all(scores == found[0] for scores in found)
    assert found[0] == pytest.approx(textbook(samples), rel=1e-12)


def exact_scores(mesh: Mesh, micro_batch: int) -> dict[str, float]:
    """Whole numbers, whose sums are exact in any order."""
    random = np.random.default_rng(0)
    model = nn.Linear(FEATURES, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.arange(FEATURES)), model.bias.fill_(3)
    arrays = {
        "inputs": random.integers(-9, 9, (SAMPLES, FEATURES)).astype(float),
        "targets": random.integers(-9, 9, SAMPLES).astype(float),
    }
    fields: dict[str, Any] = {"model": model, "objective": Regression(), "micro_batch": micro_batch}
    return prepare(arrays, mesh, held_out=InMemory(arrays), **fields).evaluate(whole=True)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_ranks_changes_no_bit(workers: int) -> None:
    expected = run_world(f"{HERE}:exact_scores", 1, micro_batch=SAMPLES)[0]
    assert expected["loss"] == expected["mean-squared-error"] > 0
    assert run_world(f"{HERE}:exact_scores", workers, micro_batch=2) == [expected] * workers


# --- a part


def test_a_part_is_always_the_same_one() -> None:
    one, other = (evaluated(part=10, seed=seed).evaluate(whole=False) for seed in (1, 2))
    assert one == other
    assert one != evaluated(part=12).evaluate(whole=False)
    assert evaluated(part=10).evaluate(whole=True) == pytest.approx(textbook(), rel=1e-12)
    assert evaluated(part=100).evaluate(whole=False) == pytest.approx(textbook(), rel=1e-12)


def test_a_part_is_shared_by_ranks_too() -> None:
    alone = evaluated(part=10, micro_batch=3).evaluate(whole=False)
    for scores in run_world(f"{HERE}:scores_of_ranks", 3, samples=SAMPLES, part=10):
        assert scores == pytest.approx(alone, rel=1e-12)


class Noting(InMemory):
    """Notes which samples were read."""

    def __init__(self, arrays: dict[str, torch.Tensor]) -> None:
        super().__init__(arrays)
        self.seen: list[int] = []

    def __getitems__(self, positions: Any) -> dict[str, torch.Tensor]:
        self.seen += [int(position) for position in positions]
        return super().__getitems__(positions)


def test_a_part_is_drawn_from_all_over_without_repetition() -> None:
    data = Noting(points(1000))
    prepared = evaluated(part=200, held_out=data)
    prepared.evaluate(whole=False)
    assert len(set(data.seen)) == len(data.seen) == 200
    assert np.histogram(data.seen, bins=4, range=(0, 1000))[0].min() > 30


def seen_by_rank(mesh: Mesh, part: int | None) -> list[int]:
    data = Noting(points(SAMPLES))
    evaluated(mesh, held_out=data, part=part, micro_batch=3).evaluate(whole=part is None)
    return data.seen


@pytest.mark.parametrize("part", [None, 10])
def test_no_sample_is_read_by_two_ranks(part: int | None) -> None:
    seen = run_world(f"{HERE}:seen_by_rank", 3, part=part)
    assert len({position for positions in seen for position in positions}) == (part or SAMPLES)
    assert sum(map(len, seen)) == (part or SAMPLES)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


# --- what evaluation leaves behind


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(training: bool) -> None:
    prepared = evaluated(model=network(dropout=0.5))
    prepared.program.model.train(training)
    assert prepared.evaluate(whole=True) == pytest.approx(textbook(), rel=1e-12)
    assert all(module.training is training for module in prepared.program.model.modules())
    assert all(parameter.grad is None for parameter in prepared.program.parameters())


def test_frozen_modules_keep_their_mode() -> None:
    prepared = evaluated(model=network(dropout=0.5))
    prepared.program.model[0].eval()
    before = [module.training for module in prepared.program.model.modules()]
    prepared.evaluate(whole=True)
    assert [module.training for module in prepared.program.model.modules()] == before
    assert len(set(before)) == 2


class OneTermLess(Classification):
    def loss(self, outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**super().loss(outputs, batch), "more": outputs.sum()}


def test_terms_that_are_not_counted_are_refused() -> None:
    with pytest.raises(ModelwrightError, match="counts the terms 'cross-entropy', but its loss has 'cross-entropy', "):
        evaluated(objective=OneTermLess()).evaluate(whole=True)


class Breaking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError("no luck")


def test_the_mode_comes_back_after_a_failure_too() -> None:
    prepared = evaluated(model=Breaking())
    with pytest.raises(ModelwrightError, match=r"the model failed on a batch .*ValueError: no luck") as caught:
        prepared.evaluate(whole=True)
    assert "test_evaluation.py" in caught.value.where
    assert prepared.program.model.training


def test_nothing_held_out_is_an_error() -> None:
    with pytest.raises(ModelwrightError, match="nothing held out") as caught:
        evaluated(samples=0).evaluate(whole=True)
    assert caught.value.remedy


def test_held_out_data_without_a_valid_target_is_an_error() -> None:
    arrays = held_out().arrays
    blank = InMemory({**arrays, "targets": torch.full_like(arrays["targets"], -100)})
    with pytest.raises(ModelwrightError, match="nothing to count"):
        evaluated(held_out=blank).evaluate(whole=True)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ModelwrightError, match="no metric named 'acuracy'") as caught:
        evaluated(evaluation=Evaluation(metrics=("acuracy",))).evaluate(whole=True)
    assert "accuracy" in caught.value.remedy
