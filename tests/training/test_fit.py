"""Steps, evaluations and checkpoints in one stream."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from tests.training.small import points, prepare, same, snapshot

from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan, Prediction
from modelwright.data.memory import InMemory
from modelwright.training import checkpoints
from modelwright.training.fit import Evaluated, Record, Saved
from modelwright.training.settings import Evaluation, Saving
from modelwright.training.training import Prepared, save_every

TOTAL = 7
HELD_OUT = InMemory(points())


def prepared(**fields: object) -> Prepared:
    settings = {"evaluation": Evaluation(every=3, samples=10), "saving": Saving(every=2, keep=9), **fields}
    return prepare(points(), total=TOTAL, held_out=HELD_OUT, **settings)


def said(record: Record) -> str:
    if isinstance(record, Evaluated):
        return f"evaluated {record.step}{' whole' if record.whole else ''}"
    return f"saved {record.step}" if isinstance(record, Saved) else str(record.number)


def test_everything_comes_in_its_order(tmp_path: Path) -> None:
    found = [said(record) for record in prepared().run(tmp_path, lambda: False)]
    expected = "1, 2, saved 2, 3, evaluated 3, 4, saved 4, 5, 6, evaluated 6, saved 6, 7, saved 7, evaluated 7 whole"
    assert ", ".join(found) == expected
    assert [int(path.name[5:]) for path in checkpoints.list_checkpoints(tmp_path)] == [7, 6, 4, 2]


def test_a_stopped_run_is_saved_and_not_scored(tmp_path: Path) -> None:
    training = prepared()
    found = [said(record) for record in training.run(tmp_path, lambda: training.state.step >= 3)]
    assert ", ".join(found) == "1, 2, saved 2, 3, evaluated 3, saved 3"


def test_a_run_stopped_where_it_was_just_saved_is_not_saved_twice(tmp_path: Path) -> None:
    training = prepared()
    found = [said(record) for record in training.run(tmp_path, lambda: training.state.step >= 4)]
    assert ", ".join(found) == "1, 2, saved 2, 3, evaluated 3, 4, saved 4"


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, first, second = prepared(), prepared(), prepared()
    list(whole.run(tmp_path / "whole", lambda: False))
    list(first.run(tmp_path / "parts", lambda: first.state.step >= 3))
    checkpoints.load_newest(second.state, tmp_path / "parts", second.group)
    found = [said(record) for record in second.run(tmp_path / "parts", lambda: False)]
    assert ", ".join(found) == "4, saved 4, 5, 6, evaluated 6, saved 6, 7, saved 7, evaluated 7 whole"
    assert same(snapshot(second), snapshot(whole))


def test_evaluating_and_saving_change_nothing(tmp_path: Path) -> None:
    plain = prepare(points(), total=TOTAL)
    assert all(not isinstance(record, Evaluated | Saved) for record in plain.run(None, lambda: False))
    looked_at = prepared()
    list(looked_at.run(tmp_path, lambda: False))
    assert same(snapshot(looked_at), snapshot(plain))


def test_a_finished_run_is_only_scored_again(tmp_path: Path) -> None:
    list(prepared().run(tmp_path, lambda: False))
    again = prepared()
    checkpoints.load_newest(again.state, tmp_path, again.group)
    assert [said(record) for record in again.run(tmp_path, lambda: False)] == ["evaluated 7 whole"]


def test_the_stream_can_be_left_between_any_two(tmp_path: Path) -> None:
    stream = prepared().run(tmp_path, lambda: False)
    assert [said(record) for record in islice(stream, 3)] == ["1", "2", "saved 2"]
    stream.close()  # type: ignore[attr-defined]
    assert checkpoints.find_damage(tmp_path / "step-00000002") is None


def test_an_interval_in_time_becomes_steps() -> None:
    measured = Prediction(
        step_seconds=0.25, step_seconds_low=0.2, step_seconds_high=0.3, peak_bytes=1, samples_per_second=1, source=""
    )
    plan = Plan(micro_batch=1, steps=100, prediction=measured)
    assert save_every(Saving(time=10.0), plan) == 40
    assert save_every(Saving(time=0.01), plan) == 1
    assert save_every(Saving(every=3), plan) == 3
    assert save_every(Saving(), plan) is None
    with pytest.raises(ModelwrightError, match="needs a measured step time") as caught:
        save_every(Saving(time=10.0), Plan(micro_batch=1, steps=100))
    assert caught.value.where == "saving.time"
