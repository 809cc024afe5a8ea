"""Axes: the ranks along each axis of the mesh over which tensors are divided, and what travels between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from modelwright.base.group import Group, Reduction
from modelwright.base.world import Mesh
from modelwright.parallel.divided.division import Dim, Division, Factor, axes_of, dim_of
from modelwright.parallel.dry import DryGroup

# Their newer names, where torch knows them already: there the older ones warn.
_all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass(frozen=True)
class Sequence:
    """Sums over an axis are scattered along a dim, wherever they are resolved: sequence parallelism.

    Attributes:
        axis: of the mesh.
        dim: along which activations ``[batch, time, ...]`` are divided.
    """

    axis: str = "tensor"
    dim: int = 1


@dataclass
class Axes:
    """Ranks along axes, and a count of the bytes this rank sends.

    Attributes:
        groups: by axis.
        sequence: where sums are scattered when they are resolved.
        sent: bytes by axis, as the ring algorithms send them: ``2 (K - 1) / K`` of a tensor that is reduced,
            ``(K - 1) / K`` of one that is gathered, or reduced and scattered.
        unknown: names of operators without a rule that have been met.
        latest: what was gathered last to be multiplied, by what it is: several matrices often read one activation.
        rounded: what autocast rounded last for a linear layer, as it was then, and the result.
    """

    groups: Mapping[str, Group]
    sequence: Sequence | None = None
    sent: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    latest: dict[object, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    rounded: tuple[Tensor, object, Tensor] | None = field(default=None, repr=False)

    def forget(self) -> None:
        """Keep nothing of what was computed."""
        self.latest.clear()
        self.rounded = None

    def __post_init__(self) -> None:
        self.sizes = {name: group.size for name, group in self.groups.items()}
        self.ranks = {name: group.rank for name, group in self.groups.items()}

    @staticmethod
    def of(mesh: Mesh, names: Iterable[str] = ("context", "tensor"), sequence: Sequence | None = None) -> Axes:
        """The axes of a mesh that have more than one rank."""
        groups = {name: mesh.axes[name] for name in names if name in mesh.axes}
        return Axes({name: group for name, group in groups.items() if group.size > 1}, sequence)

    def known(self, division: Division) -> Division:
        """The division without axes that have one rank only."""
        return division.without(division.axes - self.groups.keys())

    def first(self, names: Iterable[str]) -> bool:
        """Whether this rank is the first along all of ``names``."""
        return all(self.ranks[name] == 0 for name in names)

    def after_sum(self, division: Division, axis: str) -> Division:
        """How a sum over ``axis`` lies on the ranks once it is resolved."""
        policy = self.sequence
        if policy is None or policy.axis != axis or len(division.dims) < policy.dim + 2 or axis in division.axes:
            return division
        dim = self._scattered(division.dims[policy.dim], axis)
        return division if dim is None else division.with_dim(policy.dim, dim)

    def _scattered(self, dim: Dim, axis: str) -> Dim | None:
        """A dim divided further, within what a rank has of it."""
        if len(dim) != 1 or len(dim[0]) != 1:
            return None
        size, other = dim[0][0]
        ways = self.sizes.get(other or "", 1)
        if size % (ways * self.sizes[axis]) or size == 0:
            return None
        return dim_of([(Factor(ways, other), Factor(size // ways, axis))] if axes_of(dim) else [(Factor(size, axis),)])

    def all_reduce(self, tensor: Tensor, axis: str, op: Reduction = "sum") -> Tensor:
        """Reduce over the ranks of an axis, into a new tensor."""
        size = self.sizes[axis]
        self.sent[axis] += 2 * (size - 1) * tensor.nbytes // size
        return self._all_reduce(tensor, axis, op)

    def all_gather(self, tensor: Tensor, axis: str) -> Tensor:
        """The tensors of all ranks of an axis, ``[ranks, ...]``."""
        self.sent[axis] += (self.sizes[axis] - 1) * tensor.nbytes
        return self._all_gather(tensor.contiguous(), axis)

    def reduce_scatter(self, tensor: Tensor, axis: str) -> Tensor:
        """Sums over the ranks of an axis of ``tensor [ranks, ...]``: to each rank its own."""
        size = self.sizes[axis]
        self.sent[axis] += (size - 1) * tensor.nbytes // size
        return self._reduce_scatter(tensor.contiguous(), axis)

    def _all_reduce(self, tensor: Tensor, axis: str, op: Reduction) -> Tensor:
        return self.groups[axis].all_reduce(tensor.clone(memory_format=torch.contiguous_format), op)

    def _all_gather(self, tensor: Tensor, axis: str) -> Tensor:
        found = tensor.new_empty((self.sizes[axis], *tensor.shape))
        _all_gather_single(found.flatten(), tensor.flatten(), group=self.groups[axis].process_group)
        return found

    def _reduce_scatter(self, tensor: Tensor, axis: str) -> Tensor:
        found = tensor.new_empty(tensor.shape[1:])
        _reduce_scatter_single(found.view(-1), tensor.view(-1), group=self.groups[axis].process_group)
        return found


class DryAxes(Axes):
    """Axes without other ranks: collectives only give shapes, and are noted. For tensors on the meta device."""

    groups: Mapping[str, DryGroup]

    @staticmethod
    def sized(sizes: Mapping[str, int], sequence: Sequence | None = None) -> DryAxes:
        """Axes of so many ranks, as the first of them sees them."""
        return DryAxes({name: DryGroup(0, size) for name, size in sizes.items() if size > 1}, sequence)

    def _all_gather(self, tensor: Tensor, axis: str) -> Tensor:
        return self.groups[axis].all_gather(tensor)

    def _reduce_scatter(self, tensor: Tensor, axis: str) -> Tensor:
        return self.groups[axis].reduce_scatter(tensor)
