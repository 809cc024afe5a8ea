"""The loop against a plain one written out, and what it does with steps that cannot be taken."""

from __future__ import annotations

import math
import threading
from typing import Any, ClassVar

import pytest
import torch
from tests.training.small import (
    BATCH,
    SEED,
    TECHNIQUES,
    at,
    heard,
    network,
    points,
    prepare,
    same,
    snapshot,
    stepping,
)
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.world import Mesh
from modelwright.data import loader
from modelwright.data.order import Order
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.cosine import Cosine
from modelwright.optim.sgd import SGD
from modelwright.training.prepared import Prepared
from modelwright.training.steps import MASKED_IN_A_ROW

HERE = "tests.training.test_steps"


def poisoned(*positions: int, samples: int = 60) -> dict[str, Tensor]:
    arrays = points(samples)
    for position in positions:
        index = at(position, samples)
        arrays["inputs"][index, 0, 0] = torch.inf
        arrays["targets"][index, 0] = 0
    return arrays


def loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "modelwright-loader"]


# --- against a plain loop


def plain_loop(arrays: dict[str, Tensor], total: int, clip: float) -> tuple[list[list[float]], nn.Module]:
    """Training as one would write it down without modelwright."""
    model = network()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        foreach=False,
    )
    order = Order(len(arrays["inputs"]), seed=SEED)
    history = []
    for step in range(total):
        rate = 0.01 * (1 + math.cos(math.pi * step / total)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        indices = torch.from_numpy(order(range(step * BATCH, (step + 1) * BATCH)))
        logits, targets = model(arrays["inputs"][indices]), arrays["targets"][indices]
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
        for parameter in model.parameters():
            parameter.grad *= min(1.0, clip / norm)
        optimizer.step()
        history.append([loss.item(), norm, rate])
    return history, model


@pytest.mark.parametrize("micro_batch", [BATCH, 4, 1])
def test_the_loop_equals_a_plain_one(micro_batch: int) -> None:
    arrays, total, clip = points(), 30, 0.6
    expected, model = plain_loop(arrays, total, clip)
    assert min(row[1] for row in expected) < clip < max(row[1] for row in expected)  # some are clipped, some not
    prepared = prepare(arrays, total=total, clip=clip, micro_batch=micro_batch)
    done = list(stepping(prepared))
    found = [[step.losses["cross-entropy"], step.gradient_norm, step.learning_rate] for step in done]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(prepared.state.model_tensors()[name], value, rtol=1e-12, atol=1e-12)


def test_every_step_says_where_the_run_stands() -> None:
    arrays = points()
    done = list(stepping(prepare(arrays, total=10)))
    order = Order(60, seed=SEED)
    for number, step in enumerate(done, start=1):
        drawn = arrays["targets"][torch.from_numpy(order(range((number - 1) * BATCH, number * BATCH)))]
        assert (step.number, step.samples, step.masked) == (number, number * BATCH, False)
        assert step.valid == int((drawn != -100).sum())
    assert len(done) == 10
    assert done[-1].seconds == pytest.approx(sum(step.step_seconds for step in done))


class TwoTerms:
    """Cross-entropy of the valid targets, and the squared logits of the last place of every second sample."""

    coefficients: ClassVar = {"entropy": 1.0, "logits": 0.25}
    metrics = ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"entropy": (batch["targets"] != -100).sum(), "logits": batch["even"].sum()}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["inputs"])

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        flat = outputs.flatten(0, 1)
        return {
            "entropy": functional.cross_entropy(flat, batch["targets"].flatten(), ignore_index=-100, reduction="sum"),
            "logits": (outputs[:, -1].square().sum(dim=-1) * batch["even"]).sum(),
        }


