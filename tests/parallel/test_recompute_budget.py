"""Recomputation to a size: what is kept fits, the gradients stay, and no cheaper choice was there."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.models.gpt import GPT
from modelwright.objectives.next_token import NextToken
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.recompute import budget_of, recomputed, set_recompute
from modelwright.parallel.recompute.choosing import Price, cheapest
from modelwright.parallel.recompute.probing import probe_forward

HERE = "tests.parallel.test_recompute_budget"
ALONE = Group(0, 1)
TOKENS = torch.arange(128).view(4, 32) * 5 % 24
KINDS = ("none", "selective", "full")


def language_model(experts: int | None = None, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(3)
    config = GPT(vocabulary=24, layers=4, width=16, heads=2, dropout=dropout, experts=experts)
    return config.build().double()


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    objective, batch = NextToken(), {"inputs": TOKENS, "targets": TOKENS.roll(-1, 1)}
    return lambda: objective.loss(objective.forward(model, batch), batch)["cross-entropy"]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(7)
    loss_of(model)().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def kept_by(model: nn.Module) -> int:
    return probe_forward(model, [], loss_of(model), ALONE).total


def kept_by_kind(experts: int | None = None) -> dict[str, int]:
    found = {}
    for kind in KINDS:
        model = language_model(experts)
        set_recompute(model, kind)
        found[kind] = kept_by(model)
    return found


def test_the_probe_sees_what_autograd_saves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5)) for _ in range(3)))
    inputs, saved = torch.randn(5, 8), {}
    mine = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    state = torch.get_rng_state()
    probed = probe_forward(model, ["0", "1", "2"], lambda: model(inputs).sum(), ALONE)
    assert torch.equal(torch.get_rng_state(), state)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(inputs).sum()
    expected = sum(size for place, size in saved.items() if place not in mine | {inputs.untyped_storage().data_ptr()})
    assert probed.total == expected + loss.nbytes
    assert probed.kept[""] == loss.nbytes
    assert probed.work["1"] >= 2 * 5 * 8 * 8 > probed.light["1"] > 0


@pytest.mark.parametrize("experts", [None, 4])
def test_activations_fit_and_gradients_stay(experts: int | None) -> None:
    kept = kept_by_kind(experts)
    assert kept["full"] < kept["selective"] < kept["none"]
    expected = gradients(language_model(experts))
    for share in (0.0, 0.2, 0.6, 1.0):
        budget = int(kept["full"] + share * (kept["none"] - kept["full"]))
        model = language_model(experts)
        events: list[Event] = []
        with listening(events.append):
            names = set_recompute(model, budget, loss_of(model))
        assert [event.kind for event in events] == ["recompute-budget"] * bool(names)
        assert kept_by(model) <= budget
        assert (names == []) == (share == 1.0)
        assert (len(names) == 4) >= (share == 0.0)
        found = gradients(model)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_larger_budget_repeats_less_and_the_earlier_blocks() -> None:
    kept, before = kept_by_kind(), 5
    for share in (0.3, 0.5, 0.7, 1.0):
        model = language_model()
        names = set_recompute(model, int(share * kept["none"]), loss_of(model))
        assert names == [f"blocks.{number}" for number in range(len(names))]
        assert len(names) <= before
        before = len(names)
    assert before == 0


def test_too_little_is_refused_with_what_is_needed() -> None:
    least = kept_by_kind()["full"]
    model = language_model()
    with pytest.raises(ModelwrightError, match="at least") as caught:
        set_recompute(model, least - 1000, loss_of(model))
    assert caught.value.where == "plan.recompute"
    set_recompute(language_model(), least, loss_of(model))
    with pytest.raises(ModelwrightError, match="must be tried"):
        set_recompute(model, "1GB")


def test_sizes_are_told_from_words() -> None:
    assert [budget_of(wish) for wish in ("none", "full", "selective", ["a.*"])] == [None] * 4
    assert budget_of("4GB") == budget_of(4_000_000_000) == 4_000_000_000
    with pytest.raises(ModelwrightError, match="'sometimes' is no way to recompute"):
        budget_of("sometimes")
    assert len(recomputed(language_model(), "10MB")) == 4


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_cheapest_of_all(seed: int) -> None:
    chance = random.Random(seed)
    kinds = [
        {kind: Price(chance.randrange(30), 0 if kind == "none" else chance.randrange(50)) for kind in KINDS}
        for _ in range(3)
    ]
    blocks = [chance.choice(kinds) for _ in range(5)]
    for room in (0, 20, 45, 70, 150):
        possible = [
            sum(block[kind].work for block, kind in zip(blocks, choice, strict=True))
            for choice in itertools.product(KINDS, repeat=5)
            if sum(block[kind].kept for block, kind in zip(blocks, choice, strict=True)) <= room
        ]
        found = cheapest(blocks, room)
        assert (found is None) == (not possible)
        if found is not None:
            assert sum(block[kind].kept for block, kind in zip(blocks, found, strict=True)) <= room
            assert sum(block[kind].work for block, kind in zip(blocks, found, strict=True)) == min(possible)


def test_a_hundred_blocks_of_gigabytes_are_chosen_at_once() -> None:
    prices = {"none": Price(10**9, 0), "selective": Price(6 * 10**8, 10**9), "full": Price(10**8, 10**13)}
    found = cheapest([prices] * 100, 70 * 10**9)
    assert found is not None
    assert found == sorted(found, key=("full", "selective", "none").index)
    assert 67 * 10**9 < sum(prices[kind].kept for kind in found) <= 70 * 10**9


def test_running_statistics_and_precision_are_left_alone() -> None:
    torch.manual_seed(0)
    block = lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))  # noqa: E731
    model = nn.Sequential(block(), block())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_recompute(model, 10_000, lambda: model(torch.randn(16, 8)).sum())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    language = language_model().float()
    program = LocalProgram(language, NextToken(), device=torch.device("cpu"), precision="bf16-weights")
    probe = lambda: program._losses({"inputs": TOKENS, "targets": TOKENS})  # noqa: E731
    whole = probe_forward(language, [], probe, ALONE).total
    assert set_recompute(language, whole // 2, probe)
    assert probe_forward(language, [], probe, ALONE).total <= whole // 2
    gc.collect()


def choose(mesh: Mesh) -> list[str]:
    """Ranks whose samples differ in length."""
    model, group = language_model(), mesh.axis("replicate")
    tokens = TOKENS[:, : 32 - 8 * group.rank]
    whole = kept_by(model)
    return set_recompute(model, whole // 2, lambda: model(tokens).sum(), group)


def test_ranks_choose_alike() -> None:
    first, second = run_world(f"{HERE}:choose", 2, timeout=600)
    assert first == second != []
