"""Meeting: how the ranks of one world find each other in a store that dead ranks of earlier worlds have written to.

Each rank but 0 says hello by a name that it has just made up. Rank 0 has just made up the name of the world, and
answers every such name with it, also where a rank is replaced by another. Who was answered says below the world's name
that it is there; when all are, rank 0 says that the world is complete. What was in the store before has none of these
names.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from modelwright.base.errors import RunFailed

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


def meet(store: Store, rank: int, size: int, *, space: str, seconds: float, where: str = "") -> Store:
    """Wait until all ranks are there; the part of ``store`` that is this world's alone.

    Args:
        store: that all ranks reach.
        rank: of this process.
        size: how many ranks there are; more than one.
        space: the same for all ranks; those of another one, or of another size, are not met.
        seconds: to wait for the others.
        where: told in errors.

    Raises:
        RunFailed: ranks did not come in time; names them.
    """
    prefix = f"modelwright/{space}/{size}"
    lobby = PrefixStore(prefix, store)
    try:
        party: _Host | _Guest = _Host(lobby, size) if rank == 0 else _Guest(lobby, rank)
        for _ in _pauses(seconds):
            if party.complete():
                return PrefixStore(f"{prefix}/{party.world}", store)
        absent = _absent(lobby, party.world, size)
    except RuntimeError as error:
        raise _alone(rank, seconds, [0], where) from error  # rank 0 and its store have gone
    raise _alone(rank, seconds, absent, where)


class _Host:
    """Rank 0, which names the world."""

    def __init__(self, lobby: Store, size: int) -> None:
        self.world = uuid.uuid4().hex
        self._lobby, self._size = lobby, size
        self._answered: dict[int, str] = {}

    def complete(self) -> bool:
        """Answer who has come; whether all have heard it."""
        for rank in range(1, self._size):
            name = _name(self._lobby, rank)
            if name and name != self._answered.get(rank):
                self._lobby.set(_answer(name), self.world)
                self._answered[rank] = name
        here = [_here(self.world, name) for name in self._answered.values()]
        if len(here) < self._size - 1 or not self._lobby.check(here):
            return False
        self._lobby.set(_all_here(self.world), "yes")
        return True


class _Guest:
    """Another rank. It heeds the newest answer: the first may be of a rank 0 that died while it gathered its world."""

    def __init__(self, lobby: Store, rank: int) -> None:
        self.world = ""
        self._lobby, self._name = lobby, uuid.uuid4().hex
        lobby.set(_hello(rank), self._name)

    def complete(self) -> bool:
        """Follow the answer; whether rank 0 says that all have."""
        world = _read(self._lobby, _answer(self._name))
        if world != self.world:
            self.world = world
            self._lobby.set(_here(world, self._name), "yes")
        return bool(world) and self._lobby.check([_all_here(world)])


def _absent(lobby: Store, world: str, size: int) -> list[int]:
    if not world:
        return [0]
    names = {rank: _name(lobby, rank) for rank in range(1, size)}
    return [rank for rank, name in names.items() if not name or not lobby.check([_here(world, name)])] or [0]


def _alone(rank: int, seconds: float, absent: list[int], where: str) -> RunFailed:
    listed = f"rank{'s' if len(absent) > 1 else ''} {', '.join(map(str, absent))}"
    return RunFailed(
        f"rank {rank} waited {seconds:g} s for {listed}, which did not come",
        where=where,
        remedy="look into the log of the rank that did not come; slow to start? raise joining",
    )


def _pauses(seconds: float) -> Iterator[None]:
    end, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while time.monotonic() < end:
        yield
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _name(lobby: Store, rank: int) -> str:
    return _read(lobby, _hello(rank))


def _read(lobby: Store, key: str) -> str:
    return lobby.get(key).decode() if lobby.check([key]) else ""


def _hello(rank: int) -> str:
    return f"hello/{rank}"


def _answer(name: str) -> str:
    return f"answer/{name}"


def _here(world: str, name: str) -> str:
    return f"{world}/here/{name}"


def _all_here(world: str) -> str:
    return f"{world}/all-here"
