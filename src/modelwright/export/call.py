"""One call of a model, as an objective makes it: what an exported file is to answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating


@dataclass(frozen=True, kw_only=True)
class Call:
    """Arguments of one call of a model.

    Attributes:
        tensors: by the names that the model's ``forward`` has for them, in order; samples first.
        positional: how many of the arguments were given by place.
        named: names of the other arguments.
        constants: arguments that are no tensors, by place or name: the file has them built in.
    """

    tensors: Mapping[str, Tensor]
    positional: tuple[str, ...]
    named: tuple[str, ...]
    constants: Mapping[str, Any]

    def arguments(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of the same call with these tensors: those by place and those by name."""
        values = {**self.constants, **tensors}
        return tuple(values[name] for name in self.positional), {name: values[name] for name in self.named}

    def of(self, tensors: Mapping[str, Tensor]) -> Call:
        """The same call with other tensors."""
        return replace(self, tensors=dict(tensors))

    def answer(self, model: nn.Module) -> Any:
        """What ``model`` returns, in evaluation mode and without gradients."""
        places, names = self.arguments(self.tensors)
        with evaluating(model), torch.no_grad():
            return model(*places, **names)


def call_of(model: nn.Module, example: Any) -> Call:
    """The call with an example: a dict of arguments by name, a tuple of arguments, or one argument.

    Raises:
        ModelwrightError: the model does not take them, or there is no tensor among them.
    """
    if isinstance(example, Mapping):
        return _call(model, (), example)
    return _call(model, tuple(example) if isinstance(example, (tuple, list)) else (example,), {})


def called_by(model: nn.Module, compute: Callable[[], object]) -> Call:
    """The first call of ``model`` that ``compute`` makes, in evaluation mode; what it returns is not looked at.

    Raises:
        ModelwrightError: there was no call, or one without tensors.
    """
    with _noting(model) as calls, evaluating(model), torch.no_grad():
        compute()
    if not calls:
        raise ModelwrightError(
            "the objective does not call the model itself, so a file cannot stand for it",
            remedy="let the objective call model(...); or export the parts that it calls by themselves",
        )
    return _call(model, *calls[0])


@contextmanager
def _noting(model: nn.Module) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, places: tuple[Any, ...], names: dict[str, Any]) -> None:
        calls.append((places, dict(names)))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _call(model: nn.Module, places: tuple[Any, ...], names: Mapping[str, Any]) -> Call:
    by_place = dict(zip(_names(model, len(places)), places, strict=True))
    if twice := sorted(by_place.keys() & names.keys()):
        raise ModelwrightError(f"the model's argument '{twice[0]}' is given twice", where="example")
    values = {**by_place, **names}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelwrightError("no argument of the model is a tensor", where="example")
    constants = {name: value for name, value in values.items() if name not in tensors}
    return Call(tensors=tensors, positional=tuple(by_place), named=tuple(names), constants=constants)


def _names(model: nn.Module, count: int) -> list[str]:
    """Of the first so many arguments by place; numbers where the model takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if len(named) < count and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
        raise ModelwrightError(
            f"the model takes {len(named)} arguments, and the example has {count}",
            where="example",
            remedy="give a dict of arguments by name, a tuple of arguments, or one tensor",
        )
    return [*named, *(f"input_{number}" for number in range(len(named), count))][:count]
