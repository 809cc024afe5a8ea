from __future__ import annotations

import math

import pytest
import torch
from tests.models.test_transformer import layer_of_torch, random
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import set_attention
from modelwright.models.sequence_to_sequence import SequenceToSequence, SequenceToSequenceModule

SMALL = {"vocabulary": 19, "encoder_layers": 2, "decoder_layers": 2, "width": 24, "heads": 4, "hidden": 40}
KERNELS = pytest.mark.parametrize("kernel", ["sdpa", "explicit"])


def model_of(kernel: str = "sdpa", **settings: object) -> SequenceToSequenceModule:
    model = random(SequenceToSequence(**{**SMALL, "dropout": 0.0, **settings}).build(), kernel)  # type: ignore[arg-type]
    assert isinstance(model, SequenceToSequenceModule)
    return model


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(19, shape, generator=torch.Generator().manual_seed(seed))


def padding(*lengths: int, time: int = 6) -> Tensor:
    return torch.arange(time) < torch.tensor(lengths).unsqueeze(1)


def reference_embedded(model: SequenceToSequenceModule, rows: Tensor) -> Tensor:
    """Vaswani et al. 2017, sections 3.4 and 3.5, with the sines before the cosines."""
    x = torch.stack([torch.stack([model.embedding.weight[token] for token in row]) for row in rows]) * math.sqrt(24)
    for position in range(rows.size(1)):
        for i in range(12):
            angle = position / 10000 ** (i / 11)
            x[:, position, i] += math.sin(angle)
            x[:, position, 12 + i] += math.cos(angle)
    return x


def reference(model: SequenceToSequenceModule, inputs: Tensor, mask: Tensor, decoder_inputs: Tensor) -> Tensor:
    memory = reference_embedded(model, inputs)
    for layer in model.encoder:
        memory = layer_of_torch(layer)(memory, src_key_padding_mask=~mask)  # type: ignore[arg-type]
    memory = functional.layer_norm(memory, (24,), model.encoder_norm.weight, model.encoder_norm.bias)
    x = reference_embedded(model, decoder_inputs)
    causal = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
    for layer in model.decoder:
        x = layer_of_torch(layer)(x, memory, tgt_mask=causal, memory_key_padding_mask=~mask)  # type: ignore[arg-type]
    x = functional.layer_norm(x, (24,), model.decoder_norm.weight, model.decoder_norm.bias)
    return x @ model.head.weight.T


