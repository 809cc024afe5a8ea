"""Each precision against the same computation written out with torch alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.world import run_world
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.base.world import Mesh, arranged
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.parallel import PRECISIONS
from modelwright.parallel.layouts.shard import Shard
from modelwright.parallel.precisions.fp8 import Fp8
from modelwright.parallel.program import LocalProgram

CPU = torch.device("cpu")


class Tied(nn.Module):
    """A language model whose embedding is its head, with a norm and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + functional.gelu(self.mix(self.norm(x)))) * self.scale


def tied() -> tuple[Tied, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Tied()
    tokens = torch.randint(11, (4, 6))
    return model, {"inputs": tokens, "targets": tokens.roll(-1, 1)}


def gradients(program: LocalProgram, batches: list[dict[str, Tensor]], scale: float = 1.0) -> dict[str, Tensor]:
    program.forward_backward(batches, program.counts(batches), scale)
    found = {name: p.grad.clone() for name, p in program.model.named_parameters() if p.grad is not None}
    for parameter in program.model.parameters():
        parameter.grad = None
    return found


def total(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_bf16_weights_compute_as_a_model_in_bfloat16_and_keep_float32_masters() -> None:
    model, batch = tied()
    parameters = list(model.named_parameters())
    short = Tied()
    short.load_state_dict(model.state_dict())
    short.bfloat16()
    (total(short(batch["inputs"]), batch["targets"]) / batch["targets"].numel()).backward()
    expected = {name: parameter.grad.float() for name, parameter in short.named_parameters()}
    program = LocalProgram(model, NextToken(), device=CPU, precision="bf16-weights")
    assert equal(gradients(program, [batch]), expected)
    assert [(name, id(p)) for name, p in model.named_parameters()] == [(name, id(p)) for name, p in parameters]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.head.weight is model.embedding.weight


def test_bf16_weights_sum_micro_batches_in_float32() -> None:
    """In bfloat16 a sum of small and large gradients would lose the small ones."""
    model, batch = tied()
    program = LocalProgram(model, NextToken(), device=CPU, precision="bf16-weights")
    parts = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(4)]
    counts = program.counts(parts)
    alone: dict[str, Tensor] = {}
    for part in parts:
        program.forward_backward([part], counts)
        for name, parameter in model.named_parameters():
            alone[name] = alone[name] + parameter.grad if name in alone else parameter.grad.clone()
            parameter.grad = None
    together = gradients(program, parts)
    assert equal(together, alone)
    assert any(not torch.equal(value, value.bfloat16().float()) for value in together.values())


def test_bf16_weights_take_floating_inputs_and_leave_batch_norms_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    program = LocalProgram(model, Classification(), device=CPU, precision="bf16-weights")
    batch = {"inputs": torch.randn(5, 4), "targets": torch.randint(3, (5,))}
    found = gradients(program, [batch])
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in found.values())
    assert model[1].running_mean.dtype == torch.float32
    assert bool(model[1].running_mean.any())
    assert model(batch["inputs"]).dtype == torch.float32  # outside of a step the model is as the user left it


class Gain(nn.Module):
    """A parameter of no dims, which no layout divides."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def sharded_gradients(mesh: Mesh) -> list[bool]:
    """Of each parameter whether the sum over ranks with the same samples is that of two such micro-batches, here."""
    batch = {"inputs": torch.linspace(-2, 3, 20).sin().view(5, 4), "targets": torch.arange(5) % 3}
    programs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), Gain(), nn.Linear(6, 3))
        programs.append(LocalProgram(model, Classification(), device=CPU, precision="bf16-weights"))
    one, sharded = programs[0], Shard().apply(programs[1], arranged(mesh, {"shard": 2}))
    counts = one.counts([batch, batch])
    one.forward_backward([batch, batch], counts)
    sharded.forward_backward([batch], counts)
    sharded.exchange.before_step()
    whole = {name: parameter.grad for parameter, name in one.held.names().items()}
    return [
        torch.equal(parameter.grad, sharded.held.part(name).take(whole[name]))
        for parameter, name in sharded.held.names().items()
    ]


def test_bf16_weights_are_the_same_where_they_are_sharded() -> None:
    """Batch norms and scalars, which torch would gather in bfloat16 or leave in float32, among them."""
    assert run_world("tests.parallel.test_precisions:sharded_gradients", 2) == [[True] * 7] * 2


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_is_torchs_around_model_and_loss(precision: str, dtype: torch.dtype) -> None:
    model, batch = tied()
    with torch.autocast("cpu", dtype=dtype):
        loss = total(model(batch["inputs"]), batch["targets"]) / batch["targets"].numel()
    (loss * 1024).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    program = LocalProgram(model, NextToken(), device=CPU, precision=precision)
    found = gradients(program, [batch], scale=1024.0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))
    full = gradients(LocalProgram(model, NextToken(), device=CPU), [batch], scale=1024.0)
    assert not equal(full, found)


def test_only_fp16_wants_a_scale() -> None:
    assert [name for name in PRECISIONS.listing if name != "fp8" and PRECISIONS.resolve(name).scaled] == ["fp16"]


@pytest.mark.parametrize("precision", ["tf32", "fp8"])
def test_what_the_device_cannot_do_is_refused(precision: str) -> None:
    with pytest.raises(ModelwrightError) as caught:
        LocalProgram(nn.Linear(2, 2), Classification(), device=CPU, precision=precision)
    assert caught.value.where == "plan.precision"
    assert "bf16" in caught.value.remedy


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelwrightError) as caught:
        LocalProgram(nn.Linear(2, 2), Classification(), device=CPU, precision="bf-16")
    assert "bf16" in caught.value.remedy


def test_fp8_keeps_names_and_comes_near_the_full_gradient() -> None:
    """With emulated units: the rounding is real, the speed is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Linear(16, 3))
    batch = {"inputs": torch.randn(64, 16), "targets": torch.randint(3, (64,))}
    exact = gradients(LocalProgram(model, Classification(), device=CPU), [batch])
    program = LocalProgram(model, Classification(), device=CPU)
    program.precision = Fp8(emulated=True)
    program.precision.convert(model)
    found = gradients(program, [batch])
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        assert 1e-4 < float((found[name] - value).norm() / value.norm()) < 0.15


@pytest.mark.gpu
def test_tf32_is_on_within_a_step_only() -> None:
    model, batch = tied()
    device = torch.device("cuda")
    program = LocalProgram(model, NextToken(), device=device, precision="tf32")
    seen: list[Any] = []
    model.mix.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    gradients(program, [program.place(batch)])
    assert seen == [True]
    assert not torch.backends.cuda.matmul.allow_tf32
