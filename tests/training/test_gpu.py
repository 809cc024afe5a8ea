"""What only a GPU can show: the loop there trains as on the CPU, waits for nothing, and masks without a sync.

What a CPU can do as well is tried there too, so that these tests are known to run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.small import heard, same, snapshot
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from modelwright.base.group import Group
from modelwright.base.plan import Plan
from modelwright.base.world import Mesh
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.data.order import Order
from modelwright.models.gpt import GPT
from modelwright.objectives.classification import Classification
from modelwright.objectives.next_token import NextToken
from modelwright.optim import OptimizerTechnique
from modelwright.optim.adamw import AdamW
from modelwright.optim.muon import Muon
from modelwright.optim.scaling import DynamicScale
from modelwright.optim.schedules.constant import Constant
from modelwright.training.prepared import Prepared
from modelwright.training.reading import Reading
from modelwright.training.settings import Budget
from modelwright.training.steps import Step
from modelwright.training.training import Training

GPU = pytest.mark.gpu
ON_BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
STEPS, BATCH = 20, 16


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def points() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"inputs": torch.randn(STEPS * BATCH, 8), "targets": torch.randint(4, (STEPS * BATCH,))}


def laid_out(device: str, training: Training, **plan: Any) -> Prepared:
    alone = Group(0, 1)
    mesh = Mesh(alone, torch.device(device), {"replicate": alone})
    return Prepared(training, Plan(**{"micro_batch": 4, "steps": STEPS, **plan}), mesh)


def prepared(
    device: str,
    optimizer: OptimizerTechnique,
    *,
    poisoned: int | None = None,
    loss_scale: DynamicScale = DynamicScale(),  # noqa: B008 - frozen
    **plan: Any,
) -> Prepared:
    data = points()
    if poisoned is not None:
        data["inputs"][poisoned] = float("inf")
    training = Training(
        model=network(),
        data=Splits(train=InMemory(data)),
        objective=Classification(),
        optimizer=optimizer,
        schedule=Constant(),
        batch=BATCH,
        budget=Budget(steps=STEPS),
        loss_scale=loss_scale,
    )
    return laid_out(device, training, **plan)


def language(device: str, *, steps: int = 6, context: int = 128, **plan: Any) -> Prepared:
    """A GPT that learns which tokens are frequent, with its logits in chunks."""
    torch.manual_seed(0)
    model = GPT(vocabulary=64, layers=3, width=64, heads=2).build()
    tokens = torch.randint(64, (steps * 8, context + 1)).square() // 64
    training = Training(
        model=model,
        data=Splits(train=InMemory({"inputs": tokens[:, :-1], "targets": tokens[:, 1:]})),
        objective=NextToken(logits="chunked"),
        optimizer=AdamW(),
        schedule=Constant(),
        batch=8,
        budget=Budget(steps=steps),
    )
    return laid_out(device, training, steps=steps, **plan)


def run(job: Prepared) -> list[Step]:
    return [record for record in job.run(None, lambda: False) if isinstance(record, Step)]


def losses(job: Prepared) -> list[float]:
    return [step.losses["cross-entropy"] for step in run(job)]


def gradients(job: Prepared) -> dict[str, Tensor]:
    """Of the first micro-batch."""
    batch = job.program.place(job.loader().step(0)[0])
    job.program.forward_backward([batch], job.program.counts([batch]))
    return {name: p.grad.detach().clone() for name, p in job.program.model.named_parameters() if p.grad is not None}


@torch.no_grad()
def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of a tensor, relative to its norm."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - value).norm() / value.double().norm()) for name, value in other.items())


@GPU
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_losses_are_those_of_the_cpu(optimizer: OptimizerTechnique) -> None:
    there, here = (run(prepared(device, optimizer)) for device in ("cuda", "cpu"))
    for gpu, cpu in zip(there, here, strict=True):
        assert gpu.losses["cross-entropy"] == pytest.approx(cpu.losses["cross-entropy"], rel=2e-2)


@ON_BOTH
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_a_poisoned_step_is_masked_and_leaves_the_weights_finite(optimizer: OptimizerTechnique, device: str) -> None:
    job = prepared(device, optimizer, poisoned=100)
    taken = run(job)
    assert sum(step.masked for step in taken) == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in job.program.tensors().values())


@GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-weights"])
@pytest.mark.parametrize("task", ["classes", "text"])
def test_a_step_never_waits_for_the_device(task: str, precision: str) -> None:
    """Nor does the loss that makes its logits in chunks."""
    if task == "text":
        job = language("cuda", steps=7, precision=precision)
    else:
        job = prepared("cuda", AdamW(), precision=precision)
    iterator = job.run(None, lambda: False)
    for _ in range(3):
        next(iterator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(iterator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
def test_a_reading_arrives_later() -> None:
    reading = Reading([torch.ones((), device="cuda"), torch.full((), 2.5, device="cuda")])
    assert reading.values() == [1.0, 2.5]
    assert reading.immediate


def scaled_by_torch(device: str, settings: DynamicScale) -> tuple[list[float], list[bool], nn.Module]:
    """The loop that torch's documentation has for fp16: its scale after each step, and which were left out."""
    model = network().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    scaler = torch.amp.GradScaler(
        device,
        init_scale=settings.initial,
        growth_factor=settings.growth,
        backoff_factor=settings.backoff,
        growth_interval=settings.interval,
    )
    data, order = points(), Order(STEPS * BATCH, seed=0)
    scales, left_out = [], []
    for step in range(STEPS):
        rows = torch.from_numpy(order(range(step * BATCH, (step + 1) * BATCH)))
        with torch.autocast(device, torch.float16):
            outputs = model(data["inputs"][rows].to(device))
            loss = functional.cross_entropy(outputs, data["targets"][rows].to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        scales.append(scaler.get_scale())
        left_out.append(scales[-1] < before)
    return scales, left_out, model


@ON_BOTH
def test_fp16_is_scaled_and_left_out_as_torchs_own_scaler_does(device: str) -> None:
    settings = DynamicScale(initial=2.0**24, interval=4)
    scales, left_out, expected = scaled_by_torch(device, settings)
    assert 1 < sum(left_out) < STEPS - 4  # else it shows nothing
    job = prepared(device, AdamW(weight_decay=0.0), loss_scale=settings, precision="fp16", micro_batch=BATCH)
    with heard() as events:
        taken = run(job)
    assert [step.masked for step in taken] == left_out
    changes = [event.details["now"] for event in events if event.kind == "loss-scale"]
    assert changes == [now for was, now in zip([settings.initial, *scales], scales, strict=False) if now != was]
    assert [event.kind for event in events].count("step-masked") == sum(left_out)
    found = dict(job.program.model.named_parameters())
    assert apart(found, dict(expected.named_parameters())) < 1e-2


@ON_BOTH
def test_an_overflow_moves_neither_weights_nor_moments(device: str) -> None:
    job = prepared(device, AdamW(), loss_scale=DynamicScale(initial=2.0**40), precision="fp16")
    iterator = job.run(None, lambda: False)
    first = next(iterator)
    assert isinstance(first, Step)
    before = {name: tensor.cpu() for name, tensor in snapshot(job).items() if not name.endswith("/step")}
    assert first.masked
    second = next(iterator)
    assert isinstance(second, Step)
    assert second.masked
    after = {name: tensor.cpu() for name, tensor in snapshot(job).items() if not name.endswith("/step")}
    weights = [name for name in before if name.startswith("model/")]
    assert same({name: after[name] for name in weights}, {name: before[name] for name in weights})
    assert all(not bool(value.any()) for name, value in after.items() if "exp_avg" in name)
    on_device = getattr(job.updates[0].optimizer, "found_inf", None) is not None
    assert on_device == (device == "cuda")  # there the flag never came to the host before the step


@ON_BOTH
def test_bf16_weights_compute_as_a_short_model_and_train_float32_masters(device: str) -> None:
    job = prepared(device, AdamW(), precision="bf16-weights", micro_batch=BATCH)
    short = network().to(device).bfloat16()
    batch = job.program.place(job.loader().step(0)[0])
    functional.cross_entropy(short(batch["inputs"].bfloat16()).float(), batch["targets"]).backward()
    expected = {name: parameter.grad.float() for name, parameter in short.named_parameters()}
    found, full = gradients(job), gradients(prepared(device, AdamW(), micro_batch=BATCH))
    assert apart(found, expected) < 1e-2  # on a CPU it is the same in every bit
    assert apart(found, full) > 2 * apart(found, expected)
    assert {value.dtype for value in found.values()} == {torch.float32}
    trained = losses(prepared(device, AdamW(), precision="bf16-weights"))
    assert trained == pytest.approx(losses(prepared(device, AdamW())), rel=2e-2)
    assert {parameter.dtype for parameter in job.program.model.parameters()} == {torch.float32}


COMPILED = [
    pytest.param("cuda", precision, marks=GPU, id=f"cuda-{precision}") for precision in ("fp32", "bf16", "bf16-weights")
]


@pytest.mark.filterwarnings("ignore")  # the compiler's own, about what it could do better
@pytest.mark.parametrize(("device", "precision"), COMPILED)
def test_compiled_regions_train_like_the_plain_model(device: str, precision: str) -> None:
    """On a CPU the same is tried with a quicker compiler, in the tests of the room."""
    compiled = language(device, precision=precision, compile=True)
    blocks = [name for name, module in compiled.program.model.named_modules() if module._compiled_call_impl is not None]
    assert blocks == ["blocks.0", "blocks.1", "blocks.2"]
    found, expected = losses(compiled), losses(language(device, precision=precision))
    assert expected[-1] < expected[0]
    assert found == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 5e-3)


