from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ModelwrightError
from modelwright.data import loader
from modelwright.data.loader import Loader
from modelwright.data.memory import InMemory
from modelwright.data.order import Order

LENGTH = 23
NUMBERS = InMemory({"inputs": torch.arange(LENGTH)})
ORDER = Order(LENGTH, seed=5)


def _loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "modelwright-loader"]


@given(
    batch=st.integers(1, 12),
    ranks=st.integers(1, 4),
    micro_batch=st.integers(1, 12),
    position=st.integers(0, 60),
    steps=st.integers(0, 5),
)
def test_ranks_together_read_the_order(batch: int, ranks: int, micro_batch: int, position: int, steps: int) -> None:
    loaders = [
        Loader(
            NUMBERS,
            ORDER,
            batch=batch,
            part=(rank * batch // ranks, (rank + 1) * batch // ranks),
            micro_batch=micro_batch,
            position=position,
            steps=steps,
        )
        for rank in range(ranks)
    ]
    read: list[int] = []
    for step in zip(*loaders, strict=True):
        for micro_batches in step:
            sizes = [len(each["inputs"]) for each in micro_batches]
            assert all(size == micro_batch for size in sizes[:-1])
            assert all(0 < size <= micro_batch for size in sizes)
            read += [index for each in micro_batches for index in each["inputs"].tolist()]
    assert read == ORDER(np.arange(position, position + batch * steps)).tolist()


class Counted(InMemory):
    """Notes how many samples each read took."""

    def __init__(self, arrays: Any) -> None:
        super().__init__(arrays)
        self.reads: list[int] = []

    def __getitems__(self, positions: Any) -> Any:
        self.reads.append(len(positions))
        return super().__getitems__(positions)


def small() -> Counted:
    return Counted({"inputs": torch.arange(LENGTH)})


def large() -> Counted:
    """Four samples of which are more than is read at once."""
    return Counted({"inputs": torch.arange(LENGTH)[:, None].repeat(1, 2**16)})


def test_small_steps_are_read_many_at_once_and_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SLOW", 10.0)  # machines under test are
    dataset = small()
    steps = Loader(dataset, ORDER, batch=4, micro_batch=4, steps=100)
    read = [batch["inputs"] for (batch,) in steps if not _loader_threads()]
    assert torch.equal(torch.cat(read), torch.from_numpy(ORDER(np.arange(400))))
    assert dataset.reads == [4, 64 * 4, 35 * 4]


class Ragged:
    """Pads to the longest sample that is asked for."""

    def __len__(self) -> int:
        return LENGTH

    def __getitems__(self, positions: Any) -> Any:
        return {"inputs": torch.zeros(len(positions), int(np.asarray(positions).max()) % 7 + 1)}


def test_what_is_padded_to_its_company_is_read_step_by_step() -> None:
    loader = Loader(Ragged(), ORDER, batch=2, micro_batch=2, steps=30)
    shapes = [batch["inputs"].shape for (batch,) in loader]
    assert shapes == [loader.step(number)[0]["inputs"].shape for number in range(30)]
    assert len(set(shapes)) > 1


def test_every_step_begins_where_memory_is_aligned() -> None:
    """Matrix products round by it, and a resumed run would differ in the last bits."""
    odd = InMemory({"inputs": torch.arange(3 * LENGTH, dtype=torch.float64).view(LENGTH, 3)})
    for batch, *_ in Loader(odd, ORDER, batch=3, micro_batch=2, steps=20):
        assert batch["inputs"].data_ptr() % 64 == 0


def test_large_steps_are_read_one_by_one() -> None:
    dataset = large()
    assert len(list(Loader(dataset, ORDER, batch=8, micro_batch=2, steps=3))) == 3
    assert dataset.reads == [8, 8, 8]


def test_what_is_slow_to_read_is_left_to_a_thread() -> None:
    class Slow(Counted):
        def __getitems__(self, positions: Any) -> Any:
            time.sleep(0.0005 * len(positions))
            return super().__getitems__(positions)

    dataset = Slow({"inputs": torch.arange(LENGTH)})
    steps = iter(Loader(dataset, ORDER, batch=2, micro_batch=2, steps=80))
    read = [next(steps)[0]["inputs"] for _ in range(66)]
    assert _loader_threads()
    read += [batch["inputs"] for (batch,) in steps]
    assert torch.equal(torch.cat(read), torch.from_numpy(ORDER(np.arange(160))))
    assert dataset.reads == [2, 128, *[2] * 15]


def test_an_empty_part_reads_nothing() -> None:
    assert list(Loader(NUMBERS, ORDER, batch=4, part=(2, 2), micro_batch=1, steps=2)) == [[], []]


def test_reading_runs_ahead_but_not_away() -> None:
    dataset = large()
    taken = dataset.reads
    steps = iter(Loader(dataset, ORDER, batch=8, micro_batch=4, steps=50))
    next(steps)
    next(steps)
    deadline = time.monotonic() + 5
    while len(taken) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(taken) == 4  # the two taken, and two ahead
    steps.close()  # type: ignore[attr-defined]


def test_no_thread_is_left() -> None:
    dataset = large()
    list(Loader(dataset, ORDER, batch=8, micro_batch=4, steps=3))
    assert not _loader_threads()
    started = time.monotonic()
    steps = iter(Loader(dataset, ORDER, batch=8, micro_batch=4, steps=10**9))
    next(steps)
    next(steps)
    assert _loader_threads()
    steps.close()  # type: ignore[attr-defined]
    assert not _loader_threads()
    assert time.monotonic() - started < 1


def test_failures_reach_the_consumer_with_their_place() -> None:
    class Broken:
        def __len__(self) -> int:
            return LENGTH

        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 7:
                raise ValueError("bad record")
            return torch.tensor(index)

    position = int(np.flatnonzero(ORDER(np.arange(LENGTH)) == 7)[0])
    steps = Loader(Broken(), ORDER, batch=1, micro_batch=1, steps=LENGTH)
    with pytest.raises(ModelwrightError, match="ValueError: bad record") as caught:
        for number, _ in enumerate(steps):
            assert number < position
    assert caught.value.where == f"sample 7, positions {position} to {position} of the order"
    assert not _loader_threads()


@pytest.mark.parametrize(
    ("batch", "part", "micro_batch"), [(4, (0, 5), 1), (4, (3, 2), 1), (4, (0, 4), 0), (0, (0, 0), 1)]
)
def test_impossible_sizes_are_refused(batch: int, part: tuple[int, int], micro_batch: int) -> None:
    with pytest.raises(ModelwrightError):
        Loader(NUMBERS, ORDER, batch=batch, part=part, micro_batch=micro_batch, steps=1)


class Missing(InMemory):
    """A data set of which some samples are not there."""

    missing = (2, 3, 11)

    def present(self, indices: Any) -> Any:
        return ~np.isin(indices, self.missing)

    def __getitems__(self, positions: Any) -> Any:
        assert not np.isin(positions, self.missing).any() and np.min(positions) >= 0
        return super().__getitems__(positions)


def holed(positions: Any) -> Any:
    """A hole at every fifth position."""
    return np.where(np.asarray(positions) % 5 == 2, -1, ORDER(positions))


def expected(position: int, part: tuple[int, int]) -> list[int]:
    """The samples of a step, one by one."""
    found = (int(holed([place])[0]) for place in range(position + part[0], position + part[1]))
    return [index for index in found if index != -1 and index not in Missing.missing]


def in_pieces(samples: list[int], size: int) -> list[list[int]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@given(
    batch=st.integers(1, 12),
    sittings=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 4)), max_size=4),
    together=st.booleans(),
)
@settings(max_examples=50)
def test_whoever_reads_and_however_often_it_is_killed_the_samples_are_the_same(
    batch: int, sittings: list[tuple[int, int, int]], together: bool
) -> None:
    """Sittings of so many ranks, micro-batches of so many samples and so many steps until all are killed."""
    dataset, position = Missing({"inputs": torch.arange(LENGTH)}), 0
    dataset.alike = together  # type: ignore[misc]  # several steps are read at once, or each by the thread
    for ranks, micro_batch, survived in sittings:
        for rank in range(ranks):
            told: list[tuple[int, list[int]]] = []
            part = (rank * batch // ranks, (rank + 1) * batch // ranks)
            steps = iter(
                Loader(
                    dataset,
                    holed,
                    batch=batch,
                    part=part,
                    micro_batch=micro_batch,
                    position=position,
                    steps=1000,
                    note=lambda number, indices, told=told: told.append((number, indices.tolist())),
                )
            )
            for number in range(survived):
                samples = expected(position + number * batch, part)
                read = [each["inputs"].tolist() for each in next(steps)]
                assert read == in_pieces(samples, micro_batch)
                assert told == [(position // batch + number, samples)]
                told.clear()
            steps.close()  # type: ignore[attr-defined]
        position += survived * batch


def test_a_step_of_holes_is_empty() -> None:
    def order(positions: Any) -> Any:
        return np.where(np.asarray(positions) // 4 == 1, -1, ORDER(positions))

    for dataset in (NUMBERS, large()):
        steps = list(Loader(dataset, order, batch=4, micro_batch=3, steps=4))
        assert [[len(each["inputs"]) for each in step] for step in steps] == [[3, 1], [], [3, 1], [3, 1]]


@pytest.mark.parametrize("dataset", [small(), large()], ids=["at once", "thread"])
def test_a_note_is_taken_just_before_its_step_by_whoever_takes_that(dataset: Counted) -> None:
    told: list[tuple[int, list[int], int]] = []
    steps = Loader(
        dataset,
        ORDER,
        batch=4,
        part=(1, 3),
        micro_batch=1,
        position=20,
        steps=6,
        note=lambda number, indices: told.append((number, indices.tolist(), threading.get_ident())),
    )
    for number, _ in enumerate(steps):
        indices = ORDER(np.arange(21, 23) + 4 * number).tolist()
        assert told[number:] == [(5 + number, indices, threading.get_ident())]
    assert len(told) == 6


def test_what_a_data_set_does_to_its_indices_changes_nothing() -> None:
    class Rude(InMemory):
        def __getitems__(self, positions: Any) -> Any:
            batch = super().__getitems__(positions)
            positions[:] = 0
            return batch

    rude = Rude({"inputs": torch.arange(LENGTH)})
    for micro_batch in (2, 4):
        read = Loader(rude, ORDER, batch=4, micro_batch=micro_batch, steps=9)
        numbers = torch.cat([each["inputs"] for step in read for each in step])
        assert torch.equal(numbers, torch.from_numpy(ORDER(np.arange(36))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_pinned() -> None:
    loader = Loader(NUMBERS, ORDER, batch=4, micro_batch=2, steps=1, pin=True)
    assert all(each["inputs"].is_pinned() for step in loader for each in step)
