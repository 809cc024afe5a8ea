"""Search by measurement: try a few plans in the real loop and keep the fastest that fits.

A coordinate search: precision and attention kernel together, then workers, threads and micro-batch in turn, then the
first two again; each measurement takes about a second, and what was tried is kept as the reason for the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

from modelwright.base.axes import data_ranks
from modelwright.base.cluster import Cluster
from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.events import emit
from modelwright.base.plan import Plan, Prediction
from modelwright.base.units import bytes_text, seconds_text
from modelwright.planning.request import PlanRequest

LOST = 1.25  # A step that takes so much longer than the champion's settles it.
WORTH = 0.97  # A challenger must take less than this part of the champion's time: measurements are noisy.
PER_STAGE = 4  # Micro-batches of a step for each rank of a pipeline, so that it waits little.
WORKERS_PER_CORE = 4  # More is a slip of the keyboard; a few to a core are slow, but test what many machines do.


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A plan, measured in the real loop.

    Attributes:
        step_seconds: median over the measured steps.
        low, high: fastest and slowest of them.
        peak_bytes: peak memory of the largest worker.
        steps: how many were measured.
        snapshot_bytes: host memory that one worker takes beside, for the copy of the state that is written.
    """

    step_seconds: float
    low: float
    high: float
    peak_bytes: int
    steps: int
    snapshot_bytes: int = 0


class Measure(Protocol):
    """Runs a plan's real loop for a few steps."""

    def __call__(self, plan: Plan, limit: float = math.inf) -> Measurement:
        """Measure ``plan``; steps that take longer than ``limit`` seconds settle it."""
        ...


def choose(request: PlanRequest, cluster: Cluster, *, batch: int, kernels: Sequence[str], measure: Measure) -> Plan:
    """The fastest plan that fits, with its prediction; ``steps`` is left at 1 for the caller to set.

    Args:
        request: what the user fixed, and what is ``auto``.
        cluster: where it will run.
        batch: samples per step over all workers.
        kernels: attention kernels the model offers; empty where it offers no choice.
        measure: runs a plan's real loop for a few steps.

    Raises:
        ModelwrightError: no plan fits in memory, or the request asks for what is not there.
    """
    start = default_plan(request, cluster, batch=batch, kernels=kernels)
    search = _Search(start, cluster, batch, measure)
    search.consider(_kernel_choices(search.best, request, cluster, kernels))
    search.consider(_worker_choices(search.best, request, cluster, batch))
    search.consider(_thread_choices(search.best, request))
    search.descend(request)
    if search.measured is not None:  # again, where workers or threads are others now
        search.consider(_kernel_choices(search.best, request, cluster, kernels))
    search.rescue(request, _worker_choices(search.best, request, cluster, batch))
    search.recompute(request, start)
    return search.result()


def choose_compiled(plan: Plan, *, batch: int, measure: Measure) -> Plan:
    """The plan with its blocks compiled, where that is faster once it is done; else the plan itself.

    Args:
        plan: measured.
        batch: samples per step over all workers.
        measure: runs a plan's real loop for a few steps.
    """
    assert plan.prediction is not None
    eager = plan.prediction.step_seconds
    try:
        found = measure(replace(plan, compile=True))
    except ModelwrightError as error:
        emit("plan-refused", f"compiled: {error.what}", level="warning")
        return plan
    reason = f"{seconds_text(found.step_seconds)} a step compiled, {seconds_text(eager)} not"
    better = found.step_seconds <= WORTH * eager
    chosen = measured(replace(plan, compile=True), found, batch) if better else plan
    return replace(chosen, reasons={**plan.reasons, "compile": reason})


def default_plan(
    request: PlanRequest, cluster: Cluster, *, batch: int, kernels: Sequence[str], launched: bool = True
) -> Plan:
    """The plan without any measurement: what is ``auto`` takes its most usual value.

    Args:
        request: what the user fixed, and what is ``auto``.
        cluster: this machine.
        batch: samples per step over all workers.
        kernels: attention kernels the model offers; empty where it offers no choice.
        launched: the workers are started on this machine; otherwise they are there already, perhaps on several.

    Raises:
        ModelwrightError: more workers than samples in a batch, or far more than the machine can run.
    """
    workers = _default_workers(request, cluster, batch)
    layout = request.sized(workers)
    check_share(data_ranks(layout), batch)
    if launched:
        check_workers(workers, cluster)
    return Plan(
        workers=workers,
        threads=_threads(request, cluster, workers),
        device=cluster.device,
        layout=layout,
        layouts=request.settings,
        micro_batch=_micro_batch(request, layout, batch),
        precision=_precisions(request, cluster)[0],
        attention=_kernels(request, kernels)[0],
        recompute="none" if request.recompute == "auto" else request.recompute,
        compile=request.compile is True,
        offload=request.offload,
        exchange=request.planned_exchange,
        steps=1,
        reasons={"plan": "usual values, not measured"},
    )


