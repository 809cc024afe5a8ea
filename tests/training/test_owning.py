"""Tensors that are put together for an optimizer that sees whole ones: where, by whom, at which cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from tests.training.layouts import prepared
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.world import Mesh, arranged
from modelwright.optim import Optimizer
from modelwright.optim.joined import Joined
from modelwright.optim.stepping import take_step
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.owning import Owning
from modelwright.parallel.parts import Part
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared

HERE = "tests.training.test_owning"


def _digest(made: Prepared) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in made.whole_weights().items()}


def told(mesh: Mesh, sizes: dict[str, int]) -> dict[str, Any]:
    """Of a training with Muon: what is owned and sent."""
    made = prepared(arranged(mesh, sizes), layout=sizes, optimizer="muon")
    update, group = made.updates[0], made.program.together
    assert update.owning is not None
    before = group.traffic.sent
    steps = len(list(made.steps(lambda: False)))
    whole = made.program.held.whole
    muon, adamw = update.optimizer.parts  # type: ignore[attr-defined]
    names = made.state._optimized()
    return {
        "sent": (group.traffic.sent - before) / steps,
        "foretold": update.owning.sent(),
        "gathered": sorted(update.owning.gathered),
        "owned": sorted(update.owning.names.values()),
        "sizes": {name: 8 * math.prod(whole[name][1]) for name in update.owning.gathered},
        "momenta": sorted(names[p] for p, state in muon.state.items() if state["momentum_buffer"].shape == p.shape),
        "local": sorted(names[p] for p in adamw.state),
        "memory": sum(p.untyped_storage().nbytes() for p in update.owning.names),
    }


@pytest.mark.parametrize("layout", [{"shard": 2}, {"tensor": 2}, {"pipeline": 2, "shard": 2}])
def test_each_tensor_has_one_owner_and_what_is_sent_is_foretold(layout: dict[str, int]) -> None:
    ranks = run_world(f"{HERE}:told", math.prod(layout.values()), sizes=layout)
    first, owned = ranks[0], [name for rank in ranks for name in rank["owned"]]
    assert sorted(owned) == first["gathered"] and not any("embedding" in name for name in owned)
    for rank in ranks:
        assert rank["sent"] == rank["foretold"] > 0
        assert set(rank["owned"]) <= set(rank["momenta"])  # with those that are whole everywhere
        assert not set(first["gathered"]) & set(rank["local"])
        assert rank["memory"] < 8 * 24 * max(1, len(rank["owned"]))  # no memory for numbers between steps
    size = sum(first["sizes"].values())
    assert sum(rank["sent"] for rank in ranks) == 1.5 * size  # halves of gradients and parameters there, halves back
    loads = [sum(first["sizes"][name] for name in rank["owned"]) for rank in ranks]
    if "pipeline" not in layout:
        assert max(loads) - min(loads) <= max(first["sizes"].values())


def interrupted(mesh: Mesh, folder: str, optimizer: str) -> bool:
    """Whether a training that is saved, and goes on from there, has the weights of one that was not, to the bit."""
    settings: dict[str, Any] = {"layout": {"shard": 2}, "optimizer": optimizer}
    straight, first, second = (prepared(arranged(mesh, settings["layout"]), **settings) for _ in range(3))
    list(straight.steps(lambda: False))
    for _ in first.steps(lambda: first.state.step == 2):
        pass
    assert first.state.step == 2
    checkpoints.save(first.state, Path(folder), first.group, 9, first.weights)
    first.group.barrier()
    assert checkpoints.load_newest(second.state, Path(folder), second.group)
    list(second.steps(lambda: False))
    return second.state.step == straight.state.step and _digest(second) == _digest(straight)


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_a_run_goes_on_from_the_owners_state(tmp_path: Path, optimizer: str) -> None:
    assert all(run_world(f"{HERE}:interrupted", 2, folder=str(tmp_path), optimizer=optimizer))


class ByShape(torch.optim.Optimizer):
    """A step as long as the tensor is wide, along the mean of what its gradients were; memory from the beginning."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        groups = [{"params": [p], "lr": 0.1 * p.shape[0], "base_lr": 0.1 * p.shape[0]} for p in parameters]
        super().__init__(groups, {})
        for parameter in parameters:
            self.state[parameter]["mean"] = torch.full_like(parameter, 0.5, requires_grad=False)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter]["mean"].lerp_(parameter.grad, 0.5)
                    parameter.sub_(group["lr"] * mean / mean.norm())


