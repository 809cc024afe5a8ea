"""Which rank failed first, and what it said: the others only noticed."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.launch.hang import last_signs
from modelwright.launch.job import Failure
from modelwright.launch.logs import log_path
from modelwright.launch.pulse import furthest_step
from modelwright.launch.warm import Exit

_LINES = 15
_TAIL_BYTES = 16384
# A kill from outside is noticed later than what it does to the peers; and no peer's death leads to one.
_KILLED_EARLIER = 0.5


@dataclass(frozen=True, kw_only=True)
class Death:
    """A rank that failed: how it ended, and the exception it left, if any."""

    rank: int
    exit: Exit
    report: dict[str, Any] | None

    @property
    def victim(self) -> bool:
        """Whether it only tells that a peer has gone."""
        return bool(self.report and self.report["victim"])

    @property
    def at(self) -> float:
        """When it failed, on the machine's monotonic clock."""
        if self.exit.signal == signal.SIGKILL:
            return self.exit.at - _KILLED_EARLIER
        return float(self.report["at"]) if self.report else self.exit.at


def culprit(deaths: Sequence[Death]) -> Death:
    """The first that really failed; only where all are victims, the first of them."""
    return min(deaths, key=lambda death: (death.victim, death.at))


def describe(deaths: Sequence[Death], logs: Path) -> Failure:
    """The failure of a job, told by its culprit."""
    death = culprit(deaths)
    report = death.report
    told = bool(report and report["told"])
    log = log_path(logs, death.rank)
    return Failure(
        rank=death.rank,
        exit_code=death.exit.code,
        signal=_signal_name(death.exit.signal),
        last_lines=last_lines(log),
        error=report if told else None,
        exception=_with_last_signs(str(report["what"]), death, logs) if report and not told else None,
        log=log,
        lost=_lost(deaths) if _killed(death, deaths) else (),
        step=furthest_step(logs),
    )


def _killed(death: Death, deaths: Sequence[Death]) -> bool:
    """Whether it was the loss of a worker. One that gives up where another raised only lost that peer."""
    gave_up = death.exit.signal == signal.SIGABRT and any(other.report for other in deaths)
    return bool(death.exit.signal) and not gave_up


def _lost(deaths: Sequence[Death]) -> tuple[int, ...]:
    """Who died of a signal. What a rank raised over the loss of a peer is only a consequence."""
    return tuple(sorted(death.rank for death in deaths if death.exit.signal))


def _with_last_signs(what: str, death: Death, logs: Path) -> str:
    """Where only victims are known, as after the timeout of a collective: what each rank did last."""
    signs = last_signs(logs) if death.victim else ""
    return f"{what}; last signs of life: {signs}" if signs else what


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a log, of its latest attempt."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    begin = max((place for place, line in enumerate(lines) if line.startswith("--- attempt ")), default=-1)
    return tuple(line.rstrip() for line in lines[begin + 1 :][-_LINES:])


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
