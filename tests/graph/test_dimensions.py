from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.graph.zoo import NAMES, InDouble, first_output, traced
from torch import Tensor, nn

from modelwright.graph import DimensionClass, Graph, Member, trace
from modelwright.models.gpt import GPT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

EXACT = 1e-12
PROJECTIONS = ("query", "key", "value", "output")
MYSTERY = (("0.first.weight", 0), ("0.second.weight", 1), ("0.second.weight", 0))


def shuffled(tensor: Tensor, member: Member, order: Tensor) -> Tensor:
    """``tensor`` with entry ``order[i]`` of a class where entry ``i`` was."""
    places = torch.arange(tensor.shape[member.dim])
    for entry, other in enumerate(order.tolist()):
        places[member.places(entry)] = torch.tensor(member.places(other))
    return tensor.index_select(member.dim, places)


class Shuffle:
    """A model with the entries of one class in another order, in some of its members."""

    def __init__(self, graph: Graph, model: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.graph, self.model, self.inputs = graph, model, inputs
        with torch.no_grad(), InDouble():
            self.expected = first_output(model(**inputs))

    def error(self, found: DimensionClass, order: Tensor, without: Member | None = None) -> float:
        """How far the output is from the original one, its entries in the order that the graph says."""
        inputs = dict(self.inputs)
        tensors = dict(itertools.chain(self.model.named_parameters(), self.model.named_buffers()))
        for member in found.members:
            if member != without:
                holder = inputs if member.name in inputs else tensors
                holder[member.name] = shuffled(holder[member.name], member, order)
        with torch.no_grad(), InDouble():
            output = first_output(torch.func.functional_call(self.model, tensors, (), inputs))
        expected = self.expected
        returned = self.graph.outputs[0]
        for dim in range(len(returned.shape)):
            for number, part in self.graph.dimensions.parts(returned.id, dim):
                if number == found.number:
                    expected = shuffled(expected, part, order)
        scale = float(self.expected.abs().max())
        return float((output - expected).abs().max()) / scale


def free(graph: Graph) -> list[DimensionClass]:
    return [each for each in graph.classes if not each.frozen and each.size > 1]


def turned(size: int) -> Tensor:
    return torch.arange(size).roll(1)


@pytest.mark.parametrize("name", NAMES)
def test_the_entries_of_a_class_may_change_places_together_and_only_together(name: str) -> None:
    model, inputs, graph = traced(name)
    assert graph.unknown == ()
    judge = Shuffle(graph, model, inputs)
    seen_to_matter = 0
    for found in free(graph):
        order = turned(found.size)
        assert judge.error(found, order) < EXACT, found
        if len(found.members) > 1 and seen_to_matter < 4:
            seen_to_matter += judge.error(found, order, without=found.members[0]) > 1e-6
    assert seen_to_matter >= 2


def test_a_class_of_attention_reads_as_heads_that_share_keys() -> None:
    graph = traced("gpt")[2]
    dims = graph.dimensions
    query, key, value, output = (graph.parameters[f"blocks.0.attention.{each}.weight"].id for each in PROJECTIONS)
    assert dims.describe(query, 0) == "2 x 2 x (3 + 3)" and dims.describe(key, 0) == "2 x (3 + 3)"
    assert dims.describe(value, 0) == "2 x 6" and dims.describe(output, 1) == "2 x 2 x 6"
    groups = graph.class_of("blocks.0.attention.key.weight", 0)[0]
    assert groups.size == 2 and not groups.frozen
    places = {(each.name.split(".")[-2], each.dim): each.places(1) for each in groups.members}
    first, second = list(range(6, 12)), list(range(12, 24))
    assert places == {("query", 0): second, ("key", 0): first, ("value", 0): first, ("output", 1): second}
    assert "arange" in dims.frozen(query, 0) and not dims.frozen(value, 0)


def test_the_hidden_units_of_a_feed_forward_touch_three_weights_of_their_block_alone() -> None:
    graph = traced("gpt")[2]
    (units,) = graph.class_of("blocks.1.feed_forward.up.weight", 0)
    touched = {(each.name, each.dim, each.offset, each.stride, each.repeats) for each in units.members}
    names = ((f"blocks.1.feed_forward.{each}.weight", dim) for each, dim in (("gate", 0), ("up", 0), ("down", 1)))
    assert touched == {(name, dim, 0, 1, ()) for name, dim in names}
    assert not units.frozen


def test_the_residual_stream_is_one_class_through_all_blocks() -> None:
    graph = traced("gpt")[2]
    (stream,) = graph.class_of("embedding.weight", 1)
    readers = {each.name for each in stream.members}
    assert readers == {name for name, _ in traced("gpt")[0].named_parameters()}  # each reads it or writes it
    assert graph.class_of("head.weight", 1) == (stream,)
    (vocabulary,) = graph.class_of("head.weight", 0)
    assert "numbers name its places" in vocabulary.frozen and vocabulary.size == 29


@pytest.mark.parametrize(
    ("name", "parameter", "dim", "described"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", 1, "4 x 6 + 4 x 6 + 4 x 6"),
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", 0, "2 x 2 x (3 + 3) + 2 x (3 + 3) + 2 x 6"),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight", 0, "40 + 40"),
        ("bloom", "transformer.h.0.self_attention.query_key_value.weight", 0, "4 x (1 + 1 + 1) x 6"),
        ("convnet", "blocks.0.first.weight", 0, "4 x 2"),
        ("mobilenet", "mobilenet_v2.layer.0.conv_3x3.convolution.weight", 0, "48"),
    ],
)
def test_fused_and_grouped_weights_show_their_parts(name: str, parameter: str, dim: int, described: str) -> None:
    graph = traced(name)[2]
    assert graph.dimensions.describe(graph.parameters[parameter].id, dim) == described


