"""Traffic: the bytes that this rank sends, counted from the collectives that are issued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modelwright.base.world import Mesh


@dataclass(frozen=True)
class Sent:
    """One collective.

    Attributes:
        kind: such as ``all-gather``.
        ranks: that took part.
        bytes: that a rank sends in a ring, the least there is; from point to point those it sent.
        members: which ranks of the world these are.
    """

    kind: str
    ranks: int
    bytes: float
    members: tuple[int, ...] = ()


# By operator: what it is called, which argument holds the larger side, and how often (K - 1) / K of that travels.
_COLLECTIVES = {
    "_allgather_base_": ("all-gather", 0, 1),
    "allgather_": ("all-gather", 0, 1),
    "allgather_coalesced_": ("all-gather", 0, 1),
    "allgather_into_tensor_coalesced_": ("all-gather", 0, 1),
    "_reduce_scatter_base_": ("reduce-scatter", 1, 1),
    "reduce_scatter_": ("reduce-scatter", 1, 1),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 1),
    "allreduce_": ("all-reduce", 0, 2),
    "allreduce_coalesced_": ("all-reduce", 0, 2),
    "alltoall_base_": ("all-to-all", 1, 1),
    "alltoall_": ("all-to-all", 1, 1),
    "broadcast_": ("broadcast", 0, 1),
    "reduce_": ("reduce", 0, 1),
    "gather_": ("gather", 1, 1),
    "scatter_": ("scatter", 1, 1),
    "send": ("send", 0, 0),
}
_SILENT = frozenset({"recv_", "recv_any_source_", "barrier", "monitored_barrier_", "check_for_nan"})


class Traffic(TorchDispatchMode):
    """Records, inside, every collective of this process; for benchmarks and tests.

    Attributes:
        sent: in order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: list[Sent] = []

    def by_kind(self, least: int = 0) -> dict[str, float]:
        """Bytes by kind, of collectives that send at least so many."""
        sums: dict[str, float] = {}
        for one in self.sent:
            if one.bytes >= least:
                sums[one.kind] = sums.get(one.kind, 0.0) + one.bytes
        return sums

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for kind in types:  # a tensor that communicates within an operator is seen doing it
            if kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl:
                with self:
                    result = kind.__torch_dispatch__(function, types, args, dict(kwargs or {}))
                if result is not NotImplemented:
                    return result
        if function.namespace == "c10d":
            self._note(function._opname, args, dict(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name in _SILENT:
            return
        kind, place, passes = _COLLECTIVES[name]  # an operator that nobody has counted before is no free one
        size: float = sum(leaf.nbytes for leaf in tree_leaves(args[place]) if isinstance(leaf, Tensor))
        members = next(filter(None, map(_members, (*args, *kwargs.values()))), ())
        if name == "alltoall_base_" and args[4]:
            size = _leaving(args[1], args[4], members.index(dist.get_rank()))
        elif passes:
            size *= passes * (len(members) - 1) / max(1, len(members))
        self.sent.append(Sent(kind, max(1, len(members)), size, members))


def along(mesh: Mesh, members: Iterable[int]) -> tuple[str, ...]:
    """The axes of a mesh along which some ranks of the world differ."""
    sizes = mesh.sizes
    grid = torch.arange(mesh.size).view([*sizes.values()])
    places = [(grid == rank).nonzero()[0].tolist() for rank in members]
    return tuple(axis for number, axis in enumerate(sizes) if len({place[number] for place in places}) > 1)


def _leaving(rows: Tensor, out: list[int], own: int) -> int:
    """Bytes of the rows that do not stay."""
    return int((sum(out) - out[own]) * rows[:1].nbytes)


def _members(group: Any) -> tuple[int, ...]:
    if not isinstance(group, torch.ScriptObject):
        return ()
    try:
        return tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(group)))
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError):
        return ()
