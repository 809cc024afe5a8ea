"""Steps, evaluations and checkpoints in one stream."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import pytest
from tests.training.small import BATCH, at, heard, points, prepare, same, snapshot
from tests.world import run_world

from modelwright.base.errors import RunFailed
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.data.memory import InMemory
from modelwright.training import checkpoints
from modelwright.training.due import LEARNED_AFTER, SavingDue
from modelwright.training.fit import Evaluated, Record, Saved
from modelwright.training.prepared import Prepared
from modelwright.training.reading import Reading
from modelwright.training.settings import Evaluation, Saving
from modelwright.training.steps import Step

TOTAL = 7
HELD_OUT = InMemory(points())
SAVING = Saving(every=3)


def prepared(**fields: object) -> Prepared:
    settings = {"evaluation": Evaluation(every=3, samples=10), "saving": Saving(every=2, keep=9), **fields}
    return prepare(points(), total=TOTAL, held_out=HELD_OUT, **settings)


def said(record: Record) -> str:
    if isinstance(record, Evaluated):
        return f"evaluated {record.step}{' whole' if record.whole else ''}"
    return f"saved {record.step}" if isinstance(record, Saved) else str(record.number)


def in_order(records: Iterable[Record]) -> tuple[str, list[int]]:
    """Steps and evaluations; and the checkpoints, which are told of when they are on the disk, after their step."""
    kept = list(records)
    saved = [record.step for record in kept if isinstance(record, Saved)]
    for place, record in enumerate(kept):
        if isinstance(record, Saved):
            done = [earlier.number for earlier in kept[:place] if isinstance(earlier, Step)]
            assert record.step <= max(done)
    return ", ".join(said(record) for record in kept if not isinstance(record, Saved)), saved


def test_everything_comes_in_its_order(tmp_path: Path) -> None:
    found, saved = in_order(prepared().run(tmp_path, lambda: False))
    assert found == "1, 2, 3, evaluated 3, 4, 5, 6, evaluated 6, 7, evaluated 7 whole"
    assert saved == [2, 4, 6, 7]
    assert [int(path.name[5:]) for path in checkpoints.list_checkpoints(tmp_path)] == [7, 6, 4, 2]


def test_what_was_yielded_is_put_away_before_a_checkpoint_is_seen(tmp_path: Path) -> None:
    """Else a run killed between the two would go on without the rows of the steps before."""
    training = prepared()
    put_away: list[tuple[int, int]] = []

    def put_away_now() -> None:
        put_away.append((training.state.step, len(checkpoints.list_checkpoints(tmp_path))))

    list(training.run(tmp_path, lambda: False, put_away_now))
    assert put_away == [(2, 0), (4, 1), (6, 2), (7, 3)]


def test_a_stopped_run_is_saved_and_not_scored(tmp_path: Path) -> None:
    training = prepared()
    found, saved = in_order(training.run(tmp_path, lambda: training.state.step >= 3))
    assert found == "1, 2, 3"  # the score is made up for when it goes on
    assert saved == [2, 3]


def test_a_run_stopped_where_it_was_just_saved_is_not_saved_twice(tmp_path: Path) -> None:
    training = prepared()
    found, saved = in_order(training.run(tmp_path, lambda: training.state.step >= 4))
    assert found == "1, 2, 3, evaluated 3, 4"
    assert saved == [2, 4]


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, first, second = prepared(), prepared(), prepared()
    list(whole.run(tmp_path / "whole", lambda: False))
    list(first.run(tmp_path / "parts", lambda: first.state.step >= 3))
    checkpoints.load_newest(second.state, tmp_path / "parts", second.group)
    found, saved = in_order(second.run(tmp_path / "parts", lambda: False))
    assert found == "evaluated 3, 4, 5, 6, evaluated 6, 7, evaluated 7 whole"
    assert saved == [4, 6, 7]
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
    assert [record.number for record in islice(stream, 2) if isinstance(record, Step)] == [1, 2]
    next(stream)  # it is being written, or is on the disk
    stream.close()  # type: ignore[attr-defined]
    assert checkpoints.find_damage(tmp_path / "step-00000002") is None


def due_at(saving: Saving, step_seconds: float, steps: int = 45, begun: int = 0, first: float = 0.0) -> list[int]:
    state = prepared().state
    state.step, state.seconds = begun, 1000.0
    due = SavingDue(saving, state, Group(0, 1))
    found = []
    for number in range(steps):
        state.advance(step_seconds + (first if number == 0 else 0.0))
        if due():
            found.append(state.step)
    return found


def test_an_interval_in_time_becomes_steps() -> None:
    assert due_at(Saving(every=20), 0.25) == [20, 40]
    assert due_at(Saving(time=5.0), 0.25) == [20, 40]
    assert due_at(Saving(time=0.01), 0.25, steps=12) == [*range(1, 13)]
    assert due_at(Saving(time=5.0), 0.25, begun=7) == [20, 40]  # a resumed run
    assert due_at(Saving(), 30.0) == [20, 40]  # without a wish: every ten minutes
    assert due_at(Saving(), 1.0) == []


def test_long_steps_are_saved_before_the_interval_is_known() -> None:
    assert due_at(Saving(), 1800.0, steps=12) == [*range(1, 13)]
    assert due_at(Saving(), 250.0, steps=13) == [3, 6, 9, 10, 12]  # by the clock, then every second step
    assert due_at(Saving(), 250.0, steps=12, begun=3) == [6, 9, 12, 14]


def test_a_slow_first_step_does_not_stretch_the_interval() -> None:
    assert due_at(Saving(time=5.0), 0.25, first=4.0) == [4, 20, 40]
    assert due_at(Saving(time=5.0), 0.25, first=60.0) == [1, 20, 40]


class Counted(Group):
    """A world of one that counts what it is asked to gather."""

    gathered = 0

    def gather(self, value: object) -> list[object]:
        Counted.gathered += 1
        return super().gather(value)


def test_ranks_talk_about_time_in_the_first_steps_only() -> None:
    state = prepared().state
    for saving, expected in ((Saving(time=5.0), LEARNED_AFTER), (Saving(every=2), 0)):
        Counted.gathered, due = 0, SavingDue(saving, state, Counted(0, 1))
        for _ in range(30):
            state.advance(0.25)
            due()
        assert Counted.gathered == expected


def test_the_callers_time_is_not_training() -> None:
    training = prepared()
    stream = training.run(None, lambda: False)
    next(stream)  # the first step imports and warms up
    before = training.state.seconds
    for _ in range(3):
        time.sleep(0.4)
        next(stream)
    assert training.state.seconds - before < 0.6


def slow_and_fast(mesh: Mesh) -> list[int]:
    state = prepared().state
    due = SavingDue(Saving(time=40.0), state, mesh.world)
    found = []
    for _ in range(45):
        state.advance(1.0 + mesh.rank)
        if due():
            found.append(state.step)
    return found


def lame_and_fast(mesh: Mesh) -> list[int]:
    state = prepared().state
    due = SavingDue(Saving(time=40.0), state, mesh.world)
    found = []
    for _ in range(9):
        state.advance(1.0 + 14.0 * mesh.rank)
        if due():
            found.append(state.step)
    return found


def test_the_slowest_clock_decides_in_the_first_steps() -> None:
    assert run_world("tests.training.test_fit:lame_and_fast", 2) == [[3, 6, 9], [3, 6, 9]]


def test_ranks_of_different_speed_save_at_the_same_steps() -> None:
    assert run_world("tests.training.test_fit:slow_and_fast", 2) == [[20, 40], [20, 40]]


# --- the last step is judged, whatever ends the loop


class Ended(Exception):
    """Of the caller, or of a part of the training."""


def to_its_end(training: Prepared, folder: Path) -> None:
    list(training.run(folder, lambda: False))


def stopped_before_scoring(training: Prepared, folder: Path) -> None:
    list(training.run(folder, lambda: training.state.step >= 3))


def closed(training: Prepared, folder: Path) -> None:
    stream = training.run(folder, lambda: False)
    for record in stream:
        if isinstance(record, Step) and record.number == 3:
            stream.close()


def failing_between(training: Prepared, folder: Path) -> None:
    def fail() -> None:
        if training.state.step == 3:
            raise Ended

    with pytest.raises(Ended):
        list(training.run(folder, lambda: False, fail))


def failing_in_a_step(training: Prepared, folder: Path) -> None:
    def fail(number: int, indices: object) -> None:
        if number == 3:
            raise Ended

    training.note = fail
    with pytest.raises(Ended):
        list(training.run(folder, lambda: False))


WAYS = [to_its_end, stopped_before_scoring, closed, failing_between, failing_in_a_step]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_step_left_out_last_is_told_once(
    tmp_path: Path, way: Callable[[Prepared, Path], None], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator the numbers of a step are looked at one step late."""
    if late:
        monkeypatch.setattr(Reading, "immediate", property(lambda reading: False))
    arrays, last = points(), TOTAL if way is to_its_end else 3
    for position in range(last * BATCH - BATCH, last * BATCH):
        arrays["inputs"][at(position)] = math.nan
    with heard() as events:
        way(prepare(arrays, total=TOTAL, held_out=HELD_OUT, evaluation=Evaluation(every=3), saving=SAVING), tmp_path)
    assert [event.details["step"] for event in events if event.kind == "step-masked"] == [last]


def test_a_step_that_ends_the_run_is_told_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reading, "immediate", property(lambda reading: False))
    monkeypatch.setattr("modelwright.training.steps.MASKED_IN_A_ROW", 2)
    arrays = points()
    arrays["inputs"][:] = math.nan
    with heard() as events, pytest.raises(RunFailed, match="2 steps in a row"):
        list(prepare(arrays, total=TOTAL).run(tmp_path, lambda: False))
    assert [event.details["step"] for event in events if event.kind == "step-masked"] == [1, 2]
