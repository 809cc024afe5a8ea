"""Trials: runs that are struck at random instants, gone on with until they are finished, and judged."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from chaos_commands import Begin, Command, Forked
from chaos_evidence import Allowed, Outcome, Verdict, accounting, difference, judge, outcome, weight_difference
from chaos_jobs import Fields, with_workers
from chaos_looks import (
    CLOSE_LOOK,
    attempts,
    await_true,
    died,
    is_finished,
    living,
    save_under_way,
    slay,
    watched,
)
from modelwright.app.assemble import assemble
from modelwright.runs import Run
from modelwright.runs.sample_log import read_samples

LOSSES = 1e-6  # at other world sizes, whose sums round otherwise
FACTOR = 4.0  # times what undisturbed runs of fewer workers differ by
MOST_SITTINGS = 20
VICTIMS = ("one worker", "all workers", "command and workers")


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What was drawn.

    Attributes:
        at: the instant, in seconds after the workers were there.
        victim: of :data:`VICTIMS`.
        aimed: whether it then waits for a save to begin.
        part: of a save's usual time, after which it then hits.
        which: worker, from 0 to 1.
    """

    at: float
    victim: str
    aimed: bool = False
    part: float = 0.0
    which: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Kill:
    """A strike that hit.

    Attributes:
        strike: what was drawn.
        inside_save: whether one was under way, looked at right before and right after.
        furthest: the step that had been begun.
        time: when.
        useful_after: seconds to the next step that had not been done before.
    """

    strike: Strike
    inside_save: bool
    furthest: int
    time: float
    useful_after: float = 0.0

    def known(self, run: Run, ended: float) -> Kill:
        """With the time until a worker wrote down that it goes beyond ``furthest``, which is then done."""
        later = [used.time for used in read_samples(run) if used.time > self.time and used.step > self.furthest]
        return replace(self, useful_after=min(later, default=ended) - self.time)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run, its kills, and what became of it.

    Attributes:
        recoveries: worlds that were formed after the first.
        missed: strikes that hit nobody, or a run that had ended; no kills, and drawn again.
    """

    job: str
    number: int
    kills: list[Kill]
    missed: int
    recoveries: int
    seconds: float
    path: str
    verdict: Verdict

    @property
    def exact(self) -> bool:
        return self.verdict.exact


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run that nobody struck.

    Attributes:
        seconds: from when the workers were there to the end.
        saves: seconds that each save took, from its beginning to a whole checkpoint.
        sources: sizes of what was mixed.
    """

    run: Run
    seconds: float
    saves: list[float]
    sources: list[int]
    outcome: Outcome


