"""What an objective brings along besides its formula."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from modelwright.base.errors import ModelwrightError

_DEPTH = 4


def check_whole(objective: object, where: str = "objective") -> None:
    """Refuse an objective that lacks a part; all that is missing is named at once.

    Raises:
        ModelwrightError: with what to add.
    """
    parts = {"counts": "method", "forward": "method", "loss": "method", "coefficients": "mapping", "metrics": "tuple"}
    if missing := [name for name in parts if not hasattr(objective, name)]:
        raise ModelwrightError(
            f"the objective {type(objective).__name__} lacks {', '.join(missing)}",
            where=where,
            remedy="coefficients = {TERM: weight, ...} and metrics = () may be attributes of the class",
        )


def held_parameters(objective: object) -> Iterator[nn.Parameter]:
    """Parameters of the modules that ``objective`` is or holds: in a field, as its function, or bound to that."""
    for module in _modules(objective, _DEPTH):
        yield from module.parameters()


def _modules(value: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth > 0:
        for part in _parts(value):
            yield from _modules(part, depth - 1)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, type) or type(value).__module__ == "builtins":
        return _cells(value)
    return vars(value).values() if hasattr(value, "__dict__") else ()


def _cells(function: object) -> list[object]:
    """What a function closes over, or a method is bound to."""
    if inspect.ismethod(function):
        return [function.__self__, function.__func__]
    if not inspect.isfunction(function):
        return []
    return [cell.cell_contents for cell in function.__closure__ or () if _is_bound(cell)]


def _is_bound(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a name that has no value yet
        return False
    return True
