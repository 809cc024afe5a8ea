"""Documents that share a window: each is computed as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from modelwright.models.attention import seen_within, set_attention
from modelwright.models.flex import attended, blocks_within
from modelwright.models.gpt import GPT, GPTModule
from modelwright.parallel.compiling import compile_regions
from modelwright.parallel.recompute import set_recompute

LENGTHS = ((5, 1, 7, 3), (16,), (1, 1, 14))  # of the documents in each window
TIME = 16


def packed() -> dict[str, Tensor]:
    rows = [[(n, place) for n, length in enumerate(row) for place in range(length)] for row in LENGTHS]
    segments, positions = torch.tensor(rows).unbind(-1)
    inputs = torch.randint(29, segments.shape, generator=torch.Generator().manual_seed(1))
    return {"inputs": inputs, "segments": segments, "positions": positions}


def model_of(**settings: object) -> GPTModule:
    torch.manual_seed(0)
    sizes = {"vocabulary": 29, "layers": 2, "width": 24, "heads": 4}
    model = GPT(**{**sizes, **settings}).build().double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def alone(model: Callable[[Tensor], Tensor], inputs: Tensor, lengths: Sequence[Sequence[int]] = LENGTHS) -> Tensor:
    """Every document in a forward pass of its own."""
    rows = [
        torch.cat([model(part.unsqueeze(0))[0] for part in row.split(list(parts))])
        for row, parts in zip(inputs, lengths, strict=True)
    ]
    return torch.stack(rows)


def gradients(model: GPTModule, logits: Tensor) -> list[Tensor]:
    model.zero_grad()
    (logits.logsumexp(-1) * torch.linspace(0.5, 1.5, logits.shape[0] * TIME).double().view(-1, TIME)).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("settings", [{}, {"kv_heads": 2, "qk_norm": True}], ids=str)
def test_each_document_is_computed_as_if_alone(settings: dict[str, object], kernel: str) -> None:
    model, batch = model_of(**settings), packed()
    set_attention(model, kernel)
    expected = alone(model, batch["inputs"])
    found = model(**batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for mine, reference in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)
    joined = model(batch["inputs"])
    assert (joined - expected)[0, 5:].abs().max() > 0.1  # the test can fail
    torch.testing.assert_close(joined[1], expected[1], rtol=0, atol=1e-10)  # a single document is no other case


def test_positions_count_from_the_begin_of_each_document() -> None:
    """Angles matter by their difference alone: what is seen decides, and positions change rounding only."""
    model, batch = model_of(), packed()
    far = batch | {"positions": batch["positions"] + 1000}
    without = {name: batch[name] for name in ("inputs", "segments")}
    for other in (far, without):
        torch.testing.assert_close(model(**other), model(**batch), rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_blocks_of_flex_stay_within_documents(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[0] * 130 + [1] * 20, [0] * 150, [0] + [1] * 149]
    segments = torch.tensor(rows)
    query, key, value = (torch.randn(3, heads, 150, 16, generator=generator) for heads in (4, kv_heads, kv_heads))
    mixed = attended(flex_attention, query, key, value, blocks_within(segments))  # not compiled, it runs anywhere
    keys, values = (x.repeat_interleave(4 // kv_heads, 1).double() for x in (key, value))
    scores = query.double() @ keys.transpose(-2, -1) / 4
    sees = torch.tensor([[[j <= i and row[i] == row[j] for j in range(150)] for i in range(150)] for row in rows])
    expected = scores.masked_fill(~sees.unsqueeze(1), -torch.inf).softmax(-1) @ values
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=1e-5)


def test_what_is_seen_is_made_once_for_all_blocks_of_a_kernel() -> None:
    seen = seen_within(packed()["segments"], ["sdpa", "explicit", "sdpa"])
    assert seen["sdpa"] is seen["explicit"]
    assert seen["sdpa"].shape == (3, 1, TIME, TIME)
    assert seen["sdpa"].any(-1).all()  # nobody is left without anything to see


@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_recomputing_changes_nothing(recompute: str, kernel: str) -> None:
    results = []
    for kind in ("none", recompute):
        model = model_of()
        set_attention(model, kernel)
        set_recompute(model, kind)
        results.append(gradients(model, model(**packed())))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_compiled_blocks_compute_the_same(kernel: str) -> None:
    model, batch = model_of(), packed()
    set_attention(model, kernel)
    expected = gradients(model, model(**batch))
    compile_regions(model, backend="aot_eager")
    torch.testing.assert_close(gradients(model, model(**batch)), expected, rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_each_document_is_computed_as_if_alone_on_a_gpu(kernel: str) -> None:
    torch.manual_seed(0)
    model = GPT(vocabulary=61, layers=2, width=192, heads=6, kv_heads=2).build().cuda()
    set_attention(model, kernel)
    lengths = ((100, 60, 140), (300,))
    rows = [[(n, place) for n, length in enumerate(row) for place in range(length)] for row in lengths]
    segments, positions = torch.tensor(rows).cuda().unbind(-1)
    inputs = torch.randint(61, segments.shape, generator=torch.Generator().manual_seed(1)).cuda()
    found = model(inputs, segments, positions)
    set_attention(model, "sdpa")
    torch.testing.assert_close(found, alone(model, inputs, lengths), rtol=1e-3, atol=1e-4)
