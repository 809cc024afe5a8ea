"""The bucketed all-reduce against sums written out, in whole numbers, so that nothing may differ by a bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.objectives.regression import Regression
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.exchanges.none import NoExchange
from modelwright.parallel.layouts.replicate import Replicate
from modelwright.parallel.program import LocalProgram

HERE = "tests.parallel.test_all_reduce"
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

Gradients = list[list[float] | None]


@dataclass(frozen=True, kw_only=True)
class Noting(Group):
    """A group that notes the sizes of its reductions, and may leave one out."""

    sizes: list[int] = field(default_factory=list)
    dropped: int | None = None

    def all_reduce(self, tensor: Tensor, op: Any = "sum", asynchronous: bool = False) -> Any:
        self.sizes.append(tensor.numel())
        if len(self.sizes) - 1 == self.dropped:
            tensor = tensor.clone()
        return super().all_reduce(tensor, op, asynchronous)


def noting(group: Group, dropped: int | None = None) -> Noting:
    return Noting(
        rank=group.rank,
        size=group.size,
        process_group=group.process_group,
        transport=group.transport,
        dropped=dropped,
    )


# --- a step in whole numbers


def values(seed: int, rank: int, micro_batch: int, parameter: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, rank, micro_batch, parameter]).integers(-9, 10, size)


def used(seed: int, rank: int, micro_batch: int, parameter: int, share: float) -> bool:
    return bool(np.random.default_rng([seed, rank, micro_batch, parameter, 1]).random() < share)


def make_parameters(shapes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.zeros(tuple(shape), dtype=DTYPES[dtypes[place % len(dtypes)]]))
        for place, shape in enumerate(shapes)
    ]


def losses(parameters: list[nn.Parameter], case: dict[str, Any], seed: int, rank: int) -> Iterator[Tensor]:
    """A loss per micro-batch, whose gradient is known; ranks reach the parameters in different orders."""
    for number in range(case["micro_batches"]):
        loss = torch.zeros((), dtype=torch.float64, requires_grad=True)
        order = range(len(parameters))
        for place in order if rank % 2 else reversed(order):
            if used(seed, rank, number, place, case["share"]):
                parameter = parameters[place]
                weights = values(seed, rank, number, place, parameter.numel())
                loss = loss + (parameter * torch.from_numpy(weights).view_as(parameter)).sum()
        yield loss


def reduced(mesh: Mesh, case: dict[str, Any], dropped: int | None = None) -> dict[str, Any]:
    """Two steps of a case: the gradients of each, the sizes of all reductions, and how many were early."""
    parameters = make_parameters(case["shapes"], case["dtypes"])
    group = noting(mesh.world, dropped)
    exchange = AllReduce(bucket=case["bucket"]).build(group)
    exchange.attach(parameters)
    found: list[Gradients] = []
    early = []
    for step in range(2):
        begun = len(group.sizes)
        for number, loss in enumerate(losses(parameters, case, case["seed"] + step, mesh.rank), start=1):
            with exchange.backward(last=number == case["micro_batches"]):
                loss.backward()
            if number < case["micro_batches"]:
                assert len(group.sizes) == begun
        early.append(len(group.sizes) - begun)
        exchange.before_step()
        exchange.after_step()
        found.append([None if p.grad is None else p.grad.double().flatten().tolist() for p in parameters])
        for parameter in parameters:
            assert parameter.grad is None or (parameter.grad.dtype, parameter.grad.shape) == (
                parameter.dtype,
                parameter.shape,
            )
            parameter.grad = None
    return {"found": found, "sizes": group.sizes, "early": early}


def reduce_cases(mesh: Mesh, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [reduced(mesh, case) for case in cases]


def expected(case: dict[str, Any], workers: int, step: int) -> Gradients:
    sums: Gradients = []
    seed = case["seed"] + step
    for place, shape in enumerate(case["shapes"]):
        size = int(np.prod(shape))
        pieces = [
            values(seed, rank, number, place, size)
            for rank in range(workers)
            for number in range(case["micro_batches"])
            if used(seed, rank, number, place, case["share"])
        ]
        sums.append([float(value) for value in np.sum(pieces, axis=0)] if pieces else None)
    return sums


def random_cases(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    cases = []
    for seed in range(count):
        shapes = [list(map(int, random.integers(1, 8, random.integers(0, 4)))) for _ in range(random.integers(1, 9))]
        cases.append(
            {
                "seed": 10 * seed,
                "shapes": shapes,
                "dtypes": [["float32"], ["float64"], ["bfloat16"], ["float32", "float64", "bfloat16"]][seed % 4],
                "bucket": int(random.choice([1, 40, 200, 1000, 10**6])),
                "micro_batches": int(random.integers(1, 4)),
                "share": float(random.choice([0.0, 0.3, 0.7, 1.0], p=[0.1, 0.3, 0.3, 0.3])),
            }
        )
    return cases


@pytest.mark.parametrize("workers", [2, 3])
def test_gradients_are_summed_exactly(workers: int) -> None:
    """Also those of parameters that only some ranks, some micro-batches, or nobody used."""
    cases = random_cases(40)
    results = run_world(f"{HERE}:reduce_cases", workers, cases=cases)
    unused = partly = 0
    for number, case in enumerate(cases):
        wanted = [expected(case, workers, step) for step in range(2)]
        for rank in range(workers):
            assert results[rank][number]["found"] == wanted, (rank, case)
        assert len({str(results[rank][number]["sizes"]) for rank in range(workers)}) == 1
        unused += sum(gradient is None for gradient in wanted[0])
        partly += 0 < sum(used(case["seed"], rank, 0, 0, case["share"]) for rank in range(workers)) < workers
    assert unused > 5  # the cases do contain what they are to test
    assert partly > 5


CASE = {
    "seed": 0,
    "shapes": [[8], [4, 4], [100], [2], [3]],
    "dtypes": ["float32"],
    "micro_batches": 2,
    "bucket": 64,
    "share": 1.0,
}


def test_buckets_begin_with_the_last_parameters_and_hold_no_more_than_they_should() -> None:
    """Each carries one flag per parameter; a parameter larger than a bucket travels alone."""
    (first, _) = run_world(f"{HERE}:reduce_cases", 2, cases=[CASE])
    assert first[0]["sizes"] == 2 * [3 + 2 + 2, 100 + 1, 16 + 1, 8 + 1]
    joined = run_world(f"{HERE}:reduce_cases", 2, cases=[{**CASE, "bucket": 10**6}])
    assert joined[0][0]["sizes"] == 2 * [129 + 5]
    mixed = run_world(f"{HERE}:reduce_cases", 2, cases=[{**CASE, "bucket": 10**6, "dtypes": ["float32", "float64"]}])
    assert mixed[0][0]["sizes"] == 2 * [3 + 100 + 8 + 3, 2 + 16 + 2]


def test_buckets_leave_while_the_backward_computes() -> None:
    whole = run_world(f"{HERE}:reduce_cases", 2, cases=[CASE, {**CASE, "share": 0.0}])
    for rank in range(2):
        assert whole[rank][0]["early"] == [4, 4]
        assert whole[rank][1]["early"] == [0, 0]


def reduce_but_one(mesh: Mesh, dropped: int) -> dict[str, Any]:
    return reduced(mesh, CASE, dropped)


@pytest.mark.parametrize("dropped", [0, 1, 3, 5])
def test_a_reduction_that_is_left_out_is_noticed(dropped: int) -> None:
    wanted = [expected(CASE, 2, step) for step in range(2)]
    for result in run_world(f"{HERE}:reduce_but_one", 2, dropped=dropped):
        assert result["found"] != wanted
        assert result["found"][1 - dropped // 4] == wanted[1 - dropped // 4]  # the other step is whole


# --- what the last micro-batch does not use


def last_without(mesh: Mesh) -> list[float]:
    """Used in the first micro-batch alone, on rank 0 alone; its bucket also holds one that is always used."""
    sometimes, always = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
    exchange = AllReduce(bucket=10**6).build(mesh.world)
    exchange.attach([sometimes, always])
    with exchange.backward(last=False):
        (3 * always + (5 * sometimes if mesh.rank == 0 else 0)).backward()
    with exchange.backward(last=True):
        (10 * always).backward()
    exchange.before_step()
    return [float(parameter.grad) for parameter in (sometimes, always)]


def test_an_earlier_micro_batch_is_not_forgotten() -> None:
    assert run_world(f"{HERE}:last_without", 2) == [[5.0, 26.0]] * 2


def strided(mesh: Mesh) -> list[Any]:
    parameter = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    weights = torch.arange(24.0).reshape(2, 3, 2, 2) * (mesh.rank + 1)
    exchange = AllReduce(bucket=100).build(mesh.world)
    exchange.attach([parameter])
    with exchange.backward(last=True):
        (parameter * weights).sum().backward()
    exchange.before_step()
    assert parameter.grad.stride() == parameter.stride()
    return parameter.grad.tolist()


def test_the_order_of_memory_does_not_matter() -> None:
    wanted = (torch.arange(24.0).reshape(2, 3, 2, 2) * 3).tolist()
    assert run_world(f"{HERE}:strided", 2) == [wanted, wanted]


def sparse(mesh: Mesh) -> str:
    embedding = nn.Embedding(4, 2, sparse=True)
    exchange = AllReduce(bucket=100).build(mesh.world)
    exchange.attach([embedding.weight])
    with pytest.raises(ModelwrightError) as caught, exchange.backward(last=True):
        embedding(torch.tensor([1])).sum().backward()
    return str(caught.value)


def test_sparse_gradients_are_refused() -> None:
    assert all("sparse=False" in said for said in run_world(f"{HERE}:sparse", 2))


# --- the technique


def test_a_world_of_one_exchanges_nothing() -> None:
    exchange = AllReduce().build(Group(0, 1))
    assert isinstance(exchange, NoExchange)
    parameter = nn.Parameter(torch.ones(()))
    exchange.attach([parameter])
    with exchange.backward(last=True):
        (2 * parameter).backward()
    exchange.before_step()
    exchange.after_step()
    assert (float(parameter.grad), exchange.state({})) == (2.0, {})


@pytest.mark.parametrize("bucket", [0, -1])
def test_a_bucket_holds_something(bucket: int) -> None:
    with pytest.raises(ModelwrightError, match="bucket must be positive"):
        AllReduce(bucket=bucket)


# --- the layout that uses it


class Normed(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Parameter(torch.rand(2), requires_grad=False)
        self.register_buffer("unsaved", torch.rand(2), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.layer(inputs)) + self.frozen


def replicate(mesh: Mesh) -> dict[str, Any]:
    events: list[Event] = []
    program = LocalProgram(Normed(seed=mesh.rank), Regression(), device=torch.device("cpu"))
    with listening(events.append):
        replicated = Replicate().apply(program, mesh)
    begin = [value.sum().item() for value in (*replicated.tensors().values(), replicated.model.unsaved)]
    torch.manual_seed(mesh.rank)
    batch = {"inputs": torch.randn(4, 3), "targets": torch.randn(4, 2)}
    replicated.forward_backward([batch], {"squared-error": torch.tensor(16)})
    replicated.exchange.before_step()
    apart = replicated.model.norm.running_mean.tolist()
    replicated.synchronise()
    return {
        "begin": begin,
        "gradients": [parameter.grad.tolist() for parameter in replicated.parameters()],
        "frozen": replicated.model.frozen.grad is None,
        "apart": apart,
        "together": replicated.model.norm.running_mean.tolist(),
        "events": [event.kind for event in events],
    }


def test_replicas_begin_alike_and_stay_alike() -> None:
    first, second = run_world(f"{HERE}:replicate", 2)
    assert first["begin"] == second["begin"]
    model = Normed(seed=0)
    assert first["begin"] == [value.sum().item() for value in (*model.state_dict().values(), model.unsaved)]
    assert first["gradients"] == second["gradients"]
    assert first["frozen"]
    assert first["apart"] != second["apart"]  # each saw its own samples
    assert first["together"] == second["together"] == first["apart"]
    assert (first["events"], second["events"]) == (["batch-norm-inexact"], [])  # said once


def along_an_axis(mesh: Mesh) -> float:
    parameter = nn.Parameter(torch.zeros(()))
    exchange = AllReduce().build(mesh.axis("replicate"))
    exchange.attach([parameter])
    with exchange.backward(last=True):
        (10**mesh.rank * parameter).backward()
    exchange.before_step()
    return float(parameter.grad)


def test_only_the_ranks_of_the_axis_are_summed() -> None:
    found = run_world(f"{HERE}:along_an_axis", 4, layout={"pipeline": 2, "replicate": 2})
    assert found == [11.0, 11.0, 1100.0, 1100.0]
