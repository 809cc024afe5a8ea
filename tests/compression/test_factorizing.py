from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelwright.app.api import train
from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.compression.factorizing import Factorized, factorize
from modelwright.models.change import Change
from modelwright.models.gpt import GPT
from modelwright.models.source import load_weights, materialise, save_weights
from modelwright.optim.adamw import AdamW
from modelwright.reforms import timing
from modelwright.reforms.factors import Factored, FactoredLinear

WIDTH = 24


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)).double()


def pictures() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2, stride=2))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 9, 5)).double()


def language() -> nn.Module:
    torch.manual_seed(0)
    return GPT(vocabulary=31, layers=2, width=WIDTH, heads=2).build().double()


def points(batches: int = 4) -> list[Tensor]:
    """Of which most vary in few directions."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(5, WIDTH, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(batches, 64, WIDTH, generator=generator, dtype=torch.float64)
    return list(torch.randn(batches, 64, 5, generator=generator, dtype=torch.float64) @ mixing + noise)


def tokens(batches: int = 3) -> list[Tensor]:
    return list(torch.randint(31, (batches, 4, 16), generator=torch.Generator().manual_seed(1)))


MODELS: dict[str, tuple[Callable[[], nn.Module], list[Tensor]]] = {
    "network": (network, points()),
    "pictures": (pictures, [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(2)]),
    "language": (language, tokens()),
}


@pytest.fixture
def events() -> Iterator[list[Event]]:
    heard: list[Event] = []
    with listening(heard.append):
        yield heard


def error(result: Factorized, model: nn.Module, inputs: Tensor) -> float:
    return float((result.model(inputs) - model(inputs)).detach().norm() / model(inputs).detach().norm())


def rebuilt(make: Callable[[], nn.Module], result: Factorized, folder: Path) -> nn.Module:
    """Source, change as JSON text and safetensors: nothing else."""
    save_weights(result.model, folder / "weights.safetensors")
    text = json.dumps(result.change.to_json())
    with torch.device("meta"):
        model = make()
    Change.from_json(json.loads(text)).apply(model)
    assert all(each.is_meta for each in model.parameters())
    model = materialise(model)
    load_weights(model, folder / "weights.safetensors")
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weighed", [True, False])
def test_half_of_the_parameters_rebuilt_from_json_and_weights(name: str, weighed: bool, tmp_path: Path) -> None:
    make, batches = MODELS[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    result = factorize(model, batches[0], budget=0.5, batches=batches if weighed else None, quiet=True)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    count = sum(each.numel() for each in model.parameters())
    assert result.receipt.parameters[0] == count
    assert result.receipt.parameters[1] == sum(each.numel() for each in result.model.parameters()) <= round(0.5 * count)
    assert result.receipt.bytes == tuple(8 * each for each in result.receipt.parameters)
    again = rebuilt(make, result, tmp_path)
    assert torch.equal(again(batches[0]), result.model(batches[0]))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_errors_told_are_those_that_the_layers_make(name: str) -> None:
    make, batches = MODELS[name]
    model = make()
    result = factorize(model, rank=3, batches=batches, quiet=True)
    read = inputs_of(model, [each.name for each in result.layers], batches)
    told = {each.name: each.error for each in result.layers if each.rank is not None}
    assert told
    for layer, inputs in read.items():
        old, new = model.get_submodule(layer), result.model.get_submodule(layer)
        if layer in told:
            assert told[layer] == pytest.approx(relative(old(inputs), new(inputs), old), rel=1e-3)


def inputs_of(model: nn.Module, layers: list[str], batches: list[Tensor]) -> dict[str, Tensor]:
    read: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name in layers:
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: read[name].append(args[0]))
    for batch in batches:
        model(batch)
    return {name: torch.cat(each) for name, each in read.items()}


def relative(outputs: Tensor, made: Tensor, layer: nn.Module) -> float:
    """Error over what varies; a constant part is the bias's."""
    channels = 1 if isinstance(layer, nn.Conv2d) else outputs.dim() - 1
    others = [dim for dim in range(outputs.dim()) if dim != channels]
    varying = outputs if layer.bias is None else outputs - outputs.mean(others, keepdim=True)
    return float((made - outputs).norm() / varying.norm())


