"""Start the processes of a run, watch them, end them. Knows strings only: entry, arguments, environment.

``start`` gives a :class:`Job` to watch; ``spawn`` starts, waits and raises. A :class:`Warm` parent, made
early, imports heavy modules while the caller does other things; ranks are then forked from it at once.
"""

from __future__ import annotations

from modelwright.launch.job import Failure, Job, JobStatus, raise_failure
from modelwright.launch.local import start
from modelwright.launch.placement import Placement
from modelwright.launch.spawning import spawn
from modelwright.launch.warm import Warm

__all__ = ["Failure", "Job", "JobStatus", "Placement", "Warm", "raise_failure", "spawn", "start"]
