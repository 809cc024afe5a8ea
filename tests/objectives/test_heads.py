from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.models.gpt import GPT
from modelwright.objectives.features import Features
from modelwright.objectives.heads import run
from modelwright.objectives.metrics.accuracy import Accuracy, TopFiveAccuracy
from modelwright.objectives.metrics.bits_per_byte import BitsPerByte
from modelwright.objectives.metrics.perplexity import Perplexity
from modelwright.objectives.next_token import NextToken


class Tiny(nn.Module):
    """Tokens -> logits of 11; what stands between head and output is up to the test."""

    def __init__(self, after: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.dropout, self.head = nn.Embedding(11, 6), nn.Dropout(0.5), nn.Linear(6, 11)
        self.after = after

    def forward(self, tokens: Tensor) -> Any:
        logits = self.head(self.dropout(self.embedding(tokens)))
        return logits if self.after is None else self.after(logits)


class Untouchable(nn.Linear):
    pass


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    tokens, targets = torch.randint(11, (2, 4, 5))
    targets[0, 2:] = -100
    return {"inputs": tokens, "targets": targets, "bytes": torch.randint(1, 5, (4, 5))}


def losses_and_gradients(model: nn.Module, objective: NextToken) -> list[Tensor]:
    torch.manual_seed(2)
    model.zero_grad()
    total = objective.loss(objective.forward(model, batch()), batch())["cross-entropy"]
    total.backward()  # type: ignore[no-untyped-call]
    return [total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [Tiny, lambda: GPT(vocabulary=11, layers=1, width=8, heads=2).build()])
def test_a_model_with_a_plain_head_gives_features_and_learns_the_same(make: Any) -> None:
    model = make().double()
    assert isinstance(NextToken().forward(model, batch()), Features)
    assert isinstance(NextToken(logits="full").forward(model, batch()), Tensor)
    chunked, full = (losses_and_gradients(model, NextToken(logits=kind)) for kind in ("chunked", "full"))
    assert len(chunked) > 2
    for mine, reference in zip(chunked, full, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-12)


def test_the_size_of_a_chunk_changes_nothing() -> None:
    whole, small = (losses_and_gradients(Tiny().double(), NextToken(chunk=size)) for size in (10**6, 100))
    for mine, reference in zip(small, whole, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-13)


def test_an_object_with_logits_will_do_as_output() -> None:
    model = Tiny(lambda logits: SimpleNamespace(logits=logits, loss=None))
    assert isinstance(run(model, batch()["inputs"]), Features)
    hidden = Tiny(lambda logits: SimpleNamespace(logits=2 * logits))
    outputs = NextToken().forward(hidden, batch())
    assert isinstance(outputs, Tensor)
    assert outputs.shape == (4, 5, 11)


def hooked(model: Tiny) -> None:
    model.head.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)


def subclassed(model: Tiny) -> None:
    model.head = Untouchable(6, 11)


def parametrised(model: Tiny) -> None:
    parametrizations.weight_norm(model.head)


def capped(model: Tiny) -> None:
    model.after = torch.tanh


def reshaped(model: Tiny) -> None:
    model.after = lambda logits: logits.view(4, 5, 11) * 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (hooked, "its head has hooks"),
        (subclassed, "no plain nn.Linear, but Untouchable"),
        (parametrised, "no plain nn.Linear, but ParametrizedLinear"),
        (capped, "does more with its head"),
        (reshaped, "does more with its head"),
    ],
)
def test_any_other_head_keeps_its_full_logits_and_says_so_once(spoil: Any, reason: str) -> None:
    model, events = Tiny(), list[Event]()
    spoil(model)
    head, inputs = model.head, batch()["inputs"]
    torch.manual_seed(3)
    expected = model(inputs)
    with listening(events.append):
        torch.manual_seed(3)
        assert torch.equal(run(model, inputs), expected)  # the attempt drew nothing from the random numbers
        run(model, inputs)
    assert [event.kind for event in events] == ["full-logits"]
    assert reason in events[0].message
    assert model.head is head
    with pytest.raises(ModelwrightError, match=reason) as raised:
        run(model, inputs, logits="chunked")
    assert raised.value.where == "objective.logits"


