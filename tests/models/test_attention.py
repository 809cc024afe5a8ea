"""The choice of a kernel, and the kernels against the textbook."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import Attention, attention_kernels, rotations, rotations_at, set_attention
from modelwright.models.flex import attended, flex
from modelwright.models.gpt import GPT


class Chooser(nn.Module):
    kernels: ClassVar[tuple[str, ...]] = ("sdpa", "own")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = "sdpa"


def drawn(heads: int, kv_heads: int, time: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def tensor(rows: int) -> Tensor:
        return torch.randn(2, rows, time, 16, generator=generator)

    return tensor(heads), tensor(kv_heads), tensor(kv_heads)


def textbook(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    group = query.size(1) // key.size(1)
    key, value = key.repeat_interleave(group, 1).double(), value.repeat_interleave(group, 1).double()
    scores = query.double() @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ value


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_mask_of_flex_is_causal(kv_heads: int) -> None:
    query, key, value = drawn(4, kv_heads, 150)
    mixed = attended(flex_attention, query, key, value)  # not compiled, it runs anywhere
    torch.testing.assert_close(mixed.double(), textbook(query, key, value), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_flex_equals_sdpa_on_a_gpu_in_outputs_and_gradients(kv_heads: int) -> None:
    results = []
    for kernel in ("sdpa", "flex"):
        torch.manual_seed(0)
        model = GPT(vocabulary=61, layers=2, width=192, heads=6, kv_heads=kv_heads).build().cuda()
        assert set_attention(model, kernel) == 2
        inputs = torch.randint(61, (2, 300), generator=torch.Generator().manual_seed(1)).cuda()
        logits = model(inputs)
        logits.logsumexp(-1).mean().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_flex_is_offered_on_gpus_only() -> None:
    model = GPT(vocabulary=5, layers=1, width=8, heads=2).build()
    assert attention_kernels(model) == attention_kernels(model, device="cpu") == ("sdpa", "explicit")
    assert attention_kernels(model, device="cuda") == ("sdpa", "explicit", "flex")
    dropping = GPT(vocabulary=5, layers=1, width=8, heads=2, attention_dropout=0.1).build()
    assert attention_kernels(dropping, device="cuda") == ("sdpa", "explicit")
    with pytest.raises(ModelwrightError, match="no attention kernel 'flex'"):
        set_attention(dropping, "flex")


def test_flex_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = GPT(vocabulary=5, layers=1, width=8, heads=2).build()
    with pytest.raises(ModelwrightError, match="needs a GPU, and there is none") as caught:
        set_attention(model, "flex")
    assert caught.value.where == "plan.attention"
    assert "sdpa or explicit" in caught.value.remedy
    with pytest.raises(ModelwrightError, match="the model is on cpu"):
        flex(*drawn(2, 2, 4))


def test_any_module_may_offer_kernels() -> None:
    model = nn.Sequential(Chooser(), Attention(8, 2, 2))
    assert attention_kernels(model) == ("sdpa", "own", "explicit")
    assert set_attention(model, "own") == 1
    assert (model[0].kernel, model[1].kernel) == ("own", "sdpa")
    assert set_attention(model, "sdpa") == 2
    with pytest.raises(ModelwrightError, match="no attention kernel 'explicit'") as caught:
        set_attention(Chooser(), "explicit")
    assert caught.value.remedy == "known: sdpa, own"


def test_models_of_transformers_offer_their_own_kernels() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=29, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = nn.ModuleDict({"inner": transformers.LlamaForCausalLM(config).double()})
    assert attention_kernels(model) == ("sdpa", "explicit")
    inputs = torch.randint(29, (2, 7))
    outputs = []
    for kernel, theirs in (("explicit", "eager"), ("sdpa", "sdpa")):
        assert set_attention(model, kernel) == 1
        assert model["inner"].config._attn_implementation == theirs
        outputs.append(model["inner"](inputs).logits)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)  # eager takes its softmax in float32


def test_rotations_at_positions_are_those_of_the_row() -> None:
    like = torch.zeros((), dtype=torch.float64)
    whole = rotations(20, 8, 10000.0, like=like)
    some = rotations_at(torch.tensor([[3, 4], [17, 0]]), 8, 10000.0, like=like)
    for row, part in zip(whole, some, strict=True):
        assert torch.equal(part, torch.stack([row[[3, 4]], row[[17, 0]]]))


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_dropout_of_shares_acts_in_training_and_keeps_the_mean(kernel: str) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2, 2, dropout=0.3).double()
    set_attention(attention, kernel)
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    rotation = rotations(6, 8, 10000.0, like=x)
    with torch.no_grad():
        mean = torch.stack([attention(x, rotation) for _ in range(3000)]).mean(0)
        assert not torch.equal(attention(x, rotation), attention(x, rotation))
        attention.eval()
        torch.testing.assert_close(mean, attention(x, rotation), rtol=0, atol=0.02)
        assert torch.equal(attention(x, rotation), attention(x, rotation))
