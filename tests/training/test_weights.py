"""Which weights are scored and kept: averages, and the best ones where training ends early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.small import TECHNIQUES, alone, heard, network, points, prepare, same, snapshot, stepping
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.data.memory import InMemory
from modelwright.objectives.classification import Classification
from modelwright.optim.averages.ema import Ema
from modelwright.optim.averages.mean import Mean
from modelwright.optim.schedule_free import ScheduleFree
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.schedules.plateau import Plateau
from modelwright.optim.sgd import SGD
from modelwright.runs.weights import weights_of
from modelwright.training import checkpoints
from modelwright.training.fit import Evaluated
from modelwright.training.patience import Patience
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Evaluation
from modelwright.training.steps import Step

EVERY = 2


def overfitting(**fields: Any) -> Prepared:
    """Twelve samples learnt by heart; the held-out ones have other answers, so their score soon gets worse."""
    held_out = points(samples=30)
    held_out["targets"] = torch.where(held_out["targets"] < 0, -100, (held_out["targets"] + 1) % 4)
    settings: dict[str, Any] = {
        "held_out": InMemory(held_out),
        "optimizer": SGD(lr=0.5, momentum=0.9),
        "schedule": Constant(),
        "evaluation": Evaluation(every=EVERY, patience=3),
        "total": 200,
        **fields,
    }
    return prepare(points(samples=12), **settings)


def run(prepared: Prepared, folder: Path | None = None, stop: Any = lambda: False) -> tuple[list[Any], dict[int, Any]]:
    """All records, and a snapshot of the model after each step."""
    records, models = [], {}
    for record in prepared.run(folder, stop):
        records.append(record)
        if isinstance(record, Step):
            models[record.number] = model_of(prepared)
    return records, models


def model_of(prepared: Prepared) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in prepared.program.model.state_dict().items()}


def test_training_ends_when_the_score_stops_gaining_and_the_best_weights_come_back() -> None:
    prepared = overfitting()
    with heard() as events:
        records, models = run(prepared)
    parts = {
        record.step: record.scores["loss"] for record in records if isinstance(record, Evaluated) and not record.whole
    }
    best = min(parts, key=parts.__getitem__)
    assert prepared.state.step == best + 3 * EVERY < 200
    assert same(model_of(prepared), models[best])
    assert not same(models[prepared.state.step], models[best])
    whole = records[-1]
    assert whole.whole
    assert whole.scores["loss"] == parts[best]
    assert prepared.complete
    (told,) = [event for event in events if event.kind == "stopped-early"]
    assert told.details["best_step"] == best


def test_the_best_weights_come_back_at_the_end_of_the_budget_too() -> None:
    whole = overfitting()
    run(whole)
    best = whole.patience.best_step  # type: ignore[union-attr]
    short = overfitting(total=best + EVERY)
    with heard() as events:
        _, models = run(short)
    assert short.state.step == best + EVERY
    assert same(model_of(short), models[best])
    (told,) = [event for event in events if event.kind == "best-restored"]
    assert told.details["best_step"] == best


class Undefined(Classification):
    """Scores that are no numbers; what is trained is as ever."""

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        totals = super().loss(outputs, batch)
        return totals if torch.is_grad_enabled() else {term: total * torch.nan for term, total in totals.items()}


def test_without_any_score_the_last_weights_stay_and_that_is_said() -> None:
    prepared = overfitting(objective=Undefined())
    with heard() as events:
        _, models = run(prepared)
    assert prepared.state.step == 3 * EVERY
    assert same(model_of(prepared), models[3 * EVERY])
    (told,) = [event for event in events if event.kind == "stopped-early"]
    assert told.message.endswith("the last weights stay, as no score was finite")


def test_patience_goes_on_with_the_score_it_watched() -> None:
    state = Patience(monitor="loss", better="lower", patience=2).state()
    with pytest.raises(ModelwrightError, match="watched 'loss', not 'accuracy'") as caught:
        Patience(monitor="accuracy", better="higher", patience=2).load(state)
    assert caught.value.where == "evaluation.monitor"


@pytest.mark.parametrize("averaging", [None, Ema(decay=0.9)])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(tmp_path: Path, averaging: Any) -> None:
    undisturbed = overfitting(averaging=averaging)
    run(undisturbed)
    first, second = overfitting(averaging=averaging), overfitting(averaging=averaging)
    halfway = undisturbed.patience.best_step + EVERY  # type: ignore[union-attr]
    list(first.run(tmp_path, lambda: first.state.step == halfway))
    assert checkpoints.load_newest(second.state, tmp_path, second.group) is not None
    assert second.state.step == halfway
    run(second)
    assert second.state.step == undisturbed.state.step
    assert same(model_of(second), model_of(undisturbed))


def test_patience_counts_gains_of_enough_size_in_the_right_direction() -> None:
    lower = Patience(monitor="loss", better="lower", patience=2, minimum_gain=0.1)
    assert [lower.observe(score, step) for step, score in enumerate([1.0, 0.95, 0.8, float("nan"), 0.75])] == [
        True,
        True,
        True,
        False,
        True,
    ]
    assert lower.exhausted  # what was gained since step 2 is too little to wait on for
    assert lower.best_step == 4  # and the best all the same
    higher = Patience(monitor="accuracy", better="higher", patience=2)
    assert [higher.observe(score, step) for step, score in enumerate([0.5, 0.6, 0.55])] == [True, True, False]
    assert not higher.exhausted


def test_averages_are_scored_and_kept_while_training_goes_on_as_without_them(tmp_path: Path) -> None:
    settings = {"held_out": InMemory(points(samples=30)), "evaluation": Evaluation(every=4), "total": 10}
    plain, averaged = (
        prepare(points(), **settings),
        prepare(points(), averaging=Ema(decay=0.5, warmup=False), **settings),
    )
    expected = model_of(plain)
    _, live = run(plain)
    records, same_live = run(averaged, tmp_path)
    assert all(same(live[number], same_live[number]) for number in live)
    for number in range(1, 11):
        expected = {name: 0.5 * expected[name] + 0.5 * value for name, value in live[number].items()}
        if number == 4:
            at_four = expected
    for name, value in model_of(averaged).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
    probe = prepare(points(), **settings)
    for weights, record in zip((at_four, expected), (records[4], records[-1]), strict=True):
        probe.program.model.load_state_dict(weights)
        assert record.scores["loss"] == pytest.approx(probe.evaluate(True)["loss"], rel=1e-12)
    saved = checkpoints.list_checkpoints(tmp_path)[0]
    for name, value in load_file(weights_of(saved)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
    assert same(load_file(saved / "model.safetensors"), live[10])


@pytest.mark.parametrize("change", [{"averaging": Mean(start=0.5)}, {"optimizer": ScheduleFree(lr=0.05)}])
def test_what_averages_resumes_bit_for_bit(tmp_path: Path, change: dict[str, Any]) -> None:
    whole, first, second = (prepare(points(), total=12, **change) for _ in range(3))
    run(whole)
    list(first.run(tmp_path, lambda: first.state.step == 7))
    checkpoints.load_newest(second.state, tmp_path, second.group)
    assert same(snapshot(first), snapshot(second))
    run(second)
    assert same(model_of(second), model_of(whole))
    plain = prepare(points(), total=12, **({"optimizer": change["optimizer"]} if "optimizer" in change else {}))
    list(stepping(plain))
    assert not same(model_of(plain), model_of(whole))  # what is kept is not what was in training


def test_two_averages_at_once_are_refused() -> None:
    with pytest.raises(ModelwrightError) as caught:
        prepare(points(), optimizer=ScheduleFree(), averaging=Ema())
    assert caught.value.where == "averaging"


def test_a_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    first, second = prepare(points(), averaging=Ema()), prepare(points())
    list(first.run(tmp_path, lambda: first.state.step == 3))
    with pytest.raises(ModelwrightError, match="averages"):
        checkpoints.load_newest(second.state, tmp_path, second.group)


def test_a_plateau_lowers_the_rate_by_the_scores(tmp_path: Path) -> None:
    settings = {"schedule": Plateau(factor=0.5, patience=1), "evaluation": Evaluation(every=EVERY), "total": 40}
    prepared = overfitting(**settings)
    records, _ = run(prepared)
    rates = [record.learning_rate for record in records if isinstance(record, Step)]
    assert rates[0] == 0.5
    assert rates[-1] < 0.26
    first, second = overfitting(**settings), overfitting(**settings)
    list(first.run(tmp_path, lambda: first.state.step == 21))
    checkpoints.load_newest(second.state, tmp_path, second.group)
    again = [record.learning_rate for record in run(second)[0] if isinstance(record, Step)]
    assert again == rates[21:]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"evaluation": Evaluation(every=2, patience=1, monitor="accurracy")}, "evaluation.monitor"),
        ({"held_out": None}, "evaluation"),
        ({"evaluation": Evaluation(), "schedule": Plateau()}, "evaluation"),
        ({"momentum_schedule": Plateau()}, "momentum_schedule"),
        ({"weight_decay_schedule": Plateau()}, "weight_decay_schedule"),
    ],
)
def test_watching_what_is_not_there_is_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        overfitting(**fields)
    assert caught.value.where == where


def test_patience_without_evaluations_is_refused() -> None:
    with pytest.raises(ModelwrightError, match="there are none"):
        Evaluation(patience=2)


def test_moments_in_the_hosts_memory_change_nothing() -> None:
    for technique in TECHNIQUES.values():
        plain, offloaded = prepare(points(), optimizer=technique), prepare(points(), optimizer=technique)
        plan = replace(offloaded.plan, offload="moments")
        offloaded = Prepared(replace(offloaded.training, model=network()), plan, alone())
        list(stepping(plain))
        list(stepping(offloaded))
        assert same(snapshot(plain), snapshot(offloaded))