def test_examples_make_it_better_on_their_like() -> None:
    model, batches = network(), points(5)
    told, held_out = batches[:4], batches[4]
    plain = factorize(model, rank=6, quiet=True)
    weighed = factorize(model, rank=6, batches=told, quiet=True)
    assert weighed.receipt.parameters == plain.receipt.parameters
    assert error(weighed, model, held_out) < 0.5 * error(plain, model, held_out)


def test_more_of_anything_is_closer_and_larger() -> None:
    model, batches = network(), points()
    for rule, amounts in (("energy", (0.5, 0.9, 0.99)), ("error", (0.6, 0.3, 0.1)), ("budget", (0.3, 0.5, 0.8))):
        results = [factorize(model, batches=batches, quiet=True, **{rule: each}) for each in amounts]  # type: ignore[arg-type]
        errors = [error(each, model, batches[0]) for each in results]
        assert errors == sorted(errors, reverse=True)
        sizes = [each.receipt.parameters[1] for each in results]
        assert sizes == sorted(sizes)
        assert len(set(sizes)) > 1


def test_each_layer_keeps_to_its_error() -> None:
    result = factorize(network(), batches=points(), error=0.3, quiet=True)
    assert any(each.rank for each in result.layers)
    assert all(each.error <= 0.3 for each in result.layers)


def test_tied_weights_stay_tied_and_asking_for_them_is_refused(events: list[Event]) -> None:
    result = factorize(language(), tokens()[0], rank=2, quiet=True)
    assert result.model.head.weight is result.model.embedding.weight
    refused = next(each for each in events if each.kind == "layers-not-factored")
    assert "tied" in refused.message
    with pytest.raises(ModelwrightError, match="no layer may be factored") as raised:
        factorize(language(), rank=2, include=["head"], quiet=True)
    assert "would end the tie" in raised.value.where


def test_what_does_not_pay_is_undone_and_told(events: list[Event]) -> None:
    result = factorize(network(), rank=14, quiet=True)  # of 32 x 24, 32 x 32 and 4 x 32, 13, 15 and 3 would pay
    assert {each.name: each.rank for each in result.layers} == {"0": None, "2": 14, "4": None}
    assert type(result.model[0]) is nn.Linear
    told = next(each for each in events if each.kind == "factoring-undone")
    assert set(told.details["layers"]) == {"0", "4"}  # type: ignore[call-overload]
    nothing = factorize(network(), rank=32, quiet=True)
    assert nothing.change.edits == ()
    assert nothing.receipt.parameters[0] == nothing.receipt.parameters[1]
    assert events[-1].kind == "factorize-idle"
    assert "does not make it smaller" in nothing.receipt.undone


def test_factors_that_pay_no_more_are_merged(tmp_path: Path) -> None:
    model = network()
    model[2] = FactoredLinear(32, 32, 20, dtype=torch.float64)
    for each in model[2].parameters():
        nn.init.normal_(each)
    result = factorize(model, energy=0.5, include=["2"], quiet=True)
    assert isinstance(result.model[2], FactoredLinear)  # less of it pays
    result = factorize(model, energy=1 - 1e-9, include=["2"], quiet=True)
    assert type(result.model[2]) is nn.Linear
    assert result.layers[0].parameters == (20 * 64, 32 * 32)
    torch.testing.assert_close(result.model(points()[0]), model(points()[0]), rtol=1e-12, atol=1e-12)

    def make() -> nn.Sequential:
        source = network()
        source[2] = FactoredLinear(32, 32, 20, dtype=torch.float64)
        return source

    assert torch.equal(rebuilt(make, result, tmp_path)(points()[0]), result.model(points()[0]))


def test_factors_get_factors_of_less_rank() -> None:
    model = network()
    once = factorize(model, rank=10, include=["2"], quiet=True)
    twice = factorize(once.model, rank=5, include=["2"], quiet=True)
    at_once = factorize(model, rank=5, include=["2"], quiet=True)
    torch.testing.assert_close(twice.model(points()[0]), at_once.model(points()[0]), rtol=1e-10, atol=1e-10)
    assert not any(isinstance(part, Factored) for part in twice.model[2].children())


