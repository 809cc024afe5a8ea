"""Trainings whose gradients travel compressed: they learn as well, and resume to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.training import small
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.world import Mesh
from modelwright.objectives.classification import Classification
from modelwright.optim.schedules.constant import Constant
from modelwright.optim.sgd import SGD
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared
from modelwright.training.settings import Saving
from modelwright.training.training import Updating

HERE = "tests.training.test_exchanging"
POWERSGD = {"use": "powersgd", "rank": 1}


def prepared(mesh: Mesh, exchange: Any, **fields: Any) -> Prepared:
    begun = small.prepare(fields.pop("data", None) or small.points(), mesh, **fields)
    return Prepared(begun.training, replace(begun.plan, exchange=exchange), mesh)


def remembered(training: Prepared) -> dict[str, Tensor]:
    training.exchanged.collect()
    return {name: tensor.clone() for name, tensor in training.exchanged.state().items()}


def nine_steps(mesh: Mesh, exchange: Any, folder: str, several: bool) -> dict[str, Any]:
    """Trained in one go, saving on the way; and again from the checkpoint of the fifth step."""
    fields: dict[str, Any] = {"total": 9, "saving": Saving(every=5), "micro_batch": 1}
    if several:
        fields["updates"] = {
            "first": Updating(parameters=("0.*",), optimizer=SGD(lr=0.1), schedule=Constant()),
            "second": Updating(parameters=("2.*",), optimizer=SGD(lr=0.05), schedule=Constant()),
        }
    first = prepared(mesh, exchange, **fields)
    list(first.run(Path(folder), lambda: False))
    second = prepared(mesh, exchange, **fields)
    checkpoints.load(second.state, Path(folder) / "step-00000005")
    list(small.stepping(second))
    third = prepared(mesh, exchange, **fields)
    checkpoints.load(third.state, Path(folder) / "step-00000005")
    for update in third.updates:
        forgetful(update.program.exchange)
    list(small.stepping(third))
    held, again = remembered(first), remembered(second)
    return {
        "steps": [each.state.step for each in (first, second, third)],
        "same": small.same(small.snapshot(first), small.snapshot(second)) and small.same(held, again),
        "forgotten": small.same(small.snapshot(first), small.snapshot(third)),
        "held": sorted(held),
    }


def forgetful(exchange: Any) -> None:
    for bucket in exchange._buckets:
        bucket.channel._errors._error = None


@pytest.mark.parametrize(("exchange", "several"), [("bf16", False), ("powersgd", True)])
def test_a_resumed_training_goes_on_to_the_bit(exchange: str, several: bool, tmp_path: Path) -> None:
    compression = POWERSGD if exchange == "powersgd" else exchange
    technique = {"use": "all-reduce", "bucket": 100, "compression": compression}
    ranks = run_world(f"{HERE}:nine_steps", 2, exchange=technique, folder=str(tmp_path), several=several)
    for rank in ranks:
        assert rank["steps"] == [9, 9, 9]
        assert rank["same"]
        assert not rank["forgotten"]  # what is remembered matters
    assert f"1/{'first' if several else ''}/0.weight/error" in ranks[0]["held"]
    assert ranks[1]["held"] == []


def fewer(mesh: Mesh, exchange: Any, folder: str) -> dict[str, Any]:
    """Goes on from what more ranks have saved."""
    training = prepared(mesh, exchange, total=9)
    with small.heard() as events:
        checkpoints.load(training.state, Path(folder) / "step-00000005")
        held = remembered(training)
        list(small.stepping(training))
    total = {name: tensor.tolist() for name, tensor in held.items() if name.endswith("0.weight/error")}
    return {"held": total, "kinds": [event.kind for event in events], "step": training.state.step}


def saved(mesh: Mesh, exchange: Any, folder: str) -> dict[str, Any]:
    training = prepared(mesh, exchange, total=5, saving=Saving(every=5))
    list(training.run(Path(folder), lambda: False))
    held = remembered(training)
    return {name: tensor.tolist() for name, tensor in held.items() if name.endswith("0.weight/error")}


def test_fewer_ranks_share_what_is_still_lacking(tmp_path: Path) -> None:
    technique = {"use": "ring", "compression": POWERSGD}
    before, *_ = run_world(f"{HERE}:saved", 3, exchange=technique, folder=str(tmp_path))
    assert len(before) == 3
    two, _ = run_world(f"{HERE}:fewer", 2, exchange=technique, folder=str(tmp_path))
    wanted, found = (sum(np.array(value) for value in held.values()) for held in (before, two["held"]))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert two["step"] == 9
    assert two["kinds"].count("exchange-shared") == 1
    (one,) = run_world(f"{HERE}:fewer", 1, exchange=technique, folder=str(tmp_path))
    assert (one["held"], one["step"]) == ({}, 9)
    assert "exchange-dropped" in one["kinds"]


# --- learning


def digits(mesh: Mesh, compressions: list[Any]) -> list[float]:
    """Mean loss over handwritten digits after 100 steps, by compression."""
    images, classes = load_digits(return_X_y=True)
    data = {"inputs": torch.from_numpy(images / 16).float(), "targets": torch.from_numpy(classes).long()}
    losses = []
    for compression in compressions:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        fields: dict[str, Any] = {"model": model, "data": data, "batch": 32, "optimizer": SGD(lr=0.1, momentum=0.9)}
        exchange = {"use": "all-reduce", "compression": compression}
        training = prepared(mesh, exchange, objective=Classification(), total=100, micro_batch=16, **fields)
        list(small.stepping(training))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(model(data["inputs"]), data["targets"])))
    return losses


def test_compressed_gradients_teach_nearly_as_much() -> None:
    """In bfloat16 to a hundredth of the loss, in two factors to a tenth; not without what is left out on the way."""
    factors = {"use": "powersgd", "rank": 4}
    compressions = ["none", "bf16", factors, {**factors, "error_feedback": False}]
    losses, others = run_world(f"{HERE}:digits", 2, compressions=compressions)
    assert losses == others
    whole, short, factored, forgetful = losses
    assert whole < 0.3
    assert abs(short - whole) < 0.01 * whole
    assert abs(factored - whole) < 0.1 * whole
    assert forgetful > 1.5 * whole
