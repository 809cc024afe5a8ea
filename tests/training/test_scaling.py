"""fp16 in the loop: what is scaled is unscaled, what overflows is left out and said."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from tests.training.small import BATCH, CLASSES, FEATURES, TECHNIQUES, alone, heard, points, same, snapshot, stepping
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.plan import Plan
from modelwright.data import Splits
from modelwright.data.memory import InMemory
from modelwright.optim.scaling import DynamicScale
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Budget
from modelwright.training.training import Training


class Overflowing:
    """A loss whose gradient is as large as ``factors`` says, one number a step."""

    coefficients: ClassVar = {"term": 1.0}
    metrics = ()

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"term": torch.tensor(len(batch["inputs"]))}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["inputs"])

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"term": functional.mse_loss(outputs.float(), torch.ones_like(outputs).float(), reduction="sum")}


def prepared(precision: str = "fp16", total: int = 8, **fields: Any) -> Prepared:
    torch.manual_seed(1)
    arrays = {name: value.float() if value.is_floating_point() else value for name, value in points(targets=1).items()}
    settings: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
        "data": Splits(train=InMemory(arrays)),
        "objective": Overflowing(),
        "optimizer": TECHNIQUES["adamw"],
        "batch": BATCH,
        "budget": Budget(steps=total),
        **fields,
    }
    return Prepared(Training(**settings), Plan(micro_batch=BATCH, steps=total, precision=precision), alone())


def test_clipping_and_norms_are_those_of_the_unscaled_gradient() -> None:
    scaled = list(stepping(prepared(clip=0.1, loss_scale=DynamicScale(initial=1024.0))))
    plain = list(stepping(prepared(clip=0.1, loss_scale=DynamicScale(initial=1.0))))
    full = list(stepping(prepared("fp32", clip=0.1)))
    for one, other, exact in zip(scaled, plain, full, strict=True):
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=2e-2)
        assert one.gradient_norm == pytest.approx(exact.gradient_norm, rel=2e-2)
        assert one.losses["term"] == pytest.approx(exact.losses["term"], rel=1e-2)


def test_an_overflow_is_left_out_said_and_halves_the_scale() -> None:
    training = prepared(loss_scale=DynamicScale(initial=2.0**22, interval=3), total=30)
    before = snapshot(training)
    with heard() as events:
        steps = []
        for step in stepping(training):
            steps.append(step)
            now = snapshot(training)
            assert same(now, before) == step.masked
            before = now
    masked = [step.number for step in steps if step.masked]
    assert masked  # the first scale is too large for float16
    told = [event.details["step"] for event in events if event.kind == "step-masked"]
    assert told == masked
    changes = [(event.details["before"], event.details["now"]) for event in events if event.kind == "loss-scale"]
    assert [now / was for was, now in changes].count(0.5) == len(masked)
    assert any(now == 2 * was for was, now in changes)
    for (_, now), (was, _) in pairwise(changes):
        assert now == was


def test_the_scale_outlives_a_save(tmp_path: Any) -> None:
    first = prepared(loss_scale=DynamicScale(initial=2.0**22, interval=3), total=12)
    whole = prepared(loss_scale=DynamicScale(initial=2.0**22, interval=3), total=12)
    for step in stepping(first):
        if step.number == 7:
            break
    checkpoints.save(first.state, tmp_path, first.group, keep=1)
    second = prepared(loss_scale=DynamicScale(initial=2.0**22, interval=3), total=12)
    assert checkpoints.load_newest(second.state, tmp_path, second.group) is not None
    assert second.updates[0].scale is not None
    assert first.updates[0].scale is not None
    assert second.updates[0].scale.state() == first.updates[0].scale.state()
    for each in (second, whole):
        list(stepping(each))
    assert same(snapshot(second), snapshot(whole))


def test_without_scaling_there_is_no_scale() -> None:
    assert prepared("fp32").updates[0].scale is None
    assert prepared("bf16").updates[0].scale is None