@pytest.mark.parametrize("micro_batch", [BATCH, 2, 1])
def test_each_term_is_divided_by_its_own_count(micro_batch: int) -> None:
    """Micro-batches of one sample have none of the second term in every second one."""
    arrays = {**points(), "even": torch.arange(60) % 2}
    batch = {name: value[torch.from_numpy(Order(60, seed=SEED)(range(BATCH)))] for name, value in arrays.items()}
    model, objective = network(), TwoTerms()
    totals, counts = objective.loss(model(batch["inputs"]), batch), objective.counts(batch)
    entropy, logits = (totals[term] / counts[term] for term in ("entropy", "logits"))
    (entropy + 0.25 * logits).backward()
    prepared = prepare(
        arrays, objective=objective, optimizer=SGD(lr=1.0), clip=None, schedule=Constant(), micro_batch=micro_batch
    )
    before = snapshot(prepared)
    step = next(stepping(prepared))
    assert step.losses == pytest.approx({"entropy": entropy.item(), "logits": logits.item()}, rel=1e-12)
    for name, parameter in model.named_parameters():
        moved = before[f"model/{name}"] - prepared.state.model_tensors()[name]
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-12, atol=1e-14)


class Unlike(TwoTerms):
    """Losses have a term that is not counted, or the other way round."""

    def __init__(self, dropped: str) -> None:
        self.dropped = dropped

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {term: count for term, count in super().counts(batch).items() if self.dropped != f"count {term}"}

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {term: loss for term, loss in super().loss(outputs, batch).items() if self.dropped != f"loss {term}"}


@pytest.mark.parametrize("dropped", ["count logits", "loss entropy"])
def test_counts_and_losses_have_the_same_terms(dropped: str) -> None:
    arrays = {**points(), "even": torch.arange(60) % 2}
    with pytest.raises(ModelwrightError, match=r"'entropy'.* but its loss has ") as caught:
        next(stepping(prepare(arrays, objective=Unlike(dropped))))
    assert caught.value.remedy


def test_gradients_from_before_are_not_added() -> None:
    plain, stale = prepare(points()), prepare(points())
    for parameter in stale.program.parameters():
        parameter.grad = torch.ones_like(parameter)
    taken = [list(stepping(prepared)) for prepared in (plain, stale)]
    assert [step.losses for step in taken[0]] == [step.losses for step in taken[1]]
    assert same(snapshot(plain), snapshot(stale))


def test_clipping_is_that_of_torch() -> None:
    arrays, clip = points(), 0.05
    free, clipped, wide = (
        prepare(arrays, optimizer=SGD(lr=1.0), schedule=Constant(), clip=limit) for limit in (None, clip, 100.0)
    )
    start = {name: value.clone() for name, value in free.state.model_tensors().items()}
    norms = [next(stepping(prepared)).gradient_norm for prepared in (free, clipped, wide)]
    ours = {name: start[name] - value for name, value in clipped.state.model_tensors().items()}
    parameters = [nn.Parameter(value) for value in start.values()]
    for parameter, (name, value) in zip(parameters, free.state.model_tensors().items(), strict=True):
        parameter.grad = start[name] - value
    torchs = torch.nn.utils.clip_grad_norm_(parameters, clip)
    assert norms == pytest.approx([float(torchs)] * 3, rel=1e-12)
    assert norms[0] > 2 * clip
    after = math.sqrt(sum(float(value.square().sum()) for value in ours.values()))
    assert after == pytest.approx(clip, rel=1e-12)  # torch adds 1e-6 to the norm, and stays as much below
    for parameter, value in zip(parameters, ours.values(), strict=True):
        torch.testing.assert_close(value, parameter.grad * (norms[0] + 1e-6) / norms[0], rtol=1e-10, atol=1e-14)
    assert same(snapshot(wide), snapshot(free))


# --- steps that are left out


@pytest.mark.parametrize("name", TECHNIQUES)
@pytest.mark.parametrize("cause", ["non-finite", "no targets"])
def test_a_masked_step_changes_nothing_but_the_place(name: str, cause: str) -> None:
    bad = 4
    arrays = poisoned((bad - 1) * BATCH + 2)
    if cause == "no targets":
        arrays = points()
        arrays["targets"][[at(position) for position in range((bad - 1) * BATCH, bad * BATCH)]] = -100
    prepared = prepare(arrays, total=10, optimizer=TECHNIQUES[name])
    done, states = [], [snapshot(prepared)]
    with heard() as events:
        for step in stepping(prepared):
            assert (prepared.state.step, prepared.state.samples) == (step.number, step.number * BATCH)
            done.append(step)
            states.append(snapshot(prepared))
    unchanged = [number for number in range(1, 10) if same(states[number - 1], states[number])]
    assert unchanged == [step.number for step in done if step.masked] == [bad]
    assert done[bad].learning_rate == pytest.approx(done[0].learning_rate * Cosine().factor(bad, 10))
    assert done[bad].samples == (bad + 1) * BATCH
    masked = [event for event in events if event.kind == "step-masked"]
    assert [(event.details["step"], event.level) for event in masked] == [(bad, "warning")]
    expected = "no valid targets" if cause == "no targets" else "non-finite gradient"
    assert expected in masked[0].message
    if cause == "no targets":
        assert done[bad - 1].losses == {"cross-entropy": 0.0}
        assert done[bad - 1].valid == 0


