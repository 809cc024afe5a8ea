"""Divided: a tensor of which this rank holds a piece, and with which ordinary code computes as with the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.division import Division
from modelwright.parallel.divided.origins import current, views, written
from modelwright.parallel.divided.registry import RULES, is_composite
from modelwright.parallel.divided.value import Value, entire, plain, store

aten = torch.ops.aten


class Divided(Tensor):
    """A tensor of global shape of which this rank holds a piece.

    Operators are computed on the pieces by the rules of :mod:`modelwright.parallel.divided.rules`, also those of the
    backward pass; plain tensors among their arguments are taken to be the same on every rank. An operator without a
    rule is computed whole on every rank, which an event says once.

    Attributes:
        value: the piece. Several tensors of one value (``detach``) share it.
    """

    _value: Value

    @staticmethod
    def __new__(cls: type[Divided], one: Value) -> Divided:
        """The tensor of a value."""
        local = one.local
        tensor = Tensor._make_wrapper_subclass(
            cls,
            one.division.shape,
            strides=whole_strides(one),
            dtype=local.dtype,
            device=local.device,
            layout=local.layout,
        )
        tensor._value = one
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute an operator on the pieces."""
        return dispatch(func, args, kwargs or {})

    @property
    def value(self) -> Value:
        """The piece."""
        return current(self._value)

    @property
    def division(self) -> Division:
        """How it is divided now."""
        return self.value.division

    @property
    def pending(self) -> frozenset[str]:
        """Axes over which it is still to be summed."""
        return self.value.pending

    @property
    def local(self) -> Tensor:
        """This rank's piece, or term of the sum that is pending."""
        return self.value.local

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        pending = f", pending {sorted(self.pending)}" if self.pending else ""
        return f"Divided({self.division}{pending}, {self.dtype})"

    def numpy(self, *, force: bool = False) -> Any:
        """The numbers, of the whole."""
        return entire(self.value).numpy(force=force)

    def tolist(self) -> Any:
        """The numbers, of the whole."""
        return entire(self.value).tolist()


def whole_strides(one: Value) -> tuple[int, ...]:
    """Those of the whole, its dims in memory in the order in which the piece has them."""
    shape, local = one.division.shape, one.local
    if local.is_contiguous():
        return _contiguous(shape)
    found, step = [0] * len(shape), 1
    for place in sorted(range(len(shape)), key=lambda place: (local.stride(place), local.size(place), -place)):
        if local.stride(place) or local.size(place) <= 1:
            found[place] = step
            step *= max(shape[place], 1)
    return tuple(found)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= max(size, 1)
    return tuple(reversed(found))


def wrap(result: Any) -> Any:
    """Tensors of a rule's results: plain where every rank holds all."""
    if isinstance(result, Value):
        return result.local if result.simple else Divided(result)
    if isinstance(result, (list, tuple)):
        return type(result)(wrap(entry) for entry in result)
    return result


def unwrap(value: Any, axes: Axes) -> Any:
    """A rule's arguments."""
    return _mapped(value, lambda tensor: tensor.value if isinstance(tensor, Divided) else plain(tensor, axes))


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(entry, change) for entry in value)
    if isinstance(value, dict):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    return value


def find_axes(values: Iterable[Any]) -> Axes | None:
    """The axes of the first divided tensor among values."""
    for value in values:
        if isinstance(value, Divided):
            return value.value.axes
        if isinstance(value, (list, tuple)) and (found := find_axes(value)):
            return found
    return None


def dispatch(operator: OpOverload, args: Any, kwargs: Any) -> Any:
    """Compute an operator some of whose arguments are divided."""
    axes = find_axes((*args, *kwargs.values()))
    assert axes is not None
    if "out" in kwargs:
        return _out(operator, args, dict(kwargs))
    rule = RULES.get(operator)
    if rule is None and operator._schema.is_mutable:
        return _in_place(operator, args, kwargs, axes)
    if rule is None and is_composite(operator):
        return operator.decompose(*args, **kwargs)
    if rule is None and not operator.is_view:
        return _computed_whole(operator, args, kwargs, axes)
    values, named = unwrap(args, axes), unwrap(kwargs, axes)
    if operator.is_view:
        return _shown(views(rule or _seen_whole, operator, values, named))
    assert rule is not None
    result = rule(operator, *values, **named)
    if not operator._schema.is_mutable:
        return wrap(result)
    written(values[0])
    return args[0]


def _shown(found: Value | list[Value]) -> Any:
    """Views stay what they are, also those of which every rank holds all: what is written into them has to travel."""
    return Divided(found) if isinstance(found, Value) else [Divided(one) for one in found]


def _seen_whole(operator: OpOverload, value: Value, *args: Any, **kwargs: Any) -> Any:
    """The view of a value that is gathered."""
    _say_unknown(operator, value.axes)
    found = operator(entire(value), *args, **kwargs)
    return plain(found, value.axes) if isinstance(found, Tensor) else [plain(each, value.axes) for each in found]


