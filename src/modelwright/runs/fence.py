"""The fence of a run: only the world that took it up last may publish anything in it.

A lock keeps out a second process on one machine. Over several machines it may keep out nobody, and a world that was
given up for dead may wake again. So each world that takes a run up writes its name into :file:`world.json`, and looks
before it publishes whether that is still its own. Between the look and the publishing lie microseconds, not nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.files import read_json, write_json
from modelwright.runs.process import this_process
from modelwright.runs.record import now

_NAME = "world.json"


class TakenOver(RunFailed):
    """Another world has taken the run up: it is not this one's any more, and nothing more is written to it."""


@dataclass(frozen=True)
class Fence:
    """The right of one world to write to a run.

    Attributes:
        run: folder of the run.
        generation: name of the world; no other has it.
    """

    run: Path
    generation: str

    @classmethod
    def take(cls, run: Path) -> Fence:
        """Take the run up: from now on every world that had it before is kept out.

        Raises:
            ModelwrightError: disk full, no permission.
        """
        fence = cls(run, uuid.uuid4().hex)
        write_json(run / _NAME, {"format": 1, "generation": fence.generation, "time": now(), **this_process()})
        return fence

    def check(self) -> None:
        """Ask before something is published.

        Raises:
            TakenOver: another world has taken the run up; says where and when.
            ModelwrightError: that cannot be found out.
        """
        holder = _read(self.run / _NAME)
        if holder.get("generation") != self.generation:
            raise TakenOver(
                f"another world has taken the run over: on {holder.get('host')}, at {holder.get('time')}",
                where=str(self.run),
                remedy="that one goes on from the newest checkpoint; nothing is to be done, unless it should not run",
            )


def held_elsewhere(run: Path) -> bool:
    """Whether a world on another machine was the last to take the run up."""
    try:
        holder = _read(run / _NAME)
    except (ModelwrightError, OSError):
        return False
    here = this_process()
    return any(holder.get(name) != here[name] for name in ("host", "boot"))


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelwrightError("this does not name a world", where=str(path), remedy="resume the run")
    return found
