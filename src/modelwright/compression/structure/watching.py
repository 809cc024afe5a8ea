"""Run a model once with numbers that remember where they come from, and see which sizes they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelwright.compression.structure.numbers import Attribute, Expression, Number, Size
from modelwright.graph.recording import Recorder

_DEPTH = 3
_SIZES = {"shape", "size"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """A number that says something about a dim.

    Attributes:
        expression: where the number comes from.
        value: number of the value whose dim it is.
        dim: which dim.
        says: ``size``: how long it is; ``front``: a place in it; ``outer``: how many groups it has.
        given: the number.
        module: path of the module that ran.
    """

    expression: Expression
    value: int
    dim: int
    says: Literal["size", "front", "outer"]
    given: int
    module: str


class Watch(TorchFunctionMode):
    """What one run of a model did with its numbers.

    Attributes:
        recorder: of the trace.
        attributes: all whole numbers that its modules hold.
        uses: which dims they describe, in order.
    """

    def __init__(self, recorder: Recorder, attributes: Mapping[Attribute, int]) -> None:
        super().__init__()
        self.recorder = recorder
        self.attributes = attributes
        self.uses: list[Use] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _name(func)
        if name in _SIZES:
            return self._sizes(args[0], result, *args[1:], **kwargs)
        if any(isinstance(each, Number) for each in _flat([args, kwargs])):
            self._look(name, args, kwargs, result)
        return result

    def _sizes(self, tensor: Any, result: Any, dim: int | None = None) -> Any:
        number = self.recorder.find(tensor) if isinstance(tensor, Tensor) else None
        if number is None:
            return result
        if dim is not None:
            return Number(result, Size(number, dim % tensor.dim()))
        return torch.Size([Number(each, Size(number, place)) for place, each in enumerate(result)])

    def _look(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        reader = _READERS.get(name)
        if reader is None:
            return
        try:
            found = list(reader(args, kwargs, result))
        except (TypeError, IndexError, KeyError, ValueError):  # called in a way that the reader does not know
            return
        for given, tensor, dim, says in found:
            self._add(given, tensor, dim, says)

    def _add(self, given: Any, tensor: Tensor, dim: int, says: Any) -> None:
        number = self.recorder.find(tensor)
        if not isinstance(given, Number) or number is None or isinstance(given.expression, Size):
            return
        self.uses.append(
            Use(
                expression=given.expression,
                value=number,
                dim=dim % tensor.dim(),
                says=says,
                given=int(given),
                module=self.recorder.module,
            )
        )


class Watches(list[Watch]):
    """One watch for each attempt at a trace; the last one is of the attempt that succeeded."""

    @contextmanager
    def __call__(self, model: nn.Module, recorder: Recorder) -> Iterator[None]:
        """Watch an attempt from here on, see :data:`modelwright.graph.tracing.Watch`."""
        watch = Watch(recorder, plant(model))
        self.append(watch)
        with watch:
            yield


def plant(model: nn.Module) -> dict[Attribute, int]:
    """Put a :class:`Number` in the place of each whole number that a module, or an object that it holds, has."""
    found: dict[Attribute, int] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        _plant(module, Attribute(name, ""), _DEPTH, seen, found)
    return found


def _plant(holder: Any, at: Attribute, depth: int, seen: set[int], found: dict[Attribute, int]) -> None:
    if id(holder) in seen:
        return
    seen.add(id(holder))
    held = vars(holder)
    for key, value in list(held.items()):
        place = Attribute(at.module, f"{at.path}.{key}" if at.path else key)
        if type(value) is int:
            found[place] = value
            held[key] = Number(value, place)
        elif type(value) in (tuple, list) and any(type(each) is int for each in value):
            held[key] = type(value)(_several(value, place, found))
        elif depth and _is_plain(value):
            _plant(value, place, depth - 1, seen, found)


def _several(values: Sequence[Any], at: Attribute, found: dict[Attribute, int]) -> Iterator[Any]:
    for index, value in enumerate(values):
        place = Attribute(at.module, at.path, index)
        if type(value) is int:
            found[place] = value
        yield Number(value, place) if type(value) is int else value


def _is_plain(value: Any) -> bool:
    """An object that only holds values, such as a config."""
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, (nn.Module, Tensor, type))


def _name(func: Any) -> str:
    holder = getattr(func, "__self__", None)
    if func.__name__ == "__get__":
        return getattr(holder, "__name__", "")
    return str(func.__name__)


def _flat(given: Any) -> Iterator[Any]:
    if isinstance(given, (tuple, list)):
        for each in given:
            yield from _flat(each)
    elif isinstance(given, Mapping):
        for each in given.values():
            yield from _flat(each)
    elif isinstance(given, slice):
        yield from (given.start, given.stop)
    else:
        yield given


# --- what each call of torch says with the numbers in its arguments: (number, tensor, dim, what)

_Found = Iterator[tuple[Any, Tensor, int, str]]


def _shape(args: Any, kwargs: Any, result: Any) -> _Found:
    """The last numbers are the shape of the result."""
    named = kwargs.get("size", kwargs.get("shape", ()))
    numbers = [each for each in _flat([args, named]) if isinstance(each, int)]
    shape = numbers[len(numbers) - result.dim() :]
    for dim, number in enumerate(shape):
        if number in (-1, result.shape[dim]):
            yield number, result, dim, "size"


def _unflatten(args: Any, kwargs: Any, result: Any) -> _Found:
    given, dim, sizes = _named(args, kwargs, "input", "dim", "sizes")
    for place, size in enumerate(sizes):
        yield size, result, dim % given.dim() + place, "size"


def _split(args: Any, kwargs: Any, result: Any) -> _Found:
    given, sizes, dim = _named(args, kwargs, "tensor", ("split_size", "split_size_or_sections", "split_sizes"), "dim")
    del given
    several = [sizes] if isinstance(sizes, int) else sizes
    for size, part in zip(several, result, strict=False):
        if size == part.shape[dim or 0]:
            yield size, part, dim or 0, "size"


def _narrow(args: Any, kwargs: Any, result: Any) -> _Found:
    given, dim, start, length = _named(args, kwargs, "input", "dim", "start", "length")
    yield start, given, dim, "front"
    yield length, result, dim, "size"


def _getitem(args: Any, kwargs: Any, result: Any) -> _Found:
    given, index = args
    indices = list(index) if isinstance(index, tuple) else [index]
    after = False
    for place, each in enumerate(indices):
        if isinstance(each, Tensor):
            return
        after = after or each is Ellipsis
        dim = place - len(indices) if after else place
        if isinstance(each, slice):
            for edge in (each.start, each.stop):
                if edge is not None and 0 <= edge <= given.shape[dim]:
                    yield edge, given, dim, "front"


def _layer_norm(args: Any, kwargs: Any, result: Any) -> _Found:
    _, shape = _named(args, kwargs, "input", "normalized_shape")
    for place, size in enumerate(shape):
        yield size, result, place - len(shape), "size"


def _group_norm(args: Any, kwargs: Any, result: Any) -> _Found:
    _, groups = _named(args, kwargs, "input", "num_groups")
    yield groups, result, 1, "outer"


def _convolution(args: Any, kwargs: Any, result: Any) -> _Found:
    named = _named(args, kwargs, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    yield named[6], named[0], 1, "outer"


def _transposed(args: Any, kwargs: Any, result: Any) -> _Found:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    named = _named(args, kwargs, *names)
    yield named[6], named[0], 1, "outer"


def _attention(args: Any, kwargs: Any, result: Any) -> _Found:
    """``multi_head_attention_forward``: as wide as its input, which is ``[time, batch, width]``."""
    query, _, _, width = args[:4]
    yield width, query, -1, "size"


def _named(args: Any, kwargs: Any, *names: str | tuple[str, ...]) -> list[Any]:
    """Arguments in the order of ``names``, ``None`` for those not given."""
    found = list(args[: len(names)])
    for name in names[len(found) :]:
        spelled = (name,) if isinstance(name, str) else name
        found.append(next((kwargs[each] for each in spelled if each in kwargs), None))
    return found


_CREATING = ("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty")
_READERS: dict[str, Any] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to", *_CREATING), _shape),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "unflatten": _unflatten,
    "narrow": _narrow,
    "__getitem__": _getitem,
    "group_norm": _group_norm,
    "multi_head_attention_forward": _attention,
}
