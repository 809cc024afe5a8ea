"""The optimizers against their textbook formulas, one number at a time or with an exact decomposition, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.optim import Optimizer, OptimizerTechnique
from modelwright.optim.adafactor import Adafactor
from modelwright.optim.adam import Adam
from modelwright.optim.adamw import AdamW
from modelwright.optim.lion import Lion
from modelwright.optim.muon import Muon
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.optim.sgd import SGD

STEPS = 5


def run(technique: OptimizerTechnique, weight: Tensor, gradients: Tensor) -> Tensor:
    model = nn.Module()
    model.weight = nn.Parameter(weight.clone())
    optimizer = technique.build(model)
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        optimizer.step()
    return model.weight.detach()


def example(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(shape, dtype=torch.float64), torch.randn(STEPS, *shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 2), (4,)], ids=["decayed", "not decayed"])
def test_adamw_equals_the_paper(shape: tuple[int, ...]) -> None:
    weight, gradients = example(*shape)
    lr, first_beta, second_beta, eps = 0.01, 0.8, 0.9, 1e-6
    decay = 0.1 if len(shape) == 2 else 0.0
    expected = weight.flatten().tolist()
    for i in range(len(expected)):
        mean = square = 0.0
        for t, gradient in enumerate(gradients.reshape(STEPS, -1)[:, i].tolist(), start=1):
            mean = first_beta * mean + (1 - first_beta) * gradient
            square = second_beta * square + (1 - second_beta) * gradient**2
            update = (mean / (1 - first_beta**t)) / (math.sqrt(square / (1 - second_beta**t)) + eps)
            expected[i] -= lr * update + lr * decay * expected[i]
    technique = AdamW(lr=lr, betas=(first_beta, second_beta), eps=eps, weight_decay=0.1)
    actual = run(technique, weight, gradients)
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    assert actual.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("l2", "decay"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.2)], ids=["coupled", "decoupled", "both"])
def test_sgd_equals_the_textbook(nesterov: bool, l2: float, decay: float) -> None:
    weight, gradients = example(3, 2)
    expected, momentum = weight.clone(), torch.zeros_like(weight)
    for raw in gradients:
        gradient = raw + l2 * expected
        momentum = 0.9 * momentum + gradient
        update = gradient + 0.9 * momentum if nesterov else momentum
        expected = expected - 0.05 * (update + decay * expected)
    technique = SGD(lr=0.05, momentum=0.9, nesterov=nesterov, l2=l2, weight_decay=decay)
    torch.testing.assert_close(run(technique, weight, gradients), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_without_decoupled_decay_is_torchs(momentum: float, nesterov: bool) -> None:
    weight, gradients = example(3, 2)
    own = nn.Parameter(weight.clone())
    reference = torch.optim.SGD([own], lr=0.05, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    for gradient in gradients:
        own.grad = gradient.clone()
        reference.step()
    technique = SGD(lr=0.05, momentum=momentum, nesterov=nesterov, l2=0.1)
    assert torch.equal(run(technique, weight, gradients), own.detach())
    decoupled = SGD(lr=0.05, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    assert momentum == 0 or not torch.allclose(run(decoupled, weight, gradients), own.detach(), rtol=1e-3)
    assert torch.equal(run(SGD(l2=0.1), weight[0], gradients[:, 0]), run(SGD(), weight[0], gradients[:, 0]))


@pytest.mark.parametrize("shape", [(3, 2), (4,)], ids=["decayed", "not decayed"])
def test_adam_equals_the_paper_with_l2_in_the_gradient(shape: tuple[int, ...]) -> None:
    weight, gradients = example(*shape)
    lr, first_beta, second_beta, eps = 0.01, 0.8, 0.9, 1e-6
    l2 = 0.1 if len(shape) == 2 else 0.0
    expected = weight.flatten().tolist()
    for i in range(len(expected)):
        mean = square = 0.0
        for t, raw in enumerate(gradients.reshape(STEPS, -1)[:, i].tolist(), start=1):
            gradient = raw + l2 * expected[i]
            mean = first_beta * mean + (1 - first_beta) * gradient
            square = second_beta * square + (1 - second_beta) * gradient**2
            expected[i] -= lr * (mean / (1 - first_beta**t)) / (math.sqrt(square / (1 - second_beta**t)) + eps)
    technique = Adam(lr=lr, betas=(first_beta, second_beta), eps=eps, l2=0.1)
    assert run(technique, weight, gradients).flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 2), (4,)], ids=["decayed", "not decayed"])
def test_lion_equals_the_paper(shape: tuple[int, ...]) -> None:
    weight, gradients = example(*shape)
    lr, first_beta, second_beta = 0.01, 0.8, 0.95
    decay = 0.1 if len(shape) == 2 else 0.0
    expected = weight.flatten().tolist()
    for i in range(len(expected)):
        mean = 0.0
        for gradient in gradients.reshape(STEPS, -1)[:, i].tolist():
            direction = first_beta * mean + (1 - first_beta) * gradient
            expected[i] -= lr * (math.copysign(1.0, direction) + decay * expected[i])
            mean = second_beta * mean + (1 - second_beta) * gradient
    technique = Lion(lr=lr, betas=(first_beta, second_beta), weight_decay=0.1)
    assert run(technique, weight, gradients).flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_lion_does_not_move_what_has_no_gradient() -> None:
    weight, gradients = example(4)
    assert torch.equal(run(Lion(), weight, torch.zeros_like(gradients)), weight)


def test_adafactor_equals_the_paper_for_a_matrix() -> None:
    """Algorithms 4 and 5 of arXiv:1804.04235, with torch's form of decay and of the smallest second mean."""
    weight, gradients = example(3, 2)
    lr, smallest, decay = 0.05, 1e-3, 0.1
    rows, columns, expected = torch.zeros(3).double(), torch.zeros(2).double(), weight.clone()
    for t, gradient in enumerate(gradients, start=1):
        keep = 1 - t**-0.8
        rows = keep * rows + (1 - keep) * gradient.square().mean(1)
        columns = keep * columns + (1 - keep) * gradient.square().mean(0)
        update = gradient / (rows[:, None] * columns[None, :] / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        rate = min(lr, 1 / math.sqrt(t)) * max(smallest, float(expected.square().mean().sqrt()))
        expected = expected * (1 - lr * decay) - rate * update
    actual = run(Adafactor(lr=lr, smallest=smallest, weight_decay=decay), weight, gradients)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_adafactor_equals_the_paper_for_a_vector() -> None:
    weight, gradients = example(4)
    lr, square, expected = 0.05, torch.zeros(4).double(), weight.clone()
    for t, gradient in enumerate(gradients, start=1):
        keep = 1 - t**-0.8
        square = keep * square + (1 - keep) * gradient.square()
        update = gradient / square.sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()) / 1.5)
        expected = expected - min(lr, 1 / math.sqrt(t)) * float(expected.square().mean().sqrt()) * update
    actual = run(Adafactor(lr=lr, clip=1.5, weight_decay=0.1), weight, gradients)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_muon_steps_nearly_along_the_orthogonal_factor(shape: tuple[int, int]) -> None:
    """Newton-Schulz leaves singular values between about 0.7 and 1.2, and the directions as they are."""
    weight, gradients = example(*shape)
    gradient = gradients[0]
    gradient[0] *= 20  # far from orthogonal
    lr, decay = 0.1, 0.5
    stepped = run(Muon(lr=lr, weight_decay=decay), weight, gradients[:1])
    scale = math.sqrt(max(1.0, shape[0] / shape[1]))
    update = (weight * (1 - lr * decay) - stepped) / (lr * scale)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    values = left.T @ update @ right.T
    assert values.diagonal().min() > 0.6
    assert values.diagonal().max() < 1.3
    torch.testing.assert_close(values, values.diagonal().diag(), rtol=0, atol=0.05)
    # The negative control: the gradient itself is far from orthogonal.
    sizes = torch.linalg.svdvals(gradient / gradient.norm())
    assert sizes.max() / sizes.min() > 2 * values.diagonal().max() / values.diagonal().min()


