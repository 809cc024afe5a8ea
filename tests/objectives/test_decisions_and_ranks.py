"""F1, precision, recall, AUC, R2 and their like, against scikit-learn and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.group import Group
from modelwright.objectives import METRICS, Metric
from modelwright.objectives.metrics.accuracy import BinaryAccuracy, TopFiveAccuracy
from modelwright.objectives.metrics.auc import AUC
from modelwright.objectives.metrics.f1 import F1, F1Binary, Precision
from modelwright.objectives.metrics.r2 import R2

judges = pytest.importorskip("sklearn.metrics")


def merged(name: str, outputs: Tensor, targets: Tensor) -> float:
    """Over three ranks with unequal shares, the last of which saw nothing."""
    whole: Metric = METRICS.resolve(name)()
    for cut in (slice(0, 3), slice(3, None), slice(0, 0)):
        rank: Metric = METRICS.resolve(name)()
        if len(targets[cut]):
            rank.update(outputs[cut], {"targets": targets[cut]})
        sent: Metric = METRICS.resolve(name)()
        sent.load(Group(rank=0, size=1).gather(rank.state())[0])
        whole.merge(sent)
    return whole.compute()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), classes=st.integers(2, 6), samples=st.integers(5, 40))
def test_macro_and_micro_scores_equal_scikit_learn(seed: int, classes: int, samples: int) -> None:
    torch.manual_seed(seed)
    logits, targets = torch.randn(samples, classes), torch.randint(classes, (samples,))
    decided, wanted = logits.argmax(-1).numpy(), targets.numpy()
    for name, judge, average in (
        ("f1", judges.f1_score, "macro"),
        ("f1-micro", judges.f1_score, "micro"),
        ("precision", judges.precision_score, "macro"),
        ("recall", judges.recall_score, "macro"),
    ):
        expected = judge(wanted, decided, average=average, zero_division=0)
        assert merged(name, logits, targets) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), labels=st.integers(2, 4), samples=st.integers(5, 30))
def test_labels_that_do_not_exclude_each_other(seed: int, labels: int, samples: int) -> None:
    torch.manual_seed(seed)
    logits, targets = torch.randn(samples, labels), torch.randint(2, (samples, labels))
    targets[:2] = torch.tensor([[0], [1]])
    decided = (logits > 0).long().numpy()
    for name, average in (("f1", "macro"), ("f1-micro", "micro")):
        expected = judges.f1_score(targets.numpy(), decided, average=average, zero_division=0)
        assert merged(name, logits, targets) == pytest.approx(expected, rel=1e-12)
    expected = judges.roc_auc_score(targets.numpy(), logits.double().numpy(), average="macro")
    assert merged("auc", logits, targets) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["one logit", "column", "two logits"])
def test_yes_and_no(form: str) -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(30).round(decimals=1), torch.randint(2, (30,))
    outputs = {"one logit": scores, "column": scores[:, None], "two logits": torch.stack([-scores, scores], -1)}[form]
    decided = (scores > 0).long()
    assert merged("f1-binary", outputs, targets) == pytest.approx(judges.f1_score(targets, decided), rel=1e-12)
    assert merged("f1", outputs, targets) == pytest.approx(judges.f1_score(targets, decided, average="macro"))
    assert merged("auc", outputs, targets) == pytest.approx(judges.roc_auc_score(targets, scores), rel=1e-12)
    if form != "two logits":
        assert merged("binary-accuracy", outputs, targets) == judges.accuracy_score(targets, decided)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), samples=st.integers(4, 60), levels=st.integers(1, 8))
def test_auc_with_ties_equals_scikit_learn_and_the_count_of_pairs(seed: int, samples: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    scores, targets = generator.integers(levels, size=samples), generator.integers(2, size=samples)
    targets[:2] = 0, 1
    mine = merged("auc", torch.tensor(scores, dtype=torch.float32), torch.tensor(targets))
    wins = [(y > n) + (y == n) / 2 for y in scores[targets == 1] for n in scores[targets == 0]]
    assert mine == pytest.approx(float(np.mean(wins)), rel=1e-12)
    assert mine == pytest.approx(judges.roc_auc_score(targets, scores), rel=1e-12)


def test_auc_of_many_classes_is_one_against_the_rest() -> None:
    torch.manual_seed(0)
    logits, targets = 2 * torch.randn(60, 4, dtype=torch.float64), torch.randint(4, (60,))
    expected = judges.roc_auc_score(targets, logits.softmax(-1), multi_class="ovr", average="macro")
    with_ignored = torch.cat([targets, torch.full((5,), -100)])
    mine = merged("auc", torch.cat([logits, torch.randn(5, 4, dtype=torch.float64)]), with_ignored)
    assert mine == pytest.approx(expected, rel=1e-12)
    raw = judges.roc_auc_score(
        torch.nn.functional.one_hot(targets), logits, average="macro"
    )  # by logits it would be another number: that of classes of unequal scale
    assert mine != pytest.approx(raw, rel=1e-6)


def test_ignored_targets_do_not_count() -> None:
    logits, targets = torch.tensor([[3.0, 1.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 0, -100])
    for kind, expected in ((F1, judges.f1_score([0, 0], [0, 1], average="macro")), (Precision, 0.5)):
        metric = kind()
        metric.update(logits, {"targets": targets})
        assert metric.compute() == pytest.approx(expected)
    binary = BinaryAccuracy()
    binary.update(torch.tensor([1.0, -1.0, 1.0]), {"targets": torch.tensor([1, 1, -100])})
    assert binary.compute() == 0.5


def test_top_five_equals_scikit_learn_where_there_are_no_ties() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 20), torch.randint(20, (50,))
    expected = judges.top_k_accuracy_score(targets, logits, k=5, labels=np.arange(20))
    assert merged("top-5-accuracy", logits, targets) == expected
    constant = TopFiveAccuracy()
    constant.update(torch.zeros(20, 20), {"targets": torch.arange(20)})
    assert constant.compute() == 5 / 20  # and not 1


@pytest.mark.parametrize("shape", [(20,), (20, 3)])
def test_errors_of_numbers_equal_scikit_learn(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    targets = 1e6 + torch.randn(shape, dtype=torch.float64)  # a sum of squares would lose all digits of the deviation
    outputs = targets + torch.randn(shape, dtype=torch.float64)
    assert merged("r2", outputs, targets) == pytest.approx(judges.r2_score(targets, outputs), rel=1e-8)
    expected = judges.mean_absolute_error(targets, outputs)
    assert merged("mean-absolute-error", outputs, targets) == pytest.approx(expected, rel=1e-12)
    if len(shape) == 1:
        assert merged("r2", outputs[:, None], targets) == merged("r2", outputs, targets)


def test_scores_equal_torchmetrics() -> None:
    theirs = pytest.importorskip("torchmetrics.functional")
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 5), torch.randint(5, (40,))
    settings = {"task": "multiclass", "num_classes": 5, "average": "macro"}
    assert merged("f1", logits, targets) == pytest.approx(theirs.f1_score(logits, targets, **settings).item())
    area = theirs.auroc(logits.softmax(-1), targets, **settings).item()
    assert merged("auc", logits, targets) == pytest.approx(area, rel=1e-5)
    assert merged("r2", logits, torch.randn(40, 5)) < 0


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "reason"),
    [
        (AUC, torch.randn(4), torch.ones(4), "no samples of both kinds"),
        (AUC, torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), "class 2 has no samples"),
        (F1Binary, -torch.ones(4), torch.zeros(4), "no yes"),
        (R2, torch.randn(4), torch.ones(4), "do not vary"),
    ],
)
def test_what_is_not_defined_is_nan_and_an_event(
    metric: type[Metric], outputs: Tensor, targets: Tensor, reason: str
) -> None:
    events: list[Event] = []
    seen = metric()
    seen.update(outputs, {"targets": targets})
    with listening(events.append):
        assert math.isnan(seen.compute())
    assert [(event.kind, event.level) for event in events] == [("metric-undefined", "warning")]
    assert reason in events[0].message


def test_mistakes_are_explained() -> None:
    many = F1Binary()
    many.update(torch.randn(4, 3), {"targets": torch.tensor([0, 1, 2, 0])})
    with pytest.raises(ModelwrightError, match="for two classes, and there are 3") as raised:
        many.compute()
    assert "f1-micro" in raised.value.remedy
    with pytest.raises(ModelwrightError, match="outside of the model's 3 classes"):
        F1().update(torch.randn(4, 3), {"targets": torch.tensor([0, 1, 3, 0])})
    ignored = AUC()
    ignored.update(torch.randn(2), {"targets": torch.tensor([-100, -100])})
    with pytest.raises(ModelwrightError, match="nothing to count"):
        ignored.compute()
