"""Each criterion against its textbook form, written out by other means."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.compression.structure.architectures import case, forward
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression import prune
from modelwright.compression.pruning import CRITERIA, Evidence
from modelwright.compression.pruning.activation import Activation
from modelwright.compression.pruning.confidence import Confidence, quantile
from modelwright.compression.pruning.movement import Movement
from modelwright.compression.pruning.statistics import Statistics
from modelwright.compression.pruning.surgeon import Surgeon
from modelwright.compression.pruning.taylor import Taylor
from modelwright.compression.structure import Units
from modelwright.objectives.classification import Classification

EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}


class Network(nn.Module):
    """Hidden units with a gate each, which is 1."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, hidden), nn.Linear(hidden, 3)

    def forward(self, inputs: Tensor, gate: Tensor | float = 1.0) -> Tensor:
        found: Tensor = self.down(self.up(inputs).relu() * gate)
        return found


def network(hidden: int = 6) -> Network:
    torch.manual_seed(0)
    return Network(hidden).double()


def data(count: int = 5) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    return [
        {
            "inputs": torch.randn(16, 4, generator=generator, dtype=torch.float64) @ mixed,
            "targets": torch.randint(3, (16,), generator=generator),
        }
        for _ in range(count)
    ]


def scores(criterion: Any, model: nn.Module, batches: list[Any], objective: Any = None) -> Tensor:
    """Of the only class, and that the model is as it was."""
    before = {name: each.clone() for name, each in model.state_dict().items()}
    units = Units(model, batches[0]["inputs"])
    evidence = Evidence(
        example_inputs=batches[0]["inputs"],
        batches=batches,
        objective=objective,
        forward=lambda model, batch: model(batch["inputs"]),
    )
    (only,) = units.classes
    found: Tensor = criterion.scores(model, units, evidence)[only.number]
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert found.min() >= 0
    return found


def hidden(model: Network, batches: list[dict[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.up(each["inputs"]).relu() for each in batches])


def test_activation_is_wanda() -> None:
    model, batches = network(), data()
    norms = hidden(model, batches).square().mean(0).sqrt()
    wanda = model.down.weight.detach().abs() * norms
    torch.testing.assert_close(scores(Activation(), model, batches), wanda.norm(dim=0), **EXACT)


def test_a_channel_counts_with_all_windows_that_read_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3, stride=2, padding=1)).double()
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64)
    windows = nn.functional.unfold(model[:2](x), 3, stride=2, padding=1).square().mean((0, 2)).detach()
    expected = (model[2].weight.detach().square() * windows.view(5, 3, 3)).sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(scores(Activation(), model, [{"inputs": x}]), expected, **EXACT)
    lost = torch.stack([_without(model[2], model[:2](x), channel) for channel in range(5)])
    torch.testing.assert_close(scores(Statistics(of="outputs"), model, [{"inputs": x}]), lost, **EXACT)


def _without(layer: nn.Module, given: Tensor, channel: int) -> Tensor:
    """The squared error of what a layer gives without one of its inputs' channels, by running it."""
    less = given.clone()
    less[:, channel] = 0
    error = (layer(given) - layer(less)).detach().square().sum(1)
    return error.mean()


def test_taylor_is_the_gradient_of_a_gate() -> None:
    model, batches = network(), data()
    gates = []
    for each in batches:
        gate = torch.ones(6, dtype=torch.float64, requires_grad=True)
        loss = nn.functional.cross_entropy(model(each["inputs"], gate), each["targets"])
        gates.append(torch.autograd.grad(loss, gate)[0])
    expected = torch.stack(gates).square().mean(0)
    torch.testing.assert_close(scores(Taylor(), model, batches, Classification()), expected, **EXACT)
    by_call = scores(Taylor(), model, batches, _cross_entropy)
    torch.testing.assert_close(by_call, expected, **EXACT)


def _cross_entropy(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["targets"])


