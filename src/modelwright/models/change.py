"""Changes: alterations of a model as plain data, which can be stored and made again on a fresh copy of its source.

Source, changes and weights together rebuild any compressed model, on the meta device too, and without pickle. A change
consists of a few primitive edits that know nothing of why they are made.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from modelwright.base.choice import Family
from modelwright.base.errors import ModelwrightError

REPLACEMENTS = Family(
    "replacement",
    {
        "factored": "modelwright.reforms.factors:factored",
        "merged": "modelwright.reforms.factors:merged",
        "quantized": "modelwright.compression.quantize.layers:quantized",
    },
)
"""Modules that may stand in for one of a model's own: ``replacement(old, **arguments)`` makes it, its weights unset."""


class Holders:
    """Who holds which tensor: a tied one is held several times.

    Args:
        model: whose parameters and buffers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[tuple[Any, Any]]] = defaultdict(list)
        for module in model.modules():
            self._note(module._parameters, module._parameters.items())
            self._note(module._buffers, module._buffers.items())
            for held in vars(module).values():
                if isinstance(held, list):  # such as an LSTM keeps
                    self._note(held, enumerate(held))

    def put(self, old: Tensor, new: Tensor) -> None:
        """Another tensor in all places of one; parameters stay parameters."""
        made = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        places = self._places.pop(id(old))
        for held, name in places:
            held[name] = made
        self._places[id(made)] = places

    def _note(self, held: Any, places: Iterable[tuple[Any, Any]]) -> None:
        for place, tensor in places:
            if isinstance(tensor, Tensor):
                self._places[id(tensor)].append((held, place))


class Edit(Protocol):
    """One primitive edit."""

    kind: ClassVar[str]

    def apply(self, model: nn.Module) -> None:
        """Make it, in place.

        Raises:
            ModelwrightError: the model is not the one that the edit was recorded of.
        """


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Of one dim of a parameter or buffer keep some entries only, in their order; tied ones stay tied.

    Attributes:
        tensor: its name, any one of those of a tied tensor.
        dim: which of its dims.
        runs: what is kept, as ``(start, stop)`` one after the other.
    """

    tensor: str
    dim: int
    runs: tuple[tuple[int, int], ...]

    kind: ClassVar[str] = "keep"

    def apply(self, model: nn.Module) -> None:
        """See :class:`Edit`.

        Raises:
            ModelwrightError: there is no such tensor, or it has fewer entries.
        """
        self.apply_in(model, Holders(model))

    def apply_in(self, model: nn.Module, holders: Holders) -> None:
        """The same, given who holds which tensor."""
        old = _tensor(model, self.tensor)
        bounds = [0, *(place for run in self.runs for place in run)]
        fits = 0 <= self.dim < old.dim() and bounds == sorted(bounds) and bounds[-1] <= old.shape[self.dim]
        if not fits or not self.runs:
            raise ModelwrightError(
                f"of '{self.tensor}' {list(old.shape)} the entries {list(self.runs)} of dim {self.dim} cannot be kept",
                remedy="make changes in the order they were recorded, on the model they were recorded of",
            )
        kept = torch.cat([old.detach().narrow(self.dim, start, stop - start) for start, stop in self.runs], self.dim)
        holders.put(old, kept.clone(memory_format=torch.contiguous_format))


@dataclass(frozen=True, kw_only=True)
class SetNumber:
    """A number that the code of a module reads, such as how many heads there are.

    Attributes:
        module: name of the module, empty for the model itself.
        attribute: of the module, or of an object that it holds: ``config.num_heads``.
        value: a number, or several for a tuple.
    """

    module: str
    attribute: str
    value: int | float | tuple[int | float, ...]

    kind: ClassVar[str] = "set-number"

    def apply(self, model: nn.Module) -> None:
        """See :class:`Edit`.

        Raises:
            ModelwrightError: there is no such module or attribute.
        """
        holder: Any = _module(model, self.module)
        *path, last = self.attribute.split(".")
        try:
            for part in path:
                holder = vars(holder)[part]
            held = vars(holder)[last]
        except (KeyError, TypeError) as error:
            raise ModelwrightError(
                f"the module '{self.module}' holds no '{self.attribute}'", remedy="rebuild it from its own source"
            ) from error
        if not _are_numbers(held, self.value):
            raise ModelwrightError(
                f"'{self.attribute}' of the module '{self.module}' is {held!r}, which {self.value!r} cannot replace",
                remedy="a change sets numbers only",
            )
        vars(holder)[last] = list(self.value) if isinstance(held, list) else self.value  # type: ignore[arg-type]


def _are_numbers(held: object, value: object) -> bool:
    """Both one number, or both several."""
    if isinstance(held, (tuple, list)) and isinstance(value, tuple):
        return all(isinstance(each, (int, float)) for each in (*held, *value))
    return isinstance(held, (int, float)) and isinstance(value, (int, float))


