"""Hang watch: which rank stands where, and which ones wait for it, told by the process that waits for them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelwright.base.phases import Phase
from modelwright.base.units import seconds_text
from modelwright.launch.job import Job
from modelwright.launch.pulse import Beat, ranks_in, read_beat
from modelwright.launch.stacks import main_stack, place, reader_stack, waits

LEAST_STARTING = 120.0  # seconds that a start may take in any case: importing, meeting, reading
_LOOKS = 8  # in the time after which a rank is taken to hang


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one rank stands.

    Attributes:
        rank: which one.
        step, phase: what it does.
        seconds: since it began with that.
        place: ``file:line (function)`` of the innermost frame of the user's code, else of ours; ``""`` where the
            rank did not answer.
        waits: whether it only waits for others.
        state: what keeps it from answering, such as ``stopped``.
    """

    rank: int
    step: int
    phase: str
    seconds: float
    place: str = ""
    waits: bool = False
    state: str = ""

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        state = f", {self.state}" if self.state else ""
        return f"{self.phase} of step {self.step}{where} since {seconds_text(self.seconds)}{state}"


@dataclass(frozen=True, kw_only=True)
class Hang:
    """Some rank has not moved for too long.

    Attributes:
        standings: of every rank that still runs.
        over: whether the ranks that hung move again.
    """

    standings: tuple[Standing, ...]
    over: bool = False

    @property
    def culprits(self) -> tuple[Standing, ...]:
        """Ranks for which the others wait; all of them where each waits for the others."""
        alone = tuple(standing for standing in self.standings if not standing.waits)
        behind = min((standing.step for standing in self.standings), default=0)
        return alone or tuple(standing for standing in self.standings if standing.step == behind)

    @property
    def what(self) -> str:
        """The account, in one sentence."""
        if self.over:
            return "the ranks move again"
        culprits = self.culprits
        waiting = [standing for standing in self.standings if standing not in culprits]
        if all(standing.waits for standing in culprits) and not waiting:
            return f"all ranks wait for each other: {'; '.join(f'rank {each.rank} in {each}' for each in culprits)}"
        told = "; ".join(f"rank {each.rank} is in {each}" for each in culprits)
        return f"{told}; {_those_waiting(waiting)}" if waiting else told

    def to_json(self) -> list[dict[str, Any]]:
        """The standings as plain values."""
        return [asdict(standing) for standing in self.standings]


class HangWatch:
    """Looked at now and then by whoever waits for a job.

    Args:
        job: its ranks are asked for their stacks.
        logs: where they show signs of life.
        ranks: how many.
        seconds: without a sign from a rank for so long, it hangs.
    """

    def __init__(self, job: Job, logs: Path, ranks: int, seconds: float) -> None:
        self._job, self._logs, self._ranks, self._seconds = job, logs, ranks, seconds
        self._next = 0.0
        self._hung: dict[int, int] = {}  # rank -> count of beats when it was found

    def look(self) -> Hang | None:
        """A hang, once; its end, once; ``None`` while there is no news."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self._seconds / _LOOKS
        beats = {rank: beat for rank in range(self._ranks) if (beat := read_beat(self._logs, rank))}
        if self._hung:
            return self._look_for_end(beats)
        stale = {rank: beat.count for rank, beat in beats.items() if now - beat.at > self._patience(beat)}
        if not stale:
            return None
        self._hung = stale
        return Hang(standings=tuple(self._standings(beats)))

    def _look_for_end(self, beats: dict[int, Beat]) -> Hang | None:
        if any(rank in beats and beats[rank].count == count for rank, count in self._hung.items()):
            return None
        self._hung = {}
        return Hang(standings=tuple(standing(rank, beat) for rank, beat in beats.items()), over=True)

    def _patience(self, beat: Beat) -> float:
        if beat.phase is Phase.ENDED:
            return float("inf")
        return max(self._seconds, LEAST_STARTING) if beat.phase is Phase.STARTING else self._seconds

    def _standings(self, beats: dict[int, Beat]) -> list[Standing]:
        texts, pids = self._job.stacks(), self._job.pids
        return [
            standing(rank, beat, texts[rank], "" if texts[rank] else process_state(pids[rank]))
            for rank, beat in beats.items()
            if beat.phase is not Phase.ENDED
        ]


def standing(rank: int, beat: Beat, stacks: str = "", state: str = "") -> Standing:
    """Where a rank stands by its last beat and, if it gave them, its stacks."""
    stack = reader_stack(stacks) if beat.phase is Phase.DATA else main_stack(stacks)
    found = place(stack)
    return Standing(
        rank=rank,
        step=beat.step,
        phase=beat.phase.word,
        seconds=time.monotonic() - beat.at,
        place=str(found) if found else "",
        waits=beat.phase is Phase.EXCHANGE or waits(main_stack(stacks)),
        state=state,
    )


def last_signs(logs: Path) -> str:
    """What each rank did last, for the message of a job whose ranks only tell that a peer is lost."""
    beats = {rank: beat for rank in ranks_in(logs) if (beat := read_beat(logs, rank)) and beat.step}
    return "; ".join(f"rank {rank} in {standing(rank, beat)}" for rank, beat in beats.items())


def process_state(pid: int | None) -> str:
    """Why a process does not answer, where the system tells (Linux)."""
    with suppress(OSError, IndexError):
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = {"T": "stopped by a signal", "t": "stopped by a debugger", "D": "in uninterruptible sleep", "Z": "dead"}
        return words.get(letter, "does not answer")
    return "does not answer"


def _those_waiting(waiting: Sequence[Standing]) -> str:
    ranks = ", ".join(str(standing.rank) for standing in waiting)
    places = list(dict.fromkeys(f"{standing.phase} of step {standing.step}" for standing in waiting))
    plural = len(waiting) > 1
    return f"rank{'s' if plural else ''} {ranks} wait{'' if plural else 's'} for it in {' and '.join(places)}"
