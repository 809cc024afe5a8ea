"""Spikes are found, and noise is none; the samples behind a spike are named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import BATCH, CLASSES, FEATURES, at, points, prepare, same, snapshot, stepping
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.world import Mesh
from modelwright.data.batches import read
from modelwright.training.seeing.spikes import LEAST, QUIET, SpikeDetector
from modelwright.training.seeing.worst import SpikeDiagnosis, explain

HERE = "tests.training.seeing.test_spikes"
STEPS = 10_000
SAMPLES = 600
PLACES = (1, 4)  # in the batch of the spike: one in each rank's half
NOISES = {
    "normal": lambda random: random.normal(size=STEPS),
    "laplace": lambda random: random.laplace(size=STEPS) / math.sqrt(2),
    "student-5": lambda random: random.standard_t(5, size=STEPS) / math.sqrt(5 / 3),
    "gamma": lambda random: random.gamma(2, size=STEPS) / math.sqrt(2),
}


def curve(noise: str, width: float, seed: int) -> np.ndarray[Any, Any]:
    """A loss that falls by a power law to a floor, with noise of a relative width."""
    random = np.random.default_rng(seed)
    trend = 1.5 + 8.0 * (1 + np.arange(STEPS) / 20) ** -0.7
    return trend * np.exp(width * NOISES[noise](random))


def found(losses: np.ndarray[Any, Any]) -> list[int]:
    detector = SpikeDetector()
    return [step for step, loss in enumerate(losses, start=1) if detector(step, float(loss)) is not None]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("width", [0.003, 0.1, 0.4])
def test_ten_thousand_clean_steps_raise_no_alarm(noise: str, width: float) -> None:
    assert found(curve(noise, width, seed=7)) == []


@pytest.mark.parametrize("noise", NOISES)
def test_a_leap_is_found_at_once(noise: str) -> None:
    losses = curve(noise, 0.05, seed=3)
    for step in (100, 1000, 9000):
        losses[step - 1] *= 4
    assert found(losses) == [100, 1000, 9000]


def test_a_run_that_blows_up_is_one_spike() -> None:
    losses = curve("normal", 0.05, seed=1)[:400]
    losses[300:320] *= np.linspace(3, 60, 20)
    assert found(losses) == [301]


def test_a_floor_of_nothing_and_losses_below_zero_are_borne() -> None:
    constant = np.full(500, 2.0)
    constant[400] = 2.6
    assert found(constant) == []
    random = np.random.default_rng(0)
    negative = random.normal(scale=0.1, size=2000) - np.linspace(0, 3, 2000)
    assert found(negative) == []
    negative[1500] += 6
    assert found(negative) == [1501]


def test_a_start_is_not_judged_and_infinities_are_left_to_others() -> None:
    detector = SpikeDetector()
    assert all(detector(step, 10.0**step) is None for step in range(1, LEAST))
    assert detector(LEAST, math.nan) is None and detector(LEAST + 1, math.inf) is None
    assert QUIET > 0


def linear() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(FEATURES, CLASSES).double()


def outliers(*positions: int) -> dict[str, Tensor]:
    arrays = points(SAMPLES)
    for position in positions:
        arrays["inputs"][at(position, SAMPLES)] *= -40
    return arrays


def test_a_real_training_raises_no_alarm() -> None:
    """Classes that the inputs tell: the loss falls to a tenth, with noise of batches of six samples."""
    clean = [step.losses["cross-entropy"] for step in stepping(prepare(points(SAMPLES), total=500))]
    assert clean[-1] < 0.3 * clean[0] and found(np.array(clean)) == []


def spiked(mesh: Mesh | None = None) -> tuple[SpikeDiagnosis, Any]:
    prepared = prepare(outliers(*(59 * BATCH + place for place in PLACES)), mesh, total=65, model=linear())
    detector = SpikeDetector()
    for step in stepping(prepared):
        spike = detector(step.number, step.losses["cross-entropy"])
        if spike is not None:
            before = snapshot(prepared)
            account = explain(prepared, spike, gradient_norm=step.gradient_norm, learning_rate=step.learning_rate)
            assert same(before, snapshot(prepared))
            return account, prepared
    raise AssertionError("no spike was found")


def test_the_samples_behind_a_spike_are_named() -> None:
    account, prepared = spiked()
    expected = [at(59 * BATCH + place, SAMPLES) for place in PLACES]
    assert account.spike.step == 60 and account.looked_at == BATCH
    assert sorted(sample.sample for sample in account.worst[:2]) == sorted(expected)
    assert account.worst[1].loss > 5 * account.worst[2].loss
    assert f"the loss of step 60 leapt to {account.spike.loss:.4g}" in account.what
    worst = account.worst[0]
    batch = read(prepared.training.data.train, [worst.sample])
    with torch.no_grad():
        objective = prepared.training.objective
        loss = objective.loss(objective.forward(prepared.program.model, batch), batch)["cross-entropy"]
        assert worst.loss == pytest.approx(float(loss / objective.counts(batch)["cross-entropy"]), rel=1e-12)


def over_ranks(mesh: Mesh) -> Any:
    account, _ = spiked(mesh)
    return [[sample.rank, sample.sample, sample.loss] for sample in account.worst]


def test_two_ranks_name_the_samples_that_one_does() -> None:
    one, other = run_world(f"{HERE}:over_ranks", 2)
    alone, _ = spiked()
    assert one == other
    assert [sample for _, sample, _ in one] == [sample.sample for sample in alone.worst]
    assert [loss for _, _, loss in one] == pytest.approx([sample.loss for sample in alone.worst], rel=1e-6)
    assert {rank for rank, _, _ in one} == {0, 1}