def test_movement_is_the_sum_over_a_training() -> None:
    model, batches = network(), data()
    trained = network()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    total = torch.zeros(6, dtype=torch.float64)
    for each in batches:
        optimizer.zero_grad()
        _cross_entropy(trained, each).backward()
        parts = [
            (trained.up.weight * trained.up.weight.grad).sum(1),
            trained.up.bias * trained.up.bias.grad,
            (trained.down.weight * trained.down.weight.grad).sum(0),
        ]
        total -= torch.stack(parts).sum(0).detach()
        optimizer.step()
    found = scores(Movement(learning_rate=0.05), model, batches, _cross_entropy)
    torch.testing.assert_close(found, total - total.min(), **EXACT)


def test_statistics_of_activations_and_gradients() -> None:
    model, batches = network(), data()
    torch.testing.assert_close(scores(Statistics(), model, batches), hidden(model, batches).abs().mean(0), **EXACT)
    expected = torch.zeros(6, dtype=torch.float64)
    for each in batches:
        up, bias, down = torch.autograd.grad(
            _cross_entropy(model, each), [model.up.weight, model.up.bias, model.down.weight]
        )
        expected += (up.abs().sum(1) + bias.abs() + down.abs().sum(0)) / len(batches)
    found = scores(Statistics(of="gradients"), model, batches, _cross_entropy)
    torch.testing.assert_close(found, expected, **EXACT)


def test_only_what_lies_below_the_threshold_goes() -> None:
    model, batches = network(), data()
    with torch.no_grad():
        model.up.weight[[1, 4]] *= 1e-3
        model.up.bias[[1, 4]] *= 1e-3
    inputs = batches[0]["inputs"]
    settings: dict[str, Any] = {"batches": [each["inputs"] for each in batches], "keep": 0.1}
    assert prune(model, inputs, criterion=Statistics(threshold=0.1), **settings).model.up.weight.shape == (4, 4)
    assert prune(model, inputs, criterion=Statistics(), **settings).model.up.weight.shape == (1, 4)


