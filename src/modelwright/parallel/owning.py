"""Owning: tensors that an optimizer has to see whole are put together, for its step, on one of their holders."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.base.group import Group
from modelwright.optim import Optimizer
from modelwright.optim.joined import parts
from modelwright.optim.seeing import sees_of
from modelwright.parallel.holdings import Holdings
from modelwright.parallel.parts import Part


@dataclass(frozen=True)
class Shared:
    """A tensor that ranks of a group divide.

    Attributes:
        name: logical.
        holders: the piece of each rank that has one, by rank.
        owner: the rank that steps on the whole.
    """

    name: str
    holders: Mapping[int, Part]
    owner: int

    @property
    def sources(self) -> list[tuple[int, Part]]:
        """Ranks that hold each number once between them; the owner's piece is its own."""
        ranks = sorted(self.holders, key=lambda rank: (rank != self.owner, rank))
        first = {self.holders[rank]: rank for rank in reversed(ranks)}
        return sorted((rank, part) for part, rank in first.items())


class Owning:
    """What an optimizer that sees whole tensors gets in place of the pieces that this rank holds.

    Each tensor that ranks divide has an owner among its holders, so that all own about equally much. Inside of
    :meth:`whole` the owner's parameter is the whole tensor with its whole gradient; outside it is a shape without
    memory. Only the owner keeps moments. Parts of an optimizer that are known to see single numbers, such as the AdamW
    of Muon, step on the pieces.

    Attributes:
        gathered: names of the tensors that have an owner; the same on all ranks.
        names: of the parameters that this rank owns.

    Args:
        held: by this rank.
        group: ranks that hold the model together, without their replicas.
        trained: parameters of the optimizer, as this rank has them.
    """

    def __init__(self, held: Holdings, group: Group, trained: Sequence[nn.Parameter]) -> None:
        self._group, self._trained, mine = group, list(trained), set(trained)
        self._names = {parameter: name for parameter, name in held.names().items() if parameter in mine}
        names = {name: parameter for parameter, name in self._names.items()}
        told = group.gather({name: held.part(name).to_json() for name in names})
        self._parts = [{name: Part.from_json(values) for name, values in of_rank.items()} for of_rank in told]
        divided = {name for of_rank in self._parts for name, part in of_rank.items() if not part.is_whole}
        self._pieces = {name: parameter for name, parameter in names.items() if name in divided}
        self._wholes = {name: _stand_in(piece, held.part(name).shape) for name, piece in self._pieces.items()}
        self._turns: list[list[Shared]] = []
        self.names: dict[nn.Parameter, str] = {}
        self.gathered: frozenset[str] = frozenset()

    def build(self, model: nn.Module, build: Callable[[Sequence[nn.Parameter]], Optimizer]) -> Optimizer:
        """The optimizer that ``build`` makes of ``model`` and the trained parameters, of whole shapes; a collective.

        Raises:
            ModelwrightError: the optimizer shows other weights than it trains.
        """
        with _in_place(model, {self._pieces[name]: whole for name, whole in self._wholes.items()}):
            optimizer = build([self._wholes.get(self._names[parameter], parameter) for parameter in self._trained])
        of: dict[Tensor, str] = {whole: name for name, whole in self._wholes.items()}
        wanted = {of[p] for part in parts(optimizer) if not _local(part) for p in _parameters(part) if p in of}
        self.gathered = frozenset(name for told in self._group.gather(sorted(wanted)) for name in told)
        self._turns = self._taken_in_turns()
        owned = {each.name for turn in self._turns for each in turn if each.owner == self._group.rank}
        self.names = {self._wholes[name]: name for name in owned}
        for part in parts(optimizer):
            self._hand_out(part, of, owned)
        return optimizer

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, owners have whole tensors and gradients; then each rank has its pieces of them; a collective."""
        used = self._used()
        gradients = self._bring(used, lambda piece: torch.zeros_like(piece) if piece.grad is None else piece.grad)
        for name, tensor in self._bring(used, lambda piece: piece.detach()).items():
            self._wholes[name].data = tensor
            self._wholes[name].grad = gradients[name]
        yield
        self._give_back(used)
        for whole, name in self.names.items():
            whole.grad, whole.data = None, _empty(self._pieces[name], whole.shape)

    def sent(self) -> int:
        """Bytes that this rank sends in a step in which every tensor has a gradient."""
        total, mine = 0, self._group.rank
        for each in (each for turn in self._turns for each in turn):
            if mine not in each.holders:
                continue
            size = self._pieces[each.name].element_size()
            if each.owner == mine:
                total += size * sum(part.entries for rank, part in each.holders.items() if rank != mine)
            else:
                total += size * sum(2 * part.entries for rank, part in each.sources if rank == mine)
        return total

    def _taken_in_turns(self) -> list[list[Shared]]:
        """What is on its way together: one tensor of each owner at a time, which bounds the memory for what arrives."""
        loads, turns = [0] * self._group.size, list[list[Shared]]()
        taken = [0] * self._group.size
        for name, holders in sorted(self._holders().items(), key=lambda item: (-_entries(item[1]), item[0])):
            owner = min(holders, key=lambda rank: (loads[rank], rank))
            loads[owner] += _entries(holders)
            if taken[owner] == len(turns):
                turns.append([])
            turns[taken[owner]].append(_checked(Shared(name, holders, owner)))
            taken[owner] += 1
        return turns

    def _holders(self) -> dict[str, dict[int, Part]]:
        found: dict[str, dict[int, Part]] = {}
        for rank, of_rank in enumerate(self._parts):
            for name, part in of_rank.items():
                if name in self.gathered and part.entries:
                    found.setdefault(name, {})[rank] = part
        return found

    def _hand_out(self, part: Optimizer, of: Mapping[Tensor, str], owned: Collection[str]) -> None:
        """Leave in an optimizer the whole tensors that this rank owns, or its pieces where it sees single numbers."""
        local = _local(part)
        if not local and self.gathered and hasattr(part, "evaluating"):
            raise ModelwrightError(
                f"{type(part).__name__} has to see whole tensors and shows other weights than it trains, which is not "
                "done where a layout divides them",
                where="optimizer",
                remedy="choose another optimizer, or the layout replicate",
            )
        for group in part.param_groups:
            before = group["params"]
            group["params"] = [
                self._pieces[of[p]] if local and p in of else p for p in before if local or of.get(p) in (None, *owned)
            ]
            for parameter in before:
                self._move_state(part, parameter, of.get(parameter), owned)

    def _move_state(self, part: Optimizer, whole: Tensor, name: str | None, owned: Collection[str]) -> None:
        """What an optimizer keeps of a tensor from the beginning is of the whole."""
        if name is None or whole not in part.state or (name in owned and not _local(part)):
            return
        values, piece = part.state.pop(whole), self._pieces[name]
        if _local(part):
            place = self._parts[self._group.rank][name]
            part.state[piece] = {key: _taken(value, place, piece) for key, value in values.items()}

    def _used(self) -> list[list[Shared]]:
        """Those that have a gradient on any rank."""
        names = [each.name for turn in self._turns for each in turn]
        found = [name in self._pieces and self._pieces[name].grad is not None for name in names]
        flags = self._group.all_reduce(torch.tensor(found, device=self._group.transport, dtype=torch.int32), "max")
        reached = dict(zip(names, flags.tolist(), strict=True))
        return [[each for each in turn if reached[each.name]] for turn in self._turns]

    def _bring(self, turns: Sequence[Sequence[Shared]], of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Whole tensors for their owners, by name, put together of what ``of`` makes of the pieces."""
        mine, wholes = self._group.rank, dict[str, Tensor]()
        for turn in turns:
            send, receive, put = [], list[tuple[Tensor, int]](), list[tuple[str, Part, Tensor]]()
            for each in turn:
                if each.owner == mine:
                    wholes[each.name] = self._empty_whole(each.name)
                for rank, part in each.sources:
                    if each.owner == mine and rank == mine:
                        put.append((each.name, part, of(self._pieces[each.name])))
                    elif each.owner == mine:
                        receive.append((self._arriving(each.name, part), rank))
                        put.append((each.name, part, receive[-1][0]))
                    elif rank == mine:
                        send.append((self._leaving(of(self._pieces[each.name])), each.owner))
            self._group.exchange(send=send, receive=receive).wait()
            for name, part, tensor in put:
                part.put(wholes[name], tensor)
        return wholes

    @torch.no_grad()
    def _give_back(self, turns: Sequence[Sequence[Shared]]) -> None:
        """Overwrite all pieces by those of the owners' whole tensors."""
        mine = self._group.rank
        for turn in turns:
            send, receive, new = [], list[tuple[Tensor, int]](), list[tuple[str, Tensor]]()
            for each in turn:
                for rank, part in each.holders.items():
                    if each.owner == mine and rank == mine:
                        new.append((each.name, part.take(self._wholes[each.name])))
                    elif each.owner == mine:
                        send.append((self._leaving(part.take(self._wholes[each.name].detach())), rank))
                    elif rank == mine:
                        receive.append((self._arriving(each.name, part), each.owner))
                        new.append((each.name, receive[-1][0]))
            self._group.exchange(send=send, receive=receive).wait()
            for name, tensor in new:
                self._pieces[name].copy_(tensor)

    def _empty_whole(self, name: str) -> Tensor:
        piece = self._pieces[name]
        return torch.empty(self._wholes[name].shape, dtype=piece.dtype, device=piece.device)

    def _arriving(self, name: str, part: Part) -> Tensor:
        return torch.empty(part.local_shape, dtype=self._pieces[name].dtype, device=self._group.transport)

    def _leaving(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._group.transport).contiguous()


