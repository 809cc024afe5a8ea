"""A step that was left out is explained: rank, first module, samples; and the training goes on as if nobody looked."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.training.small import BATCH, CLASSES, FEATURES, at, heard, points, prepare, same, snapshot, stepping
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.world import Mesh
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.diagnosis import Diagnosis, Finding, diagnose, offenders
from modelwright.training.seeing.probing import finite

HERE = "tests.training.seeing.test_diagnosis"


def poisoned(*positions: int, value: float = torch.inf) -> dict[str, Tensor]:
    arrays = points()
    for position in positions:
        arrays["inputs"][at(position), 0, 0] = value
        arrays["targets"][at(position), 0] = 0
    return arrays


def diagnosed(prepared: Prepared) -> list[Diagnosis]:
    """Train to the end; a diagnosis of each masked step."""
    return [diagnose(prepared, step.number) for step in stepping(prepared) if step.masked]


def only(prepared: Prepared) -> Finding:
    (diagnosis,) = diagnosed(prepared)
    (finding,) = diagnosis.findings
    return finding


class Fragile(nn.Module):
    """Divides by the first feature: finite inputs, and no finite output where that is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x[..., :1]


class Steep(nn.Module):
    """sqrt of something that is zero for some samples: its value is finite there, its gradient is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


class Mask(nn.Module):
    """Gives infinities on purpose, as attention masks hold them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 100, torch.zeros_like(x), -torch.inf)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask, self.inner = Mask(), nn.Sequential(Fragile(), nn.Linear(FEATURES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 0 * self.mask(x).exp().sum()


@pytest.mark.parametrize("micro_batch", [BATCH, 4, 1])
def test_bad_data_is_traced_to_its_sample_and_field(micro_batch: int) -> None:
    position = 2 * BATCH + 4
    found = only(prepare(poisoned(position, value=torch.nan), micro_batch=micro_batch))
    assert (found.stage, found.name, found.kind, found.input_finite) == ("forward", "0", "Linear", False)
    assert (found.rank, found.micro_batch) == (0, 4 // micro_batch)
    assert (found.positions, found.samples, found.isolated) == ((position,), (at(position),), True)
    assert found.fields == ("inputs",)
    assert str(found) == (
        "rank 0: the first output that is not finite is that of module '0' (Linear), whose input is not finite either;"
        f" micro-batch {4 // micro_batch}, sample {at(position)} of the data (position {position} of the order), with "
        "numbers in inputs that are not finite"
    )


def test_an_infinity_that_a_later_module_hides_is_still_the_first() -> None:
    found = only(prepare(poisoned(8)))  # tanh makes ones of infinities, and no gradient but nan
    assert (found.stage, found.name, found.parameter) == ("forward", "0", "0.weight")
    assert "the loss is finite all the same, the gradient of '0.weight' is not" in str(found)


def test_several_bad_samples_are_all_named() -> None:
    positions = (BATCH, BATCH + 3, BATCH + 5)
    found = only(prepare(poisoned(*positions)))
    assert found.positions == positions and found.samples == tuple(map(at, positions))


def test_the_first_module_is_the_one_that_makes_it_not_those_that_pass_it_on() -> None:
    arrays = points()
    arrays["inputs"][at(7), 1, 0] = 0.0
    arrays["targets"][at(7), 1] = 1
    torch.manual_seed(1)
    model = nn.Sequential(nn.Identity(), Fragile(), nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    found = only(prepare(arrays, model=model))
    assert (found.stage, found.name, found.kind, found.input_finite) == ("forward", "1", "Fragile", True)
    assert found.samples == (at(7),) and found.fields == ()


def test_infinities_that_healthy_samples_have_too_are_no_fault() -> None:
    arrays = points()
    arrays["inputs"][at(9), 2, 0] = 0.0
    arrays["targets"][at(9), 2] = 1
    torch.manual_seed(1)
    found = only(prepare(arrays, model=Masked().double()))
    assert (found.name, found.kind, found.samples) == ("inner.0", "Fragile", (at(9),))


def test_a_gradient_that_is_not_finite_behind_a_finite_loss() -> None:
    arrays = points()
    arrays["inputs"][at(13), 0] = 0.0
    arrays["targets"][at(13), 0] = 2
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(FEATURES, 8, bias=False), Steep(), nn.Linear(8, CLASSES)).double()
    found = only(prepare(arrays, model=model))
    assert (found.stage, found.parameter, found.name, found.kind) == ("backward", "0.weight", "0", "Linear")
    assert found.samples == (at(13),) and found.isolated


class Logarithm:
    """A loss that is not finite for outputs that are."""

    coefficients: ClassVar = {"log": 1.0}
    metrics = ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"log": torch.tensor(len(batch["inputs"]))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["inputs"])

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"log": (outputs.square().mean(dim=(1, 2)) / batch["weights"]).sum()}


def test_a_loss_that_is_not_finite_of_finite_outputs() -> None:
    weights = torch.ones(60, dtype=torch.float64)
    weights[at(3)] = 0.0
    found = only(prepare({**points(), "weights": weights}, objective=Logarithm()))
    assert (found.stage, found.name, found.samples) == ("loss", "log", (at(3),))
    assert "the outputs are finite, the loss term 'log' of them is not" in str(found)


def test_samples_that_depend_on_each_other_are_named_together() -> None:
    """The mean over a batch holds the infinity of one sample only together with that of another."""

    class Together(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (1.0 if len(x) < BATCH else 0.0)

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), Together()).double()
    prepared = prepare(points(), model=model, total=1)
    found = only(prepared)
    assert not found.isolated and len(found.samples) == BATCH and found.kind == "Together"
    assert "no sample of it does that alone" in str(found)