@dataclass(frozen=True, kw_only=True)
class Replace:
    """Another module in the place of one.

    Attributes:
        module: name of the module.
        by: of :data:`REPLACEMENTS`.
        arguments: of it, JSON-ready.
    """

    module: str
    by: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "replace"

    def apply(self, model: nn.Module) -> None:
        """See :class:`Edit`.

        Raises:
            ModelwrightError: there is no such module or replacement, or it does not take the arguments.
        """
        if ":" in self.by:
            raise ModelwrightError(
                f"the replacement '{self.by}' is foreign code, which a stored change may not name",
                remedy=f"known: {', '.join(sorted(REPLACEMENTS.listing))}",
            )
        old = _module(model, self.module)
        new = REPLACEMENTS.resolve(self.by)(old, **self.arguments)
        new.train(old.training)
        for name, module in list(model.named_modules(remove_duplicate=False)):
            for child, held in list(module.named_children()):
                if held is old:  # a module in two places stays one
                    setattr(model.get_submodule(name), child, new)


@dataclass(frozen=True, kw_only=True)
class KeepChildren:
    """Of a list of modules keep some only, in their order.

    Attributes:
        module: name of a ``ModuleList`` or ``Sequential``.
        places: of those that are kept, ascending.
    """

    module: str
    places: tuple[int, ...]

    kind: ClassVar[str] = "keep-children"

    def apply(self, model: nn.Module) -> None:
        """See :class:`Edit`.

        Raises:
            ModelwrightError: there is no such list, or it has fewer modules.
        """
        held = _module(model, self.module)
        if not isinstance(held, (nn.ModuleList, nn.Sequential)):
            raise ModelwrightError(f"'{self.module}' is a {type(held).__name__}, no list of modules")
        ascending = all(a < b for a, b in itertools.pairwise((-1, *self.places, len(held))))
        if not self.places or not ascending:
            raise ModelwrightError(
                f"of the {len(held)} modules in '{self.module}' {list(self.places)} cannot be kept",
                remedy="name some of them, in ascending order",
            )
        names, children = list(held._modules), [held[place] for place in self.places]
        held._modules.clear()
        held._modules.update(zip(names, children, strict=False))


_EDITS: dict[str, type[Any]] = {edit.kind: edit for edit in (Keep, SetNumber, Replace, KeepChildren)}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A recorded alteration of a model.

    Attributes:
        kind: such as ``pruned``.
        edits: in the order in which they are made.
        facts: how it came about, JSON-ready; for readers.
    """

    kind: str
    edits: tuple[Edit, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> None:
        """Make it, in place; on any device, also on meta.

        Raises:
            ModelwrightError: the model is not the one that the change was recorded of.
        """
        holders: Holders | None = None
        for edit in self.edits:
            if isinstance(edit, Keep):
                holders = Holders(model) if holders is None else holders
                edit.apply_in(model, holders)
            else:
                edit.apply(model)
                holders = holders if isinstance(edit, SetNumber) else None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": self.kind, "facts": dict(self.facts), "edits": [_plain(edit) for edit in self.edits]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Change:
        """What :meth:`to_json` gave.

        Raises:
            ModelwrightError: it is none, or of a later version.
        """
        try:
            edits = tuple(_edit(each) for each in values["edits"])
            return cls(kind=values["kind"], edits=edits, facts=values.get("facts", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelwrightError(f"this describes no change of a model: {error}") from error


def apply_all(model: nn.Module, changes: Sequence[Change]) -> None:
    """Make changes one after the other, in place."""
    for change in changes:
        change.apply(model)


def runs_of(kept: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending places as ``(start, stop)`` runs."""
    runs: list[tuple[int, int]] = []
    for place in kept:
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return tuple(runs)


def _plain(edit: Any) -> dict[str, Any]:
    return {"edit": edit.kind, **{each.name: getattr(edit, each.name) for each in fields(edit)}}


def _edit(values: Mapping[str, Any]) -> Edit:
    given = {name: _frozen(value) for name, value in values.items() if name != "edit"}
    made: Edit = _EDITS[values["edit"]](**given)
    return made


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ModelwrightError(f"the model has no module '{name}'", remedy="rebuild it from its own source") from error


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    module = _module(model, path)
    if is_parametrized(module, last):
        raise ModelwrightError(
            f"'{name}' is computed from other tensors each time it is read",
            where=path,
            remedy="torch.nn.utils.parametrize.remove_parametrizations makes it a plain one",
        )
    found: Tensor | None = {**module._parameters, **module._buffers}.get(last)
    if found is None:
        raise ModelwrightError(f"the model has no tensor '{name}'", remedy="rebuild it from its own source")
    return found