def test_muon_is_torchs_own_beside_adamw() -> None:
    weight, gradients = example(6, 4)
    own = nn.Parameter(weight.clone())
    reference = torch.optim.Muon([own], lr=0.02, momentum=0.9, weight_decay=0.0)
    for gradient in gradients:
        own.grad = gradient.clone()
        reference.step()  # type: ignore[no-untyped-call]
    assert torch.equal(run(Muon(lr=0.02, momentum=0.9), weight, gradients), own.detach())


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.convolution = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 7)


def members(model: nn.Module, group: dict[str, list[Tensor]]) -> set[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for parameter in group["params"]}  # type: ignore[index]


def test_muon_takes_hidden_matrices_only() -> None:
    model = Language()
    muon, decayed, rest = Muon(adamw_weight_decay=0.1).build(model).param_groups
    assert members(model, muon) == {"hidden.weight"}
    assert members(model, decayed) == {"table.weight", "convolution.weight", "head.weight"}
    assert members(model, rest) == {
        "hidden.bias", "norm.weight", "norm.bias", "convolution.bias", "head.bias",
    }  # fmt: skip
    assert (muon["lr"], decayed["lr"], rest["base_lr"]) == (0.02, 3e-3, 3e-3)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(4, 2)
        self.headline = nn.Linear(4, 4)
        self.model = nn.ModuleDict({"head": nn.Linear(4, 4), "lm_head": nn.Linear(4, 4)})
        self.token_embeddings = nn.Linear(4, 4)


