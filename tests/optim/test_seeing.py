"""What is known of torch's optimizers is so: steps on pieces are the pieces of steps on the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelwright.optim import OPTIMIZERS
from modelwright.optim.adamw import AdamW
from modelwright.optim.seeing import sees_of

KINDS = [kind for kind in vars(torch.optim).values() if isinstance(kind, type) and kind is not torch.optim.Optimizer]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"maximize": True}],
    "RMSprop": [{"centered": True, "momentum": 0.5, "weight_decay": 0.1}],
    "Adagrad": [{"initial_accumulator_value": 0.3, "lr_decay": 0.1}],
    "AdamW": [{"amsgrad": True}, {"foreach": True}, {"fused": True}],
    "RAdam": [{"decoupled_weight_decay": True, "weight_decay": 0.1}],
    "ASGD": [{"t0": 2.0, "weight_decay": 0.1}],
}
CASES = [
    (kind, settings)
    for kind in KINDS
    if sees_of(kind) != "model"
    for settings in ({}, *SETTINGS.get(kind.__name__, []))
]


def stepped(kind: Any, settings: dict[str, Any], weights: list[Tensor], gradients: list[list[Tensor]]) -> list[Tensor]:
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    optimizer = kind(parameters, **settings)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def apart(kind: Any, settings: dict[str, Any], dim: int, size: int) -> float:
    """Between a step on a whole matrix and steps on its pieces."""
    random = torch.Generator().manual_seed(0)
    whole, *gradients = torch.randn(8, 5, 7, generator=random, dtype=torch.float64)
    one = stepped(kind, settings, [whole], [[gradient] for gradient in gradients])[0]
    pieces = stepped(kind, settings, list(whole.split(size, dim)), [list(g.split(size, dim)) for g in gradients])
    return float((torch.cat(pieces, dim) - one).abs().max())


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_sees_elements_steps_alike_on_pieces_and_what_sees_tensors_does_not(
    kind: Any, settings: dict[str, Any]
) -> None:
    distances = [apart(kind, settings, dim, size) for dim in (0, 1) for size in (1, 2, 4)]
    if sees_of(kind) == "elements":
        assert max(distances) < 1e-15, distances
    else:
        assert min(distances) > 1e-4, distances


def test_every_optimizer_of_torch_was_thought_of() -> None:
    """A new one is taken to see the whole model, which is refused where one is divided, until somebody has looked."""
    assert {kind.__name__ for kind in KINDS if sees_of(kind) == "model"} == {"LBFGS", "SparseAdam"}


def test_who_declares_is_believed_and_a_class_that_is_derived_from_torchs_may_do_anything() -> None:
    class Mine(torch.optim.AdamW): ...

    class Told(torch.optim.AdamW):
        sees = "elements"

    assert [sees_of(each) for each in (Mine, Told, AdamW, AdamW(), len)] == ["model", *["elements"] * 3, "model"]
    assert {name for name in OPTIMIZERS.listing if sees_of(OPTIMIZERS.resolve(name)) == "tensors"} == {
        "muon",
        "adafactor",
    }