def kept(device: str, recompute: str, context: int) -> int:
    """Bytes: on a GPU the peak of a step, on a CPU what its forward pass keeps for the backward."""
    job = language(device, context=context, steps=2, recompute=recompute, attention="explicit", micro_batch=8)
    batch = job.program.place(job.loader().step(0)[0])
    counts = job.program.counts([batch])
    if device == "cuda":
        job.program.forward_backward([batch], counts)  # libraries take their own memory first
        job.updates[0].drop_gradients()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job.program.forward_backward([batch], counts)
        return torch.cuda.max_memory_allocated() - before
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        job.program.forward_backward([batch], counts)
    return sum(storages.values())


@ON_BOTH
def test_recomputing_saves_memory_and_changes_nothing(device: str) -> None:
    context = 512 if device == "cuda" else 32
    bytes_ = {recompute: kept(device, recompute, context) for recompute in ("none", "selective", "full")}
    assert bytes_["selective"] < 0.9 * bytes_["none"]
    assert bytes_["full"] < 0.7 * bytes_["none"]
    plain = losses(language(device, context=32))
    for recompute in ("selective", "full"):
        assert losses(language(device, context=32, recompute=recompute)) == pytest.approx(plain, rel=1e-5)


@GPU
def test_tf32_is_short_in_a_real_step_and_there_only() -> None:
    job, full = language("cuda", precision="tf32"), language("cuda", precision="fp32")
    seen: list[bool] = []
    job.program.model.blocks[0].register_forward_hook(lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32))
    short = gradients(job)
    assert seen == [True]
    assert not torch.backends.cuda.matmul.allow_tf32
    assert 1e-5 < apart(short, gradients(full)) < 2e-2
    assert losses(job) == pytest.approx(losses(full), rel=5e-3)
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.filterwarnings("ignore")  # the compiler's own, about what it could do better
@GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_flex_attention_trains_like_sdpa(precision: str) -> None:
    flex, sdpa = (language("cuda", precision=precision, attention=kernel) for kernel in ("flex", "sdpa"))
    assert apart(gradients(flex), gradients(sdpa)) < (1e-3 if precision == "fp32" else 5e-2)
    flex, sdpa = (language("cuda", precision=precision, attention=kernel) for kernel in ("flex", "sdpa"))
    assert losses(flex) == pytest.approx(losses(sdpa), rel=5e-3)


@ON_BOTH
def test_offloaded_moments_change_nothing_and_wait_in_the_hosts_memory(device: str) -> None:
    away, here = prepared(device, AdamW(), offload="moments"), prepared(device, AdamW())
    assert losses(away) == pytest.approx(losses(here), rel=1e-5)
    optimizer = away.updates[0].optimizer
    moments = [value for state in optimizer.state.values() for key, value in state.items() if key.startswith("exp_avg")]
    assert moments
    assert {value.device.type for value in moments} == {"cpu"}
    assert all(value.is_pinned() == (device == "cuda") for value in moments)
