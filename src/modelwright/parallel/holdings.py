"""Holdings: what this rank has of a model, by the user's own names. Whoever trains, averages or saves goes by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.parallel.parts import Part

Kind = tuple[torch.dtype, tuple[int, ...]]


class Holdings:
    """The tensors of a model on this rank, each the whole one or a part of it.

    Args:
        model: before anything of it is divided.

    Attributes:
        model: as this rank has it.
        whole: type and shape of each tensor of the whole model, by name; tied ones under each of their names.
        parts: of those that are held in part.
        absent: names of those that other ranks hold.
        parameters: how many numbers the whole model learns.
        divided: whether any rank lacks something; the same on all.
        local: inside, the model's modules hold ordinary tensors: those that optimizers change.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.whole: dict[str, Kind] = {name: _kind(tensor) for name, tensor in model.state_dict().items()}
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._first = _first_names(model)
        self.parts: dict[str, Part] = {}
        self.absent: set[str] = set()
        self.divided = False
        self.local: Callable[[], AbstractContextManager[object]] = nullcontext

    def divide(self, parts: Mapping[str, Part]) -> None:
        """Note that only these parts are held from now on: parts of the whole, not of what was held before."""
        self.divided = True
        self.parts |= {name: part for name, part in parts.items() if not part.is_whole}

    def leave_out(self, names: Iterable[str]) -> None:
        """Note that other ranks hold these."""
        self.divided = True
        self.absent |= set(names)

    def part(self, name: str) -> Part:
        """Where the piece of ``name`` lies in the whole tensor."""
        return self.parts.get(name) or Part.whole(self.whole[name][1])

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name, the very ones; tied ones under each of their names."""
        with self.local():
            found = self.model.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in found.items() if name not in self.absent}

    def stand_ins(self) -> set[nn.Parameter]:
        """What is in the places of parameters that other ranks hold."""
        named = list(self.model.named_parameters(remove_duplicate=False))
        return {p for name, p in named if name in self.absent} - {p for name, p in named if name not in self.absent}

    def names(self) -> dict[nn.Parameter, str]:
        """Each parameter's logical name, in the model's order, by which gradients are sent while others are computed.

        A tied one has the first of its names, whichever this rank knows it by.
        """
        with self.local():
            found = list(self.model.named_parameters(remove_duplicate=False))
        return {parameter: self._first[name] for name, parameter in found if name not in self.absent}

    def first_name(self, name: str) -> str:
        """Of a tied tensor the first of its names."""
        return self._first.get(name, name)

    def pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole tensors by name, what this rank holds."""
        return {name: self.part(name).take(whole) for name, whole in tensors.items() if name not in self.absent}

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite this rank's tensors by those, which are its own pieces.

        Raises:
            ModelwrightError: one is missing.
        """
        if not self.divided:
            self.model.load_state_dict(dict(tensors))
            return
        for name, tensor in self.tensors().items():
            if name not in tensors:
                raise ModelwrightError(f"there is no tensor '{name}' to load")
            tensor.copy_(tensors[name])

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse whole tensors that are not this model's.

        Raises:
            ModelwrightError: names, types or shapes differ.
        """
        found = {name: _kind(tensor) for name, tensor in tensors.items()}
        differences = [f"missing: {name}" for name in sorted(self.whole.keys() - found.keys())]
        differences += [f"unexpected: {name}" for name in sorted(found.keys() - self.whole.keys())]
        differences += [
            f"{name}: {_text(found[name])} saved, {_text(kind)} in the model"
            for name, kind in sorted(self.whole.items())
            if name in found and found[name] != kind
        ]
        if differences:
            more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise ModelwrightError(
                f"the saved weights do not fit this model: {'; '.join(differences[:5])}{more}",
                remedy="build the model as the run's recipe says",
            )


def owned(tensor: Tensor) -> bool:
    """Whether it has memory for all its numbers, which what stands in for another rank's tensor has not."""
    return tensor.untyped_storage().nbytes() >= tensor.nbytes


def _first_names(model: nn.Module) -> dict[str, str]:
    first: dict[nn.Parameter, str] = {}
    return {
        name: first.setdefault(parameter, name) for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _kind(tensor: Tensor) -> Kind:
    return tensor.dtype, tuple(tensor.shape)


def _text(kind: Kind) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"
