"""The newest checkpoints are kept, and the best."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.small import heard, points, prepare

from modelwright.base.errors import ModelwrightError
from modelwright.data.memory import InMemory
from modelwright.runs.weights import best_checkpoint
from modelwright.training import checkpoints
from modelwright.training.checkpoints.keeping import Score, best_names, score_of, superfluous
from modelwright.training.fit import Evaluated, Saved
from modelwright.training.settings import Evaluation, Saving

HELD_OUT = InMemory(points(samples=30))


def name(step: int) -> str:
    return f"step-{step:08d}"


def lower(value: float, step: int) -> Score:
    return Score("loss", "lower", value, step)


def test_the_best_come_first_and_the_nearest_of_those_with_one_score() -> None:
    scores = {
        name(10): lower(3.0, 10),
        name(20): lower(1.0, 20),
        name(25): lower(1.0, 20),
        name(30): lower(2.0, 30),
        name(40): None,
    }
    assert best_names(scores, 3) == [name(20), name(25), name(30)]
    assert best_names(scores, 0) == []
    assert best_names({name(10): None}, 2) == []
    higher = {entry: Score("accuracy", "higher", score.value, score.step) for entry, score in scores.items() if score}
    assert best_names(higher, 2) == [name(10), name(30)]
    mixed = {**higher, name(50): lower(9.0, 50)}
    assert best_names(mixed, 5) == [name(50)]  # of another score than the newest one's cannot be compared


@given(st.sets(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_exactly_the_newest_and_the_best_stay(steps: set[int], keep: int, data: st.DataObject) -> None:
    newest = data.draw(st.sampled_from(sorted(steps)))
    best = data.draw(st.sets(st.sampled_from(sorted(step for step in steps if step <= newest)), max_size=2))
    names = [name(step) for step in sorted(steps, reverse=True)]
    dropped = superfluous(names, name(newest), keep, [name(step) for step in best])
    left = [entry for entry in names if entry not in dropped]
    earlier = sorted((step for step in steps if step <= newest), reverse=True)
    assert {int(entry[5:]) for entry in left} == {*earlier[:keep], *best}


def unlike() -> InMemory:
    """Held-out samples of other classes: the better the training, the worse they are judged."""
    data = points(samples=30)
    return InMemory({**data, "targets": torch.where(data["targets"] < 0, data["targets"], 3 - data["targets"])})


def trained(folder: Path, saving: Saving, **fields: object) -> dict[int, float]:
    """Scores on the way by step."""
    settings = {"evaluation": Evaluation(every=2), "held_out": HELD_OUT, "total": 14, **fields}
    records = list(prepare(points(), saving=saving, **settings).run(folder, lambda: False))
    saved = [record.step for record in records if isinstance(record, Saved)]
    assert saved == [2, 4, 6, 8, 10, 12, 14]
    return {record.step: record.scores["loss"] for record in records if isinstance(record, Evaluated)}


def test_the_best_survives_the_newest(tmp_path: Path) -> None:
    scores = trained(tmp_path, Saving(every=2, keep=2, keep_best=1), held_out=unlike())
    del scores[14]  # the newest is not scored on the way
    best = min(scores, key=scores.__getitem__)
    assert best < 10, "the loss has to rise in the end for this to show anything"
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [name(14), name(12), name(best)]
    assert best_checkpoint(tmp_path) == tmp_path / name(best)
    assert checkpoints.find_damage(tmp_path / name(best)) is None
    (row,) = json.loads((tmp_path / "best.json").read_text())["best"]
    assert row == {"name": name(best), "monitor": "loss", "better": "lower", "value": scores[best], "step": best}


def test_without_a_wish_for_it_only_the_newest_stay(tmp_path: Path) -> None:
    trained(tmp_path, Saving(every=2, keep=2, keep_best=0))
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [name(14), name(12)]
    assert best_checkpoint(tmp_path) is None
    assert not (tmp_path / "best.json").exists()


def test_a_resumed_run_knows_the_scores_from_before(tmp_path: Path) -> None:
    saving, settings = Saving(every=3, keep=1), {"evaluation": Evaluation(every=2), "held_out": HELD_OUT, "total": 9}
    first, second = (prepare(points(), saving=saving, **settings) for _ in range(2))
    records = list(first.run(tmp_path, lambda: first.state.step >= 3))
    scored = next(record for record in records if isinstance(record, Evaluated))
    checkpoints.load_newest(second.state, tmp_path, second.group)
    saver = checkpoints.Saver(second.state, tmp_path, second.group, saving)
    second.state.step += 1
    saver.begin()
    (path,) = saver.finish()
    assert score_of(path) == lower(scored.scores["loss"], 2)


def test_an_undefined_score_is_never_the_best(tmp_path: Path) -> None:
    prepared = prepare(points())
    saver = checkpoints.Saver(prepared.state, tmp_path, prepared.group, Saving(keep=1))
    for step, loss in ((1, float("nan")), (2, 2.0), (3, 1.0), (4, float("inf")), (5, 3.0)):
        prepared.state.step = step
        saver.observe({"loss": loss, "other": 0.0})
        saver.begin()
    saver.finish()
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [name(5), name(3)]


def test_best_json_that_names_what_is_gone_is_passed_by(tmp_path: Path) -> None:
    trained(tmp_path, Saving(every=2, keep=2, keep_best=2), held_out=unlike())
    first, second = (row["name"] for row in json.loads((tmp_path / "best.json").read_text())["best"])
    assert best_checkpoint(tmp_path) == tmp_path / first
    shutil.rmtree(tmp_path / first)
    assert best_checkpoint(tmp_path) == tmp_path / second


def test_an_unknown_monitor_is_refused_before_the_first_step(tmp_path: Path) -> None:
    settings = {"evaluation": Evaluation(every=2, monitor="perplexity"), "held_out": HELD_OUT}
    with pytest.raises(ModelwrightError, match="perplexity"):
        prepare(points(), **settings).run(tmp_path, lambda: False)
    with heard():
        list(prepare(points(), saving=Saving(keep_best=0), **settings).run(tmp_path, lambda: False))


@pytest.mark.parametrize(("fields", "where"), [({"keep_best": -1}, "keep_best"), ({"to": "/"}, "to")])
def test_what_cannot_be_is_refused(fields: dict[str, object], where: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        Saving(**fields)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_run_that_keeps_no_best_any_more_names_none(tmp_path: Path) -> None:
    store = tmp_path / "store" / tmp_path.name / "run"
    folder = tmp_path / "run"
    fields = {"evaluation": Evaluation(every=2), "held_out": unlike(), "total": 14}
    saving = {"every": 2, "keep": 1, "to": str(tmp_path / "store")}
    first = prepare(points(), saving=Saving(keep_best=1, **saving), **fields)
    list(first.run(folder, lambda: first.state.step >= 10))
    best = best_checkpoint(folder)
    assert best is not None and (store / "best.json").exists() and (store / best.name).exists()
    second = prepare(points(), saving=Saving(keep_best=0, **saving), **fields)
    checkpoints.load_newest(second.state, folder, second.group)
    records = second.run(folder, lambda: False)
    assert best_checkpoint(folder) is None  # from the beginning: a verb may look at it now
    list(records)
    assert sorted(path.name for path in folder.iterdir()) == [name(14)]
    assert sorted(path.name for path in store.iterdir()) == [name(14)]
