"""The search for a plan, over machines and step times made up from formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.small import heard

from modelwright.base.cluster import Cluster
from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.plan import Plan
from modelwright.planning.request import PlanRequest
from modelwright.planning.search import LOST, WORTH, Measurement, choose, default_plan, measured

CPU = Cluster(device_name="made up", cores=4, memory_bytes=10**9)
FAST_BF16 = Cluster(device_name="made up", cores=4, memory_bytes=10**9, features=("avx2", "amx_bf16"))
GPUS = Cluster(device="cuda", devices=2, device_bytes=10**8, device_name="made up", cores=16, memory_bytes=10**12)
KERNELS = ("sdpa", "explicit")

Cost = Callable[[Plan], float]


class Bench:
    """Measures by a formula, and notes what it was asked."""

    def __init__(self, cost: Cost, peak: Cost = lambda plan: 1e6, snapshot: int = 0) -> None:
        self.cost, self.peak, self.snapshot = cost, peak, snapshot
        self.asked: list[Plan] = []
        self.limits: list[float] = []

    def __call__(self, plan: Plan, limit: float = math.inf) -> Measurement:
        self.asked.append(plan)
        self.limits.append(limit)
        seconds = self.cost(plan)
        return Measurement(
            step_seconds=seconds,
            low=0.9 * seconds,
            high=1.2 * seconds,
            peak_bytes=int(self.peak(plan)),
            steps=5,
            snapshot_bytes=self.snapshot,
        )


def chosen(
    bench: Bench, cluster: Cluster = CPU, batch: int = 16, kernels: tuple[str, ...] = (), **request: Any
) -> Plan:
    return choose(PlanRequest(**request), cluster, batch=batch, kernels=kernels, measure=bench)


def out_of_memory_above(micro_batch: int) -> Cost:
    def cost(plan: Plan) -> float:
        if plan.micro_batch > micro_batch:
            raise RunFailed("the device ran out of memory")
        return 1.0

    return cost


# --- the fastest


def test_each_coordinate_is_chosen_by_what_was_measured() -> None:
    """The best of everything: bf16, explicit attention, 2 workers, micro-batches of 4."""

    def cost(plan: Plan) -> float:
        precision = 1.0 if plan.precision == "bf16" else 3.0
        attention = 1.0 if plan.attention == "explicit" else 1.5
        workers = {1: 3.0, 2: 1.0, 4: 2.0}[plan.workers]
        return precision * attention * workers * (1 + 0.1 * abs(plan.micro_batch - 4))

    bench = Bench(cost)
    plan = chosen(bench, FAST_BF16, kernels=KERNELS)
    assert (plan.precision, plan.attention, plan.workers, plan.micro_batch) == ("bf16", "explicit", 2, 4)
    assert (plan.threads, plan.layout, plan.device) == (2, {"replicate": 2}, "cpu")
    assert plan.steps == 1
    assert len(bench.asked) == len({str(asked) for asked in bench.asked}) < 14  # nothing twice


def test_precision_is_judged_again_with_the_workers_chosen() -> None:
    """Four workers are slow in whatever precision, and hide that fp32 is faster for one."""
    cost = {("bf16", 4): 5.0, ("fp32", 4): 5.0, ("bf16", 1): 2.0, ("fp32", 1): 1.0}
    plan = chosen(Bench(lambda plan: cost.get((plan.precision, plan.workers), 9.0)), FAST_BF16, micro_batch=4)
    assert (plan.workers, plan.precision) == (1, "fp32")


def test_more_workers_than_are_worth_it_are_not_taken() -> None:
    assert chosen(Bench(lambda plan: 1.0 / plan.workers)).workers == 4
    assert chosen(Bench(lambda plan: 1.0 * plan.workers)).workers == 1
    assert chosen(Bench(lambda plan: 1.0 / plan.workers), batch=2).workers == 2  # never more than samples


@pytest.mark.parametrize("gain", [1.0, 0.99, WORTH + 0.001, WORTH - 0.001, 0.5])
def test_a_challenger_has_to_be_clearly_faster(gain: float) -> None:
    """What was measured first is kept where the difference may be noise."""
    bench = Bench(lambda plan: {"bf16": 1.0, "fp32": gain}[plan.precision])
    plan = chosen(bench, FAST_BF16, workers=1, threads=4, micro_batch=16)
    assert [asked.precision for asked in bench.asked] == ["bf16", "fp32"]
    assert plan.precision == ("fp32" if gain < WORTH else "bf16")


def test_half_as_many_threads_are_tried_too() -> None:
    plan = chosen(Bench(lambda plan: plan.workers + 0.1 * plan.threads))
    assert (plan.workers, plan.threads) == (1, 2)
    assert chosen(Bench(lambda plan: plan.workers - 0.1 * plan.threads)).threads == 4


def test_a_candidate_that_has_lost_is_not_measured_on() -> None:
    bench = Bench(lambda plan: 2.0 / plan.workers)
    assert chosen(bench).workers == 4
    assert [asked.workers for asked in bench.asked] == [4, 1, 2, 4]
    assert bench.limits == [math.inf] + [LOST * 0.5] * 3


def test_the_reasons_name_what_was_tried() -> None:
    plan = chosen(Bench(lambda plan: 1.0 / plan.workers), kernels=KERNELS)
    assert plan.reasons == {
        "workers": "4: 250 ms, 2: 500 ms, 1: 1 s a step",
        "threads": "1: 250 ms, 2: 500 ms, 4: 1 s a step",
        "micro_batch": "4: 250 ms, 2: 250 ms, 8: 500 ms, 16: 1 s a step",
        "precision": "the only one tried",
        "attention": "sdpa: 250 ms, explicit: 250 ms a step",
    }


def test_the_prediction_is_what_was_measured() -> None:
    plan = chosen(Bench(lambda plan: 0.5, lambda plan: 3e6), workers=2)
    prediction = plan.prediction
    assert prediction is not None
    assert (prediction.step_seconds, prediction.step_seconds_low, prediction.step_seconds_high) == (0.5, 0.45, 0.6)
    assert (prediction.peak_bytes, prediction.samples_per_second) == (3_000_000, 32.0)
    assert prediction.source == "measured: 5 steps of the real loop"
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_measured_apart_gets_the_same_fields() -> None:
    found = Measurement(step_seconds=0.25, low=0.2, high=0.3, peak_bytes=7, steps=3)
    plan = measured(default_plan(PlanRequest(), CPU, batch=8, kernels=()), found, batch=8)
    assert plan.prediction is not None
    assert (plan.prediction.samples_per_second, plan.prediction.peak_bytes) == (32.0, 7)


# --- memory


def test_what_does_not_fit_is_refused() -> None:
    """More workers would be faster, but the machine's memory holds two; on a GPU each has its own."""
    with heard() as events:
        plan = chosen(Bench(lambda plan: 1.0 / plan.workers, lambda plan: 4e8))
    assert plan.workers == 2
    assert [event.kind for event in events] == ["plan-refused"]
    assert "1.6 GB are needed, 1 GB are there" in events[0].message
    assert chosen(Bench(lambda plan: 1.0, lambda plan: 9e7), GPUS).workers == 2
    with heard(), pytest.raises(ModelwrightError, match="does not fit: 110 MB are needed, 100 MB are there"):
        chosen(Bench(lambda plan: 1.0, lambda plan: 1.1e8), GPUS)