@dataclass
class Chaos:
    """Trials of one job, beside an undisturbed run of it.

    Attributes:
        name: of the job.
        folder: for its runs.
        inside: part of the strikes that wait for a save to begin.
        most_kills: of one run.
    """

    name: str
    folder: Path
    fields: Fields
    seed: int = 0
    begin: Begin = Forked
    victims: Sequence[str] = VICTIMS
    inside: float = 0.0
    most_kills: int = 2
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    _run: Run | None = None
    _command: Command | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.elastic = "launch" in self.fields
        self.undisturbed = self._undisturbed("undisturbed", self.fields)
        self.allowed = self._calibrated() if self.elastic else Allowed()

    def trial(self, number: int) -> Trial:
        """Train, strike, go on until it is finished. A run without a kill is drawn again, unless it is not exact."""
        generator = random.Random(f"{self.seed} {self.name} {number}")
        for again in count():
            trial = self._tried(number, f"trial-{number}-{again}", generator)
            if trial.kills or not trial.exact:
                return trial
            shutil.rmtree(trial.path)
        raise AssertionError

    def close(self) -> None:
        """End what is under way."""
        if self._command is None or self._run is None or self._command.code is not None:
            return
        for pid in (self._command.pid, *living(self._run)):
            slay(pid)
        self._command.wait()

    def _undisturbed(self, name: str, fields: Fields) -> Undisturbed:
        run, command = self._train(name, fields)
        await_true(lambda: living(run), command)
        begin, since = time.monotonic(), time.time()
        saves = list(watched(lambda: save_under_way(run, since), lambda: is_finished(run) or command.code is not None))
        seconds = time.monotonic() - begin
        command.wait()
        if not is_finished(run):
            raise RuntimeError(f"the undisturbed run failed; its output: {command.said.read_text()[-2000:]}")
        found, sources = outcome(run), sources_of(run)
        if accounting(found.samples, found.samples, sources) != (0, 0) or is_torn(found, run):
            raise RuntimeError(f"the undisturbed run {run.path} lost or repeated samples itself")
        return Undisturbed(run=run, seconds=seconds, saves=saves, sources=sources, outcome=found)

    def _calibrated(self) -> Allowed:
        """What rounding alone does: as much as undisturbed runs of fewer workers differ, and a little more."""
        expected = self.undisturbed.outcome
        for workers in (2, 1):
            found = self._undisturbed(f"undisturbed-{workers}", with_workers(self.fields, workers)).outcome
            self.calibration[f"{workers} workers"] = {
                "losses": difference(found.losses, expected.losses),
                "weights": weight_difference(found.weights, expected.weights),
            }
        weights = max(found["weights"] for found in self.calibration.values())
        return Allowed(losses=LOSSES, weights=FACTOR * max(weights, float(np.finfo(np.float32).eps)))

    def _train(self, name: str, fields: Fields) -> tuple[Run, Command]:
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
        self._run = Run(self.folder / name)
        return self._run, self._begun("train", str(recipe), "--name", name)

    def _begun(self, *arguments: str) -> Command:
        self._command = self.begin([*arguments, "--folder", str(self.folder)], self.folder / "said.txt")
        return self._command

    def _tried(self, number: int, name: str, generator: random.Random) -> Trial:
        begin = time.monotonic()
        run, command = self._train(name, self.fields)
        kills: list[Kill] = []
        wished, sittings, missed = generator.randint(1, self.most_kills), 1, 0
        while not is_finished(run):
            if len(kills) < wished:
                kill = self.strike(run, command, self._drawn(generator))
                kills, missed = (kills, missed + 1) if kill is None else ([*kills, kill], missed)
            if self.elastic and len(kills) < wished and command.code is None:
                continue
            command.wait()
            if not is_finished(run):
                if sittings == MOST_SITTINGS:
                    said = command.said.read_text()[-2000:]
                    raise RuntimeError(f"{run.path} is not finished after {sittings} sittings; its output: {said}")
                command, sittings = self._begun("resume", run.name), sittings + 1
        command.wait()
        ended = time.time()
        return Trial(
            job=self.name,
            number=number,
            kills=[kill.known(run, ended) for kill in kills],
            missed=missed,
            recoveries=attempts(run) - 1,
            seconds=time.monotonic() - begin,
            path=str(run.path),
            verdict=self.judged(run),
        )

    def judged(self, run: Run) -> Verdict:
        """A finished run beside the undisturbed one."""
        return judge(outcome(run), self.undisturbed.outcome, self.undisturbed.sources, self.allowed)

    def _drawn(self, generator: random.Random) -> Strike:
        return Strike(
            at=generator.uniform(0, self.undisturbed.seconds),
            victim=generator.choice(self.victims),
            aimed=generator.random() < self.inside,
            part=generator.random(),
            which=generator.random(),
        )

    def strike(self, run: Run, command: Command, strike: Strike) -> Kill | None:
        """Wait for the workers and for the instant, and strike; ``None`` where nobody died of it."""
        await_true(lambda: living(run) or is_finished(run), command)
        there = time.time()
        await_true(lambda: is_finished(run), command, strike.at)
        if strike.aimed and not self._await_save(run, command, there, strike.part):
            return None
        pids = living(run)
        if not pids or is_finished(run):
            return None
        struck = [pids[int(strike.which * len(pids))]] if strike.victim == VICTIMS[0] else pids
        if strike.victim == VICTIMS[2]:
            struck = [command.pid, *pids]
        since, before = time.time(), save_under_way(run, there)
        hit = [slay(pid) for pid in struck]
        after, now = save_under_way(run, there), time.time()
        furthest = max((used.step for used in read_samples(run)), default=0)
        if not all(hit) or not died(run, command, struck, since):
            return None
        inside = before is not None and before == after
        return Kill(strike=strike, inside_save=inside, furthest=furthest, time=now)

    def _await_save(self, run: Run, command: Command, since: float, part: float) -> bool:
        """Wait for a save to begin, and then for ``part`` of what one usually takes."""
        present = save_under_way(run, since)
        begun = await_true(lambda: save_under_way(run, since) not in (None, present), command, look=CLOSE_LOOK)
        if begun:
            time.sleep(part * statistics.median(self.undisturbed.saves))
        return begun


def sources_of(run: Run) -> list[int]:
    """Sizes of the sources of a run's data, in the order of its numbering."""
    data: Any = assemble(run).data.train
    begins = [*sorted(getattr(data, "begins", {"": 0}).values()), len(data)]
    return [int(size) for size in np.diff(begins)]


def is_torn(found: Outcome, run: Run) -> bool:
    """Whether steps are missing, or have not all the same number of samples."""
    plan = run.plan()
    sizes = {len(samples) for samples in found.samples.values()}
    return plan is None or sorted(found.samples) != list(range(1, plan.steps + 1)) or len(sizes) != 1
