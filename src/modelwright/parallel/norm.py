"""The global norm of gradients of which ranks hold pieces, or the same ones several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modelwright.base.group import Group
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.program import local_norm

Norm = Callable[[Sequence[nn.Parameter]], Tensor]


def divided_norm(held: Holdings, group: Group) -> Norm:
    """The 2-norm over all ranks of ``group``, each number of the model counted once; a collective, as is every call.

    Args:
        held: by this rank.
        group: ranks that hold the model together, without their replicas.
    """
    names = held.names()
    own = {name: repr(held.part(name).ranges) for name in names.values()}
    first: dict[tuple[str, str], int] = {}
    for rank, told in enumerate(group.gather(own)):
        for name, place in told.items():
            first.setdefault((name, place), rank)
    mine = {parameter for parameter, name in names.items() if first[name, own[name]] == group.rank}
    wide = any(dtype == torch.float64 for dtype, _ in held.whole.values())

    def norm(parameters: Sequence[nn.Parameter]) -> Tensor:
        counted = _squares([parameter for parameter in parameters if parameter in mine], group)
        others = _squares([parameter for parameter in parameters if parameter not in mine], group)
        squares = group.all_reduce(counted + 0 * others)  # what is no number anywhere is none in the sum
        device = parameters[0].device if parameters else squares.device
        return squares.sqrt().to(device, torch.float64 if wide else torch.float32)

    return norm


def _squares(parameters: Sequence[nn.Parameter], group: Group) -> Tensor:
    return local_norm(parameters).to(group.transport, torch.float64).square()