def test_smaller_micro_batches_are_tried_until_one_fits() -> None:
    with heard():
        plan = chosen(Bench(lambda plan: 1.0, lambda plan: 1e8 * plan.micro_batch), workers=2)
    assert plan.micro_batch == 4
    with heard() as events:
        plan = chosen(Bench(out_of_memory_above(3)), workers=1, threads=4)
    assert plan.micro_batch == 2
    assert plan.prediction is not None
    assert [event.kind for event in events] == ["plan-refused"] * 3
    assert events[0].message == "1 x 4 threads, micro-batch 16, fp32: the device ran out of memory"


def test_where_nothing_fits_the_last_reason_is_raised() -> None:
    with heard(), pytest.raises(ModelwrightError, match="does not fit: 2 GB are needed") as caught:
        chosen(Bench(lambda plan: 1.0, lambda plan: 2e9))
    assert caught.value.remedy
    with heard(), pytest.raises(RunFailed, match="ran out of memory"):
        chosen(Bench(out_of_memory_above(0)))
    with heard(), pytest.raises(RunFailed, match="ran out of memory"):
        chosen(Bench(out_of_memory_above(3)), micro_batch=4)  # the user's micro-batch is not changed


def test_fewer_workers_with_smaller_micro_batches_are_tried_too() -> None:
    """Each worker has the model, which four of do not fit; one worker alone has to compute in smaller pieces."""
    with heard():
        plan = chosen(Bench(lambda plan: 1.0, lambda plan: 4e8 + 5e7 * plan.micro_batch))
    assert plan.workers * (4e8 + 5e7 * plan.micro_batch) <= CPU.memory_bytes