class Showing(ByShape):
    def evaluating(self) -> None: ...


@dataclass(frozen=True)
class Mixed:
    """Some parameters by shape, others by torch's Adagrad, which has memory from the beginning too."""

    kind: type[ByShape] = ByShape
    sees: ClassVar[Literal["elements", "tensors"]] = "tensors"

    def build(self, model: nn.Module) -> Joined:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rest = torch.optim.Adagrad([p for name, p in named.items() if "single" in name], initial_accumulator_value=0.2)
        return Joined(self.kind([p for name, p in named.items() if "single" not in name]), rest)


def _model() -> nn.Module:
    torch.manual_seed(0)
    names = {"one": (5, 3), "two": (4, 2), "unused": (4, 2), "frozen": (4, 4), "single": (6, 2), "short": (1, 3)}
    model = nn.ParameterDict({name: nn.Parameter(torch.randn(shape)) for name, shape in names.items()})
    model["frozen"].requires_grad_(False)
    return model


def _gradients(step: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(p.shape, generator=random) for name, p in _model().items() if name not in ("unused", "frozen")
    }


def _pieces(group: Group, kind: type[ByShape]) -> tuple[nn.Module, Holdings, Owning, Optimizer]:
    """A model of which each rank has some rows."""
    model = _model()
    held, parts = Holdings(model), {}
    for name, parameter in model.items():
        rows = parameter.shape[0]
        half = -(-rows // 2)
        part = Part.whole(parameter.shape).rows(0, min(group.rank * half, rows), min((group.rank + 1) * half, rows))
        parts[name] = part
        model[name] = nn.Parameter(part.take(parameter.detach()).clone(), requires_grad=parameter.requires_grad)
    held.divide(parts)
    trained = [p for p in model.parameters() if p.requires_grad]
    owning = Owning(held, group, trained)
    return model, held, owning, owning.build(model, lambda wholes: Mixed(kind).build(model))


def by_hand(mesh: Mesh) -> list[Any]:
    model, held, owning, optimizer = _pieces(mesh.world, ByShape)
    whole = _model()
    reference = Mixed().build(whole)
    for step in range(3):
        for name, gradient in _gradients(step).items():
            whole[name].grad = gradient.clone()
            model[name].grad = held.part(name).take(gradient).clone()
        whole["two"].grad[:2] = 0  # a rank that found none; that of the others counts
        model["two"].grad = None if mesh.rank == 0 else model["two"].grad
        take_step(reference)
        with owning.whole():
            take_step(optimizer)
    same = {name: torch.equal(held.part(name).take(whole[name]), piece) for name, piece in model.items()}
    moved = {name: not torch.equal(tensor, _model()[name]) for name, tensor in whole.items()}
    return [same, moved]


def test_what_is_owned_steps_like_the_whole() -> None:
    """Settings and memory that go by shape from the beginning, gradients of some ranks, of none, frozen tensors."""
    for same, moved in run_world(f"{HERE}:by_hand", 2):
        assert all(same.values()), same
        assert moved == {name: name not in ("unused", "frozen") for name in moved}


def showing(mesh: Mesh) -> str:
    try:
        _pieces(mesh.world, Showing)
    except ModelwrightError as error:
        return str(error)
    return ""


def test_weights_that_are_shown_from_whole_tensors_are_refused() -> None:
    assert all(
        "Showing has to see whole tensors and shows other weights" in said for said in run_world(f"{HERE}:showing")
    )
