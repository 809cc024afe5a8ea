"""Ring and central against sums written out: in whole numbers to the bit, in others to rounding; and their traffic."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.parallel.exchanges.steps import SHAPES, several_cases, several_steps, summed
from tests.parallel.test_all_reduce import expected, losses, make_parameters, random_cases
from tests.world import run_world
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group, Work
from modelwright.base.world import Mesh
from modelwright.base.written import chosen
from modelwright.parallel import EXCHANGES
from modelwright.parallel.exchanges.bucketed import BucketedExchange
from modelwright.parallel.exchanges.compressions.none import NoCompression

HERE = "tests.parallel.exchanges.test_synchronous"
FLAGS, NUMBERS = len(SHAPES), sum(int(np.prod(shape)) for shape in SHAPES)


def whole_numbers(mesh: Mesh, cases: list[dict[str, Any]]) -> list[Any]:
    """Two steps of each case by each exchange: the gradients."""
    found = []
    for use, case in product(("ring", "central"), cases):
        parameters = make_parameters(case["shapes"], case["dtypes"])
        exchange = chosen({"use": use, "bucket": case["bucket"]}, EXCHANGES).build(mesh.world)
        exchange.attach(parameters)
        for step in range(2):
            for number, loss in enumerate(losses(parameters, case, case["seed"] + step, mesh.rank), start=1):
                with exchange.backward(last=number == case["micro_batches"]):
                    loss.backward()
            exchange.before_step()
            exchange.after_step()
            found.append([None if p.grad is None else p.grad.double().flatten().tolist() for p in parameters])
            for parameter in parameters:
                parameter.grad = None
    return found


@pytest.mark.parametrize("workers", [2, 3])
def test_whole_numbers_are_summed_exactly(workers: int) -> None:
    """Also those of parameters that only some ranks, some micro-batches, or nobody used."""
    cases = random_cases(12)
    wanted = [expected(case, workers, step) for case in cases for step in range(2)]
    for found in run_world(f"{HERE}:whole_numbers", workers, cases=cases):
        assert found == wanted + wanted


def outcomes(workers: int, *cases: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """By case, then by rank."""
    ranks = run_world(f"{several_cases.__module__}:several_cases", workers, cases=list(cases))
    return [[rank[number] for rank in ranks] for number in range(len(cases))]


def test_sums_are_those_of_one_process_and_the_same_on_every_rank() -> None:
    techniques = [
        {"use": use, "bucket": bucket} for use in ("all-reduce", "ring", "central") for bucket in (400, 10**6)
    ]
    for ranks in outcomes(3, *({"technique": technique, "steps": 2} for technique in techniques)):
        assert ranks[0]["found"] == ranks[1]["found"] == ranks[2]["found"]
        for number, found in enumerate(ranks[0]["found"]):
            for place, shape in enumerate(SHAPES):
                np.testing.assert_allclose(found[place], summed(number, 3, place, shape), rtol=0, atol=1e-12)


class Muddling(Group):
    """A group in which one of the tensors sent is other than it should be."""

    def exchange(self, *, send: Any = (), receive: Any = (), tag: int = 0) -> Work:
        return super().exchange(send=[(_muddled(tensor), peer) for tensor, peer in send], receive=receive, tag=tag)


_sent: list[Tensor] = []


def _muddled(tensor: Tensor) -> Tensor:
    _sent.append(tensor)
    return tensor if len(_sent) != 3 else tensor + 1


def muddled(mesh: Mesh, use: str) -> dict[str, Any]:
    world = mesh.world
    group = Muddling(world.rank, world.size, world.process_group) if world.rank == 1 else world
    return several_steps(Mesh(group, mesh.device, mesh.axes), {"use": use, "bucket": 400}, steps=1)


@pytest.mark.parametrize("use", ["ring", "central"])
def test_a_send_that_goes_wrong_is_noticed(use: str) -> None:
    found = run_world(f"{HERE}:muddled", 3, use=use)[0]["found"][0]
    wrong = [
        place
        for place, shape in enumerate(SHAPES)
        if not np.allclose(found[place], summed(0, 3, place, shape), rtol=0, atol=1e-12)
    ]
    assert wrong


# --- traffic, in bytes


def ring(compression: Any) -> dict[str, Any]:
    return {"technique": {"use": "ring", "compression": compression}, "steps": 2}


def test_two_ranks_send_what_the_formulas_say() -> None:
    """A ring sends 2 (ranks - 1) / ranks of everything, in an even number of pieces; bfloat16 a quarter of that."""
    whole, short, factored, pieces = outcomes(
        2,
        ring("none"),
        ring("bf16"),
        ring({"use": "powersgd", "rank": 2}),
        {"technique": {"use": "all-reduce", "compression": "bf16"}, "steps": 2},
    )
    even = NUMBERS + FLAGS + (NUMBERS + FLAGS) % 2
    first = NUMBERS - 6 * 20 - 3 * 8 - 12 * 9 + FLAGS + 2 * (6 + 3 + 12)
    second = 2 * (20 + 8 + 9)
    for rank in range(2):
        assert whole[rank]["sent"] == [8 * even] * 2
        assert short[rank]["sent"] == pieces[rank]["sent"] == [2 * even] * 2
        assert factored[rank]["sent"] == [8 * (first + first % 2 + second)] * 2


def test_three_ranks_send_what_the_formulas_say() -> None:
    """The centre sends to all others, and they to it; where buckets take turns all send as much."""
    around, there, in_turns = outcomes(
        3,
        ring("none"),
        {"technique": "central", "steps": 1},
        {"technique": {"use": "central", "bucket": 8}, "steps": 1, "shapes": [[10]] * 6},
    )
    padded = -(-(NUMBERS + FLAGS) // 3) * 3
    assert [rank["sent"] for rank in around] == [[2 * 2 * 8 * padded // 3] * 2] * 3
    whole = 8 * (NUMBERS + FLAGS)
    assert [rank["sent"] for rank in there] == [[2 * whole], [whole], [whole]]
    assert [rank["sent"] for rank in in_turns] == [[8 * 11 * (2 * 2 + 4 * 1)]] * 3  # each is the centre of two


def test_unknown_names_are_refused_by_the_family() -> None:
    with pytest.raises(ModelwrightError, match="no exchange named 'rings'"):
        chosen("rings", EXCHANGES)
    with pytest.raises(ModelwrightError, match="no compression named 'power'"):
        chosen({"use": "ring", "compression": "power"}, EXCHANGES)
    with pytest.raises(ModelwrightError, match="refused its settings"):
        chosen({"use": "ring", "size": 3}, EXCHANGES)


class Done:
    def wait(self) -> None:
        return


class Alone:
    """A sum of one rank."""

    def sum(self, tensor: Tensor, number: int) -> Iterator[Work]:
        yield Done()

    def sum_short(self, tensor: Tensor, number: int, wire: torch.dtype) -> Generator[Work, None, Tensor]:
        yield from ()
        return torch.zeros_like(tensor)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_gradient_that_comes_in_parts_is_not_sent_half(reentrant: bool) -> None:
    """Torch's older way of checkpointing has a backward of its own for each part, and so a gradient of each."""
    shared, other = nn.Linear(3, 3), nn.Linear(3, 3)
    exchange = BucketedExchange(2, 10**6, Alone(), NoCompression())
    exchange.attach([*shared.parameters(), *other.parameters()])
    x = torch.ones(2, 3, requires_grad=True)
    for layer in (shared, other, shared):
        x = checkpoint(layer, x, use_reentrant=reentrant)
    with exchange.backward(last=True):
        if reentrant:
            with pytest.raises(ModelwrightError, match="came twice in one backward"):
                x.sum().backward()
        else:
            x.sum().backward()
