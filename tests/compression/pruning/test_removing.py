"""The verb: what goes, what is said about it, and that it comes back from plain files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.compression.structure.architectures import NAMES, case, forward
from tests.compression.structure.oracle import output
from torch import Tensor, nn

from modelwright.base import events
from modelwright.base.errors import ModelwrightError
from modelwright.compression import prune
from modelwright.compression.pruning import Evidence
from modelwright.compression.pruning.choosing import choose
from modelwright.compression.pruning.magnitude import Magnitude
from modelwright.compression.structure import UnitClass, Units
from modelwright.models.change import Change
from modelwright.models.source import load_weights, save_weights

COVERING = ("odd", "llama", "t5", "swin", "wav2vec2", "mobilenet")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in COVERING and not request.config.getoption("--full"):
        pytest.skip("one of those like it runs; --full runs all")
    return str(request.param)


def test_saved_and_reloaded_it_computes_the_same(name: str, tmp_path: Path) -> None:
    """The source, the change as text, the weights as safetensors: bit for bit the pruned model."""
    model, inputs = case(name)
    pruned = prune(model, inputs, keep=0.5, forward=forward)
    save_weights(pruned.model, tmp_path / "weights.safetensors")
    written = json.dumps(pruned.change.to_json())
    fresh, _ = case(name)
    Change.from_json(json.loads(written)).apply(fresh)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert torch.equal(output(fresh, inputs), output(pruned.model, inputs))
    assert pruned.receipt.parameters[1] < 0.8 * pruned.receipt.parameters[0]
    assert sum(each.numel() for each in pruned.model.parameters()) == pruned.receipt.parameters[1]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_the_smallest_units_go() -> None:
    """Magnitude, by hand: of each hidden unit its row, its bias and the column that reads it."""
    model, x = network(), torch.randn(5, 4)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    result = prune(model, x, keep=0.5)
    first = (before["0.weight"].square().sum(1) + before["0.bias"].square() + before["2.weight"].square().sum(0)).sqrt()
    stay = first.argsort(descending=True)[:3].sort().values
    assert torch.equal(result.model[0].weight, before["0.weight"][stay])
    assert [each.weight.shape for each in result.model[::2]] == [(3, 4), (4, 3), (3, 4)]
    assert result.receipt.parameters == (4 * 6 + 6 + 6 * 8 + 8 + 8 * 3 + 3, 3 * 4 + 3 + 4 * 3 + 4 + 3 * 4 + 3)
    assert result.receipt.facts["units"] == {"unit": [14, 7]}
    assert result.model(x).shape == (5, 3)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_global_share_takes_more_from_where_units_differ_more() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[:4] *= 1e-3
        model[0].bias[:4] *= 1e-3
        model[2].weight[:, :4] *= 1e-3
    result = prune(model, torch.zeros(1, 4), keep=10 / 14, scope="global")
    assert [len(each.weight) for each in result.model[::2]] == [2, 8, 3]
    assert [len(each.weight) for each in prune(model, torch.zeros(1, 4), keep=10 / 14).model[::2]] == [4, 6, 3]


def test_how_many_stay_is_a_multiple_and_only_asked_kinds_go() -> None:
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3))
    assert prune(model, torch.zeros(1, 4), keep=0.55, multiple=8).model[0].weight.shape == (24, 4)
    undone = prune(model, torch.zeros(1, 4), keep=0.5, kinds=("head",))
    assert undone.receipt.undone == "no unit was to go"
    assert undone.change.edits == ()


def test_an_objects_own_criterion_counts() -> None:
    class Last:
        def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
            return {each.number: torch.arange(each.size, dtype=torch.float64) for each in units.classes}

    model = network()
    assert torch.equal(prune(model, torch.zeros(1, 4), 0.5, Last()).model[0].weight, model[0].weight[3:])


def test_random_units_go_by_the_seed() -> None:
    model, x = network(), torch.randn(5, 4)
    one, again, other = (prune(model, x, 0.5, "random", seed=seed).change for seed in (1, 1, 2))
    assert one == again
    assert one.edits != other.edits


def test_frozen_classes_are_told() -> None:
    told: list[events.Event] = []
    with events.listening(told.append):
        prune(nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), torch.tensor([1, 2]))
    (event,) = [each for each in told if each.kind == "pruning-frozen"]
    assert "the model returns it" in event.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": 0.0}, "no share of units"),
        ({"keep": 50}, "no share of units"),
        ({"multiple": 0}, "nothing is a multiple of 0"),
        ({"kinds": ("neuron",)}, "no units of kind neuron"),
        ({"criterion": "best"}, "best"),
        ({"scope": "both"}, "scope"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ModelwrightError, match=said):
        prune(network(), torch.zeros(1, 4), **settings)  # type: ignore[arg-type]


def test_a_criterion_that_gives_no_numbers_is_refused() -> None:
    class Lost(Magnitude):
        def scores(self, model: nn.Module, units: Units, evidence: Evidence) -> Mapping[int, Tensor]:
            return {each.number: torch.full((each.size,), torch.nan) for each in units.classes}

    with pytest.raises(ModelwrightError, match="Lost gave no 6 finite scores"):
        prune(network(), torch.zeros(1, 4), criterion=Lost())


def _class(number: int, size: int, together: int) -> UnitClass:
    return UnitClass(number=number, kind="unit", size=size, places=(), cost=1, together=together)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4), st.floats(0.01, 1.0), st.sampled_from(["layer", "global"]))
def test_the_best_stay_and_those_that_are_tied_stay_equally_many(sizes: list[int], keep: float, scope: str) -> None:
    classes = [_class(number, size, number) for number, size in enumerate(sizes)]
    classes.append(_class(9, sizes[0], 0))
    generator = torch.Generator().manual_seed(sum(sizes))
    scores = {each.number: torch.rand(each.size, generator=generator) for each in classes}
    stay = choose(classes, scores, keep, scope=scope)  # type: ignore[arg-type]
    assert len(stay[9]) == len(stay[0])
    for each in classes:
        places = stay[each.number]
        assert places == sorted(set(places))
        assert places
        gone = sorted(set(range(each.size)) - set(places))
        assert not gone or scores[each.number][places].min() >= scores[each.number][gone].max()