def _local(part: Optimizer) -> bool:
    return sees_of(type(part)) == "elements"


def _parameters(part: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in part.param_groups for parameter in group["params"])


def _entries(holders: Mapping[int, Part]) -> int:
    return math.prod(next(iter(holders.values())).shape)


def _checked(shared: Shared) -> Shared:
    found, wanted = sum(part.entries for _, part in shared.sources), _entries(shared.holders)
    if found != wanted:
        raise RunFailed(
            f"the ranks hold {found} of the {wanted} numbers of '{shared.name}'",
            remedy="this is a fault of the layout: please report it",
        )
    return shared


def _empty(piece: Tensor, shape: Sequence[int]) -> Tensor:
    """Of a shape, without memory for its numbers."""
    return torch.zeros((), dtype=piece.dtype, device=piece.device).expand(tuple(shape))


def _stand_in(piece: nn.Parameter, shape: Sequence[int]) -> nn.Parameter:
    whole = nn.Parameter(_empty(piece, shape), requires_grad=piece.requires_grad)
    vars(whole).update(vars(piece))
    return whole


def _taken(value: object, part: Part, piece: Tensor) -> object:
    if isinstance(value, Tensor) and value.shape == part.shape:
        return part.take(value).to(piece.device, copy=True)
    return value


@contextmanager
def _in_place(model: nn.Module, others: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """Inside, modules hold other parameters in place of some."""
    found = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter in others
    ]
    for module, name, parameter in found:
        module._parameters[name] = others[parameter]  # type: ignore[index]
    try:
        yield
    finally:
        for module, name, parameter in found:
            module._parameters[name] = parameter
