from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import attention_kernels, rotate, rotations, set_attention
from modelwright.models.gpt import GPT, GPTModule
from modelwright.optim.adamw import AdamW
from modelwright.optim.muon import Muon

SMALL = {"vocabulary": 29, "layers": 2, "width": 24, "heads": 4}


def model_of(**settings: object) -> GPTModule:
    """A float64 model whose every parameter is random, norms too, so that no factor of 1 hides a mistake."""
    torch.manual_seed(0)
    model = GPT(**{**SMALL, **settings}).build().double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(29, shape, generator=torch.Generator().manual_seed(1))


# The textbook, one position and one head at a time.


def reference_logits(weights: dict[str, Tensor], inputs: Tensor, config: GPT) -> Tensor:
    head = weights.get("head.weight", weights["embedding.weight"])
    return torch.stack([reference_sequence(weights, row, config) @ head.T for row in inputs])


def reference_sequence(weights: dict[str, Tensor], row: Tensor, config: GPT) -> Tensor:
    x = torch.stack([weights["embedding.weight"][token] for token in row])
    for layer in range(config.layers):
        block = {
            name.removeprefix(f"blocks.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        x = x + reference_attention(block, reference_norm(x, block["attention_norm.weight"]), config)
        x = x + reference_feed_forward(block, reference_norm(x, block["feed_forward_norm.weight"]))
    return reference_norm(x, weights["norm.weight"])


def reference_norm(x: Tensor, weight: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps
    return torch.stack([row / math.sqrt(float((row**2).mean()) + eps) * weight for row in x])


def reference_feed_forward(block: dict[str, Tensor], x: Tensor) -> Tensor:
    up, down = block["feed_forward.up.weight"], block["feed_forward.down.weight"]
    if "feed_forward.gate.weight" not in block:
        inner = x @ up.T
        return (inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))) @ down.T
    gate = x @ block["feed_forward.gate.weight"].T
    return (gate / (1 + torch.exp(-gate)) * (x @ up.T)) @ down.T


def reference_attention(block: dict[str, Tensor], x: Tensor, config: GPT) -> Tensor:
    size = config.width // config.heads
    group = config.heads // (config.kv_heads or config.heads)
    columns = []
    for head in range(config.heads):
        query = reference_head(block, "query", x, head, size, config.rope_base)
        key = reference_head(block, "key", x, head // group, size, config.rope_base)
        value = x @ part(block["attention.value.weight"], head // group, size).T
        rows = []
        for t in range(len(x)):
            scores = torch.stack([query[t] @ key[s] / math.sqrt(size) for s in range(t + 1)])
            shares = torch.exp(scores) / torch.exp(scores).sum()
            rows.append(sum(share * value[s] for s, share in enumerate(shares)))
        columns.append(torch.stack(rows))
    return torch.cat(columns, dim=-1) @ block["attention.output.weight"].T


def reference_head(block: dict[str, Tensor], name: str, x: Tensor, head: int, size: int, base: float) -> Tensor:
    y = x @ part(block[f"attention.{name}.weight"], head, size).T
    if f"attention.{name}_norm.weight" in block:
        y = reference_norm(y, block[f"attention.{name}_norm.weight"][head])
    return torch.stack([turn(row, t, base) for t, row in enumerate(y)])


def part(weight: Tensor, head: int, size: int) -> Tensor:
    return weight[head * size : (head + 1) * size]


def turn(row: Tensor, position: int, base: float) -> Tensor:
    """Each pair as a complex number, turned by position times base ** (-2 i / size)."""
    half = len(row) // 2
    result = row.clone()
    for i in range(half):
        angle = position * base ** (-2 * i / len(row))
        number = complex(row[i], row[i + half]) * complex(math.cos(angle), math.sin(angle))
        result[i], result[i + half] = number.real, number.imag
    return result


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "gelu"},
        {"tied_embeddings": False},
        {"kv_heads": 2},
        {"kv_heads": 1, "qk_norm": True},
        {"rope_base": 100.0, "hidden": 20},
    ],
    ids=str,
)
def test_equals_the_textbook(settings: dict[str, object], kernel: str) -> None:
    model = model_of(**settings)
    set_attention(model, kernel)
    inputs = tokens(2, 6)
    expected = reference_logits(dict(model.state_dict()), inputs, model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_kernels_agree_in_outputs_and_gradients(kv_heads: int) -> None:
    results = []
    for kernel in ("sdpa", "explicit"):
        model = model_of(kv_heads=kv_heads, qk_norm=True)
        assert set_attention(model, kernel) == 2
        logits = model(tokens(3, 17))
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_the_future_does_not_change_the_past(kernel: str) -> None:
    model = model_of()
    set_attention(model, kernel)
    before = tokens(1, 12)
    after = before.clone()
    after[0, 7] = (after[0, 7] + 1) % 29
    with torch.no_grad():
        first, second = model(before)[0], model(after)[0]
    assert torch.equal(first[:7], second[:7])
    assert all(not torch.equal(first[t], second[t]) for t in range(7, 12))  # the negative control


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_grouped_queries_equal_repeated_keys_and_values(kernel: str) -> None:
    grouped, full = model_of(kv_heads=2), model_of()
    weights = dict(grouped.state_dict())
    for name in list(weights):
        if name.endswith(("key.weight", "value.weight")):
            weights[name] = weights[name].unflatten(0, (2, 6)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    set_attention(grouped, kernel)
    with torch.no_grad():
        torch.testing.assert_close(grouped(tokens(2, 9)), full(tokens(2, 9)), rtol=1e-12, atol=1e-12)


def test_rotated_products_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    rotation = rotations(40, 8, 10000.0, like=query)
    queries = rotate(query.expand(1, 40, 1, 8), rotation)[0, :, 0]
    keys = rotate(key.expand(1, 40, 1, 8), rotation)[0, :, 0]
    products = queries @ keys.T
    for distance in (0, 1, 7, 20):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[0].expand_as(diagonal), rtol=1e-12, atol=1e-12)
    assert not torch.isclose(products[5, 5], products[6, 5])
    torch.testing.assert_close(queries.norm(dim=1), query.norm().expand(40), rtol=1e-12, atol=1e-12)


def test_forward_is_head_of_features() -> None:
    model = model_of()
    with torch.no_grad():
        assert torch.equal(model(tokens(2, 5)), model.head(model.features(tokens(2, 5))))
    assert model.features(tokens(2, 5)).shape == (2, 5, 24)


def test_tied_embeddings_share_one_parameter() -> None:
    tied, untied = model_of(), model_of(tied_embeddings=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    count = sum(parameter.numel() for parameter in tied.parameters())
    assert sum(parameter.numel() for parameter in untied.parameters()) == count + 29 * 24


def test_initial_weights_shrink_where_they_write_to_the_residual_stream() -> None:
    torch.manual_seed(0)
    model = GPT(vocabulary=500, layers=8, width=128, heads=4).build()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            writes = name.endswith(("output.weight", "down.weight"))
            expected = 0.02 / math.sqrt(16) if writes else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_bfloat16_autocast_stays_near_float32(kernel: str, qk_norm: bool) -> None:
    torch.manual_seed(0)
    model = GPT(**SMALL, qk_norm=qk_norm).build()  # type: ignore[arg-type]
    set_attention(model, kernel)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens(2, 9))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), model(tokens(2, 9)), rtol=0.05, atol=0.01)


