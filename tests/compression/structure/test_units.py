"""What units say of themselves, why others stay, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.compression.structure import architectures
from tests.compression.structure.architectures import case, forward
from tests.compression.structure.oracle import apart, masked_output, output, pruned, some_of
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.compression.structure import Units
from modelwright.compression.structure.numbers import Attribute, Number, evaluate, expression_of, solve
from modelwright.models.gpt import GPT


class Reshaping(nn.Module):
    """Heads by a number of the model, a width that the code computes with, and a table that is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.spare = 4, nn.Linear(3, 5)
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scaled = nn.Linear(6, 10)
        self.back = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.into(x).view(len(x), self.heads, -1).softmax(1).flatten(1)
        scaled = self.scaled(x)
        return self.out(mixed) + self.back(scaled * scaled.size(-1) ** 0.5)


def test_reasons_say_why_dims_stay() -> None:
    units = Units(Reshaping(), torch.zeros(2, 6))
    reasons = {tensor: each.reason for each in units.frozen for tensor in each.tensors}
    assert "depends on its size" in reasons["scaled.weight"]
    assert reasons["spare.weight"] == "nothing reads it when the model runs on this example"
    assert reasons["out.bias"] == "the model returns it"
    assert [each.kind for each in units.classes].count("unit") == len(units.classes)


def test_places_read_weights_unit_by_unit() -> None:
    model, inputs = case("llama")
    units = Units(model, inputs, forward=forward)
    groups = next(each for each in units.classes if each.kind == "kv-group")
    by_tensor = {each.tensor.split(".")[-2]: each for each in groups.places}
    assert {name: each.dim for name, each in by_tensor.items()} == {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1}
    assert {name: (each.makes, each.reads) for name, each in by_tensor.items()} == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), (True, False)),
        "o_proj": (False, True),
    }
    keys = model.get_parameter(by_tensor["k_proj"].tensor)
    assert torch.equal(by_tensor["k_proj"].by_unit(keys), keys.view(2, -1))
    written = model.get_parameter(by_tensor["o_proj"].tensor)
    assert torch.equal(by_tensor["o_proj"].by_unit(written), written.t().reshape(2, -1))
    assert groups.cost == sum(each.by_unit(model.get_parameter(each.tensor)).shape[1] for each in groups.places)


def test_heads_that_share_keys_are_groups_however_attention_is_written() -> None:
    """As one operator, or as products with a softmax between them."""
    for name in ("llama", "gemma2"):
        model, inputs = case(name)
        kinds = [each.kind for each in Units(model, inputs, forward=forward).classes]
        assert sorted(kinds) == ["head-of-group"] * 2 + ["kv-group"] * 2 + ["unit"] * 2 + ["width"], name
    model, inputs = case("bert")
    assert [each.kind for each in Units(model, inputs, forward=forward).classes].count("head") == 2


def test_numbers_of_layers_stay_true() -> None:
    """Those that no code reads too, for whoever looks at the model afterwards."""
    model, inputs = case("mobilenet")
    units = Units(model, inputs, forward=forward)
    smaller = pruned(
        model, units, {each.number: some_of(each) for each in units.classes if each.together == each.number}
    )
    for module in smaller.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight)


def test_what_cannot_stay_is_refused() -> None:
    model = GPT(vocabulary=29, layers=2, width=24, heads=4).build()
    units = Units(model, {"inputs": torch.zeros(1, 5, dtype=torch.int64)})
    with pytest.raises(ModelwrightError, match="there is no class 999"):
        units.change({999: [0]})
    first = units.classes[0]
    for stay in ([], [-1], [first.size]):
        with pytest.raises(ModelwrightError, match="cannot be what stays"):
            units.change({first.number: stay})


def test_classes_that_share_a_number_keep_equally_many() -> None:
    model, inputs = case("phi3")
    units = Units(model, inputs, forward=forward)
    shared = [each for each in units.classes if each.together != each.number]
    assert shared
    for each in shared:
        with pytest.raises(ModelwrightError, match="keep equally many"):
            units.change({each.number: range(each.size - 1)})


def test_code_that_goes_by_numbers_freezes_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of experts called only where a token chose them a trace sees nothing; the rest is pruned all the same."""
    kind, settings = architectures.MORE["mixtral"]
    monkeypatch.setitem(architectures.MORE, "eager", (kind, {**settings, "experts_implementation": "eager"}))
    model, inputs = case("eager")
    units = Units(model, inputs, forward=forward)
    width = next(each for each in units.frozen if each.size == 24 and "model.norm.weight" in each.tensors)
    assert "depends on numbers" in width.reason
    assert "modeling_mixtral.py" in width.reason
    removed = {each.number: some_of(each) for each in units.classes}
    assert removed
    assert apart(output(pruned(model, units, removed), inputs), masked_output(model, inputs, units, removed)) < 1e-9


def test_the_model_is_not_altered_and_may_lie_on_meta() -> None:
    model, inputs = case("bert")
    held = {name: copy.copy(vars(module)) for name, module in model.named_modules()}
    here = Units(model, inputs, forward=forward)
    assert {name: vars(module) for name, module in model.named_modules()} == held
    assert all(type(each) is not Number for module in held.values() for each in module.values())
    there = Units(model.to("meta"), inputs, forward=forward)
    assert [(each.kind, each.size) for each in there.classes] == [(each.kind, each.size) for each in here.classes]


_LEAVES = st.integers(1, 9)
_NUMBERS = st.recursive(
    _LEAVES, lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner) | st.tuples(st.just("//"), inner, _LEAVES)
)


def _computed(tree: object, unknown: Number) -> int:
    """An expression in which the first whole number is the unknown one."""
    if isinstance(tree, int):
        return unknown
    sign, left, right = tree  # type: ignore[misc]
    first, second = _computed(left, unknown), _plain(right)
    return {"+": first + second, "-": first - second, "*": first * second, "//": first // (second or 1)}[sign]


def _plain(tree: object) -> int:
    if isinstance(tree, int):
        return tree
    sign, left, right = tree  # type: ignore[misc]
    first, second = _plain(left), _plain(right)
    return {"+": first + second, "-": first - second, "*": first * second, "//": first // (second or 1)}[sign]


@given(_NUMBERS, st.integers(1, 50), st.integers(1, 50))
def test_numbers_remember_how_they_came_about(tree: object, value: int, other: int) -> None:
    """An expression has the value that it had, follows another one, and can be solved for it."""
    at = Attribute("block", "width")
    result = _computed(tree, Number(value, at))
    expression = expression_of(result)
    assert evaluate(expression, {at: value}) == result
    wanted = evaluate(expression, {at: other})
    assert wanted == int(_computed(tree, Number(other, at)))
    solved = solve(expression, wanted, at, {})
    assert solved is None or evaluate(expression, {at: solved}) == wanted
