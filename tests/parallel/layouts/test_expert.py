"""Experts on 2 and 4 ranks against one process that has all samples and all experts."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.models.balance import balancing
from modelwright.models.experts import Experts
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.experts import apply, expert_parameters
from modelwright.parallel.experts.spreading import check_experts
from modelwright.parallel.experts.travel import Travel
from modelwright.parallel.layouts.expert import Expert
from modelwright.parallel.parts import Part
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import set_recompute

HERE = "tests.parallel.layouts.test_expert"
VOCABULARY, SAMPLES, TIME, STEPS = 19, 8, 6, 2
CASES: list[dict[str, Any]] = [
    {"chosen": 1},
    {"chosen": 2, "accumulation": 2},
    {"chosen": 2, "tied": False, "idle": True, "uneven": True},
    {"chosen": 2, "recompute": "full", "activation": "gelu"},
    {"chosen": 3, "recompute": "selective", "uneven": True},
]


def language_model(case: dict[str, Any]) -> nn.Module:
    torch.manual_seed(5)
    model = GPT(
        vocabulary=VOCABULARY,
        layers=2,
        width=16,
        heads=2,
        hidden=12,
        experts=4,
        experts_per_token=case["chosen"],
        balance=case.get("balance", 0.2),
        tied_embeddings=case.get("tied", True),
        activation=case.get("activation", "swiglu"),
    ).build()
    if case.get("idle"):  # one expert of the last layer gets no token, then those of a whole rank
        model.blocks[1].feed_forward.router.weight.data[2:] = 0.0
        model.blocks[1].feed_forward.router.weight.data[:2] *= 100.0
    return model.double()


def batch(step: int, case: dict[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randint(VOCABULARY, (SAMPLES, TIME), generator=generator)
    targets = inputs.roll(-1, 1)
    if case.get("uneven"):  # the valid targets are mostly in the first samples
        targets[2:] = targets[2:].where(torch.rand(SAMPLES - 2, TIME, generator=generator) < 0.3, -100)
    return {"inputs": inputs, "targets": targets}


def differentiate(model: nn.Module, mine: list[dict[str, Tensor]], valid: int) -> tuple[Tensor, Tensor]:
    objective, total = NextToken(), torch.zeros((), dtype=torch.float64)
    with balancing(model, 1 / SAMPLES) as balance:
        for part in mine:
            loss = objective.loss(objective.forward(model, part), part)["cross-entropy"]
            (loss / valid).backward()
            total = total + loss.detach() / valid
    found = balance.total()
    assert found is not None
    return total, found / SAMPLES


def losses_of(model: nn.Module, case: dict[str, Any], group: Group, wrong: str = "") -> tuple[list[list[float]], Any]:
    """Train some steps; losses and gradient of the first."""
    owned = set(expert_parameters(model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses, first = [], None
    for step in range(STEPS):
        whole = batch(step, case)
        valid = int((whole["targets"] != -100).sum())
        share = torch.arange(SAMPLES).chunk(group.size)[group.rank].chunk(case.get("accumulation", 1))
        numbers = torch.stack(
            differentiate(model, [{name: value[rows] for name, value in whole.items()} for rows in share], valid)
        )
        for name, parameter in model.named_parameters():
            if name not in owned or wrong == "summed twice":
                group.all_reduce(parameter.grad)
        losses.append(group.all_reduce(numbers).tolist())
        first = first or {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    return losses, first


def worst(found: dict[str, Tensor], expected: dict[str, Tensor], parts: dict[str, Part]) -> float:
    assert found.keys() == expected.keys()
    pieces = {name: parts[name].take(value) if name in parts else value for name, value in expected.items()}
    return max(float((found[name] - pieces[name]).abs().max()) for name in found)


class Dropping(Travel):
    """Loses the first row that comes from elsewhere."""

    def __call__(self, rows: Tensor, sizes: Tensor, compute: Any) -> Tensor:
        done = super().__call__(rows, sizes, compute)
        return done * (torch.arange(len(done)) != len(done) - 1).unsqueeze(1)


def compare(mesh: Mesh, case: dict[str, Any], wrong: str = "") -> list[float]:
    alone = language_model(case)
    expected, of_one = losses_of(alone, case, Group(0, 1))
    model = language_model(case)
    program = LocalProgram(model, NextToken(), device=torch.device("cpu"))
    set_recompute(model, case.get("recompute", "none"))
    held = Expert().apply(program, mesh).held
    parts = held.parts
    assert sorted(parts) == sorted(expert_parameters(model))
    if wrong == "dropped":
        for module in model.modules():
            if isinstance(module, Experts):
                module.travel = Dropping(mesh.axis("expert"))
    found, first = losses_of(model, case, mesh.axis("expert"), wrong)
    with torch.no_grad():
        weights = worst(dict(model.named_parameters()), dict(alone.named_parameters()), parts)
    gap = (torch.tensor(found, dtype=torch.float64) - torch.tensor(expected, dtype=torch.float64)).abs().max()
    return [float(gap), worst(first, of_one, parts), weights]


def all_cases(mesh: Mesh) -> dict[str, Any]:
    return {
        "right": [compare(mesh, case) for case in CASES],
        "wrong": [compare(mesh, CASES[1], wrong) for wrong in ("summed twice", "dropped")],
        "traffic": traffic(mesh),
    }


def unequal(mesh: Mesh) -> list[float]:
    """Programs of ranks with 0, 1, 2 and 3 micro-batches, of different sizes."""
    case = CASES[1] | {"balance": 0.0}
    whole = batch(0, case)
    shares = (
        [[[0, 1], [2]], [[3, 4, 5, 6, 7]], [], []] if mesh.size == 2 else [[[0, 1]], [], [[2], [3, 4], [5]], [[6, 7]]]
    )
    alone = LocalProgram(language_model(case), NextToken(), device=torch.device("cpu"))
    counts = alone.counts([whole])
    expected = alone.forward_backward([whole], counts)
    program = LocalProgram(language_model(case), NextToken(), device=torch.device("cpu"))
    layout = Expert()
    program = layout.apply(program, mesh)
    layout.connect(program, mesh, AllReduce())
    mine = [{name: value[rows] for name, value in whole.items()} for rows in shares[mesh.rank]]
    totals = program.forward_backward(mine, counts)
    program.exchange.before_step()
    found = {name: parameter.grad for parameter, name in program.held.names().items()}
    gradients = {name: parameter.grad for parameter, name in alone.held.names().items()}
    total = sum(part["loss"] for part in mesh.world.gather({"loss": float(totals.get("cross-entropy", 0.0))}))
    return [abs(total - float(expected["cross-entropy"])), worst(found, gradients, program.held.parts)]


def traffic(mesh: Mesh) -> list[int]:
    """Bytes counted in a forward and backward of one layer, and those of the rows that must leave."""
    group = mesh.axis("expert")
    torch.manual_seed(0)
    model = nn.Sequential(Experts(16, 12, experts=4, chosen=2)).double()
    apply(model, group)
    model[0].travel = Travel(counting := Group(group.rank, group.size, group.process_group))
    x = (torch.randn(2, 5, 16, dtype=torch.float64) + group.rank).requires_grad_()
    goes = (x @ model[0].router.weight.T).topk(2).indices.flatten() // (4 // group.size)
    assert deepcopy(model).to("meta")(x.to("meta")).shape == x.shape
    by_rank = group.gather([int((goes == rank).sum()) for rank in range(group.size)])
    leave = sum(by_rank[group.rank]) - by_rank[group.rank][group.rank]
    arrive = sum(numbers[group.rank] for numbers in by_rank) - by_rank[group.rank][group.rank]
    model(x).sum().backward()
    numbers_sent = 4 * 8 * (group.size - 1) // group.size
    return [counting.traffic.sent, 2 * (leave + arrive) * 16 * 8 + numbers_sent]


@pytest.mark.parametrize("layout", [{"expert": 2}, {"expert": 4}, {"replicate": 2, "expert": 2}])
def test_ranks_with_unequal_micro_batches_keep_step(layout: dict[str, int]) -> None:
    for losses, gradient in run_world(f"{HERE}:unequal", math.prod(layout.values()), layout=layout, timeout=600):
        assert losses < 1e-11
        assert gradient < 1e-12


@pytest.mark.parametrize("workers", [2, 4])
def test_spread_experts_learn_what_one_process_learns(workers: int) -> None:
    for answer in run_world(f"{HERE}:all_cases", workers, layout={"expert": workers}, timeout=600):
        for case, (losses, gradient, weights) in zip(CASES, answer["right"], strict=True):
            assert losses < 1e-12, case
            assert gradient < 1e-12, case
            assert weights < 1e-10, case  # Adam divides by gradients
        for _, gradient, _ in answer["wrong"]:
            assert gradient > 1e-6
        counted, expected = answer["traffic"]
        assert counted == expected


def test_one_rank_keeps_everything() -> None:
    model = language_model(CASES[0])
    assert apply(model, Group(0, 1)) == {}
    assert model.blocks[0].feed_forward.travel is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelwrightError, match=r"4 experts of 'blocks\.0\.feed_forward' cannot be shared out"):
        check_experts(language_model(CASES[0]), 3)
    with pytest.raises(ModelwrightError, match="no experts to spread"):
        check_experts(GPT(vocabulary=5, layers=1).build(), 2)
    check_experts(GPT(vocabulary=5, layers=1).build(), 1)


def test_only_the_stacks_belong_to_experts() -> None:
    names = expert_parameters(language_model(CASES[0]))
    assert names == [f"blocks.{layer}.feed_forward.{stack}" for layer in (0, 1) for stack in ("gate", "up", "down")]
