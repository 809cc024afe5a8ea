"""Elastic worlds: where a worker dies the others go back to the newest checkpoint and go on; later the world grows.

One process watches (:mod:`modelwright.app.watch`), forms each world and names it: two of them never stand side by side.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Literal

from modelwright.app.placing import placement
from modelwright.app.replan import whole_plan
from modelwright.app.session import logged
from modelwright.app.shrinking import smaller, usable
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.plan import Plan
from modelwright.base.units import seconds_text
from modelwright.launch import Failure, Job, JobStatus, Warm, start
from modelwright.launch.pulse import read_beat
from modelwright.recipe import load_recipe
from modelwright.recipe.schema import Launch
from modelwright.runs import Run, read_events

IN_VAIN = 3  # Worlds in a row that reach no new step: then it is not the workers.
_ENTRY = "modelwright.app.worker"
_ENDINGS = ("worker-lost", "worker-left", "world-grows")


class Worlds:
    """The worlds of a run, one after another: how many workers each has, and whether another one follows.

    Without ``launch.min`` there is one, of the plan's workers.

    Args:
        run: what they work on.
        plan: its newest; one that was made for want of workers is taken back to the whole size.
        launch: the recipe's wishes; without a port each world meets at a free one.
        warm: what the workers are forked from.

    Attributes:
        plan: of the present world.
        attempt: how many went before it.

    Raises:
        ModelwrightError: the plan has fewer workers than ``launch.min``.
    """

    def __init__(self, run: Run, plan: Plan, launch: Launch, warm: Warm) -> None:
        self._run, self._launch, self._warm = run, launch, warm
        self._batch = load_recipe(run.recipe_path).batch
        self._whole = plan if launch.min is None else _whole(run, launch, self._batch)
        self.plan = plan if launch.min is None else run.write_plan(self._whole)
        self.attempt = 0
        self._before = self.plan.workers
        self._ended: float | None = None  # when the world before ended, until the present one works
        self._works_since = time.monotonic()
        self._quiet = launch.rejoin
        self._growing = False
        self._furthest = self._in_vain = 0
        if plan.workers > self._whole.workers:
            allowed = self._whole.workers
            message = f"{allowed} instead of {plan.workers} workers train, the most that launch.max allows"
            self._say("workers-capped", message, level="warning", workers=allowed, planned=plan.workers)

    def start(self) -> Job:
        """Form the world that is due; it has a name that no earlier one had, under which its ranks find each other."""
        where = placement(self.plan, self._launch.port)
        if self._launch.min is not None:
            where = replace(where, grace=0.0)  # where one dies the others stand in a collective, and have nothing to do
        arguments = [str(self._run.path)]
        return start(_ENTRY, arguments, where, logs=self._run.logs, attempt=self.attempt, warm=self._warm)

    def look(self) -> bool:
        """Asked now and then: whether the present world is to stop and save, so that a larger one can follow."""
        if self._launch.min is None or self._growing:
            return False
        if self._ended is not None:
            self._notice_formed()
            return False
        quiet = time.monotonic() - self._works_since
        if self.plan.workers >= self._whole.workers or quiet < self._quiet:
            return False
        self._growing = True
        whole = self._whole.workers
        self._say("world-grows", f"no worker was lost for {seconds_text(quiet)}: {whole} workers go on", workers=whole)
        return True

    def goes_on(self, status: JobStatus) -> bool:
        """After the end of a world: whether another follows, whose plan is then written."""
        if self._launch.min is None:
            return False
        workers = self._next_size(status, self._launch.min)
        self._growing = False
        if workers is not None:
            self._form(workers)
        return workers is not None

    def _next_size(self, status: JobStatus, least: int) -> int | None:
        if status.failure is not None:
            return self._after_loss(status.failure, least)
        if self._ended is not None:  # it did all there was to do between two looks
            self._tell_formed()
        self._in_vain = 0  # this world ended in order: those in vain are no longer in a row
        stands = self._run.status()
        if stands == "finished":
            return None
        if self._growing:
            return self._whole.workers
        return self._after_leaving(least) if stands == "stopped" else None

    def _after_loss(self, failure: Failure, least: int) -> int | None:
        """What a rank raised it would raise again: only deaths by a signal are taken for the loss of a worker."""
        if not failure.lost:
            return None
        before = self.plan.workers
        left = before - len(failure.lost)
        self._say(
            "worker-lost",
            f"{failure.what} in step {failure.step}; {left} of {before} workers are left",
            level="warning",
            ranks=list(failure.lost),
            signal=failure.signal,
            step=failure.step,
            before=before,
            left=left,
        )
        if reason := self._reason_to_end(left, least, failure.step):
            self._say("world-given-up", f"the world is not formed again: {reason}", level="warning")
            return None
        self._quiet = self._longer_quiet()
        return self._usable(left)

    def _reason_to_end(self, left: int, least: int, step: int) -> str:
        self._in_vain = 0 if step > self._furthest else self._in_vain + 1
        self._furthest = max(step, self._furthest)
        able, hindrance = usable(self._whole, left, self._batch)
        if able < least:
            lost = f", and of {left} only {able} could go on: {hindrance}" if hindrance else ""
            return f"launch.min asks for at least {least} workers{lost}"
        return f"{IN_VAIN} worlds in a row reached no new step" if self._in_vain >= IN_VAIN else ""

    def _usable(self, left: int) -> int:
        """The most of these workers that can go on, and a word of those that cannot."""
        able, hindrance = usable(self._whole, left, self._batch)
        if hindrance:
            message = f"{able} of the {left} workers that are left go on: {hindrance}"
            self._say("workers-left-out", message, level="warning", workers=able, left=left, reason=hindrance)
        return able

    def _after_leaving(self, least: int) -> int | None:
        """Somebody asked a single worker to leave, as a spot machine's notice does; all of them stopped and saved."""
        before = self.plan.workers
        after, _ = usable(self._whole, before - 1, self._batch)
        if after < least:
            return None
        self._usable(before - 1)
        self._say("worker-left", f"a worker was asked to leave; {after} of {before} go on", before=before)
        return after

    def _longer_quiet(self) -> float:
        """A world that grew and soon lost a worker again has cost more than it gained: then wait twice as long."""
        soon = time.monotonic() - self._works_since < self._quiet
        grew = self.plan.workers > self._before
        return 2 * self._quiet if soon and grew else self._launch.rejoin

    def _form(self, workers: int) -> None:
        self._before, self._ended = self.plan.workers, time.monotonic()
        self._works_since = self._ended
        self.plan = self._run.write_plan(smaller(self._whole, workers, self._batch))
        self._run.update(status="running")
        self.attempt += 1

    def _notice_formed(self) -> None:
        beat = read_beat(self._run.logs, 0)
        if beat is not None and beat.step:
            self._tell_formed()

    def _tell_formed(self) -> None:
        now = time.monotonic()
        step, seconds = _resumed_at(self._run), now - (self._ended or now)
        workers = self.plan.workers
        self._say(
            "world-reformed",
            f"{workers} workers, {self._before} before, go on after step {step}, {seconds_text(seconds)} later",
            before=self._before,
            workers=workers,
            step=step,
            seconds=seconds,
            plan=self.plan.number,
            attempt=self.attempt,
        )
        self._ended, self._works_since = None, now

    def _say(self, kind: str, message: str, *, level: str = "info", **details: object) -> None:
        with logged(self._run):
            emit(kind, message, level=level, **details)