def test_without_a_poisoned_sample_that_step_counts() -> None:
    """The control: the same steps differ when nothing is wrong with the data."""
    one, other = prepare(points()), prepare(poisoned(3 * BATCH))
    assert not any(step.masked for step in stepping(one))
    assert any(step.masked for step in stepping(other))
    assert not same(snapshot(one), snapshot(other))


def test_a_masked_step_equals_a_plain_loop_that_leaves_it_out() -> None:
    bad, total = 4, 10
    model, arrays = network(), poisoned((bad - 1) * BATCH)
    optimizer = TECHNIQUES["adamw"].build(model)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * Cosine().factor(step, total)
        if step == bad - 1:
            continue
        indices = torch.from_numpy(Order(60, seed=SEED)(range(step * BATCH, (step + 1) * BATCH)))
        logits = model(arrays["inputs"][indices]).flatten(0, 1)
        optimizer.zero_grad()
        functional.cross_entropy(logits, arrays["targets"][indices].flatten(), ignore_index=-100).backward()
        optimizer.step()
    prepared = prepare(arrays, total=total, clip=None)
    list(stepping(prepared))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(prepared.state.model_tensors()[name], value, rtol=1e-12, atol=1e-12)


def test_many_masked_steps_in_a_row_end_the_run() -> None:
    samples = BATCH * (MASKED_IN_A_ROW + 10)
    first = 2
    arrays = poisoned(*range(first * BATCH, samples, BATCH), samples=samples)
    prepared = prepare(arrays, total=MASKED_IN_A_ROW + 10)
    done = []
    with heard() as events, pytest.raises(RunFailed, match=f"{MASKED_IN_A_ROW} steps in a row") as caught:
        for step in stepping(prepared):
            done.append((step.number, snapshot(prepared)))
    assert caught.value.where == f"step {first + MASKED_IN_A_ROW}"
    assert "optimizer.lr" in caught.value.remedy
    assert len(events) == MASKED_IN_A_ROW
    assert same(done[first - 1][1], snapshot(prepared))
    assert loaders() == []


def test_a_good_step_in_between_forgives() -> None:
    total = 2 * MASKED_IN_A_ROW
    bad = [step for step in range(total) if step != MASKED_IN_A_ROW - 1]
    arrays = poisoned(*(step * BATCH for step in bad), samples=BATCH * total)
    with heard():
        done = list(stepping(prepare(arrays, total=total - 1)))
    assert sum(step.masked for step in done) == total - 2


# --- stopping


def test_a_wish_to_stop_ends_before_the_next_step() -> None:
    prepared = prepare(points())
    assert [step.number for step in stepping(prepared, stop=lambda: prepared.state.step >= 3)] == [1, 2, 3]
    assert (prepared.state.step, prepared.state.samples) == (3, 3 * BATCH)
    assert loaders() == []


def test_closing_the_generator_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_MOST_STEPS", 1)  # else these small samples are read without a thread
    training = stepping(prepare(points()))
    next(training)
    next(training)
    assert loaders() == ["modelwright-loader"]
    training.close()
    assert loaders() == []


class Failing:
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == at(2 * BATCH):
            raise ValueError("torn page")
        return {"inputs": torch.zeros(3, 5).double(), "targets": torch.zeros(3).long()}


def test_data_that_fails_is_named_and_leaves_no_thread() -> None:
    done = []
    with pytest.raises(ModelwrightError, match="torn page") as caught:
        for step in stepping(prepare(Failing())):
            done.append(step.number)
    assert done == [1, 2]
    assert f"positions {2 * BATCH} to {3 * BATCH - 1}" in caught.value.where
    assert loaders() == []


