"""On every architecture: the pruned model computes what the original computes without the removed units."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from tests.compression.structure.architectures import NAMES, case, forward
from tests.compression.structure.oracle import Removed, apart, masked_output, output, pruned, some_of
from tests.graph.zoo import InDouble
from torch import nn

from modelwright.compression.structure import UnitClass, Units
from modelwright.models.change import Change, Keep, runs_of

COVERING = (
    *(
        "convnet",
        "odd",
        "vit",
        "sequence-to-sequence",
        "gpt",
        "resnet",
        "bert",
        "gpt2",
        "llama",
        "phi3",
        "t5",
        "whisper",
    ),
    *(
        "bloom",
        "convnextv2",
        "swin",
        "segformer",
        "regnet",
        "albert",
        "deberta-v2",
        "gemma2",
        "mixtral",
        "phi",
        "falcon",
    ),
    *("bart", "wav2vec2"),
)
EXACT = 1e-9


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in COVERING and not request.config.getoption("--full"):
        pytest.skip("one of those like it runs; --full runs all")
    return str(request.param)


def _together(units: Units) -> list[list[UnitClass]]:
    found: dict[int, list[UnitClass]] = defaultdict(list)
    for each in units.classes:
        found[each.together].append(each)
    return list(found.values())


def _some(classes: list[UnitClass]) -> Removed:
    """Equally many of each."""
    chosen = {each.number: some_of(each) for each in classes}
    fewest = min(map(len, chosen.values()))
    return {number: units[:fewest] for number, units in chosen.items()}


def _joined(groups: list[Removed]) -> Removed:
    return {number: units for removed in groups for number, units in removed.items()}


def test_pruned_is_masked(name: str, request: pytest.FixtureRequest) -> None:
    """Each class alone - every other one, without --full - then all at once; and that can be trained."""
    model, inputs = case(name)
    before = {key: each.clone() for key, each in model.state_dict().items()}
    units = Units(model, inputs, forward=forward)
    groups = [_some(classes) for classes in _together(units)]
    every = _joined(groups)
    for removed in groups if request.config.getoption("--full") else (_joined(groups[::2]), _joined(groups[1::2])):
        assert (
            apart(output(pruned(model, units, removed), inputs), masked_output(model, inputs, units, removed)) < EXACT
        )
    smaller = pruned(model, units, every)
    assert apart(output(smaller, inputs), masked_output(model, inputs, units, every)) < EXACT
    assert apart(output(smaller, inputs), output(model, inputs)) > 1e-3  # what went was not nothing
    with InDouble():
        forward(smaller, inputs).square().sum().backward()
    trained = [each.grad for each in smaller.parameters() if each.grad is not None]
    assert trained
    assert all(bool(each.isfinite().all()) for each in trained)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())


def _entries(change: Change, names: set[str], kept: list[int], other: list[int]) -> Change:
    edits = tuple(
        replace(each, runs=runs_of(other))
        if isinstance(each, Keep) and each.tensor in names and each.runs == runs_of(kept)
        else each
        for each in change.edits
    )
    return replace(change, edits=edits)


def test_the_oracle_notices_heads_that_are_mixed_up() -> None:
    """Right shapes, wrong heads: what a tool does that removes rows of attention without knowing where heads end."""
    model, inputs = case("bert")
    units = Units(model, inputs, forward=forward)
    heads = next(each for each in units.classes if each.kind == "head")
    removed = {heads.number: [3]}
    right = units.change({heads.number: [0, 1, 2]})
    wrong = sorted(torch.randperm(24, generator=torch.Generator().manual_seed(0))[:18].tolist())
    assert wrong != list(range(18))
    scrambled, masked = copy.deepcopy(model), copy.deepcopy(model)
    changed = _entries(right, {each.tensor for each in heads.places}, list(range(18)), wrong)
    assert changed != right
    changed.apply(scrambled)
    with torch.no_grad():
        gone = torch.tensor([place for place in range(24) if place not in wrong])
        for place in heads.parameters:
            masked.get_parameter(place.tensor).index_fill_(place.dim, gone, 0.0)
    assert apart(output(scrambled, inputs), output(masked, inputs)) > 1e-3
    assert apart(output(pruned(model, units, removed), inputs), masked_output(model, inputs, units, removed)) < EXACT


def test_no_name_is_read() -> None:
    """The same model under meaningless names has the same units."""

    class Plain(nn.Module):
        def __init__(self, first: str, second: str) -> None:
            super().__init__()
            self.names = first, second
            setattr(self, first, nn.Linear(6, 8))
            setattr(self, second, nn.Linear(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = getattr(self, self.names[1])(getattr(self, self.names[0])(x).relu())
            return found

    kinds = [
        [(each.kind, each.size, each.cost) for each in Units(Plain(*names), torch.zeros(2, 6)).classes]
        for names in (("up", "down"), ("a", "b"))
    ]
    assert kinds == [[("unit", 8, 6 + 1 + 3)]] * 2