def test_weights_that_were_broken_before_are_said() -> None:
    prepared = prepare(points(), total=1)
    with torch.no_grad():
        prepared.program.model[2].bias[1] = torch.nan
    found = only(prepared)
    assert (found.stage, found.name) == ("weights", "2.bias")


def test_a_healthy_step_has_no_finding() -> None:
    prepared = prepare(points())
    for step in stepping(prepared):
        if step.number == 2:
            diagnosis = diagnose(prepared, 2)
    assert diagnosis.findings == () and "is finite there" in diagnosis.what


def test_a_replay_that_fails_is_said_not_raised() -> None:
    class Moody(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise ValueError("not again")
            return x * torch.nan

    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), Moody()).double()
    found = only(prepare(points(), model=model, total=1))
    assert found.stage == "replay" and "not again" in str(found)


# --- nothing of the training is changed


class Drawing(nn.Module):
    """Draws from every generator, and remembers in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.calls, self.kept = 0, dict[int, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + x.detach().nan_to_num(0, 0, 0).mean()
        self.calls += 1
        self.kept[self.calls] = x.new_zeros(1)
        return x * (1 + 0.01 * (len(self.kept) % 3) + 0.1 * random.random() + 0.1 * np.random.rand())


def stochastic() -> nn.Module:
    torch.manual_seed(1)
    normal = nn.BatchNorm1d(3)
    return nn.Sequential(nn.Linear(FEATURES, 8), normal, nn.Dropout(0.3), Drawing(), nn.Linear(8, CLASSES)).double()


def trained(look: Callable[[Prepared, int], object] | None) -> tuple[dict[str, Tensor], list[float], Any]:
    random.seed(3)
    np.random.seed(3)
    prepared = prepare(poisoned(2 * BATCH, 5 * BATCH + 1), model=stochastic(), total=10, micro_batch=4)
    losses = []
    for step in stepping(prepared):
        losses.append(step.gradient_norm)
        if look is not None and (step.masked or step.number == 7):
            look(prepared, step.number)
    return snapshot(prepared), losses, (random.random(), np.random.rand(), torch.rand(1).item())


def test_training_goes_on_bit_for_bit_as_if_nobody_had_looked() -> None:
    weights, losses, drawn = trained(None)
    looked_weights, looked_losses, looked_drawn = trained(diagnose)
    assert np.array_equal(losses, looked_losses, equal_nan=True) and drawn == looked_drawn
    assert same(weights, looked_weights)

    def carelessly(prepared: Prepared, step: int) -> None:
        prepared.program.model(torch.ones(2, 3, FEATURES, dtype=torch.float64))

    other_weights, _, _ = trained(carelessly)
    assert not same(weights, other_weights)


def test_no_hook_is_left_behind_and_gradients_stay() -> None:
    prepared = prepare(poisoned(0), total=1)
    list(stepping(prepared))
    model = prepared.program.model
    gradient = torch.ones_like(model[0].weight)
    model[0].weight.grad = gradient
    diagnose(prepared, 1)
    assert model[0].weight.grad is gradient and torch.equal(gradient, torch.ones_like(gradient))
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


# --- several ranks


def over_ranks(mesh: Mesh, position: int) -> list[Any]:
    prepared = prepare(poisoned(position), mesh, micro_batch=2, total=4)
    told = []
    for step in stepping(prepared):
        if step.masked:
            told.append(diagnose(prepared, step.number).to_json())
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in prepared.program.parameters()])
    return [told, weights.tolist()]


@pytest.mark.parametrize(("place", "rank"), [(1, 0), (4, 1)])
def test_the_rank_is_named_on_every_rank(place: int, rank: int) -> None:
    position = BATCH + place
    (one, weights), (other, _) = run_world(f"{HERE}:over_ranks", 2, position=position)
    assert one == other and len(one) == 1
    (finding,) = one[0]["findings"]
    assert (finding["rank"], finding["samples"], finding["positions"]) == (rank, [at(position)], [position])
    assert one[0]["step"] == 2 and finding["micro_batch"] == (place % 3) // 2
    alone = prepare(poisoned(position), total=4)
    list(stepping(alone))
    expected = torch.cat([parameter.detach().reshape(-1) for parameter in alone.program.parameters()])
    torch.testing.assert_close(torch.tensor(weights, dtype=torch.float64), expected, rtol=1e-10, atol=1e-12)


# --- the search


@pytest.mark.parametrize("bad", [[0], [7], [3, 4], [0, 1, 2, 3, 4, 5, 6, 7], []])
def test_halving_finds_exactly_the_offenders(bad: list[int]) -> None:
    asked = []

    def offends(rows: list[int]) -> bool:
        asked.append(rows)
        return any(row in bad for row in rows)

    assert offenders(offends, list(range(8))) == bad
    assert len(asked) <= 2 * max(1, len(bad)) * 3


def test_finite_looks_into_everything() -> None:
    assert finite({"a": [torch.ones(2), (torch.tensor([1]), None)], "b": "text"})
    assert not finite({"a": [torch.ones(2), (torch.tensor([1.0, torch.nan]),)]})


def test_an_event_is_not_needed_for_a_diagnosis() -> None:
    with heard() as events:
        only(prepare(poisoned(0)))
    assert [event.kind for event in events] == ["step-masked"]
