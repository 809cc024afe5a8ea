"""Meeting in a store that is full of what dead ranks have left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch.distributed import PrefixStore, Store, TCPStore

from modelwright.base import meeting
from modelwright.base.errors import RunFailed
from modelwright.base.meeting import meet

JOB = "job"


class OfOneName(meeting._Host):
    """Rank 0 that calls each of its worlds the same."""

    def __init__(self, lobby: Store, size: int) -> None:
        super().__init__(lobby, size)
        self.world = "always the same"


@pytest.fixture
def store() -> Store:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def together(store: Store, pool: ThreadPoolExecutor, size: int, space: str = JOB) -> list[Any]:
    """The ranks of a world, each in a thread."""

    def join(rank: int) -> Store:
        return meet(store, rank, size, space=space, seconds=20)

    return [pool.submit(join, rank) for rank in range(size)]


def lobby(store: Store, size: int) -> Store:
    return PrefixStore(f"modelwright/{JOB}/{size}", store)


def await_key(store: Store, key: str) -> None:
    end = time.monotonic() + 20
    while not store.check([key]) and time.monotonic() < end:
        time.sleep(0.001)


def same(stores: list[Store]) -> bool:
    """Whether what the first one writes is seen by all."""
    stores[0].set("address", "of the first")
    return all(each.check(["address"]) for each in stores)


def test_nothing_of_an_earlier_world_is_seen(store: Store, pool: ThreadPoolExecutor) -> None:
    earlier = [future.result() for future in together(store, pool, 3)]
    assert same(earlier)
    later = [future.result() for future in together(store, pool, 3)]
    assert not any(each.check(["address"]) for each in later)
    assert same(later)


def test_were_its_name_not_fresh_a_dead_one_would_be_seen(
    store: Store, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_Host", OfOneName)
    assert same([future.result() for future in together(store, pool, 3)])
    assert meet(store, 0, 3, space=JOB, seconds=20).check(["address"])  # it takes the dead for its guests


def test_a_rank_that_was_answered_by_one_that_died_follows_the_next(store: Store, pool: ThreadPoolExecutor) -> None:
    guest = pool.submit(meet, store, 1, 2, space=JOB, seconds=20)
    here = lobby(store, 2)
    await_key(here, "hello/1")
    name = here.get("hello/1").decode()
    here.set(f"answer/{name}", "of the dead")
    await_key(here, f"of the dead/here/{name}")
    host = meet(store, 0, 2, space=JOB, seconds=20)
    assert same([host, guest.result()])


def test_a_rank_that_takes_the_place_of_a_dead_one_is_answered(store: Store, pool: ThreadPoolExecutor) -> None:
    here = lobby(store, 2)
    dead = meeting._Guest(here, 1)
    host = pool.submit(meet, store, 0, 2, space=JOB, seconds=20)
    await_key(here, f"answer/{dead._name}")
    guest = meet(store, 1, 2, space=JOB, seconds=20)
    assert same([host.result(), guest])


def test_worlds_of_other_sizes_and_jobs_do_not_mix(store: Store, pool: ThreadPoolExecutor) -> None:
    begun = [together(store, pool, 2), together(store, pool, 3), together(store, pool, 2, "another")]
    worlds = [[future.result() for future in futures] for futures in begun]
    for number, world in enumerate(worlds):
        assert same(world)
        assert not any(other[0].check(["address"]) for other in worlds[number + 1 :])


def test_who_did_not_come_is_named_also_where_a_dead_one_said_hello(store: Store, pool: ThreadPoolExecutor) -> None:
    meeting._Guest(lobby(store, 4), 3)
    guest = pool.submit(meet, store, 1, 4, space=JOB, seconds=1.0)
    await_key(lobby(store, 4), "hello/1")
    with pytest.raises(RunFailed, match=r"rank 0 waited 0\.8 s for ranks 2, 3, which did not come") as told:
        meet(store, 0, 4, space=JOB, seconds=0.8, where="here")
    assert told.value.where == "here" and "joining" in told.value.remedy
    with pytest.raises(RunFailed, match=r"rank 1 waited 1 s for ranks 2, 3, which did not come"):
        guest.result()


def test_without_rank_0_it_is_rank_0_that_did_not_come(store: Store) -> None:
    with pytest.raises(RunFailed, match=r"rank 2 waited 0\.1 s for rank 0, which did not come"):
        meet(store, 2, 3, space=JOB, seconds=0.1)