def test_gradients_have_the_classes_of_what_they_are_of() -> None:
    graph = traced("bert")[2]
    for name, gradient in graph.gradients.items():
        parameter = graph.parameters[name]
        assert all(
            graph.dimensions.same((gradient.id, dim), (parameter.id, dim)) for dim in range(len(parameter.shape))
        )


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_projection = nn.Linear(6, 8)
        self.output = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(self.query_projection(x).relu())


class Unspeaking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.zz = nn.Linear(6, 8)
        self.attention = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.zz(x).relu())


def test_names_of_modules_and_classes_do_not_matter() -> None:
    def shape(model: nn.Module) -> list[Any]:
        graph = trace(model, torch.zeros(3, 6))
        return [
            (each.size, each.frozen, [(m.value, m.dim, m.offset, m.stride, m.repeats) for m in each.members])
            for each in graph.classes
        ]

    assert shape(nn.Sequential(Branch(), Branch())) == shape(nn.Sequential(Unspeaking(), Unspeaking()))


def test_the_work_grows_in_step_with_the_layers() -> None:
    def steps(layers: int) -> int:
        model = GPT(vocabulary=29, layers=layers, width=24, heads=4, kv_heads=2).build()
        return trace(model, {"inputs": torch.zeros(2, 5, dtype=torch.int64)}).dimensions.steps

    few, many, more = (steps(layers) for layers in (2, 4, 8))
    assert more - many <= 2.2 * (many - few)


@torch.library.custom_op("modelwright_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.flip(-1)


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class WithMystery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(mystery(self.first(x)).relu()).relu())


def test_an_operator_that_nobody_knows_is_listed_and_freezes_what_it_touches() -> None:
    graph = trace(nn.Sequential(WithMystery()), torch.zeros(3, 6))
    assert [(each.name, each.module) for each in graph.unknown] == [("modelwright_tests.mystery.default", "0")]
    (before,), (after,), (far,) = (graph.class_of(name, dim) for name, dim in MYSTERY)
    assert "mystery" in before.frozen and "mystery" in after.frozen and not far.frozen
    without = trace(nn.Sequential(WithMystery()), torch.zeros(3, 6), forward=lambda model, x: model[0].first(x))
    assert without.unknown == () and not without.class_of("0.first.weight", 0)[0].frozen


class WritesParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 3), nn.Linear(6, 5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        row = x.new_zeros(len(x), 8)
        row[:, :3] = self.first(x)
        row[:, 3:] += self.second(x)
        return self.third(row)


def test_what_is_written_in_place_into_a_part_belongs_to_that_part() -> None:
    graph = trace(WritesParts(), torch.zeros(4, 6))
    (first,), (second,) = graph.class_of("first.weight", 0), graph.class_of("second.weight", 0)
    assert graph.class_of("third.weight", 1) == (first, second)
    offsets = {each.number: part.offset for each in (first, second) for part in each.members if part.name[0] == "t"}
    assert offsets == {first.number: 0, second.number: 3}
    assert not first.frozen and not second.frozen