def check_share(workers: int, batch: int) -> None:
    """Refuse more workers than a batch has samples.

    Raises:
        ModelwrightError: with both numbers.
    """
    if workers > batch:
        raise ModelwrightError(
            f"a batch of {batch} cannot be shared by {workers} workers",
            where="batch",
            remedy=f"raise batch to at least {workers}, or plan.workers={batch}",
        )


def check_workers(workers: int, cluster: Cluster) -> None:
    """Refuse to start far more workers than the machine can run.

    Raises:
        ModelwrightError: with the largest number that it can.
    """
    most = cluster.devices or WORKERS_PER_CORE * cluster.cores
    if workers > most:
        has = f"{cluster.devices} accelerators" if cluster.devices else f"{cluster.cores} cores"
        raise ModelwrightError(
            f"{workers} workers are too many for this machine, which has {has}",
            where="plan.workers",
            remedy=f"leave it out, or give at most {most}",
        )


def measured(plan: Plan, measurement: Measurement, batch: int) -> Plan:
    """The plan with what was measured as its prediction."""
    prediction = Prediction(
        step_seconds=measurement.step_seconds,
        step_seconds_low=measurement.low,
        step_seconds_high=measurement.high,
        peak_bytes=measurement.peak_bytes + (measurement.snapshot_bytes if plan.device == "cpu" else 0),
        samples_per_second=batch / measurement.step_seconds,
        source=f"measured: {measurement.steps} steps of the real loop",
    )
    return replace(plan, prediction=prediction)


