"""What tools for structure ask of a trace: to run beside it, where parts of dims lie, why they stay; and late rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from modelwright.graph import trace
from modelwright.graph.recording import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.scale = torch.arange(8.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.scale)


def test_a_watch_runs_beside_the_forward_pass_of_the_copy() -> None:
    model, stranger, seen = Two(), torch.zeros(1), []

    @contextmanager
    def watch(copied: nn.Module, recorder: Recorder) -> Iterator[None]:
        assert copied is not model
        assert not recorder.operators
        yield
        seen.append((recorder, recorder.find(copied.first.weight), recorder.find(stranger)))

    graph = trace(model, torch.zeros(2, 6), watch=watch)
    ((recorder, weight, unseen),) = seen
    assert (weight, unseen) == (graph.parameters["first.weight"].id, None)
    assert [each.name for each in recorder.operators] == [each.name for each in graph.operators]
    assert [each.tolist() for each in recorder.contents().values()] == [list(range(8))]


def test_where_parts_of_a_dim_lie_and_why_they_stay() -> None:
    graph = trace(nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 4)), torch.zeros(2, dtype=torch.int64))
    table = graph.parameters["0.weight"].id
    ((rows, member),) = graph.dimensions.lies(table, 0)
    assert (member.name, member.dim, member.places(3)) == ("0.weight", 0, [3])
    assert "numbers name its places" in graph.dimensions.reason(rows)
    ((width, _),) = graph.dimensions.lies(table, 1)
    assert graph.dimensions.reason(width) == ""
    assert graph.dimensions.leaves(graph.parameters["1.weight"].id)[1] == [width]


def test_weights_divided_by_their_norm_have_its_dims() -> None:
    graph = trace(nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.Linear(8, 4)), torch.zeros(2, 6))
    assert not graph.unknown
    (units,) = graph.class_of("1.weight", 1)
    norms, weights = "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"
    assert {(each.name, each.dim) for each in units.members} >= {(norms, 0), (weights, 0), ("0.bias", 0)}
    assert graph.class_of(weights, 1)[0].members != units.members


class Runs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.zeros(3, *shape)) for shape in ((8, 16), (16, 8)))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 4, 6], dtype=torch.int32, device=x.device)
        inner = torch.nn.functional.grouped_mm(x, self.up, offs=ends).relu()
        return torch.nn.functional.grouped_mm(inner, self.down, offs=ends)


def test_products_of_runs_of_rows_contract_and_their_groups_stay() -> None:
    graph = trace(Runs().bfloat16(), torch.zeros(6, 8, dtype=torch.bfloat16))
    assert not graph.unknown
    (units,) = graph.class_of("up", 2)
    assert {(each.name, each.dim) for each in units.members} == {("up", 2), ("down", 1)}
    assert not units.frozen
    assert "numbers name its places" in graph.class_of("up", 0)[0].frozen


def test_a_layout_that_a_tensor_has_already_is_no_operator() -> None:
    """Pooling writes it after its mean when channels come last, see the rule's own condition."""

    def pooled(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.as_strided_(x.shape, x.stride()))

    def turned(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.as_strided_(x.shape, (1, 6)))

    model, example = nn.Linear(6, 6), torch.zeros(6, 6)
    assert not trace(model, example, forward=pooled).unknown
    assert trace(model, example, forward=turned).unknown
