from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.objectives.classification import Classification
from modelwright.objectives.function import FunctionObjective
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.regression import Regression


def textbook_nats(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> float:
    """One target at a time, with Python's own arithmetic."""
    total = 0.0
    for row, target in zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True):
        if target == -100:
            continue
        partition = math.log(sum(math.exp(value) for value in row))
        spread = sum(partition - value for value in row) / len(row)
        total += (1 - smoothing) * (partition - row[target]) + smoothing * spread
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_next_token_equals_the_textbook(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5, 7, dtype=torch.float64)
    batch = {"inputs": torch.randint(7, (2, 5)), "targets": torch.randint(7, (2, 5))}
    batch["targets"][0, 1:] = -100
    objective = NextToken(label_smoothing=smoothing)
    total = objective.loss(logits, batch)["cross-entropy"].item()
    assert total == pytest.approx(textbook_nats(logits, batch["targets"], smoothing), rel=1e-12)
    assert objective.counts(batch)["cross-entropy"].item() == 6


def test_classification_reads_its_own_fields() -> None:
    torch.manual_seed(0)
    objective = Classification(input="pixels", target="label")
    batch = {"pixels": torch.randn(4, 3), "label": torch.tensor([0, 1, -100, 1], dtype=torch.int32)}
    model = nn.Linear(3, 2)
    outputs = objective.forward(model, batch)
    total = objective.loss(outputs, batch)["cross-entropy"].item()
    assert total == pytest.approx(textbook_nats(model(batch["pixels"]), batch["label"]), rel=1e-6)
    assert objective.counts(batch)["cross-entropy"].item() == 3
    assert objective.metrics == ()


def test_regression_equals_the_textbook_and_never_broadcasts() -> None:
    outputs, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 1.0, 1.0])
    batch = {"inputs": outputs, "targets": targets}
    objective = Regression()
    assert objective.loss(outputs, batch)["squared-error"].item() == 10.0
    assert objective.loss(outputs[:, 0], batch)["squared-error"].item() == 10.0
    assert objective.counts(batch)["squared-error"].item() == 3
    with pytest.raises(ModelwrightError, match=r"shape \[3, 3\].*expects \[3\]"):
        objective.forward(nn.Linear(1, 3), batch)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(2, 7), r"shape \[2, 7\].*expects \[2, 5, 'classes'\]"),
        (torch.zeros(2, 7, 5), r"shape \[2, 7, 5\]"),
        ((torch.zeros(2, 5, 7), None), "not a tuple of 2"),
        (torch.zeros(2, 5, 3), "outside of the model's 3 classes"),
    ],
    ids=["no time", "transposed", "tuple", "too few classes"],
)
def test_outputs_of_a_wrong_shape_are_explained(outputs: Tensor, message: str) -> None:
    batch = {"inputs": torch.zeros(2, 5), "targets": torch.full((2, 5), 6)}
    with pytest.raises(ModelwrightError, match=message):
        NextToken().loss(outputs, batch)


def test_missing_and_unsuitable_fields_are_explained() -> None:
    with pytest.raises(ModelwrightError, match=r"needs 'targets' in each batch, which has 'target'") as raised:
        NextToken().counts({"target": torch.zeros(1, 1)})
    assert "did you mean 'target'?" in str(raised.value)
    with pytest.raises(ModelwrightError, match="whole numbers of classes"):
        Classification().counts({"targets": torch.zeros(3)})
    with pytest.raises(ModelwrightError, match="label_smoothing"):
        Classification(label_smoothing=1.0)


def per_sample(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean(-1)  # type: ignore[no-any-return]


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return per_sample(model, batch).mean()


def test_a_function_of_samples_is_summed() -> None:
    model, batch = nn.Linear(2, 3), {"x": torch.randn(5, 2)}
    objective = FunctionObjective(per_sample)
    losses = objective.forward(model, batch)
    assert losses.shape == (5,)
    assert torch.equal(objective.loss(losses, batch)["loss"], losses.sum())
    assert objective.counts(batch)["loss"].item() == 5


def test_a_scalar_is_taken_as_a_mean_and_said_once() -> None:
    model, batch = nn.Linear(2, 3), {"x": torch.randn(5, 2)}
    events: list[Event] = []
    objective = FunctionObjective(mean)
    with listening(events.append):
        totals = [objective.loss(objective.forward(model, batch), batch)["loss"].item() for _ in range(2)]
    assert totals[0] == pytest.approx(per_sample(model, batch).sum().item(), rel=1e-6)
    assert [event.kind for event in events] == ["objective-scalar"]
    assert "mean" in events[0].message


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(4), r"shape \[4\], not \[batch\] = \[5\]"),
        (torch.zeros(5, 1), r"shape \[5, 1\]"),
        (torch.zeros(5, dtype=torch.int64), "torch.int64"),
        (0.5, "float"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_other_returns_of_a_function_are_refused(returned: object, message: str) -> None:
    objective = FunctionObjective(lambda model, batch: returned)  # type: ignore[arg-type, return-value]
    with pytest.raises(ModelwrightError, match=message):
        objective.forward(nn.Linear(1, 1), {"x": torch.zeros(5, 2)})
