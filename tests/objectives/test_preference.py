from __future__ import annotations

import math
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.gpt import GPT
from modelwright.objectives.held import held_parameters
from modelwright.objectives.metrics.preference import PreferenceAccuracy, RewardMargin
from modelwright.objectives.preference import Preference, ReferencedPreference, Rewards


def gpt(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return GPT(vocabulary=11, layers=1, width=8, heads=2, dropout=dropout).build().double()


def pairs(rejected_time: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(1)
    batch = {
        "chosen": torch.randint(11, (4, 6)),
        "chosen_targets": torch.randint(11, (4, 6)),
        "rejected": torch.randint(11, (4, rejected_time)),
        "rejected_targets": torch.randint(11, (4, rejected_time)),
    }
    for name in ("chosen_targets", "rejected_targets"):
        batch[name][:, :2] = -100
    batch["rejected_targets"][2] = -100
    return batch


def moved(model: nn.Module) -> nn.Module:
    """The same model, after some training."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def log_likelihood(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of one sequence: the sum of the logarithms of its tokens' probabilities."""
    probabilities = model(inputs[None])[0].softmax(-1)
    return sum((probabilities[t, k].log() for t, k in enumerate(targets.tolist()) if k >= 0), torch.zeros(()).double())


def textbook(
    policy: nn.Module, reference: nn.Module | None, batch: dict[str, Tensor], beta: float, eps: float
) -> Tensor:
    """Equation 7 of Rafailov et al. 2023, with a share ``eps`` of pairs the other way round; pair by pair."""
    losses = []
    for i in (0, 1, 3):  # the third pair has nothing to judge the rejected answer by
        ratios = []
        for answer in ("chosen", "rejected"):
            ratio = log_likelihood(policy, batch[answer][i], batch[f"{answer}_targets"][i])
            if reference is not None:
                ratio = ratio - log_likelihood(reference, batch[answer][i], batch[f"{answer}_targets"][i]).detach()
            ratios.append(ratio)
        probability = 1 / (1 + torch.exp(-beta * (ratios[0] - ratios[1])))
        losses.append(-(1 - eps) * probability.log() - eps * (1 - probability).log())
    return torch.stack(losses).sum()


@pytest.mark.parametrize("logits", ["chunked", "full"])
@pytest.mark.parametrize("rejected_time", [6, 4])
@pytest.mark.parametrize(("eps", "reference"), [(0.0, "start"), (0.2, "start"), (0.0, "none")])
def test_loss_and_gradient_equal_the_paper(logits: str, rejected_time: int, eps: float, reference: str) -> None:
    start, batch = gpt(), pairs(rejected_time)
    config = Preference(beta=0.3, label_smoothing=eps, reference=reference, logits=logits)  # type: ignore[arg-type]
    objective = config.build(start)
    policy = moved(start)
    total = objective.loss(objective.forward(policy, batch), batch)["preference"]
    expected = textbook(policy, gpt() if reference == "start" else None, batch, 0.3, eps)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = list(policy.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)


def test_at_the_start_no_answer_is_ahead() -> None:
    model, batch = gpt(), pairs()
    objective = Preference().build(model)
    outputs = objective.forward(model, batch)
    assert not outputs.margins.any()
    assert objective.counts(batch)["preference"].item() == 3
    assert objective.loss(outputs, batch)["preference"].item() == pytest.approx(3 * math.log(2), rel=1e-12)


def test_the_reference_is_frozen_still_and_apart() -> None:
    model, batch = gpt(dropout=0.5), pairs()
    objective = Preference().build(model)
    assert isinstance(objective, ReferencedPreference)
    assert not any(module.training for module in objective.reference.modules())
    assert not any(parameter.requires_grad for parameter in held_parameters(objective))
    assert set(held_parameters(objective)).isdisjoint(model.parameters())
    torch.manual_seed(5)
    before = objective.config.log_likelihoods(objective.reference, batch)[0]
    moved(model).train()
    assert torch.equal(before, objective.config.log_likelihoods(objective.reference, batch)[0])
    objective.loss(objective.forward(model, batch), batch)["preference"].backward()
    assert all(parameter.grad is None for parameter in objective.reference.parameters())


def test_without_its_reference_it_says_what_to_do() -> None:
    with pytest.raises(ModelwrightError, match="no reference yet") as raised:
        Preference().forward(gpt(), pairs())
    assert "objective.build(model)" in raised.value.remedy
    assert Preference(reference="none").forward(gpt(), pairs()).chosen.shape == (4,)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"beta": 0.0}, "beta"), ({"label_smoothing": 0.5}, "label_smoothing"), ({"reference": "end"}, "start or none")],
)
def test_values_of_the_fields_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        Preference(**values)  # type: ignore[arg-type]


def test_metrics_of_known_rewards() -> None:
    rewards = Rewards(torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([0.0, 2.0, 5.0, 0.0]))
    targets = torch.tensor([[1, -100], [1, 1], [1, 1], [-100, -100]])
    batch = {"chosen_targets": targets, "rejected_targets": torch.zeros_like(targets)}
    accuracy, margin = PreferenceAccuracy(), RewardMargin()
    for metric in (accuracy, margin):
        metric.update(rewards, batch)
    assert accuracy.compute() == 1.5 / 3
    assert margin.compute() == pytest.approx((1 + 0 - 2) / 3)
    with pytest.raises(ModelwrightError, match="needs the rewards"):
        accuracy.update(torch.zeros(4), batch)


def test_it_learns_a_preference() -> None:
    model, batch = gpt(), pairs()
    objective = Preference(beta=0.5).build(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        objective.loss(objective.forward(model, batch), batch)["preference"].backward()
        optimizer.step()
    metric = PreferenceAccuracy()
    metric.update(objective.forward(model, batch), batch)
    assert metric.compute() == 1.0


def test_a_batch_without_memory_leaves_the_reference_its_weights() -> None:
    """Operations are counted on the meta device before the first step."""
    objective, batch = Preference().build(gpt()), pairs()
    expected = objective.loss(objective.forward(gpt(), batch), batch)["preference"]
    empty = {name: value.to("meta") for name, value in batch.items()}
    with suppress(RuntimeError):
        objective.forward(gpt().to("meta"), empty)
    assert torch.equal(objective.loss(objective.forward(gpt(), batch), batch)["preference"], expected)
