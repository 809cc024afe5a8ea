"""Numbers that leave the device without making it wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Reading:
    """A few device scalars on their way to the host.

    On CPU they are there at once. On an accelerator they are copied to pinned memory behind the work already
    queued; only :meth:`values` waits, and by then (a step later) there is nothing to wait for.
    """

    def __init__(self, scalars: Sequence[Tensor | float]) -> None:
        self._event: torch.cuda.Event | None = None
        self._host: Tensor | None = None
        if any(isinstance(scalar, Tensor) and scalar.is_cuda for scalar in scalars):
            self._send(scalars)
        else:
            self._values = [float(scalar.item() if isinstance(scalar, Tensor) else scalar) for scalar in scalars]

    def _send(self, scalars: Sequence[Tensor | float]) -> None:
        device = next(scalar.device for scalar in scalars if isinstance(scalar, Tensor) and scalar.is_cuda)
        packed = torch.stack([torch.as_tensor(scalar, device=device).detach().double() for scalar in scalars])
        self._host = torch.empty_like(packed, device="cpu", pin_memory=True)
        self._host.copy_(packed, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    @property
    def immediate(self) -> bool:
        """Whether :meth:`values` never has to wait."""
        return self._event is None

    def values(self) -> list[float]:
        """The numbers, waiting for the device where they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        if self._host is not None:
            self._values, self._host = self._host.tolist(), None
        return self._values