# --- several ranks


def replica(mesh: Mesh, **fields: Any) -> Prepared:
    return prepare(points(), mesh, micro_batch=2, **fields)


def fingerprint(prepared: Prepared) -> list[float]:
    return [float(value.sum()) for value in snapshot(prepared).values()]


class Shuffled(TwoTerms):
    """Every rank names the terms in an order of its own."""

    def __init__(self, turned: bool) -> None:
        self.turned = turned

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._turn(super().counts(batch))

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._turn(super().loss(outputs, batch))

    def _turn(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(reversed(terms.items())) if self.turned else terms


def losses_of_two_terms(mesh: Mesh) -> list[dict[str, float]]:
    arrays = {**points(), "even": torch.arange(60) % 2}
    prepared = prepare(arrays, mesh, objective=Shuffled(mesh.rank == 1), micro_batch=3, total=4)
    return [step.losses for step in stepping(prepared)]


def test_ranks_may_name_terms_in_any_order() -> None:
    (expected,) = run_world(f"{HERE}:losses_of_two_terms", 1)
    for found in run_world(f"{HERE}:losses_of_two_terms", 2):
        assert found == [pytest.approx(row, rel=1e-12) for row in expected]


def stop_on_one_rank(mesh: Mesh, rank: int, at_step: int) -> dict[str, Any]:
    prepared = replica(mesh)
    asked = []

    def stop() -> bool:
        asked.append(prepared.state.step)
        return mesh.rank == rank and prepared.state.step >= at_step

    done = [step.number for step in stepping(prepared, stop)]
    return {"done": done, "asked": asked, "weights": fingerprint(prepared), "loaders": loaders()}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_wish_of_any_rank_stops_all_at_the_same_step(rank: int) -> None:
    results = run_world(f"{HERE}:stop_on_one_rank", 2, rank=rank, at_step=4)
    assert [result["done"] for result in results] == [[1, 2, 3, 4]] * 2
    assert [result["asked"] for result in results] == [[0, 1, 2, 3, 4]] * 2
    assert results[0]["weights"] == results[1]["weights"]
    assert [result["loaders"] for result in results] == [[], []]


def leave_early(mesh: Mesh) -> float:
    training = stepping(replica(mesh))
    next(training)
    next(training)
    training.close()
    return float(mesh.world.all_reduce(torch.tensor(float(mesh.rank + 1))))


def test_between_two_steps_no_collective_is_open() -> None:
    assert run_world(f"{HERE}:leave_early", 2) == [3.0, 3.0]


def poison_on_one_rank(mesh: Mesh, position: int) -> dict[str, Any]:
    prepared = prepare(poisoned(position), mesh, micro_batch=2)
    masked, history = [], []
    with heard() as events:
        for step in stepping(prepared):
            masked.append(step.masked)
            history.append(fingerprint(prepared))
    kinds = [event.kind for event in events]
    return {"masked": masked, "history": history, "events": kinds.count("step-masked")}


@pytest.mark.parametrize("position", [2 * BATCH, 3 * BATCH - 1], ids=["of rank 0", "of rank 1"])
def test_a_bad_sample_of_one_rank_masks_the_step_of_all(position: int) -> None:
    first, second = run_world(f"{HERE}:poison_on_one_rank", 2, position=position)
    assert first["masked"] == second["masked"] == [number == 2 for number in range(10)]
    assert first["history"] == second["history"]
    assert first["history"][1] == first["history"][2] != first["history"][3]
    assert (first["events"], second["events"]) == (1, 0)  # said once


def too_many_workers(mesh: Mesh) -> str:
    with pytest.raises(ModelwrightError) as caught:
        prepare(points(), mesh, batch=1)
    return str(caught.value)


def test_fewer_samples_than_workers_are_refused() -> None:
    assert all("a batch of 1 cannot be shared by 2 workers" in said for said in run_world(f"{HERE}:too_many_workers"))


def test_empty_data_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="the training data is empty"):
        prepare({"inputs": torch.zeros(0, 3, 5), "targets": torch.zeros(0, 3).long()})
