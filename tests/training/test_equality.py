"""The evidence: one job, divided in many ways among processes and micro-batches, trains the same.

Everything runs as the command line runs it: a run directory, the launcher, the worker. What is compared is what the
run left on disk: the losses in its metrics, the weights in its artifacts.

What holds, and why: in float64 the ways differ in the order of sums alone, by some 1e-16. In float32 this grows to
some 2e-7 over 50 steps of SGD and AdamW. Muon is judged in float64: torch orthogonalises in bfloat16, so a difference
in float32's last place now and then tips a number over to the next bfloat16, which is 2^-8 away; losses then differ by
some 5e-5. From float64 a number is tipped over so rarely that 1e-12 holds for Muon too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.training.jobs import Outcome, Split, launch, sparse_targets

from modelwright.data.loader import Loader
from modelwright.data.order import Order
from modelwright.launch import Warm
from modelwright.objectives.next_token import NextToken

SEED, STEPS, BATCH = 3, 50, 8
WHOLE = Split(workers=1, micro_batch=8)
SPLITS = {
    "1 worker": WHOLE,
    "1 worker, accumulation 2": Split(1, 4),
    "1 worker, accumulation 4": Split(1, 2),
    "2 workers": Split(2, 4),
    "2 workers, accumulation 2": Split(2, 2),
    "2 workers, accumulation 4": Split(2, 1),
}
UNEVEN = {"3 workers of 2, 3 and 3 samples": Split(3, 2), "1 worker, micro-batches of 3, 3 and 2": Split(1, 3)}
COVERING = ("1 worker", "1 worker, accumulation 4", "2 workers, accumulation 2")
OPTIMIZERS = {
    "sgd": "{use: sgd, lr: 0.3, momentum: 0.9, weight_decay: 0.01}",
    "adamw": "{use: adamw, lr: 3e-3, weight_decay: 0.1}",
    "muon": "{use: muon, lr: 0.02, weight_decay: 0.01}",
}
CASES = [("sgd", "float32"), ("adamw", "float32"), ("sgd", "float64"), ("adamw", "float64"), ("muon", "float64")]
IN_FULL = ("adamw",)  # by default; the others take COVERING
TOLERANCES = {"float64": 1e-12, "float32": 1e-6}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    # Building any optimizer imports torch._dynamo, which takes a second in each rank if it is not there already.
    with Warm(["modelwright.app.worker", "torch._dynamo"]) as parent:
        yield parent


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def recipe(optimizer: str, dtype: str, objective: str = "next-token") -> str:
    return f"""
seed: {SEED}
model: {{use: "tests.training.jobs:small_gpt", dtype: {dtype}}}
data: {{use: "tests.training.jobs:sparse_targets", seed: {SEED}, batch: {BATCH}, steps: {STEPS}}}
objective: {{use: "{objective}"}}
optimizer: {OPTIMIZERS[optimizer]}
schedule: {{use: cosine, warmup: 5}}
batch: {BATCH}
budget: {{steps: {STEPS}}}
"""


def difference(outcome: Outcome, reference: Outcome) -> float:
    """The largest relative difference between losses, or between weight norms."""
    assert outcome.losses.shape == reference.losses.shape == (STEPS,)
    losses = np.abs(outcome.losses / reference.losses - 1).max()
    return max(float(losses), abs(outcome.norm / reference.norm - 1))


def distance(outcome: Outcome, reference: Outcome) -> float:
    """The largest difference between two weights."""
    weights, expected = outcome.weights, reference.weights
    assert weights.keys() == expected.keys()
    return max(float((weights[name] - expected[name]).abs().max()) for name in expected)


def counts(workers: int) -> np.ndarray:
    """Valid targets ``[steps, workers]``, as each rank's loader reads them."""
    data = sparse_targets(SEED, BATCH, STEPS)
    found = []
    for rank in range(workers):
        part = (rank * BATCH // workers, (rank + 1) * BATCH // workers)
        order = Order(len(data), seed=SEED)
        loader = Loader(data, order, batch=BATCH, part=part, micro_batch=BATCH, steps=STEPS)
        found.append([int(NextToken().counts(batch)["cross-entropy"]) for (batch,) in loader])
    return np.array(found).T


def test_the_ranks_have_very_unequal_numbers_of_valid_targets() -> None:
    found = counts(workers=2)
    assert found.shape == (STEPS, 2)
    assert (found.max(axis=1) >= 3 * found.min(axis=1)).all()
    assert (found.min(axis=1) == 0).sum() == STEPS // 5
    assert (found.sum(axis=1) > 0).all()
    assert set(found.argmin(axis=1)) == {0, 1}  # the ranks take turns


@pytest.mark.parametrize(("optimizer", "dtype"), CASES, ids=[f"{name}, {dtype}" for name, dtype in CASES])
def test_every_division_trains_the_same(optimizer: str, dtype: str, warm: Warm, full: bool, tmp_path: Path) -> None:
    chosen = SPLITS if optimizer in IN_FULL else {name: SPLITS[name] for name in COVERING}
    chosen = {**SPLITS, **UNEVEN} if full else chosen
    outcomes = dict(
        zip(chosen, launch(tmp_path, warm, recipe(optimizer, dtype), [*chosen.values()], steps=STEPS), strict=True)
    )
    reference = outcomes.pop("1 worker")
    assert reference.losses[-10:].mean() < reference.losses[:3].mean() - 0.1  # it learns, so weights do move
    for name, outcome in outcomes.items():
        assert difference(outcome, reference) <= TOLERANCES[dtype], name
        assert distance(outcome, reference) <= TOLERANCES[dtype], name
        assert {str(value.dtype) for value in outcome.weights.values()} == {f"torch.{dtype}"}


def test_a_mean_of_means_differs(warm: Warm, tmp_path: Path) -> None:
    """Where nothing is divided it is the same job; any division changes what is trained."""
    (right,) = launch(tmp_path, warm, recipe("sgd", "float64"), [WHOLE], steps=STEPS)
    text = recipe("sgd", "float64", objective="tests.training.jobs:mean_of_means")
    splits = [WHOLE, SPLITS["1 worker, accumulation 2"], SPLITS["2 workers"]]
    whole, *divided = launch(tmp_path, warm, text, splits, steps=STEPS)
    assert difference(whole, right) <= 1e-12
    for wrong in divided:
        assert difference(wrong, right) > 1e-3
        assert abs(wrong.norm / right.norm - 1) > 1e-3


def test_workers_that_do_not_exchange_differ(warm: Warm, tmp_path: Path) -> None:
    text = recipe("sgd", "float64")
    (right,) = launch(tmp_path, warm, text, [WHOLE], steps=STEPS)
    entry = "tests.training.jobs:without_exchange"
    (wrong,) = launch(tmp_path, warm, text, [SPLITS["2 workers"]], steps=STEPS, entry=entry)
    assert difference(wrong, right) > 1e-3
    assert abs(wrong.norm / right.norm - 1) > 1e-3
