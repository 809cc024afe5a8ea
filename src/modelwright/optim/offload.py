"""Moments in the host's memory, on the device only while they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from modelwright.base.units import Bytes
from modelwright.optim import Optimizer
from modelwright.optim.joined import Joined, parts


class Offloaded(Joined):
    """An optimizer whose state lies on the CPU between steps, pinned where there is CUDA.

    A step takes the parameters of each group in chunks: state to the device, the optimizer's own step, state back.
    Results are those of the optimizer alone, as long as it treats each parameter by itself. It does not take
    ``found_inf``: the host reads whether to step.

    Args:
        optimizer: a built optimizer.
        chunk: bytes of state that are on the device at a time; a larger single parameter goes alone.
    """

    def __init__(self, optimizer: Optimizer, *, chunk: Bytes = 2**28) -> None:
        super().__init__(*parts(optimizer))
        self.chunk = chunk
        self._copied: torch.cuda.Event | None = None

    @property
    def state(self) -> dict[Tensor, Any]:
        """The states of all parts by parameter, in a new dictionary, once all copies have arrived."""
        self._wait()
        return super().state

    def step(self) -> None:
        """Step chunk by chunk."""
        self._wait()
        for part in self.parts:
            for group in part.param_groups:
                self._step_group(part, group)
        if any(parameter.is_cuda for group in self.param_groups for parameter in group["params"]):
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def _wait(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None

    def _step_group(self, part: Optimizer, group: dict[str, Any]) -> None:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        chunks = list(_chunks(part, moved, self.chunk)) or [[]]
        settings = deepcopy({key: value for key, value in group.items() if key != "params"}) if chunks[1:] else None
        for number, chunk in enumerate(chunks):
            if number > 0 and settings is not None:  # some optimizers count in their groups: once for all chunks
                _rewind(group, settings)
            homes = _brought(part, chunk)
            with _only(part, group, chunk):
                part.step()
            _take_home(part, chunk, homes)


Homes = dict[tuple[Tensor, str], Tensor]


def _chunks(part: Optimizer, parameters: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    chunk: list[Tensor] = []
    size = 0
    for parameter in parameters:
        more = _state_bytes(part, parameter)
        if chunk and size + more > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(parameter)
        size += more
    if chunk:
        yield chunk


def _state_bytes(part: Optimizer, parameter: Tensor) -> int:
    found = sum(value.nbytes for _, _, value in _moving(part, [parameter]))
    return found or 2 * parameter.nbytes  # before the first step nobody knows; two moments are common


def _brought(part: Optimizer, parameters: Sequence[Tensor]) -> Homes:
    """Copy the state to the device; returns where it came from. Single numbers stay where they are."""
    homes = {}
    for parameter, key, value in _moving(part, parameters):
        homes[parameter, key] = value
        part.state[parameter][key] = value.to(parameter.device, non_blocking=True, copy=True)
    return homes


def _take_home(part: Optimizer, parameters: Sequence[Tensor], homes: Homes) -> None:
    for parameter, key, value in _moving(part, parameters):
        home = homes.get((parameter, key))
        if home is None or not _fits(home, value):
            pin = value.is_cuda
            home = torch.empty_like(value, device="cpu", pin_memory=pin)
        home.copy_(value, non_blocking=True)
        part.state[parameter][key] = home


def _fits(home: Tensor, value: Tensor) -> bool:
    same = home.shape == value.shape and home.dtype == value.dtype and home.stride() == value.stride()
    return same and home.device.type == "cpu" and (home.is_pinned() or not value.is_cuda)


def _moving(part: Optimizer, parameters: Sequence[Tensor]) -> list[tuple[Tensor, str, Tensor]]:
    return [
        (parameter, key, value)
        for parameter in parameters
        for key, value in part.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and value.dim() > 0
    ]


@contextmanager
def _only(part: Optimizer, group: dict[str, Any], parameters: list[Tensor]) -> Iterator[None]:
    """Let ``part`` see this group with these parameters only."""
    groups, members = part.param_groups, group["params"]
    part.param_groups, group["params"] = [group], parameters  # type: ignore[misc]
    try:
        yield
    finally:
        part.param_groups, group["params"] = groups, members  # type: ignore[misc]


def _rewind(group: dict[str, Any], settings: dict[str, Any]) -> None:
    for key in group.keys() - settings.keys() - {"params"}:
        del group[key]
    group.update(deepcopy(settings))