class _Search:
    """The champion so far and everything that was tried."""

    def __init__(self, start: Plan, cluster: Cluster, batch: int, measure: Measure) -> None:
        self.best = start
        self.measured: Measurement | None = None
        self._cluster, self._batch, self._measure = cluster, batch, measure
        self._seen: set[str] = set()
        self._tried: list[tuple[Plan, Measurement]] = []
        self._refused: ModelwrightError | None = None
        self._short_of_memory = False

    def consider(self, candidates: Iterator[Plan]) -> None:
        for candidate in candidates:
            self._challenge(candidate)

    def descend(self, request: PlanRequest) -> None:
        """Halve the micro-batch for as long as that is faster; where workers wait for each other it stays."""
        if self.best.layout.keys() & {"pipeline", "expert"}:
            return
        while request.micro_batch == "auto" and self.best.micro_batch > 1:
            smaller = replace(self.best, micro_batch=-(-self.best.micro_batch // 2))
            if self._challenge(smaller):
                continue
            if self.measured is not None:
                return
            self.best = smaller

    def rescue(self, request: PlanRequest, fewer: Iterator[Plan]) -> None:
        """Where nothing fits, begin again with fewer workers: each holds a copy of the model."""
        for start in reversed(list(fewer)):
            if self.measured is not None:
                return
            self.best = start
            self.descend(request)

    def recompute(self, request: PlanRequest, start: Plan) -> None:
        """Where nothing fits even so, give time for memory."""
        smallest = self.best
        for plan, kind in product((start, smallest), ("selective", "full")):
            if self.measured is not None or request.recompute != "auto" or not self._short_of_memory:
                return
            self.best = replace(plan, recompute=kind)
            try:
                self._challenge(self.best)
                self.descend(request)
            except ModelwrightError as error:  # a model without repeated blocks, for one: what was short is memory
                emit("plan-refused", f"recompute {kind}: {error.what}")
                return

    def result(self) -> Plan:
        if self.measured is None:
            raise self._refused or ModelwrightError("no plan could be measured")
        return replace(measured(self.best, self.measured, self._batch), reasons=_reasons(self.best, self._tried))

    def _challenge(self, candidate: Plan) -> bool:
        label = _label(candidate)
        if label in self._seen:
            return False
        self._seen.add(label)
        try:
            found = self._measure(candidate, LOST * self.measured.step_seconds if self.measured else math.inf)
        except RunFailed as error:
            self._short_of_memory |= "memory" in error.what or "SIGKILL" in error.what
            self._refuse(label, error)
            return False
        if not self._fits(candidate, found, label):
            return False
        self._tried.append((candidate, found))
        if self.measured and found.step_seconds > WORTH * self.measured.step_seconds:
            return False
        self.best, self.measured = candidate, found
        return True

    def _refuse(self, label: str, error: ModelwrightError) -> None:
        emit("plan-refused", f"{label}: {error.what}", level="warning")
        if self.measured is None:
            self._refused = error

    def _fits(self, candidate: Plan, found: Measurement, label: str) -> bool:
        cluster = self._cluster
        if cluster.device == "cuda":
            needs = [(found.peak_bytes, cluster.device_bytes), (found.snapshot_bytes, cluster.memory_bytes)]
        else:
            needs = [(found.peak_bytes * candidate.workers + found.snapshot_bytes, cluster.memory_bytes)]
        need, have = max(needs, key=lambda pair: pair[0] - pair[1])
        if need <= have:
            return True
        error = ModelwrightError(
            f"this plan does not fit: {bytes_text(need)} are needed, {bytes_text(have)} are there",
            remedy="choose a smaller model or batch",
        )
        self._short_of_memory = True
        self._refuse(label, error)
        return False


def _reasons(best: Plan, tried: Sequence[tuple[Plan, Measurement]]) -> dict[str, str]:
    """For each choice, the fastest step with each value that was tried."""
    reasons = {}
    for name in ("workers", "threads", "micro_batch", "precision", "attention", "recompute"):
        fastest: dict[object, float] = {}
        for plan, found in tried:
            value = getattr(plan, name)
            fastest[value] = min(found.step_seconds, fastest.get(value, math.inf))
        if len(fastest) > 1:
            ordered = sorted(fastest.items(), key=lambda item: item[1])
            reasons[name] = ", ".join(f"{value}: {seconds_text(seconds)}" for value, seconds in ordered) + " a step"
        elif getattr(best, name) not in (None, "none"):
            reasons[name] = "the only one tried"
    return reasons


def _kernel_choices(start: Plan, request: PlanRequest, cluster: Cluster, kernels: Sequence[str]) -> Iterator[Plan]:
    for precision, attention in product(_precisions(request, cluster), _kernels(request, kernels)):
        yield replace(start, precision=precision, attention=attention)


def _worker_choices(start: Plan, request: PlanRequest, cluster: Cluster, batch: int) -> Iterator[Plan]:
    if request.workers != "auto" or request.layout or cluster.device != "cpu":
        return
    workers = 1
    while workers <= min(cluster.cores, batch):
        yield replace(
            start,
            workers=workers,
            threads=_threads(request, cluster, workers),
            layout={"replicate": workers},
            micro_batch=_micro_batch(request, {"replicate": workers}, batch),
        )
        workers *= 2


def _thread_choices(start: Plan, request: PlanRequest) -> Iterator[Plan]:
    """Half as many threads too: the second of a core's two often only waits."""
    if request.threads == "auto" and start.threads > 1:
        yield replace(start, threads=start.threads // 2)


def _default_workers(request: PlanRequest, cluster: Cluster, batch: int) -> int:
    if request.workers != "auto":
        return int(request.workers)
    if request.layout:
        return math.prod(request.sizes.values())
    return max(1, min(cluster.devices or cluster.cores, batch))


def _micro_batch(request: PlanRequest, layout: Mapping[str, int], batch: int) -> int:
    share = -(-batch // data_ranks(layout))
    if request.micro_batch != "auto":
        return min(int(request.micro_batch), share)
    stages = layout.get("pipeline", 1)
    if stages == 1:
        return share
    # In a pipeline a step has several, all alike: several for each stage, if the share can be divided so.
    counts = [count for count in range(1, share + 1) if share % count == 0]
    return share // next((count for count in counts if count >= PER_STAGE * stages), counts[-1])


def _threads(request: PlanRequest, cluster: Cluster, workers: int) -> int:
    return max(1, cluster.cores // workers) if request.threads == "auto" else int(request.threads)


def _precisions(request: PlanRequest, cluster: Cluster) -> tuple[str, ...]:
    if request.precision != "auto":
        return (request.precision,)
    fast_bf16 = cluster.device == "cuda" or bool({"amx_bf16", "avx512_bf16"} & set(cluster.features))
    return ("bf16", "fp32") if fast_bf16 else ("fp32",)


def _kernels(request: PlanRequest, offered: Sequence[str]) -> tuple[str | None, ...]:
    if request.attention == "auto":
        return tuple(offered) or (None,)
    if request.attention not in offered:
        raise ModelwrightError(
            f"the model has no attention kernel '{request.attention}'",
            where="plan.attention",
            remedy=f"known: {', '.join(offered)}" if offered else "leave plan.attention out: it offers no choice",
        )
    return (request.attention,)


def _label(plan: Plan) -> str:
    attention = f", {plan.attention} attention" if plan.attention else ""
    extras = "".join(
        [f", recompute {plan.recompute}" if plan.recompute != "none" else "", ", compiled" if plan.compile else ""]
    )
    return (
        f"{plan.workers} x {plan.threads} threads, micro-batch {plan.micro_batch}, {plan.precision}{attention}{extras}"
    )
