"""Watch launched workers: show their metrics, pass on a wish to stop, report when they are done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console

from modelwright.app.display import TrainingScreen
from modelwright.app.elastic import Worlds, modules_of
from modelwright.app.failing import failing
from modelwright.app.reporting import report_or_say
from modelwright.app.session import logged, write_environment
from modelwright.app.stopping import CutShort, StopRequest, stop_requested
from modelwright.base.errors import ModelwrightError, RunFailed, Stopped
from modelwright.base.events import emit
from modelwright.base.plan import Plan
from modelwright.base.units import seconds_text
from modelwright.launch import Failure, Job, JobStatus, Warm, raise_failure
from modelwright.launch.hang import Hang, HangWatch
from modelwright.recipe import load_recipe
from modelwright.runs import LoggedEvent, Run, follow, follow_events
from modelwright.runs.fence import TakenOver
from modelwright.training.watching import Watch

POLL_SECONDS = 0.2


def run_workers(run: Run, plan: Plan, warm: Warm, console: Console, *, watch: Watch | None = None) -> None:
    """Launch the workers of a planned run and stay with them to the end; its recipe says where they meet.

    Ctrl-C and SIGTERM are passed on: the workers finish the step in hand, save and leave; a second one ends them
    at once. Where a worker dies and ``launch.min`` allows it, the others go on: :mod:`modelwright.app.elastic`.

    Args:
        run: what they work on.
        plan: how many, where.
        warm: what they are forked from.
        console: where progress is shown.
        watch: how long a worker may be silent, and what follows.

    Raises:
        RunFailed: a worker failed, or hangs and is to be stopped for that; the run's record says so.
        Stopped: a signal asked for a stop, and all is saved; or a second one, and what was not saved is lost.
    """
    recipe = load_recipe(run.recipe_path)
    warm.also(modules_of(recipe))
    write_environment(run)
    with (
        _reported_when_failed(run, console),
        _told_when_cut_short(run),
        stop_requested() as stopping,
        failing(run),
    ):
        worlds, news = Worlds(run, plan, recipe.launch, warm), _News(run)
        status = _sit(run, worlds, news, stopping, console, watch or Watch())
        while not stopping() and worlds.goes_on(status):
            status = _sit(run, worlds, news, stopping, console, watch or Watch())
        if status.failure is not None:
            _fail(status.failure, run)
    report_or_say(run, console)
    if run.status() == "finished":
        return
    if stopping.signal is not None:
        raise _stopped(run, plan, stopping.signal)
    raise RunFailed(
        "the workers left before the run was finished, though nobody asked for it here",
        where=str(run.path),
        remedy=_resume(run),
    )


def _sit(run: Run, worlds: Worlds, news: _News, stopping: StopRequest, console: Console, watch: Watch) -> JobStatus:
    """One world, from its forming to its end."""
    plan = worlds.plan
    with (
        worlds.start() as job,
        TrainingScreen(console, total=plan.steps, workers=plan.workers) as screen,
        _killed_when_cut_short(job),
    ):
        hangs = HangWatch(job, run.logs, plan.workers, watch.hang) if watch.hang is not None else None
        told = False
        while (status := job.wait(POLL_SECONDS)).state == "running":
            if hangs is not None and (hang := hangs.look()):
                _tell(hang, run, watch)
            news.show(screen)
            if stopping() and not told:
                told = True
                console.print("stopping: the step in hand is finished and the state saved", highlight=False)
                job.terminate()
            elif not told and worlds.look():
                job.terminate()
        news.show(screen)
    return status


def _tell(hang: Hang, run: Run, watch: Watch) -> None:
    """Write it to the run's events, from which the screen has it; and end the run where that is wished."""
    kind, level = ("hang-over", "info") if hang.over else ("hang", "warning")
    message = hang.what if hang.over else f"no sign of life for {seconds_text(watch.hang or 0.0)}: {hang.what}"
    with logged(run):
        emit(kind, message, level=level, ranks=hang.to_json(), stacks="logs/rank-*.stack")
    if not hang.over and watch.hang_action == "stop":
        raise RunFailed(message, where=str(run.logs), remedy=_resume(run))


@contextmanager
def _killed_when_cut_short(job: Job) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        job.kill()
        raise


@contextmanager
def _reported_when_failed(run: Run, console: Console) -> Iterator[None]:
    try:
        yield
    except RunFailed:
        report_or_say(run, console)
        raise


@contextmanager
def _told_when_cut_short(run: Run) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(
            "ended at once by a second signal; steps since the newest checkpoint are lost",
            signal=error.number if isinstance(error, CutShort) else signal.SIGINT,
            where=str(run.path),
            remedy=_resume(run),
        ) from error


def _fail(failure: Failure, run: Run) -> NoReturn:
    """Whoever is to blame: the run began and could not go on."""
    try:
        raise_failure(failure)
    except ModelwrightError as error:
        if failure.error and failure.error.get("type") == TakenOver.__name__:
            raise TakenOver(error.what, where=error.where, remedy=error.remedy) from error
        raise RunFailed(error.what, where=error.where, remedy=error.remedy or _resume(run)) from error


def _stopped(run: Run, plan: Plan, number: int) -> Stopped:
    done = run.record.summary.get("steps", 0)
    return Stopped(
        f"stopped by {signal.Signals(number).name} after step {done} of {plan.steps}; everything is saved",
        signal=number,
        where=str(run.path),
        remedy=_resume(run),
    )


def _resume(run: Run) -> str:
    return f"go on with: modelwright resume {run.path}"


class _News:
    """What has been added to a run's metrics and events since the last look."""

    def __init__(self, run: Run) -> None:
        self._metrics = follow(run.metrics_path)
        self._events = follow_events(run.events_path)
        # Planning and earlier sittings have been told, and every rank tells what it sees.
        self._told = {event.message for event in self._events.poll()}
        self._metrics.poll()
        self._resumed = 0

    def show(self, screen: TrainingScreen) -> None:
        for event in self._events.poll():
            self._say(event, screen)
        for row in self._metrics.poll():
            if row["step"] > self._resumed:
                screen.show(row)

    def _say(self, event: LoggedEvent, screen: TrainingScreen) -> None:
        if event.kind == "resumed":
            self._resumed = int(event.details["step"])
        elif event.message in self._told:
            return
        self._told.add(event.message)
        screen.say(event)
