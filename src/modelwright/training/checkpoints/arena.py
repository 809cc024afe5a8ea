"""Arena: host memory into which many tensors are copied again and again; it is allocated once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Named = Mapping[str, Mapping[str, Tensor]]
_ALIGNED = 64


class Arena:
    """Copies of tensors, at the same place each time, as long as their shapes stay the same.

    Tensors that are the same memory (tied ones) are copied once. What lies on a GPU is copied to pinned memory by a
    stream of its own: the host goes on at once; the device's next work waits for the copy, for it would overwrite
    what is copied.
    """

    def __init__(self) -> None:
        self._layout: list[tuple[torch.dtype, torch.Size]] = []
        self._memory: Tensor | None = None
        self._places: list[Tensor] = []
        self._stream: torch.cuda.Stream | None = None

    @torch.no_grad()
    def copy(self, groups: Named) -> tuple[dict[str, dict[str, Tensor]], Callable[[], None]]:
        """Copy tensors by group and name.

        Returns:
            The copies, contiguous, under the same names, valid until the next call; and a function that returns once
            they have arrived.
        """
        slots: dict[tuple[object, ...], int] = {}
        sources: list[Tensor] = []
        where = {
            group: {name: _slot(tensor.detach(), slots, sources) for name, tensor in tensors.items()}
            for group, tensors in groups.items()
        }
        layout = [(source.dtype, source.shape) for source in sources]
        if layout != self._layout:
            self._lay_out(sources)
            self._layout = layout
        arrived = self._fill(sources)
        copies = {
            group: {name: self._places[slot] for name, slot in members.items()} for group, members in where.items()
        }
        return copies, arrived

    def _lay_out(self, sources: Sequence[Tensor]) -> None:
        begins, total = [], 0
        for source in sources:
            begins.append(total)
            total += -(-source.numel() * source.itemsize // _ALIGNED) * _ALIGNED
        if self._memory is None or self._memory.numel() < total:
            self._places, self._memory = [], None  # free the old memory first
            pinned = any(source.is_cuda for source in sources)
            self._memory = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
        memory = self._memory
        self._places = [
            memory[begin : begin + source.numel() * source.itemsize].view(source.dtype).view(source.shape)
            for begin, source in zip(begins, sources, strict=True)
        ]

    def _fill(self, sources: list[Tensor]) -> Callable[[], None]:
        device = next((source.device for source in sources if source.is_cuda), None)
        if device is None:
            torch._foreach_copy_(self._places, sources)
            return _nothing
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        working = torch.cuda.current_stream(device)
        self._stream.wait_stream(working)  # until what was computed is there
        with torch.cuda.stream(self._stream):
            for place, source in zip(self._places, sources, strict=True):
                place.copy_(source, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(self._stream)
        working.wait_event(arrived)
        return arrived.synchronize


def _slot(tensor: Tensor, slots: dict[tuple[object, ...], int], sources: list[Tensor]) -> int:
    same = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
    if same not in slots:
        slots[same] = len(sources)
        sources.append(tensor)
    return slots[same]


def _nothing() -> None:
    return None