def test_names_for_adamw_are_compared_with_whole_parts() -> None:
    model = Attending()
    muon, *_ = Muon().build(model).param_groups
    attention = {"multihead_attn.in_proj_weight", "multihead_attn.out_proj.weight"}
    assert members(model, muon) == {*attention, "headline.weight"}
    muon, *_ = Muon(adamw_names=("multihead_attn.*", "*head")).build(model).param_groups
    assert members(model, muon) == {"headline.weight", "token_embeddings.weight"}


def test_muon_without_hidden_matrix_is_refused() -> None:
    model = nn.Module()
    model.head = nn.Linear(3, 3)
    with pytest.raises(ModelwrightError, match="no hidden matrix"):
        Muon().build(model)
    Muon(adamw_names=()).build(model)


def test_joined_groups_take_effect_and_gradients_are_dropped() -> None:
    model = Language()
    optimizer = Muon().build(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert set(optimizer.state) == set(model.parameters())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_decay_is_on_matrices_only() -> None:
    model = Language()
    decayed, rest = AdamW(weight_decay=0.1).build(model).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    assert all(parameter.dim() < 2 for parameter in rest["params"])
    assert len(AdamW(weight_decay=0.0).build(model).param_groups) == 1


def is_fused(optimizer: Optimizer) -> bool:
    return all(group["fused"] for group in optimizer.param_groups)


def test_fused_where_torch_has_it_else_an_event() -> None:
    events: list[Event] = []
    with listening(events.append):
        assert is_fused(AdamW().build(nn.Linear(2, 2)))
        assert not events
        model = nn.Module()
        model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))
        assert not is_fused(AdamW().build(model))
    assert [event.kind for event in events] == ["optimizer-not-fused"]


@pytest.mark.parametrize(
    ("technique", "settings", "message"),
    [
        (SGD, {"lr": -1.0}, "lr"),
        (SGD, {"momentum": 1.0}, "momentum"),
        (SGD, {"nesterov": True}, "nesterov"),
        (SGD, {"l2": -0.1}, "l2"),
        (Adam, {"l2": -0.1}, "l2"),
        (Adam, {"betas": (1.0, 0.9)}, "betas"),
        (Adafactor, {"clip": 0.5}, "clip"),
        (Adafactor, {"beta2_decay": 0.1}, "beta2_decay"),
        (Lion, {"lr": -1.0}, "lr"),
        (ScheduleFree, {"betas": (0.0, 0.9)}, "betas"),
        (ScheduleFree, {"eps": -1.0}, "eps"),
        (AdamW, {"lr": math.nan}, "lr"),
        (AdamW, {"betas": (0.9, 1.0)}, "betas"),
        (AdamW, {"betas": (0.9,)}, "betas"),
        (Muon, {"adamw_lr": -1.0}, "adamw_lr"),
        (Muon, {"adjust_lr": "none"}, "adjust_lr"),
    ],
)
def test_wrong_settings_are_refused(technique: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        technique(**settings)
