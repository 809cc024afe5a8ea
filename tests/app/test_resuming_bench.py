"""What the benchmark of resuming trainers reads from their logs; the trainers themselves are its own business."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

LENGTH, BATCH, STEPS = 12, 4, 9  # three epochs of three steps
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def resuming() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("resuming")


@pytest.fixture
def samples() -> dict[int, list[int]]:
    epochs = [np.random.default_rng(epoch).permutation(LENGTH).reshape(-1, BATCH) for epoch in range(3)]
    return dict(enumerate(np.concatenate(epochs).tolist(), start=1))


def account(resuming: ModuleType, samples: dict[int, list[int]]) -> Any:
    return resuming.lost_and_repeated(samples, steps=STEPS, batch=BATCH, length=LENGTH)


def test_whole_epochs_lose_and_repeat_nothing(resuming: ModuleType, samples: dict[int, list[int]]) -> None:
    assert account(resuming, samples) == (0, 0)


def test_lost_repeated_and_surplus_samples_are_found(resuming: ModuleType, samples: dict[int, list[int]]) -> None:
    assert account(resuming, samples | {4: samples[4][:3]}) == (1, 0)
    assert account(resuming, {step: samples[step] for step in samples if step != 7}) == (4, 0)
    assert account(resuming, samples | {2: [samples[2][0], samples[1][0], *samples[2][2:]]}) == (1, 1)
    assert account(resuming, samples | {5: samples[4]}) == (4, 4)
    assert account(resuming, samples | {5: [*samples[5], 3]}) == (0, 1)
    assert account(resuming, samples | {10: samples[1]}) == (0, 4)


def test_swapped_samples_are_another_order(resuming: ModuleType, samples: dict[int, list[int]]) -> None:
    inside = samples | {3: samples[3][::-1]}
    assert resuming.same_sets(inside, samples) and inside != samples
    between = samples | {1: [samples[2][0], *samples[1][1:]], 2: [samples[1][0], *samples[2][1:]]}
    assert account(resuming, between) == (0, 0) and not resuming.same_sets(between, samples)


def write(folder: Path, rows: list[tuple[str, int, list[int], float]], end: str = "") -> None:
    lines = [
        json.dumps({"step": step, "generation": generation, "time": float(number), "indices": indices, "loss": loss})
        for number, (generation, step, indices, loss) in enumerate(rows)
    ]
    (folder / "learnt.jsonl").write_text("\n" + "\n".join(lines) + "\n" + end)


def test_of_each_step_the_last_sitting_counts(resuming: ModuleType, tmp_path: Path) -> None:
    first = [("a", 1, [0, 1], 3.0), ("a", 1, [2, 3], 3.0), ("a", 2, [4, 5], 2.5), ("a", 2, [6, 7], 2.5)]
    again = [("b", 2, [8, 9], 2.0), ("b", 2, [10, 11], 1.0), ("b", 3, [0, 1], 1.0)]
    write(tmp_path, [*first, *again], end='{"step": 3, "gener')
    steps = resuming.counted(resuming.read_lines(tmp_path))
    assert {step: [line.indices for line in lines] for step, lines in steps.items()} == {
        1: [(0, 1), (2, 3)],
        2: [(8, 9), (10, 11)],
        3: [(0, 1)],
    }
    assert not resuming.read_lines(tmp_path / "nowhere")


def test_losses_that_part_are_found_with_their_step(resuming: ModuleType) -> None:
    expected = {1: 3.0, 2: 2.5, 3: 2.0}
    assert resuming.first_apart(expected, dict(expected)) is None
    assert resuming.largest_apart(expected, dict(expected)) == 0
    found = {1: 3.0, 2: np.nextafter(2.5, 3), 3: 1.75}
    assert resuming.first_apart(found, expected) == 2
    assert resuming.largest_apart(found, expected) == 0.25
    assert resuming.first_apart({1: 3.0, 2: 2.5}, expected) == 3


def test_weights_are_compared_byte_by_byte(resuming: ModuleType) -> None:
    weights = {"layer": np.float32([1.0, 0.0])}
    assert resuming.same_bytes(weights, {"layer": np.float32([1.0, 0.0])})
    assert not resuming.same_bytes(weights, {"layer": np.float32([1.0, -0.0])})
    assert not resuming.same_bytes(weights, {"other": weights["layer"]})
    assert resuming.weights_apart(weights, {"layer": np.float32([1.0, 0.5])}) == 0.5
    assert resuming.weights_apart(weights, {"other": weights["layer"]}) == float("inf")


def test_an_error_is_told_by_its_first_line(resuming: ModuleType) -> None:
    said = "Traceback (most recent call last):\n  File x\nsafetensors.SafetensorError: header too small\nand more\n"
    assert resuming.first_line_of_error(said) == "safetensors.SafetensorError: header too small"
    assert resuming.first_line_of_error("killed\n") == "killed"


def test_a_checkpoint_that_is_passed_over_leaves_the_one_before(resuming: ModuleType, tmp_path: Path) -> None:
    for step in (40, 80, 120):
        (tmp_path / f"step_{step}").mkdir()
    found = resuming.job.numbered(tmp_path, "step_")
    assert [resuming.job.newest(found, over) for over in range(4)] == [found[2], found[1], found[0], None]
