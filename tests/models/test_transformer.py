from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import attention_kernels, set_attention
from modelwright.models.transformer import DecoderLayer, EncoderLayer, MaskedAttention, check_heads, counted, waves

SIZES = (24, 4, 40, 0.0, 0.0)
KERNELS = ["sdpa", "explicit"]
MASK = torch.arange(6) < torch.tensor([6, 4, 1]).unsqueeze(1)


def random(module: nn.Module, kernel: str = "sdpa") -> nn.Module:
    """In float64 with every parameter random, norms too."""
    torch.manual_seed(0)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    set_attention(module, kernel)
    return module


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def attention_weights(module: nn.Module, name: str, ours: MaskedAttention) -> dict[str, Tensor]:
    projections = (ours.query, ours.key, ours.value)
    return {
        f"{name}.in_proj_weight": torch.cat([each.weight for each in projections]),
        f"{name}.in_proj_bias": torch.cat([each.bias for each in projections]),
        f"{name}.out_proj.weight": ours.output.weight,
        f"{name}.out_proj.bias": ours.output.bias,
    }


def layer_of_torch(ours: EncoderLayer | DecoderLayer) -> nn.Module:
    """Torch's own layer with the same weights; in training mode, where it takes no fast path."""
    decoder = isinstance(ours, DecoderLayer)
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    theirs = kind(24, 4, 40, dropout=0.0, activation="gelu", batch_first=True, norm_first=True).double()
    norms = [ours.attention_norm, *([ours.memory_norm] if decoder else []), ours.feed_forward_norm]
    weights = attention_weights(theirs, "self_attn", ours.attention)
    if decoder:
        weights |= attention_weights(theirs, "multihead_attn", ours.memory_attention)
    named = {"linear1": ours.feed_forward.up, "linear2": ours.feed_forward.down}
    named |= {f"norm{place}": norm for place, norm in enumerate(norms, start=1)}
    weights |= {f"{name}.{key}": value for name, module in named.items() for key, value in module.state_dict().items()}
    theirs.load_state_dict(weights)
    return theirs


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_the_encoder_layer_equals_that_of_torch(kernel: str, mask: Tensor | None) -> None:
    ours = random(EncoderLayer(*SIZES), kernel)
    x = numbers(3, 6, 24)
    expected = layer_of_torch(ours)(x, src_key_padding_mask=None if mask is None else ~mask)  # type: ignore[arg-type]
    torch.testing.assert_close(ours(x, mask), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_the_decoder_layer_equals_that_of_torch(kernel: str, mask: Tensor | None) -> None:
    ours = random(DecoderLayer(*SIZES), kernel)
    x, memory = numbers(3, 5, 24), numbers(3, 6, 24, seed=2)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padded = None if mask is None else ~mask
    expected = layer_of_torch(ours)(x, memory, tgt_mask=causal, memory_key_padding_mask=padded)  # type: ignore[arg-type]
    torch.testing.assert_close(ours(x, memory, mask), expected, rtol=1e-12, atol=1e-12)


def test_kernels_agree_in_gradients() -> None:
    results = []
    for kernel in KERNELS:
        layer = random(DecoderLayer(*SIZES), kernel)
        x = numbers(3, 5, 24).requires_grad_()
        layer(x, numbers(3, 6, 24, seed=2), MASK).pow(3).sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_query_that_may_read_nothing_reads_zeros(kernel: str) -> None:
    attention = random(MaskedAttention(24, 4), kernel)
    x = numbers(2, 3, 24).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    mixed = attention(x, mask=mask)
    assert torch.equal(mixed[1], attention.output.bias.expand(3, -1))  # type: ignore[union-attr, operator]
    mixed.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in attention.parameters() if p.grad is not None)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_the_choice_of_kernel_reaches_every_attention() -> None:
    layer = DecoderLayer(*SIZES)
    assert attention_kernels(layer) == ("sdpa", "explicit")
    assert set_attention(layer, "explicit") == 2
    assert layer.attention.kernel == layer.memory_attention.kernel == "explicit"


def test_waves_equal_the_formula() -> None:
    found = waves(counted(7, torch.zeros(1, dtype=torch.float64)), 10)
    for position in range(7):
        for i in range(5):
            angle = position / 10000 ** (i / 4)
            assert float(found[position, i]) == pytest.approx(math.sin(angle), abs=1e-12)
            assert float(found[position, 5 + i]) == pytest.approx(math.cos(angle), abs=1e-12)


def test_positions_are_counted_in_enough_precision() -> None:
    assert counted(300, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert counted(300, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_heads_divide_the_width() -> None:
    check_heads("vit", 24, 4)
    with pytest.raises(ModelwrightError, match="vit: width 25 must be a multiple of heads 4") as raised:
        check_heads("vit", 25, 4)
    assert raised.value.remedy == "for example width 24"