def check_sizes(launch: Launch, workers: int | Literal["auto"]) -> None:
    """Refuse a least number of workers that the run cannot have.

    Raises:
        ModelwrightError: with both numbers.
    """
    if launch.min is not None and workers != "auto" and launch.min > workers:
        raise ModelwrightError(
            f"launch.min asks for at least {launch.min} workers, but the plan has {workers}",
            where="launch.min",
            remedy=f"lower it to {workers} or less, or raise plan.workers",
        )


def modules_of(value: object) -> set[str]:
    """Modules of our own that a recipe's techniques come from. A user's are imported by the ranks themselves."""
    if isinstance(value, Mapping):
        return set().union(*map(modules_of, value.values()))
    if isinstance(value, tuple):
        return set().union(*map(modules_of, value))
    if not is_dataclass(value):
        return set()
    own = type(value).__module__
    inner = (modules_of(getattr(value, entry.name)) for entry in fields(value))
    return set().union(*inner) | ({own} if own.startswith("modelwright.") else set())


def _whole(run: Run, launch: Launch, batch: int) -> Plan:
    """The plan of the world in which nobody is missing."""
    plan = whole_plan(run, launch)
    if launch.max is not None and plan.workers > launch.max:
        plan = smaller(plan, usable(plan, launch.max, batch)[0] or launch.max, batch)
    check_sizes(launch, plan.workers)
    return plan


def _resumed_at(run: Run) -> int:
    """The step after which the present world goes on; 0 where it begins anew, for want of a checkpoint."""
    for event in reversed(read_events(run.events_path)):
        if event.kind == "resumed":
            return int(event.details["step"])
        if event.kind in _ENDINGS:
            break
    return 0