@KERNELS
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_equals_a_reference_of_torch_layers(kernel: str, tied: bool) -> None:
    model = model_of(kernel, tied_embeddings=tied)
    assert (model.head.weight is model.embedding.weight) == tied
    arguments = tokens(3, 6), padding(6, 4, 1), tokens(3, 5, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(model(*arguments), reference(model, *arguments), rtol=1e-10, atol=1e-10)


@KERNELS
def test_the_future_of_the_target_does_not_change_its_past(kernel: str) -> None:
    model = model_of(kernel)
    inputs, before = tokens(1, 6), tokens(1, 8, seed=2)
    after = before.clone()
    after[0, 5] = (after[0, 5] + 1) % 19
    with torch.no_grad():
        first, second = model(inputs, None, before)[0], model(inputs, None, after)[0]
    assert torch.equal(first[:5], second[:5])
    assert all(not torch.equal(first[t], second[t]) for t in range(5, 8))  # the negative control


@KERNELS
def test_every_source_token_reaches_every_target(kernel: str) -> None:
    model = model_of(kernel)
    inputs, target = tokens(1, 6), tokens(1, 4, seed=2)
    with torch.no_grad():
        before = model(inputs, None, target)[0]
        for place in range(6):
            other = inputs.clone()
            other[0, place] = (other[0, place] + 1) % 19
            after = model(other, None, target)[0]
            assert all(not torch.equal(before[t], after[t]) for t in range(4))


@KERNELS
def test_padding_of_the_source_changes_nothing(kernel: str) -> None:
    model = model_of(kernel)
    inputs, target = tokens(2, 6), tokens(2, 5, seed=2)
    other = torch.where(padding(6, 4), inputs, (inputs + 1) % 19)
    with torch.no_grad():
        padded = model(inputs, padding(6, 4), target)
        assert torch.equal(padded, model(other, padding(6, 4), target))
        assert not torch.equal(model(inputs, None, target), model(other, None, target))  # the negative control
        alone = model(inputs[1:, :4], None, target[1:])
        torch.testing.assert_close(padded[1:], alone, rtol=1e-12, atol=1e-12)


@KERNELS
def test_padding_gets_no_gradient(kernel: str) -> None:
    model = model_of(kernel, tied_embeddings=False)
    inputs = torch.tensor([[3, 4, 0, 0]])
    model(inputs, padding(2, time=4), torch.tensor([[5, 6]])).square().sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None
    assert not gradient[0].any()
    assert bool(gradient[[3, 4, 5, 6]].any(1).all())


def test_an_empty_source_gives_finite_numbers() -> None:
    for kernel in ("sdpa", "explicit"):
        model = model_of(kernel)
        logits = model(tokens(2, 4), padding(4, 0, time=4), tokens(2, 3))
        logits.square().sum().backward()
        assert bool(logits.isfinite().all())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_encoding_once_and_decoding_in_steps_equals_one_pass() -> None:
    model = model_of()
    inputs, mask, target = tokens(2, 6), padding(6, 3), tokens(2, 5, seed=2)
    with torch.no_grad():
        whole = model(inputs, mask, target)
        memory = model.encode(inputs, mask)
        for length in range(1, 6):
            step = model.head(model.decode(memory, mask, target[:, :length]))
            torch.testing.assert_close(step, whole[:, :length], rtol=1e-12, atol=1e-12)


def test_dropping_happens_in_training_only() -> None:
    model = SequenceToSequence(**SMALL, stochastic_depth=0.5).build()  # type: ignore[arg-type]
    arguments = tokens(2, 6), None, tokens(2, 5)
    assert not torch.equal(model(*arguments), model(*arguments))
    assert torch.equal(model.eval()(*arguments), model(*arguments))


def test_set_attention_reaches_both_sides() -> None:
    assert set_attention(model_of(), "explicit") == 6


def test_learns_to_reverse() -> None:
    """Token 0 begins the target; sources of 3 to 5 of 8 other tokens, padded with 0."""
    generator = torch.Generator().manual_seed(0)

    def batch(samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = padding(*torch.randint(3, 6, (samples,), generator=generator).tolist(), time=5)
        inputs = torch.randint(1, 9, (samples, 5), generator=generator) * mask
        places = (mask.sum(1, keepdim=True) - 1 - torch.arange(5)).clamp(min=0)
        targets = inputs.gather(1, places).masked_fill(~mask, -100)
        begin = torch.zeros(samples, 1, dtype=torch.long)
        return inputs, mask, torch.cat((begin, targets[:, :-1].clamp(min=0)), dim=1), targets

    torch.manual_seed(0)
    sizes = {"vocabulary": 9, "encoder_layers": 1, "decoder_layers": 1, "width": 32, "heads": 2, "dropout": 0.0}
    model = SequenceToSequence(**sizes).build()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(230):
        *arguments, targets = batch(64)
        optimizer.zero_grad()
        functional.cross_entropy(model(*arguments).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
    *arguments, targets = batch(500)
    right = model.eval()(*arguments).argmax(2) == targets
    assert float(right[targets >= 0].double().mean()) > 0.95


@pytest.mark.parametrize(
    "settings",
    [
        {"vocabulary": 0},
        {"encoder_layers": 0},
        {"decoder_layers": 0},
        {"heads": 5},
        {"width": 3, "heads": 3},
        {"hidden": 0},
        {"dropout": 1.0},
        {"stochastic_depth": -0.5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError, match="sequence-to-sequence: "):
        SequenceToSequence(**{**SMALL, **settings})  # type: ignore[arg-type]


def test_an_open_vocabulary_is_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="the size 'vocabulary' is not known") as raised:
        SequenceToSequence().build()
    assert raised.value.remedy == "set model.vocabulary, or use data that states it"