def test_dropout_acts_in_training_only() -> None:
    model = model_of(dropout=0.5)
    inputs = tokens(2, 5)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model_of(dropout=0.0)(inputs))


@pytest.mark.parametrize("field", ["attention_dropout", "stochastic_depth"])
def test_other_ways_to_drop_act_in_training_only(field: str) -> None:
    model = model_of(**{field: 0.5})
    inputs = tokens(4, 5)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model_of()(inputs))


def test_stochastic_depth_grows_with_depth() -> None:
    model = model_of(stochastic_depth=0.2, layers=4)
    assert [block.skip.rate for block in model.blocks] == pytest.approx([0.05, 0.1, 0.15, 0.2])  # type: ignore[union-attr]


def test_attention_choice() -> None:
    assert attention_kernels(model_of()) == ("sdpa", "explicit")
    assert attention_kernels(torch.nn.Linear(2, 2)) == ()
    assert set_attention(torch.nn.Linear(2, 2), "explicit") == 0
    with pytest.raises(ModelwrightError, match="no attention kernel 'flash'"):
        set_attention(model_of(), "flash")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 25}, "even multiple"),
        ({"width": 20}, "even multiple"),
        ({"kv_heads": 3}, "must divide"),
        ({"layers": 0}, "layers"),
        ({"activation": "relu"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"stochastic_depth": -0.1}, "stochastic_depth"),
        ({"rope_base": 1.0}, "rope_base"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        GPT(**{**SMALL, **settings})  # type: ignore[arg-type]


def test_an_open_vocabulary_is_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="vocabulary is not known"):
        GPT().build()


def test_scales_of_heads_begin_at_one_and_are_no_matrices() -> None:
    """A matrix would be drawn at random, decayed by AdamW and orthogonalised by Muon."""
    model = GPT(**SMALL, qk_norm=True, kv_heads=2).build()  # type: ignore[arg-type]
    scales = [parameter for name, parameter in model.named_parameters() if "query_norm" in name or "key_norm" in name]
    assert {tuple(scale.shape) for scale in scales} == {(4,), (2,)}
    assert all(bool(scale.eq(1).all()) for scale in scales)
    muon, *_ = Muon().build(model).param_groups
    decayed, *_ = AdamW(weight_decay=0.1).build(model).param_groups
    for group in (muon, decayed):
        assert not {id(parameter) for parameter in group["params"]} & {id(scale) for scale in scales}
