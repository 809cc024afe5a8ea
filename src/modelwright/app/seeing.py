"""Seeing into a training that is recorded: profiles, gradient norms, utilisation, spikes and left-out steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from modelwright.base import phases
from modelwright.base.events import emit
from modelwright.base.files import make_folder, write_json
from modelwright.runs import Run
from modelwright.runs.plain import plain
from modelwright.training.budget import tokens_per_sample
from modelwright.training.fit import Record
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.diagnosis import diagnose
from modelwright.training.seeing.flops import FORMULA, count_flops, palm_flops_per_token
from modelwright.training.seeing.gradients import GradientNorms
from modelwright.training.seeing.peak import peak, utilisation
from modelwright.training.seeing.profiling import Profiler
from modelwright.training.seeing.spikes import SpikeDetector
from modelwright.training.seeing.worst import explain
from modelwright.training.steps import Step
from modelwright.training.watching import Watch

Row = dict[str, Any]
MOST_SPIKES = 10  # explained in a sitting; later ones are only told


class _Account(Protocol):
    @property
    def what(self) -> str:
        """The account, in a sentence or two."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ...


@contextmanager
def seeing(prepared: Prepared, run: Run, watch: Watch) -> Iterator[Seeing]:
    """Look into a training inside the block; what is not wished costs nothing.

    Args:
        prepared: the training, on every rank.
        run: takes ``profile/``, ``diagnosis/`` and the events.
        watch: what to look at.
    """
    program, rank = prepared.program, prepared.group.rank
    if prepared.divided:
        watch = _limited(watch, rank)
    norms = _norms(prepared, watch.gradients, watch.depth) if watch.gradients is not None else None
    profiler = Profiler(watch.profiled, run.path / "profile", program.model, program.device, rank=rank)
    with profiler.watching(), phases.watching(norms) if norms is not None else nullcontext():
        yield Seeing(prepared, run, watch, norms)


def _limited(watch: Watch, rank: int) -> Watch:
    """What replays a step or goes by module needs the whole model on each worker."""
    limited = replace(watch, gradients=None, spikes=False, diagnose=0, utilisation=False)
    if rank == 0 and limited != watch:
        emit(
            "seeing-limited",
            "where workers divide the model, gradient norms by module, spikes, replayed steps and utilisation are not "
            "seen",
            level="info" if watch.gradients is None else "warning",
        )
    return limited


def _norms(prepared: Prepared, every: int, depth: int) -> GradientNorms:

    def scale() -> float:
        """Of the update that has gradients now: each has a scale of its own."""
        for update in prepared.updates:
            if update.scale is not None and any(p.grad is not None for p in update.program.parameters()):
                return update.scale.value
        return 1.0

    return GradientNorms(
        prepared.program.model,
        every,
        depth=depth,
        norm=prepared.program.norm,
        scale=scale,
    )


class Seeing:
    """Called with each record, between two steps, on every rank alike.

    Steps are judged when their numbers have left the device: on an accelerator one step late, and then the weights
    of a replay are those of one update later.
    """

    def __init__(self, prepared: Prepared, run: Run, watch: Watch, gradients: GradientNorms | None = None) -> None:
        self._prepared, self._run, self._watch, self._gradients = prepared, run, watch, gradients
        self._waiting: deque[Step] = deque()
        self._detector = SpikeDetector() if watch.spikes else None
        self._diagnoses, self._spikes = 0, 0
        self._counted: Row = utilisation_facts(prepared) if watch.utilisation else {}
        if self._counted and prepared.group.rank == 0:
            write_json(run.path / "flops.json", {"format": 1, **plain(self._counted)})

    def __call__(self, record: Record) -> list[Row]:
        """Judge a step; rows for the metrics, those of gradient norms."""
        if isinstance(record, Step):
            self._waiting.append(record)
            while self._waiting and (self._waiting[0].reading.immediate or len(self._waiting) > 1):
                self._judge(self._waiting.popleft())
        return self._gradients.rows() if self._gradients is not None else []

    def finish(self) -> list[Row]:
        """The rows that are left."""
        return self._gradients.rows(all_of_them=True) if self._gradients is not None else []

    def summary(self, step_seconds: float | None) -> Row:
        """For the run's record: FLOPs, peak and utilisation at this time a step; the rest is in ``flops.json``."""
        if not self._counted or step_seconds is None:
            return {}
        facts, seconds = self._counted, step_seconds
        used = utilisation(facts["flops_per_step"], seconds, facts["peak_flops"], self._prepared.group.size)
        told = {name: facts[name] for name in ("flops_per_sample", "flops_per_step", "peak_flops", "peak_source")}
        return {"utilisation": used, **told}

    def _judge(self, step: Step) -> None:
        if step.masked:
            self._masked(step)
        elif self._detector is not None:
            self._look_for_spike(step)

    def _masked(self, step: Step) -> None:
        overflowed = any(update.scale is not None for update in self._prepared.updates)
        if step.valid == 0 or overflowed or self._diagnoses >= self._watch.diagnose:
            return  # nothing to find, or a loss scale's own business, or enough of it
        self._diagnoses += 1
        exact = step.reading.immediate and len(step.gradient_norms) == 1  # another update may have acted since
        self._tell("diagnosis", diagnose(self._prepared, step.number, exact=exact), step.number)

    def _look_for_spike(self, step: Step) -> None:
        assert self._detector is not None
        spike = self._detector(step.number, _loss(self._prepared, step))
        if spike is None or self._spikes >= MOST_SPIKES:
            return
        self._spikes += 1
        account = explain(self._prepared, spike, gradient_norm=step.gradient_norm, learning_rate=step.learning_rate)
        self._tell("loss-spike", account, step.number)

    def _tell(self, kind: str, account: _Account, step: int) -> None:
        if self._prepared.group.rank != 0:
            return
        folder = self._run.path / "diagnosis"
        told = plain(account.to_json())
        make_folder(folder)
        write_json(folder / f"step-{step}.json", {"format": 1, **told})
        details = {name: value for name, value in told.items() if name not in ("kind", "what", "step")}
        emit(kind, account.what, level="warning", step=step, **details)


def utilisation_facts(prepared: Prepared) -> Row:
    """What a step of this training needs, and what this device can do; every rank measures at the same time.

    Counted once, before the first step; ``{}`` where it cannot be counted, and an event says why.
    """
    try:
        flops = count_flops(prepared)
    except Exception as error:
        emit("flops-not-counted", f"the model's operations could not be counted: {type(error).__name__}: {error}")
        return {}
    possible = peak(prepared.program.device, prepared.plan.precision)
    if flops is None:
        return {}
    facts: Row = {
        "flops_per_sample": flops.sample,
        "flops_per_step": flops.sample * prepared.training.batch,
        "forward_flops_per_sample": flops.forward,
        "counted_on": flops.how,
        "formula": FORMULA,
        "by_operator": flops.by_operator,
        "peak_flops": possible.flops,
        "peak_source": possible.source,
        "workers": prepared.group.size,
    }
    tokens = tokens_per_sample(prepared.training.data.train)
    palm = palm_flops_per_token(prepared.program.model, tokens) if tokens else None
    return facts if palm is None or tokens is None else {**facts, "palm_flops_per_sample": palm * tokens}


def _loss(prepared: Prepared, step: Step) -> float:
    loss = step.loss(prepared.program.objective.coefficients)
    return loss if math.isfinite(loss) else math.nan