def test_what_is_slower_is_undone_and_the_budget_still_holds(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(modules: tuple[nn.Linear, nn.Module], *_: object) -> list[float]:
        return [1.0, 2.0 if modules[0].in_features == WIDTH else 0.5]

    monkeypatch.setattr(timing, "_milliseconds", taken)
    model = network()
    assert factorize(model, points()[0], budget=0.6, quiet=True).layers[0].rank
    events.clear()
    result = factorize(model, points()[0], budget=0.6, faster=True, quiet=True)
    assert {each.name for each in result.layers if each.rank is None} >= {"0"}
    assert "slower with rank" in result.layers[0].reason
    assert result.receipt.parameters[1] <= 0.6 * result.receipt.parameters[0]
    assert "slower" in next(each.message for each in events if each.kind == "factoring-undone")
    with pytest.raises(ModelwrightError, match="cannot have less"):
        factorize(model, points()[0], budget=0.45, faster=True, quiet=True)
    with pytest.raises(ModelwrightError, match="what is faster"):
        factorize(model, budget=0.5, faster=True, quiet=True)


def test_layers_are_really_timed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2))
    inputs = torch.randn(256, 1024)
    assert not timing.slower(model, {"0": 16}, inputs)
    assert timing.slower(model, {"0": 1023}, inputs).keys() == {"0"}


def test_layers_that_no_example_reaches_stay_and_are_told(events: list[Event]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = network(), network(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    result = factorize(Branches(), rank=2, batches=iter(points()), quiet=True)
    assert {each.name for each in result.layers} == {"used.0", "used.2", "used.4"}
    assert "no example" in next(each.message for each in events if each.level == "warning")


def test_examples_may_come_one_by_one_and_with_names() -> None:
    model, batches = network(), points()
    listed = factorize(model, rank=4, batches=batches, quiet=True)
    streamed = factorize(model, rank=4, batches=({"input": each} for each in batches), quiet=True)
    called = factorize(
        model, rank=4, batches=[{"x": each} for each in batches], forward=lambda m, each: m(each["x"]), quiet=True
    )
    for other in (streamed, called):
        assert torch.equal(other.model(batches[0]), listed.model(batches[0]))


def test_slips_are_refused_before_the_work() -> None:
    model = network()
    for message, given in {
        "exactly one of": {},
        "chosen twice": {"rank": {"0": 2}, "include": ["2"]},
        "multiples of 1": {"rank": 2, "multiple": 0},
        "no name fits": {"rank": {"body": 2}},
        "no examples": {"rank": 2, "batches": []},
        "cannot have less": {"budget": 100},
    }.items():
        with pytest.raises(ModelwrightError, match=message):
            factorize(model, quiet=True, **given)  # type: ignore[arg-type]


def test_a_factored_model_trains_and_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = torch.cat(points())
    targets = inputs[:, :4].argmax(1)
    result = factorize(network(), rank=3, quiet=True)
    start = copy.deepcopy(result.model.state_dict())
    trained = train(
        result.model,
        (inputs, targets),
        objective=lambda model, batch: cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none"),
        optimizer=AdamW(lr=0.01),
        budget="60 steps",
        run=tmp_path / "run",
        quiet=True,
    )
    assert trained.model is result.model
    assert all(not torch.equal(start[name], each) for name, each in result.model.state_dict().items())

    def loss(model: nn.Module) -> float:
        return float(cross_entropy(model(inputs), targets).detach())

    untrained = network()
    Change.from_json(result.change.to_json()).apply(untrained)
    untrained.load_state_dict(start)
    assert loss(result.model) < 0.8 * loss(untrained)
    assert torch.equal(rebuilt(network, result, tmp_path)(inputs), result.model(inputs))


def test_the_result_reads_as_text() -> None:
    text = str(factorize(network(), rank={"2": 4}, quiet=True))
    assert text.splitlines()[0] == "factorize"
    assert "2 [32 x 32]: 1.02k -> 256, rank 4, error" in text


def test_models_of_transformers_with_their_own_linear_layers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=31, n_positions=32)

    def make() -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = transformers.GPT2LMHeadModel(config).double().eval()
        return model

    batches = [{"input_ids": each} for each in tokens()]
    full = factorize(make(), batches[0], error=1e-9, batches=batches, quiet=True)
    assert full.change.edits == ()  # of full rank two matrices are larger
    result = factorize(make(), batches[0], budget=0.8, batches=batches, quiet=True)
    replaced = {edit.module for edit in result.change.edits}  # type: ignore[attr-defined]
    assert "transformer.h.0.mlp.c_fc" in replaced
    assert result.model.lm_head.weight is result.model.transformer.wte.weight
    again = make()
    Change.from_json(result.change.to_json()).apply(again)
    again.load_state_dict(result.model.state_dict())
    inputs = tokens()[0]
    assert torch.equal(again(inputs).logits, result.model(inputs).logits)
