"""Runtime, precision and threads are chosen by measuring side by side, and never slower than the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.export.cases import OWN
from tests.export.test_artefact import held_out
from torch import Tensor

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.export import choice as choices
from modelwright.export import timing
from modelwright.export.artefact import export
from modelwright.export.choice import Candidate, candidates, choose, thread_numbers
from modelwright.export.runtimes.torch_export import TorchRunner
from modelwright.export.target import EAGER, settle
from modelwright.export.timing import fastest, measure

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages exported with


class Clock:
    """A clock that only computations move, so that no other work on the machine counts."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(timing, "time", CLOCK)
    return CLOCK


class Busy:
    """Takes as long as it is told, by the size of the batch."""

    def __init__(self, **milliseconds: float) -> None:
        self._takes = {int(size.removeprefix("b")): each / 1e3 for size, each in milliseconds.items()}

    def run(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        CLOCK.now += self._takes[len(batch["x"])]
        return dict(batch)


def candidate(name: str, precision: str = "fp32", threads: int = 1, **milliseconds: float) -> Candidate:
    runner: Any = Busy(**milliseconds)
    return Candidate(file=Path("model.onnx"), runtime=name, precision=precision, threads=threads, runner=runner)


BATCHES = {size: {"x": torch.zeros(size)} for size in (1, 4)}
FIRST = candidate("onnxruntime", b1=2, b4=4)


def test_the_fastest_on_the_whole(clock: Clock) -> None:
    better, best = candidate("better", b1=1.4, b4=2.8), candidate("best", "bf16", b1=1.8, b4=1.2)
    found = choose([FIRST, better, best], BATCHES, beside={"eager": Busy(b1=0.1, b4=0.1)})
    assert (found.chosen, found.baseline) == (best, FIRST)
    assert found.milliseconds()["4"][better.name] == pytest.approx(2.8, rel=1e-6)
    assert set(found.timings[1]) == {FIRST.name, better.name, best.name, "eager"}  # measured, though never chosen


@pytest.mark.parametrize(
    "other", [candidate("here", b1=2.4, b4=0.5), candidate("a hair", b1=1.99, b4=3.98), candidate("slow", b1=3, b4=9)]
)
def test_nothing_that_is_slower_anywhere_or_faster_by_less_than_noise(other: Candidate, clock: Clock) -> None:
    assert choose([FIRST, other], BATCHES).chosen == FIRST


def test_the_baseline_has_all_threads_and_is_exact(clock: Clock) -> None:
    rounded, many = candidate("onnxruntime", "bf16", 4, b1=5, b4=5), candidate("onnxruntime", threads=4, b1=2, b4=2)
    assert choose([rounded, FIRST, many], BATCHES).baseline == many
    with pytest.raises(ModelwrightError, match="nothing to measure"):
        choose([rounded], BATCHES)


def test_rounds_are_interleaved(clock: Clock) -> None:
    calls: list[str] = []

    def computing(name: str) -> None:
        calls.append(name)
        clock.now += 2e-3

    timings = measure({name: lambda name=name: computing(name) for name in "abc"}, rounds=6)
    assert "".join(calls[-18:]) == "abcbcacab" * 2  # each once a round; each round begins with another
    assert all(len(each.samples) == 6 and each.seconds == pytest.approx(2e-3) for each in timings.values())


def test_a_machine_that_becomes_slower_half_way_does_not_mislead(clock: Clock) -> None:
    begun, pace = clock.now, {"one": 2e-3, "other": 1.6e-3}

    def compute(name: str) -> None:
        late = clock.now - begun > 0.03
        clock.now += pace[name] * (3 if late else 1)

    timings = measure({name: lambda name=name: compute(name) for name in pace}, rounds=15)
    assert timings["other"].ratio(timings["one"]) == pytest.approx(0.8, abs=1e-6)
    assert fastest(timings, "one") == "other" and fastest(timings, "other") == "other"


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, wanted in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 4, 8, 16])):
        monkeypatch.setattr(torch, "get_num_threads", lambda most=most: most)
        assert thread_numbers() == wanted


def test_a_target_is_settled_by_judged_candidates(tmp_path: Path) -> None:
    judge, model = held_out(), OWN["mlp"].model()
    done = export(model, tmp_path / "model.pt2", held_out=judge)
    settled = settle(
        "torch-export:cpu",
        done.path,
        model,
        lambda samples: judge.call(model, samples),
        held_out=judge,
        reported=done.reported,
        threads=[1],
        seconds=0.3,
    )
    told = settled.to_json()
    assert told["baseline"] == {"runtime": "torch", "precision": "fp32", "threads": 1}
    assert settled.scores["torch, fp32"] == dict(done.found)
    assert {"1", "32"} == told["milliseconds"].keys() and EAGER in told["milliseconds"]["1"]
    assert all(speed >= 0.97 for speed in told["times_as_fast"].values())
    assert all(math.isfinite(each) for row in told["milliseconds"].values() for each in row.values())


class Careless:
    """A runtime whose other precision answers wrongly, at once."""

    precisions = ("fp32", "bf16")

    def open(self, path: Path, *, threads: int, precision: str, trust: bool) -> Any:
        runner = TorchRunner(path, threads, trust=trust)
        if precision == "fp32":
            return runner
        return SimpleNamespace(signature=runner.signature, run=lambda batch: {"outputs": -runner.run(batch)["outputs"]})


@pytest.mark.parametrize("judged", [True, False])
def test_a_precision_that_is_wrong_or_cannot_be_judged_is_refused(
    judged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, model, told = held_out(), OWN["mlp"].model(), list[Event]()
    done = export(model, tmp_path / "model.pt2", held_out=judge)
    careless = Family("runtime", {"torch": "tests.export.test_choice:Careless"})
    monkeypatch.setattr(choices, "RUNTIMES", careless)
    with listening(told.append):
        settled = settle(
            "torch-export:cpu",
            done.path,
            model,
            lambda samples: judge.call(model, samples),
            held_out=judge if judged else None,
            reported=done.reported if judged else None,
            threads=[1],
            seconds=0.1,
        )
    assert settled.choice.chosen.precision == "fp32"
    assert ("accuracy is" if judged else "nothing is held out") in settled.refused["torch, bf16"]
    assert "runtime-refused" in {event.kind for event in told}


def test_a_file_that_a_runtime_cannot_read_is_told_and_left_out(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"no onnx")
    told: list[Event] = []
    with listening(told.append):
        assert candidates([tmp_path / "model.onnx"], threads=[1]) == []
    assert {event.kind for event in told} == {"runtime-refused"}


def test_a_target_that_is_not_known() -> None:
    with pytest.raises(ModelwrightError, match="no target 'onnx:gpu'") as caught:
        settle("onnx:gpu", Path("model.onnx"), OWN["mlp"].model(), lambda samples: held_out().call(OWN["mlp"].model()))
    assert "onnx:cpu" in caught.value.remedy