def test_one_candidate_that_fails_is_not_the_end() -> None:
    def cost(plan: Plan) -> float:
        if plan.precision == "bf16":
            raise RunFailed("rank 0 died of SIGILL")
        return 1.0

    with heard() as events:
        plan = chosen(Bench(cost), FAST_BF16, workers=1, micro_batch=16)
    assert plan.precision == "fp32"
    assert [event.kind for event in events] == ["plan-refused"]


def test_a_mistake_of_the_users_is_raised_at_once() -> None:
    """It would fail in every other plan just as well."""

    def cost(plan: Plan) -> float:
        raise ModelwrightError("the model failed on a batch")

    bench = Bench(cost)
    with heard() as events, pytest.raises(ModelwrightError, match="the model failed on a batch"):
        chosen(bench, FAST_BF16, kernels=KERNELS)
    assert len(bench.asked) == 1
    assert events == []


# --- requests

WISHES: dict[str, list[Any]] = {
    "workers": [1, 2, 3],
    "threads": [1, 3],
    "micro_batch": [1, 3, 8, 16],
    "precision": ["fp32", "bf16"],
    "attention": ["sdpa", "explicit"],
}


@pytest.mark.parametrize(("name", "wish"), [(name, wish) for name, wishes in WISHES.items() for wish in wishes])
@pytest.mark.parametrize("cluster", [CPU, FAST_BF16], ids=["no bf16", "bf16"])
def test_what_is_fixed_stays_fixed(name: str, wish: Any, cluster: Cluster) -> None:
    """Every plan that is measured respects it; a micro-batch is never larger than a worker's share."""
    bench = Bench(lambda plan: 1.0 / plan.workers)
    plan = chosen(bench, cluster, kernels=KERNELS, **{name: wish})
    for asked in [*bench.asked, plan]:
        share = -(-16 // asked.workers)
        assert getattr(asked, name) == (min(wish, share) if name == "micro_batch" else wish)
        assert asked.workers * (asked.threads if name != "threads" else 1) <= max(cluster.cores, asked.workers)


@given(
    cores=st.integers(1, 64),
    batch=st.integers(1, 300),
    wish=st.one_of(st.just("auto"), st.integers(1, 8)),
    micro_batch=st.one_of(st.just("auto"), st.integers(1, 64)),
    ideal=st.integers(1, 64),
)
def test_every_plan_makes_sense(cores: int, batch: int, wish: Any, micro_batch: Any, ideal: int) -> None:
    workers = wish if wish == "auto" else min(wish, batch, 4 * cores)
    cluster = Cluster(device_name="made up", cores=cores, memory_bytes=10**9)
    bench = Bench(lambda plan: 1.0 / plan.workers + abs(plan.micro_batch - ideal))
    plan = chosen(bench, cluster, batch, workers=workers, micro_batch=micro_batch)
    assert plan.prediction is not None
    for asked in bench.asked:
        assert asked.layout == {"replicate": asked.workers}
        assert asked.workers == workers if workers != "auto" else 1 <= asked.workers <= min(cores, batch)
        assert 1 <= asked.micro_batch <= -(-batch // asked.workers)
        assert asked.threads in (max(1, cores // asked.workers), max(1, cores // asked.workers // 2))
        assert plan.prediction.step_seconds <= bench.cost(asked) / WORTH + 1e-12


def test_an_attention_kernel_that_is_not_offered_is_a_mistake() -> None:
    bench = Bench(lambda plan: 1.0)
    with pytest.raises(ModelwrightError, match="no attention kernel 'explicit'") as caught:
        chosen(bench, attention="explicit")
    assert caught.value.where == "plan.attention"
    assert "offers no choice" in caught.value.remedy
    with pytest.raises(ModelwrightError) as caught:
        chosen(bench, attention="explicit", kernels=("sdpa",))
    assert caught.value.remedy == "known: sdpa"
    assert bench.asked == []
    assert chosen(bench).attention is None


def test_gpus_are_all_used() -> None:
    plan = chosen(Bench(lambda plan: 1.0), GPUS)
    assert (plan.workers, plan.device, plan.threads) == (2, "cuda", 8)
    assert plan.precision == "bf16"


@pytest.mark.parametrize("name", ["workers", "threads", "micro_batch"])
def test_requests_for_nothing_are_refused(name: str) -> None:
    with pytest.raises(ModelwrightError, match=f"'{name}' must be at least 1, not 0") as caught:
        PlanRequest(**{name: 0})
    assert caught.value.where == name


@pytest.mark.parametrize(
    ("cluster", "workers", "message"),
    [
        (CPU, 17, "a batch of 16 cannot be shared by 17 workers"),
        (GPUS, 3, "3 workers are too many for this machine, which has 2 accelerators"),
    ],
)
def test_more_workers_than_there_is_work_or_room_for_are_refused(cluster: Cluster, workers: int, message: str) -> None:
    bench = Bench(lambda plan: 1.0)
    with pytest.raises(ModelwrightError, match=message) as caught:
        chosen(bench, cluster, workers=workers)
    assert caught.value.where in ("batch", "plan.workers")
    assert caught.value.remedy
    assert bench.asked == []


# --- without measuring


def test_workers_that_are_there_already_may_be_on_several_machines() -> None:
    request = PlanRequest(workers=12)
    assert default_plan(request, GPUS, batch=16, kernels=(), launched=False).workers == 12
    with pytest.raises(ModelwrightError, match="12 workers are too many for this machine"):
        default_plan(request, GPUS, batch=16, kernels=())
    with pytest.raises(ModelwrightError, match="a batch of 8 cannot be shared by 12 workers"):
        default_plan(request, GPUS, batch=8, kernels=(), launched=False)


def test_the_usual_plan() -> None:
    plan = default_plan(PlanRequest(), FAST_BF16, batch=10, kernels=KERNELS)
    assert (plan.workers, plan.threads, plan.micro_batch) == (4, 1, 3)
    assert (plan.precision, plan.attention, plan.prediction) == ("bf16", "sdpa", None)
    small = default_plan(PlanRequest(workers=1, micro_batch=100), CPU, batch=10, kernels=())
    assert (small.workers, small.threads, small.micro_batch, small.precision) == (1, 4, 10, "fp32")


# --- the copy of the state that is written


@pytest.mark.parametrize(
    ("cluster", "snapshot", "fits"),
    [(CPU, 9 * 10**8, True), (CPU, 10**9, False), (GPUS, 10**9, True), (GPUS, 2 * 10**12, False)],
)
def test_a_plan_has_room_for_the_snapshot_on_the_host(cluster: Cluster, snapshot: int, fits: bool) -> None:
    bench = Bench(lambda plan: 1.0, snapshot=snapshot)
    if not fits:
        with pytest.raises(ModelwrightError, match="does not fit"):
            chosen(bench, cluster, batch=2, workers=1)
        return
    plan = chosen(bench, cluster, batch=2, workers=1)
    assert plan.prediction is not None
    assert plan.prediction.peak_bytes == 10**6 + (snapshot if cluster is CPU else 0)
