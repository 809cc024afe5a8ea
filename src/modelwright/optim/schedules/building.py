"""From the configuration of a schedule to the schedule of one run."""

from __future__ import annotations

from typing import cast

from modelwright.optim import Schedule, StatefulSchedule


def built(technique: object) -> Schedule:
    """The schedule itself: most are their own configuration, one that remembers offers ``build()``."""
    build = getattr(technique, "build", None)
    return cast(Schedule, technique if build is None else build())


def remembering(schedule: Schedule | None) -> StatefulSchedule | None:
    """The schedule, if it wants to be told scores and has a state to be saved; else ``None``."""
    return cast(StatefulSchedule, schedule) if hasattr(schedule, "observe") else None
