from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modelwright.base.errors import ModelwrightError
from modelwright.runs import Run
from modelwright.runs.sample_log import SampleLog, counted, read_samples, samples_folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "logged", "train")


def note(run: Run, rank: int, generation: str, steps: dict[int, list[int]]) -> None:
    with SampleLog(run, rank, generation) as log:
        for number, indices in steps.items():
            log(number, np.array(indices, dtype=np.int64))


def test_a_line_is_there_as_soon_as_it_is_written(run: Run) -> None:
    log = SampleLog(run, 1, "g")
    log(6, np.array([4, 2], dtype=np.int64))
    (line,) = (samples_folder(run) / "rank-1.jsonl").read_text().splitlines()
    log.close()
    row = json.loads(line)
    assert {key: row[key] for key in ("step", "generation", "indices")} == {
        "step": 7,
        "generation": "g",
        "indices": [4, 2],
    }


def test_the_last_generation_of_a_step_counts_whatever_the_size_of_its_world(run: Run) -> None:
    note(run, 0, "first", {0: [1], 1: [3], 2: [5]})
    note(run, 1, "first", {0: [2], 1: [4]})  # killed before it came to the third step
    note(run, 0, "second", {1: [3, 4], 2: [5, 6], 3: [7, 8]})
    lines = read_samples(run)
    assert counted(lines) == {1: [1, 2], 2: [3, 4], 3: [5, 6], 4: [7, 8]}
    assert [used.time for used in lines] == sorted(used.time for used in lines)


def test_a_line_torn_by_a_kill_is_left_out_and_harms_no_later_one(run: Run) -> None:
    note(run, 0, "first", {0: [1, 2], 1: [3, 4]})
    path = samples_folder(run) / "rank-0.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert counted(read_samples(run)) == {1: [1, 2]}
    note(run, 0, "second", {1: [3, 4]})
    assert counted(read_samples(run)) == {1: [1, 2], 2: [3, 4]}


def test_generations_follow_the_log_of_rank_0_and_not_the_clock(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([500.0, 501.0, 502.0, 100.0, 101.0, 102.0])  # set back between the two
    monkeypatch.setattr("modelwright.runs.sample_log.time", SimpleNamespace(time=lambda: next(clock)))
    note(run, 0, "first", {0: [1], 1: [3]})
    note(run, 1, "first", {0: [2]})
    note(run, 0, "second", {1: [3, 4], 2: [5, 6]})
    note(run, 1, "second", {1: []})
    lines = read_samples(run)
    assert [used.generation for used in lines] == ["first"] * 3 + ["second"] * 3
    assert counted(lines) == {1: [1, 2], 2: [3, 4], 3: [5, 6]}


def test_what_rank_0_did_not_begin_was_not_computed(run: Run) -> None:
    note(run, 0, "first", {0: [1]})
    note(run, 1, "first", {0: [2], 1: [4]})  # rank 0 was killed between the two
    note(run, 1, "second", {1: [8]})  # and in the next world before its first step
    assert counted(read_samples(run)) == {1: [1, 2]}


def test_what_was_handed_out_and_never_computed_is_left_out(run: Run) -> None:
    note(run, 0, "first", {0: [1, 2], 1: [3, 4]})  # stopped before the second step was computed
    assert counted(read_samples(run), steps=1) == {1: [1, 2]}
    assert counted(read_samples(run)) == {1: [1, 2], 2: [3, 4]}  # the record alone says how many were done


def test_a_folder_that_cannot_be_written_is_told(run: Run) -> None:
    samples_folder(run).touch()
    with pytest.raises(ModelwrightError, match="stands in the way"):
        SampleLog(run, 0, "g")
