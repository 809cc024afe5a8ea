"""A plan for the same job with other workers, threads, micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.training.small import heard

from modelwright.app.replan import EXACT, INEXACT, REFORMED, differing, revised, tell, whole_plan
from modelwright.base.cluster import Cluster
from modelwright.base.errors import ModelwrightError
from modelwright.base.plan import Plan
from modelwright.planning.request import PlanRequest
from modelwright.recipe.schema import Launch
from modelwright.runs import Run

CLUSTER = Cluster(device="cpu", device_name="", cores=4, memory_bytes=2**33)
PLAN = Plan(workers=2, threads=2, layout={"replicate": 2}, micro_batch=3, precision="bf16", compile=True, steps=9)


def again(*fields: str, batch: int = 12, **wishes: object) -> Plan:
    return revised(PLAN, PlanRequest(**wishes), fields, batch=batch, cluster=CLUSTER)  # type: ignore[arg-type]


def test_what_is_not_named_stays_whatever_the_planner_would_choose() -> None:
    assert again() is PLAN
    assert again(threads=1, precision="fp32", compile=False) is PLAN
    assert differing(PLAN, again("threads", threads=1)) == ["threads"]


@pytest.mark.parametrize(("workers", "threads", "micro_batch"), [(1, 4, 3), (4, 1, 3), (2, 2, 3)])
def test_threads_follow_the_workers_and_micro_batches_stay(workers: int, threads: int, micro_batch: int) -> None:
    found = again("workers", workers=workers)
    assert (found.workers, found.threads, found.micro_batch) == (workers, threads, micro_batch)
    assert found.layout == {"replicate": workers} and found.precision == "bf16" and found.compile
    assert again("workers", workers=workers, threads=2).threads == 2


def test_a_micro_batch_is_at_most_the_share() -> None:
    assert again("workers", workers=4, batch=8).micro_batch == 2
    assert again(batch=4).micro_batch == 2  # a branch with another batch


def test_auto_is_the_usual_value() -> None:
    assert again("workers").workers == 4
    assert again("compile").compile is False
    assert again("micro_batch").micro_batch == 6


def test_a_revised_plan_has_nothing_measured_and_says_why() -> None:
    found = again("threads", threads=1)
    assert found.prediction is None
    assert found.reasons["threads"] == "resumed; it was 2"


def test_more_workers_than_samples() -> None:
    with pytest.raises(ModelwrightError, match="a batch of 3 cannot be shared by 4 workers"):
        again("workers", workers=4, batch=3)


@pytest.mark.parametrize("name", [*INEXACT, *EXACT])
def test_every_field_is_told(name: str) -> None:
    others = {"workers": 1, "threads": 1, "micro_batch": 1, "compile": False, "device": "cuda", "layout": {"tensor": 2}}
    other = others.get(name, "other")
    with heard() as events:
        tell(PLAN, Plan(**{**vars(PLAN), name: other}), 7)
    (event,) = events
    assert event.kind == "replanned" and event.details["step"] == 7
    assert event.details["exact"] is (name == "offload")  # of a compiled plan: recomputing fuses otherwise
    assert ("dropout" in event.message) is (name in ("workers", "micro_batch", "attention", "compile"))
    assert ("batch norm" in event.message) is (name in ("workers", "micro_batch"))


def test_recomputing_changes_no_bit_of_what_is_not_compiled() -> None:
    eager = Plan(**{**vars(PLAN), "compile": False})
    with heard() as events:
        tell(eager, Plan(**{**vars(eager), "recompute": "full"}), 7)
    assert events[0].details["exact"] is True


def test_nothing_is_told_of_nothing() -> None:
    with heard() as events:
        tell(PLAN, PLAN, 7)
    assert events == []


def test_a_plan_made_for_want_of_workers_is_not_the_one_to_go_on_from(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", "train")
    whole = run.write_plan(PLAN)
    shrunk = run.write_plan(Plan(**{**vars(PLAN), "workers": 1, "reasons": {REFORMED: "1 of 2 workers"}}))
    assert whole_plan(run, Launch(min=1)) == whole
    assert whole_plan(run, Launch()) == shrunk
