"""Gathering: the pieces of all ranks put together on rank 0, which writes them. A file does not know of layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelwright.base.errors import RunFailed
from modelwright.base.group import Group
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.parts import Part


@dataclass(frozen=True)
class _Piece:
    name: str
    dtype: torch.dtype
    part: Part
    rank: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any], rank: int) -> _Piece:
        return cls(values["name"], getattr(torch, values["dtype"]), Part.from_json(values["part"]), rank)


@torch.no_grad()
def gather_tensors(
    tensors: Mapping[str, Tensor], part_of: Callable[[str, Tensor], Part], group: Group
) -> dict[str, Tensor]:
    """Whole tensors by name, in the memory of rank 0's host; elsewhere none. A collective.

    Only one piece at a time is on its way. What several ranks hold is taken from the first of them.

    Args:
        tensors: of this rank; others may have others.
        part_of: where the piece of a name lies in the whole.
        group: all ranks.
    """
    described = [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "part": part_of(name, tensor).to_json(),
        }
        for name, tensor in tensors.items()
    ]
    pieces = _distinct(
        _Piece.from_json(values, rank) for rank, told in enumerate(group.gather(described)) for values in told
    )
    whole: dict[str, Tensor] = {}
    for piece in pieces:
        if piece.rank == group.rank and group.rank > 0:
            own = tensors[piece.name].detach().to(group.transport).contiguous()
            group.exchange(send=[(own, 0)]).wait()
        elif group.rank == 0:
            if piece.name not in whole:
                whole[piece.name] = torch.empty(piece.part.shape, dtype=piece.dtype)
            piece.part.put(whole[piece.name], _received(piece, tensors, group))
    _check_complete(whole, pieces if group.rank == 0 else [])
    return whole


def _check_complete(whole: Mapping[str, Tensor], pieces: Sequence[_Piece]) -> None:
    found: dict[str, int] = {}
    for piece in pieces:
        found[piece.name] = found.get(piece.name, 0) + piece.part.entries
    if wrong := [name for name, tensor in whole.items() if found[name] != tensor.numel()]:
        raise RunFailed(
            f"the ranks hold {found[wrong[0]]} of the {whole[wrong[0]].numel()} numbers of '{wrong[0]}'",
            remedy="this is a fault of the layout: please report it; the checkpoint before is whole",
        )


def gather_model(held: Holdings, group: Group) -> dict[str, Tensor]:
    """The whole model's tensors by name, on rank 0; tied ones are the same memory. A collective."""
    if not held.divided:
        return {name: tensor.detach() for name, tensor in held.tensors().items()}
    own = {held.first_name(name): tensor for name, tensor in held.tensors().items()}
    whole = gather_tensors(own, lambda name, _: held.part(name), group)
    return {name: whole[held.first_name(name)] for name in held.whole} if group.rank == 0 else {}


def _received(piece: _Piece, tensors: Mapping[str, Tensor], group: Group) -> Tensor:
    if piece.rank == 0:
        return tensors[piece.name].detach()
    came = torch.empty(piece.part.local_shape, dtype=piece.dtype, device=group.transport)
    group.exchange(receive=[(came, piece.rank)]).wait()
    return came


def _distinct(pieces: Sequence[_Piece] | Any) -> list[_Piece]:
    """Each part once, of the first rank that has it; empty ones not at all. The same list on every rank."""
    first: dict[tuple[str, Part], _Piece] = {}
    for piece in pieces:
        if piece.part.entries or 0 in piece.part.shape:
            first.setdefault((piece.name, piece.part), piece)
    return list(first.values())
