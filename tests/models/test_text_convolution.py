from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.text_convolution import TextConvolution, TextConvolutionModule

SMALL = {"vocabulary": 13, "classes": 3, "width": 6, "spans": (1, 2, 3, 4, 5), "filters": 4}
LENGTHS = [7, 3, 1, 5]


def model_of(**settings: object) -> TextConvolutionModule:
    torch.manual_seed(0)
    return TextConvolution(**{**SMALL, **settings}).build().double().eval()  # type: ignore[arg-type]


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(13, shape, generator=torch.Generator().manual_seed(seed))


def reference(model: TextConvolutionModule, text: Tensor) -> Tensor:
    """Kim 2014, one place and one filter at a time, with zeros around the text."""
    rows = [model.embedding.weight[token] for token in text]
    zero = torch.zeros(6, dtype=torch.float64)
    largest = []
    for convolution, span in zip(model.convolutions, SMALL["spans"], strict=True):  # type: ignore[call-overload]
        around = [zero] * ((span - 1) // 2) + rows + [zero] * (span // 2)
        for weight, bias in zip(convolution.weight, convolution.bias, strict=True):  # type: ignore[arg-type]
            places = range(len(around) - span + 1)
            seen = [bias + sum(weight[:, i] @ around[place + i] for i in range(span)) for place in places]
            largest.append(torch.stack(seen).max().clamp(min=0))
    return torch.stack(largest) @ model.head.weight.T + model.head.bias


def test_equals_the_textbook() -> None:
    model, texts = model_of(), tokens(4, 7)
    expected = torch.stack([reference(model, text[:length]) for text, length in zip(texts, LENGTHS, strict=True)])
    with torch.no_grad():
        torch.testing.assert_close(model(texts, torch.tensor(LENGTHS)), expected, rtol=1e-12, atol=1e-12)


def test_what_stands_behind_a_text_changes_nothing() -> None:
    model, texts, lengths = model_of(), tokens(4, 7), torch.tensor(LENGTHS)
    other = torch.where(torch.arange(7) < lengths.unsqueeze(1), texts, (texts + 1) % 13)
    with torch.no_grad():
        assert torch.equal(model(texts, lengths), model(other, lengths))
        assert not torch.equal(model(texts), model(other))  # the negative control


@pytest.mark.parametrize("extra", [1, 6, 20])
def test_a_padded_text_equals_the_text_alone(extra: int) -> None:
    model, text = model_of(), tokens(1, 5)
    padded = torch.cat((text, torch.zeros(1, extra, dtype=torch.long)), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded, torch.tensor([5])), model(text), rtol=1e-13, atol=1e-13)
        assert not torch.allclose(model(padded), model(text))  # the negative control


def test_padding_gets_no_gradient() -> None:
    model = model_of()
    model(torch.tensor([[3, 4, 0, 0]]), torch.tensor([2])).square().sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert bool(gradient[[3, 4]].any(1).all())


def test_an_empty_text_gives_finite_numbers() -> None:
    model = model_of()
    outputs = model(tokens(2, 3), torch.tensor([0, 3]))
    outputs.sum().backward()
    assert bool(outputs.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_a_text_shorter_than_every_span_is_read() -> None:
    model = model_of(spans=(5,))
    with torch.no_grad():
        assert not torch.equal(model(torch.tensor([[3]])), model(torch.tensor([[4]])))


def test_learns_whether_a_pair_of_tokens_occurs() -> None:
    """The order counts: a bag of tokens could not tell the classes apart."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(2, 13, (1200, 12), generator=generator)
    targets = torch.randint(2, (1200,), generator=generator)
    place = torch.randint(11, (1200,), generator=generator)
    texts[torch.arange(1200), place] = torch.where(targets == 1, 0, 1)
    texts[torch.arange(1200), place + 1] = torch.where(targets == 1, 1, 0)
    torch.manual_seed(0)
    model = TextConvolution(vocabulary=13, classes=2, width=16, spans=(2, 3), filters=16).build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(100):
        chosen = slice(step % 16 * 64, step % 16 * 64 + 64)
        optimizer.zero_grad()
        functional.cross_entropy(model(texts[chosen]), targets[chosen]).backward()
        optimizer.step()
    right = model.eval()(texts[1024:]).argmax(1) == targets[1024:]
    assert float(right.double().mean()) > 0.95


@pytest.mark.parametrize(
    "settings",
    [
        {"vocabulary": 0},
        {"classes": 0},
        {"width": 0},
        {"filters": 0},
        {"spans": ()},
        {"spans": (3, 0)},
        {"dropout": 1.0},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError, match="text-convolution: "):
        TextConvolution(**{**SMALL, **settings})  # type: ignore[arg-type]


def test_open_sizes_are_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="the size 'classes' is not known"):
        TextConvolution(vocabulary=4).build()
