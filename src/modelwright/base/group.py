"""Group: ranks that communicate, by sums and by gathering small things. No pickle travels between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

import torch
import torch.distributed as dist
from safetensors.torch import load, save

Reduction = Literal["sum", "min", "max"]

_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


class Work(Protocol):
    """A reduction under way."""

    def wait(self) -> object:
        """Return once the tensor holds the result."""
        ...


class _Done:
    def wait(self) -> None:
        return None


class _All:
    def __init__(self, works: Sequence[Work]) -> None:
        self._works = works

    def wait(self) -> None:
        for work in self._works:
            work.wait()


@dataclass
class Traffic:
    """What this rank has sent from point to point.

    Attributes:
        sent: bytes.
    """

    sent: int = 0


@dataclass(frozen=True)
class Group:
    """Ranks that communicate. With one rank every operation is a no-op.

    Attributes:
        rank: of this process within the group.
        size: how many ranks.
        process_group: torch's object; ``None`` in a world of one.
        transport: device on which :meth:`gather` moves its bytes.
        traffic: counts what :meth:`exchange` sends; what a reduction of the backend sends is the backend's affair.
    """

    rank: int
    size: int
    process_group: dist.ProcessGroup | None = None
    transport: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    @overload
    def all_reduce(
        self, tensor: torch.Tensor, op: Reduction = "sum", asynchronous: Literal[False] = False
    ) -> torch.Tensor: ...

    @overload
    def all_reduce(self, tensor: torch.Tensor, op: Reduction = "sum", *, asynchronous: Literal[True]) -> Work: ...

    def all_reduce(
        self, tensor: torch.Tensor, op: Reduction = "sum", asynchronous: bool = False
    ) -> torch.Tensor | Work:
        """Reduce ``tensor`` over the ranks, in place; returns it, or a handle if ``asynchronous``."""
        if self.size == 1:
            return _Done() if asynchronous else tensor
        work = dist.all_reduce(tensor, _REDUCTIONS[op], group=self.process_group, async_op=asynchronous)
        return work if asynchronous else tensor

    def broadcast(self, tensor: torch.Tensor, source: int = 0) -> torch.Tensor:
        """Overwrite ``tensor``, in place, with that of the group's rank ``source``."""
        if self.size > 1:
            dist.broadcast(tensor, group=self.process_group, group_src=source)
        return tensor

    def exchange(
        self,
        *,
        send: Sequence[tuple[torch.Tensor, int]] = (),
        receive: Sequence[tuple[torch.Tensor, int]] = (),
        tag: int = 0,
    ) -> Work:
        """Begin to send tensors to ranks of the group and to overwrite others with those of ranks.

        Ranks that meet must name each other in the same order; tensors are contiguous and stay alive until the end.
        """
        if not send and not receive:
            return _Done()
        self.traffic.sent += sum(tensor.nbytes for tensor, _ in send)
        operations = [
            dist.P2POp(operation, tensor, group=self.process_group, tag=tag, group_peer=peer)
            for operation, pairs in ((dist.isend, send), (dist.irecv, receive))
            for tensor, peer in pairs
        ]
        return _All(dist.batch_isend_irecv(operations))

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, by rank, on every rank.

        Args:
            value: JSON-like, or a dict of tensors, whose shapes may differ from rank to rank; tensors come
                back on the CPU.
        """
        if self.size == 1:
            return [_unpacked(_packed(value))]
        return [_unpacked(piece) for piece in self._all_bytes(_packed(value))]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.size > 1:
            self.all_reduce(torch.zeros(1, device=self.transport))

    def _all_bytes(self, piece: bytes) -> list[bytes]:
        sizes = self._all_tensors(torch.tensor([len(piece)]))
        longest = max(int(size) for size in sizes)
        padded = torch.frombuffer(bytearray(piece.ljust(longest)), dtype=torch.uint8)
        return [
            bytes(row[: int(size)].cpu().numpy()) for row, size in zip(self._all_tensors(padded), sizes, strict=True)
        ]

    def _all_tensors(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        tensor = tensor.to(self.transport)
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(rows, tensor, group=self.process_group)
        return rows


def _packed(value: Any) -> bytes:
    tensors = isinstance(value, dict) and all(isinstance(entry, torch.Tensor) for entry in value.values())
    if value and tensors:
        return b"T" + save({key: _own(entry) for key, entry in value.items()})
    return b"J" + json.dumps(value).encode()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _unpacked(piece: bytes) -> Any:
    return load(piece[1:]) if piece[:1] == b"T" else json.loads(piece[1:])
