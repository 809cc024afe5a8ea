"""How long to train: five ways to say it, one number of steps."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data.memory import InMemory
from modelwright.training.budget import steps_of, tokens_per_sample
from modelwright.training.settings import Budget, Evaluation, Saving

COUNTS = st.integers(1, 10**9)
BATCHES = st.integers(1, 4096)
TIME = 7
TOKENS = InMemory({"inputs": torch.zeros(50, TIME, dtype=torch.int64)})
NUMBERS = InMemory({"inputs": torch.zeros(50, TIME)})


class Long:
    """Only its length is asked for."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def steps(batch: int = 8, dataset: Any = TOKENS, step_seconds: float | None = None, **given: Any) -> int:
    return steps_of(Budget(**given), batch=batch, dataset=dataset, step_seconds=step_seconds)


# --- arithmetic


@given(COUNTS, BATCHES)
def test_steps_are_steps(count: int, batch: int) -> None:
    assert steps(batch, steps=count) == count


@given(COUNTS, BATCHES)
def test_as_many_steps_as_hold_the_samples(samples: int, batch: int) -> None:
    found = steps(batch, samples=samples)
    assert (found - 1) * batch < samples <= found * batch


@given(COUNTS, BATCHES)
def test_as_many_steps_as_hold_the_tokens(tokens: int, batch: int) -> None:
    found = steps(batch, tokens=tokens)
    assert (found - 1) * batch * TIME < tokens <= found * batch * TIME


@given(st.floats(1e-3, 1e3), st.integers(1, 10**7), BATCHES)
def test_as_many_steps_as_hold_the_epochs(epochs: float, length: int, batch: int) -> None:
    found = steps(batch, Long(length), epochs=epochs)
    exact = Fraction(epochs) * length / batch
    assert exact * (1 - Fraction(1, 10**8)) <= found < exact + 1


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_tenths_of_epochs_are_no_more_than_they_say(tenths: int, batch: int) -> None:
    assert steps(batch, Long(10 * batch), epochs=tenths / 10) == tenths


def test_an_epoch_leaves_no_sample_out() -> None:
    assert steps(64, Long(95), epochs=1.0) == 2
    assert steps(64, Long(128), epochs=1.0) == 2
    assert steps(10, Long(1000), epochs=0.1 + 0.2) == 30  # which is a little more than 0.3


@given(st.floats(1e-3, 1e6), st.floats(1e-5, 1e2))
def test_time_is_met_as_nearly_as_steps_allow(seconds: float, step_seconds: float) -> None:
    found = steps(time=seconds, step_seconds=step_seconds)
    assert found == 1 or abs(found * step_seconds - seconds) <= (0.5 + 1e-6) * step_seconds
    assert found >= 1


@given(COUNTS, COUNTS, BATCHES, st.sampled_from(["steps", "samples", "tokens"]))
def test_more_never_buys_less(one: int, other: int, batch: int, kind: str) -> None:
    less, more = sorted((one, other))
    assert steps(batch, **{kind: less}) <= steps(batch, **{kind: more})


# --- mistakes


def test_a_time_budget_needs_a_measurement() -> None:
    with pytest.raises(ModelwrightError, match="needs a measured step time"):
        steps(time=90.0)


class Ragged:
    """Tokens, padded to the longest sample that is asked for."""

    def __len__(self) -> int:
        return 50

    def __getitems__(self, positions: Any) -> Any:
        return {"inputs": torch.zeros(len(positions), 3 + max(positions) % 5, dtype=torch.int64)}


def test_the_length_of_one_sample_is_not_taken_for_that_of_all() -> None:
    assert tokens_per_sample(Ragged()) is None
    with pytest.raises(ModelwrightError, match="in samples of one length"):
        steps_of(Budget(tokens=500), batch=4, dataset=Ragged())


def test_tokens_need_data_made_of_tokens() -> None:
    assert tokens_per_sample(TOKENS) == TIME
    assert tokens_per_sample(NUMBERS) is None
    assert tokens_per_sample(InMemory({"inputs": torch.zeros(50, dtype=torch.int64)})) is None
    assert tokens_per_sample(InMemory({"image": torch.zeros(50, TIME, dtype=torch.int64)})) is None
    with pytest.raises(ModelwrightError, match="needs data made of tokens") as caught:
        steps(tokens=100, dataset=NUMBERS)
    assert caught.value.where == "budget.tokens"
    assert "epochs" in caught.value.remedy


def test_a_budget_is_exactly_one() -> None:
    with pytest.raises(ModelwrightError, match="this one is empty"):
        Budget()
    with pytest.raises(ModelwrightError, match="this one has steps and time") as caught:
        Budget(steps=3, time=1.0)
    assert caught.value.remedy
    assert (Budget(epochs=0.5).kind, Budget(epochs=0.5).amount) == ("epochs", 0.5)


@pytest.mark.parametrize("kind", ["steps", "samples", "tokens", "epochs", "time"])
@pytest.mark.parametrize("amount", [0, -1, float("nan"), float("inf")])
def test_a_budget_of_nothing_is_refused(kind: str, amount: float) -> None:
    with pytest.raises(ModelwrightError, match=f"{kind} trains nothing") as caught:
        Budget(**{kind: amount})
    assert caught.value.where == kind


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Evaluation(every=0), "every"),
        (lambda: Evaluation(samples=-1), "samples"),
        (lambda: Evaluation(metrics=("accuracy", "accuracy")), "metrics"),
        (lambda: Saving(every=0), "every"),
        (lambda: Saving(time=-1.0), "time"),
        (lambda: Saving(keep=0), "keep"),
        (lambda: Saving(every=3, time=1.0), "every"),
    ],
)
def test_settings_without_sense_are_refused(make: Any, where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        make()
    assert caught.value.where == where
    assert caught.value.remedy
