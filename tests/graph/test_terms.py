from __future__ import annotations

import random

import pytest
import torch
from tests.graph.test_dimensions import shuffled
from torch import Tensor, nn

from modelwright.graph import trace
from modelwright.graph.terms import Terms

PROGRAMS = 60


def test_a_product_takes_the_factors_of_another() -> None:
    terms = Terms()
    heads, width = terms.new(4), terms.new(6)
    row = terms.new(24)
    terms.unify(row, terms.product((heads, width)))
    groups = terms.product((terms.new(2), terms.new(2), terms.new(6)))
    terms.unify(row, groups)
    assert [terms.size(each) for each in terms.leaves(row)] == [2, 2, 6]
    assert [terms.size(each) for each in terms.leaves(heads)] == [2, 2]


def test_a_sum_takes_the_borders_of_another_and_halves_that_cross_are_one() -> None:
    terms = Terms()
    first, second = terms.new(3), terms.new(3)
    terms.unify(terms.total((first, second)), terms.total((second, first)))
    assert terms.find(first) == terms.find(second)
    row, parts = terms.new(10), [terms.new(4), terms.new(6)]
    terms.unify(row, terms.total(parts))
    terms.unify(row, terms.total((terms.new(7), terms.new(3))))
    assert [terms.size(each) for each in terms.leaves(row)] == [4, 3, 3]


def test_what_does_not_fit_together_is_frozen() -> None:
    terms = Terms()
    row = terms.new(6)
    terms.unify(row, terms.product((terms.new(2), terms.new(3))))
    assert not any(terms.frozen(each) for each in terms.leaves(row))
    terms.unify(row, terms.product((terms.new(3), terms.new(2))))
    assert all("two ways" in terms.frozen(each) for each in terms.leaves(row))


def test_a_frozen_part_keeps_its_reason_when_it_is_divided_or_met() -> None:
    terms = Terms()
    row = terms.new(6, "counted")
    outer, inner = terms.split(row, 3) or (0, 0)
    other = terms.new(2)
    terms.unify(other, outer)
    assert terms.frozen(inner) == terms.frozen(other) == "counted"


class Program(nn.Module):
    """Views, permutations, parts and concatenations of a weight, drawn at random, then sums with itself."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.weight = nn.Parameter(torch.randn(12, 8, dtype=torch.float64))
        self.other = nn.Parameter(torch.randn(96, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        draw = random.Random(self.seed)
        y = self.weight * x
        for _ in range(draw.randint(2, 7)):
            y = draw.choice((refold, turn, swap, mix, reuse))(y, self.other, draw)
        return y.tanh()


def refold(y: Tensor, other: Tensor, draw: random.Random) -> Tensor:
    if y.dim() == 4 or draw.random() < 0.3:
        return y.flatten(0, 1) if y.dim() > 1 else y
    dim = draw.randrange(y.dim())
    factors = [each for each in (2, 3, 4) if y.shape[dim] % each == 0] or [1]
    return y.unflatten(dim, (draw.choice(factors), -1))


def turn(y: Tensor, other: Tensor, draw: random.Random) -> Tensor:
    return y.permute(draw.sample(range(y.dim()), y.dim()))


def swap(y: Tensor, other: Tensor, draw: random.Random) -> Tensor:
    dim = draw.randrange(y.dim())
    border = draw.randint(1, max(1, y.shape[dim] - 1))
    first, second = y.narrow(dim, 0, border), y.narrow(dim, border, y.shape[dim] - border)
    return torch.cat((second, first.square()), dim) + (y if draw.random() < 0.5 else 0)


def mix(y: Tensor, other: Tensor, draw: random.Random) -> Tensor:
    return y.softmax(draw.randrange(y.dim())) * 3


def reuse(y: Tensor, other: Tensor, draw: random.Random) -> Tensor:
    return y + other[: y.numel()].view(y.shape)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_programs_compute_the_same_with_free_entries_in_another_order() -> None:
    judged = moved = 0
    for seed in range(PROGRAMS):
        torch.manual_seed(seed)
        model, x = Program(seed), torch.tensor(2.0, dtype=torch.float64)
        graph = trace(model, x)
        assert graph.unknown == ()
        expected = model(x)
        for found in graph.classes:
            if found.frozen or found.size == 1:
                continue
            order = torch.arange(found.size).roll(1)
            tensors = dict(model.named_parameters())
            for member in found.members:
                tensors[member.name] = shuffled(tensors[member.name], member, order)
            wanted = expected
            for dim in range(expected.dim()):
                for number, part in graph.dimensions.parts(graph.outputs[0].id, dim):
                    wanted = shuffled(wanted, part, order) if number == found.number else wanted
            output = torch.func.functional_call(model, tensors, (x,))
            assert (output - wanted).abs().max() < 1e-12, (seed, found)
            judged += 1
            moved += bool((output - expected).abs().max() > 1e-6)
    assert judged > PROGRAMS and moved > judged / 2
