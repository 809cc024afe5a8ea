"""Parameters that do not lie in memory in the order of their dims train like any other: alone, shared and resumed."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small import alone, heard, prepare, stepping
from tests.world import run_world
from torch import Tensor, nn

from modelwright.base.group import Group
from modelwright.base.world import Mesh
from modelwright.optim.adamw import AdamW
from modelwright.optim.fused import fused_or_foreach
from modelwright.training import checkpoints
from modelwright.training.prepared import Prepared

HERE = "tests.training.test_memory"
STEPS = 8


class Strided(nn.Module):
    """A convolution and a matrix; their order in memory is the plain one or another."""

    def __init__(self, order: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution = nn.Conv2d(3, 5, 2)
        self.head = nn.Linear(5, 4)
        if order == "other":
            self.convolution.to(memory_format=torch.channels_last)
            self.head.weight = nn.Parameter(self.head.weight.detach().t().contiguous().t())
        assert self.convolution.weight.is_contiguous() == self.head.weight.is_contiguous() == (order == "plain")
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.convolution(inputs)).mean(dim=(2, 3)))


def convolving(order: str, mesh: Mesh | None = None) -> Prepared:
    torch.manual_seed(0)
    data = {"inputs": torch.randn(60, 3, 4, 4, dtype=torch.float64), "targets": torch.randint(4, (60,))}
    optimizer = AdamW(lr=0.02, weight_decay=0.1)
    return prepare(data, mesh, model=Strided(order), optimizer=optimizer, total=STEPS, micro_batch=2)


def trained(mesh: Mesh, order: str, resumed: bool) -> dict[str, Any]:
    first = convolving(order, mesh)
    if not resumed:
        list(stepping(first))
        return weights(first)
    list(islice(stepping(first), STEPS // 2))
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(mesh.world.gather(folder)[0])
        checkpoints.save(first.state, shared, mesh.world, keep=1)
        second = convolving(order, mesh)
        checkpoints.load_newest(second.state, shared, mesh.world)
        mesh.world.barrier()
    list(stepping(second))
    return weights(second)


def weights(prepared: Prepared) -> dict[str, Any]:
    return {name: value.tolist() for name, value in prepared.state.model_tensors().items()}


@pytest.mark.parametrize("resumed", [False, True], ids=["in one go", "resumed"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_of_memory_changes_nothing(workers: int, resumed: bool) -> None:
    expected = trained(alone(), "plain", resumed=False)
    assert expected != weights(convolving("plain"))
    for found in run_world(f"{HERE}:trained", workers, order="other", resumed=resumed):
        for name, values in expected.items():
            torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(values), rtol=0, atol=1e-12)


def test_moments_come_back_in_the_order_of_their_parameter() -> None:
    first, second = convolving("other"), convolving("other")
    list(islice(stepping(first), 2))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(first.state, Path(folder), Group(0, 1), keep=1)
        checkpoints.load_newest(second.state, Path(folder), Group(0, 1))
    for parameter in second.program.parameters():
        moments = second.state.optimizer.state[parameter]
        assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
        assert not moments["exp_avg"].requires_grad


def test_views_with_gaps_are_not_given_to_the_fused_kernel() -> None:
    torch.manual_seed(0)
    gaps = nn.Parameter(torch.randn(3, 8)[:, ::2])
    dense = nn.Parameter(gaps.detach().clone(memory_format=torch.contiguous_format))
    with heard() as events:
        optimizers = [fused_or_foreach(torch.optim.AdamW, [{"params": [one]}], lr=0.1) for one in (gaps, dense)]
    assert [event.kind for event in events] == ["optimizer-not-fused"]
    for parameter, optimizer in zip((gaps, dense), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            (parameter * torch.arange(12.0).view(3, 4)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(gaps, dense)