def _least_squares(read: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """The best a linear layer with a bias can do, by a solver of another kind, and the mean squared error it leaves."""
    columns = torch.cat((read, torch.ones(len(read), 1, dtype=read.dtype)), 1)
    solved = torch.linalg.lstsq(columns, wanted, driver="gelsd").solution
    return solved, float((columns @ solved - wanted).square().sum(1).mean())


def test_the_surgeon_leaves_the_least_squared_error() -> None:
    """Scores: the error after each removal; mending: the solution itself."""
    model, batches = network(), data()
    read = hidden(model, batches)
    wanted = (read @ model.down.weight.T + model.down.bias).detach()
    found = scores(Surgeon(damping=0.0), model, batches)
    order = found.argsort()
    alone = [_least_squares(read[:, [unit for unit in range(6) if unit != gone]], wanted)[1] for gone in range(6)]
    assert int(order[0]) == int(np.argmin(alone))
    for count in range(1, 6):
        left = order[count:].sort().values
        assert float(found[order[count - 1]]) == pytest.approx(_least_squares(read[:, left], wanted)[1], rel=1e-7)
    pruned = prune(
        model,
        batches[0]["inputs"],
        0.5,
        Surgeon(damping=0.0),
        batches=[each["inputs"] for each in batches],
    )
    stay = order[3:].sort().values
    solved, error = _least_squares(read[:, stay], wanted)
    torch.testing.assert_close(pruned.model.up.weight, model.up.weight[stay])
    torch.testing.assert_close(pruned.model.down.weight.detach(), solved[:-1].T, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(pruned.model.down.bias.detach(), solved[-1], rtol=1e-7, atol=1e-9)
    inputs = torch.cat([each["inputs"] for each in batches])
    assert float((pruned.model(inputs).detach() - wanted).square().sum(1).mean()) == pytest.approx(error, rel=1e-7)
    best = min(_least_squares(read[:, list(some)], wanted)[1] for some in itertools.combinations(range(6), 3))
    assert error <= 2 * best


@pytest.mark.parametrize("name", ["llama", "gpt2", "regnet"])
def test_mending_helps_where_units_are_heads_channels_or_groups(name: str) -> None:
    """The same units gone, mended or not: what the layers that read them give is nearer to before."""
    model, inputs = case(name)
    batches = [inputs] * 2

    kinds = ("kv-group", "head", "unit", "channel-of-group", "channel")
    errors = []
    for criterion in (Surgeon(), _Without(Surgeon())):
        pruned = prune(model, inputs, 0.7, criterion, batches=batches, forward=forward, kinds=kinds)
        with torch.no_grad():
            errors.append(float((forward(pruned.model, inputs) - forward(model, inputs)).square().mean()))
    assert errors[0] < errors[1]


class _Without:
    """A criterion's scores alone."""

    def __init__(self, criterion: Any) -> None:
        self.scores: Callable[..., Any] = criterion.scores


def test_intervals_are_those_of_student() -> None:
    student = pytest.importorskip("scipy.stats").t
    for level, freedom in itertools.product((0.5, 0.9, 0.95, 0.999), (1, 2, 5, 30, 400)):
        assert quantile(level, freedom) == pytest.approx(student.ppf(level, freedom), rel=1e-7, abs=1e-9)
    rises = [0.1, -0.2, 0.4, 0.3]
    mean, spread = np.mean(rises), np.std(rises, ddof=1) / 2
    assert Confidence().bound(rises) == pytest.approx(mean + student.ppf(0.95, 3) * spread)


def test_units_go_while_the_interval_allows() -> None:
    """Of eight units three do nothing, one next to nothing: these may go, however few were asked to stay."""
    model, batches = network(8), data(8)
    with torch.no_grad():
        model.down.weight[:, [0, 3, 6]] = 0
        model.down.weight[:, 5] *= 1e-4
        model.down.weight[:, [1, 2, 4, 7]] *= 3
    teacher = {id(each): model(each["inputs"]).argmax(1) for each in batches}

    def loss(some: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(some(batch["inputs"]), teacher[id(batch)])

    settings: dict[str, Any] = {"batches": batches, "objective": loss, "keep": 0.01}
    inputs = batches[0]["inputs"]
    sizes = [
        len(prune(model, inputs, criterion=Confidence(tolerance=tolerance), **settings).model.up.weight)
        for tolerance in (0.0, 1e-2, 100.0)
    ]
    assert sizes[0] in (4, 5)
    assert sizes[1] == 4
    assert sizes[2] == 1


@pytest.mark.parametrize("name", sorted(CRITERIA.listing))
def test_every_criterion_prunes_a_real_architecture_and_asks_for_what_it_lacks(name: str) -> None:
    model, inputs = case("llama")

    def loss(some: nn.Module, batch: Any) -> Tensor:
        return forward(some, batch).square().mean()

    batches = [inputs, {**inputs, "input_ids": inputs["input_ids"].flip(0)}]
    pruned = prune(model, inputs, 0.5, name, batches=batches, objective=loss, forward=forward)
    assert forward(pruned.model, inputs).shape == forward(model, inputs).shape
    assert pruned.receipt.parameters[1] <= pruned.receipt.parameters[0]
    if name not in ("magnitude", "random"):
        with pytest.raises(ModelwrightError, match="looks at data"):
            prune(model, inputs, 0.5, name, objective=loss, forward=forward)
    if name in ("taylor", "movement", "confidence"):
        with pytest.raises(ModelwrightError, match="looks at a loss"):
            prune(model, inputs, 0.5, name, batches=batches, forward=forward)


@pytest.mark.parametrize(
    "criterion",
    [
        lambda: Movement(learning_rate=0.0),
        lambda: Surgeon(damping=-1.0),
        lambda: Statistics(of="weights"),  # type: ignore[arg-type]
        lambda: Statistics(threshold=0.0),
        lambda: Confidence(level=0.2),
        lambda: Confidence(tolerance=-1.0),
    ],
)
def test_nonsense_is_refused(criterion: Callable[[], object]) -> None:
    with pytest.raises(ModelwrightError):
        criterion()


def test_one_batch_has_no_interval() -> None:
    with pytest.raises(ModelwrightError, match="at least two batches"):
        prune(network(), data()[0]["inputs"], 0.5, "confidence", batches=data(1), objective=_cross_entropy)