def test_a_model_without_a_head_has_nothing_to_be_told_about() -> None:
    events: list[Event] = []
    with listening(events.append):
        assert isinstance(run(nn.Sequential(nn.Embedding(11, 11)), batch()["inputs"]), Tensor)
    assert events == []


def test_hooks_of_the_model_itself_run() -> None:
    model, seen = Tiny(), list[Any]()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert isinstance(run(model, batch()["inputs"]), Features)
    assert seen == [(4, 5)]


def test_a_compiled_model_is_compiled_once() -> None:
    model, graphs = Tiny(), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model.compile(backend=backend)
    for _ in range(4):
        outputs = NextToken().forward(model, batch())
        assert isinstance(outputs, Features)
        NextToken().loss(outputs, batch())["cross-entropy"].backward()  # type: ignore[no-untyped-call]
    assert len(graphs) == 1


def test_an_error_of_the_model_is_its_own_and_leaves_the_head_in_place() -> None:
    model = Tiny()
    head = model.head
    with pytest.raises(IndexError):
        run(model, torch.full((1, 1), 99))
    assert model.head is head


def test_metrics_are_the_same_with_and_without_logits() -> None:
    model = Tiny().double().eval()
    with torch.no_grad():
        outputs = NextToken(chunk=100).forward(model, batch())
        assert isinstance(outputs, Features)
        total = NextToken().loss(outputs, batch())["cross-entropy"]
        torch.testing.assert_close(total, NextToken().loss(model(batch()["inputs"]), batch())["cross-entropy"])
    for kind in (Perplexity, BitsPerByte, Accuracy, TopFiveAccuracy):
        chunked, full = kind(), kind()
        chunked.update(outputs, batch())
        full.update(model(batch()["inputs"]), batch())
        assert chunked.compute() == pytest.approx(full.compute(), rel=1e-12)


def test_an_evaluation_goes_over_the_head_once() -> None:
    model, samples = Tiny().eval(), batch()
    with torch.no_grad():
        outputs = NextToken().forward(model, samples)
        assert isinstance(outputs, Features)
        NextToken().loss(outputs, samples)
        model.head.weight.zero_()  # whoever looks again sees a perplexity of 11
        model.head.bias.zero_()
        metric, fresh, expected = Perplexity(), Perplexity(), Perplexity()
        metric.update(outputs, samples)
        fresh.update(NextToken().forward(model, samples), samples)
        expected.update(Tiny().eval()(samples["inputs"]), samples)
    assert metric.compute() == pytest.approx(expected.compute(), rel=1e-6)
    assert fresh.compute() == pytest.approx(11, rel=1e-6)


def test_autocast_at_the_forward_pass_decides() -> None:
    model = Tiny().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(batch()["inputs"])
        outputs = run(model, batch()["inputs"])
    assert isinstance(outputs, Features)
    assert torch.equal(outputs.logits(), expected)  # outside of autocast
    assert outputs.likeliest().equal(expected.argmax(-1))


def test_values_of_the_fields_are_checked() -> None:
    with pytest.raises(ModelwrightError, match="auto, chunked or full"):
        NextToken(logits="some")  # type: ignore[arg-type]
    with pytest.raises(ModelwrightError, match="at least 1 byte"):
        NextToken(chunk=0)
    with pytest.raises(ModelwrightError, match="does not go with"):
        NextToken(logits="full", chunk=10)


def test_wrong_shapes_are_explained_for_features_too() -> None:
    samples = batch() | {"targets": torch.zeros(4, 6, dtype=torch.int64)}
    with pytest.raises(ModelwrightError, match=r"shape \[4, 5, 11\].*expects \[4, 6, 'classes'\]"):
        NextToken().forward(Tiny(), samples)
