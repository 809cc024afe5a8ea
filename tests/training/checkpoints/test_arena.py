"""Many tensors are copied into the same memory again and again; what was copied stays when they change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modelwright.training.checkpoints.arena import Arena

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def tensors(device: str = "cpu") -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 3, device=device))
    return {
        "model": {"weight": weight, "tied": weight, "strided": torch.randn(4, 6, device=device).t()},
        "optimizer": {
            "step": torch.tensor(3.0),
            "half": torch.randn(7, device=device).bfloat16(),
            "none": torch.empty(0, 2, device=device),
        },
    }


def copies(groups: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {group: {name: one.detach().cpu().clone() for name, one in held.items()} for group, held in groups.items()}


def equal(one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]]) -> bool:
    return all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])


@DEVICES
def test_a_copy_stays_while_its_source_changes(device: str) -> None:
    arena, sources = Arena(), tensors(device)
    expected = copies(sources)
    held, arrived = arena.copy(sources)
    for group in sources.values():
        for one in group.values():
            one.detach().add_(1)
    arrived()
    assert equal(held, expected)
    assert not equal(copies(sources), expected)
    assert all(one.is_contiguous() and one.device.type == "cpu" for group in held.values() for one in group.values())


@DEVICES
def test_memory_is_allocated_once_and_tied_tensors_are_held_once(device: str) -> None:
    arena, sources = Arena(), tensors(device)
    first, _ = arena.copy(sources)
    assert first["model"]["weight"].data_ptr() == first["model"]["tied"].data_ptr()
    places = {one.data_ptr() for group in first.values() for one in group.values() if one.numel()}
    assert len(places) == 4
    sources["optimizer"]["half"].zero_()
    second, arrived = arena.copy(sources)
    arrived()
    assert {one.data_ptr() for group in second.values() for one in group.values() if one.numel()} == places
    assert equal(second, copies(sources))


def test_a_larger_state_gets_more_memory() -> None:
    arena, sources = Arena(), tensors()
    arena.copy(sources)
    sources["optimizer"]["moment"] = torch.randn(100, 100)
    held, arrived = arena.copy(sources)
    arrived()
    assert equal(held, copies(sources))


def test_ties_that_come_and_go_are_seen() -> None:
    arena = Arena()
    one, other = torch.zeros(3), torch.ones(3)
    tied, _ = arena.copy({"model": {"a": one, "b": one}})
    assert torch.equal(tied["model"]["b"], torch.zeros(3))
    loose, _ = arena.copy({"model": {"a": one, "b": other}})
    assert torch.equal(loose["model"]["b"], torch.ones(3))
    assert torch.equal(loose["model"]["a"], torch.zeros(3))