def _computed_whole(operator: OpOverload, args: Any, kwargs: Any, axes: Axes) -> Any:
    _say_unknown(operator, axes)
    return operator(*_mapped(args, _entire), **_mapped(kwargs, _entire))


def _entire(tensor: Tensor) -> Tensor:
    return entire(tensor.value) if isinstance(tensor, Divided) else tensor


def _say_unknown(operator: OpOverload, axes: Axes) -> None:
    name = str(operator)
    if name in axes.unknown:
        return
    axes.unknown.add(name)
    emit(
        "operator-computed-whole",
        f"'{name}' has no rule for divided tensors: every rank gathers its arguments and computes all of it",
        level="warning",
        operator=name,
    )


def _in_place(operator: OpOverload, args: Any, kwargs: Any, axes: Axes) -> Any:
    """An operator that overwrites its first argument: the same that does not, and its result written back."""
    aliases = (argument.alias_info for argument in operator._schema.arguments)
    written = [alias is not None and alias.is_write for alias in aliases]
    if not written[0] or any(written[1:]):
        return _overwritten(operator, args, kwargs, axes, written)
    functional = functional_of(operator)
    if torch.Tag.inplace_view in operator.tags and functional is not None:
        return _shown_otherwise(operator, functional, args, kwargs)
    if isinstance(args[0], (list, tuple)):
        return _overwritten(operator, args, kwargs, axes, written)
    if functional is None:
        return write(args[0], _changed_whole(operator, args, kwargs, axes), axes)
    return write(args[0], functional(*args, **kwargs), axes)


def _shown_otherwise(operator: OpOverload, functional: OpOverload, args: Any, kwargs: Any) -> Any:
    """The tensor itself gets another shape (``squeeze_``)."""
    found = functional(*args, **kwargs)
    with torch._C._DisableTorchDispatch():
        operator(*args, **kwargs)
    args[0]._value = unwrap(found, args[0]._value.axes)
    return args[0]


def _changed_whole(operator: OpOverload, args: Any, kwargs: Any, axes: Axes) -> Tensor:
    _say_unknown(operator, axes)
    target = _entire(args[0]).clone(memory_format=torch.preserve_format)
    operator(target, *_mapped(args[1:], _entire), **_mapped(kwargs, _entire))
    return target


def _overwritten(operator: OpOverload, args: Any, kwargs: Any, axes: Axes, written: list[bool]) -> Any:
    """Several arguments are overwritten: computed whole on copies."""
    _say_unknown(operator, axes)
    copies = [
        _mapped(argument, lambda tensor: _entire(tensor).clone()) if write_it else _mapped(argument, _entire)
        for argument, write_it in zip(args, written, strict=False)
    ]
    result = operator(*copies, **_mapped(kwargs, _entire))
    for argument, copy, write_it in zip(args, copies, written, strict=False):
        if write_it:
            _write_all(argument, copy, axes)
    if isinstance(result, (list, tuple, Tensor)):
        raise ModelwrightError(
            f"'{operator}' overwrites several divided tensors and gives others",
            remedy="write the computation without operators in place",
        )
    return result


def _write_all(target: Any, values: Any, axes: Axes) -> None:
    if isinstance(target, Tensor):
        write(target, values, axes)
    elif isinstance(target, (list, tuple)):
        for entry, value in zip(target, values, strict=True):
            _write_all(entry, value, axes)


def _out(operator: OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
    target = kwargs.pop("out")
    functional = functional_of(operator)
    axes = find_axes((*args, *kwargs.values(), target))
    if functional is None or not isinstance(target, Tensor) or axes is None:
        raise ModelwrightError(f"'{operator}' cannot write into divided tensors", remedy="leave out= away")
    return write(target, functional(*args, **kwargs), axes)


def functional_of(operator: OpOverload) -> OpOverload | None:
    """The operator that computes the same and overwrites nothing."""
    name, overload = operator._schema.name.split("::")[1], operator._overloadname
    packet = getattr(aten, name.rstrip("_") if not name.endswith("__") else name, None)
    names = {"out": ("default", "Tensor"), "Tensor_out": ("Tensor",), "Scalar_out": ("Scalar",)}
    for candidate in names.get(overload, (overload.removesuffix("_out"),)):
        found = getattr(packet, candidate, None)
        if found is not None and not found._schema.is_mutable and _first(found) == _first(operator):
            return cast(OpOverload, found)
    return None


def _first(operator: OpOverload) -> str:
    """The type of its first argument: some names have an overload of numbers only."""
    return str(operator._schema.arguments[0].type)


def write(target: Tensor, value: Tensor, axes: Axes) -> Tensor:
    """Overwrite a tensor with a value of the same shape, which may be divided otherwise."""
    written(store(unwrap(target, axes), unwrap(value, axes)))
    return target
