"""Entering and leaving: parameters seen whole by the code that uses them, pieces of tensors, and whole results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.divided import Divided, unwrap
from modelwright.parallel.divided.division import Division
from modelwright.parallel.divided.origins import linked
from modelwright.parallel.divided.registry import FUNCTIONS
from modelwright.parallel.divided.value import Value, entire, redistribute

_OWN_GETTERS = frozenset(
    getattr(Tensor, name)
    for name in (
        "grad",
        "_grad",
        "requires_grad",
        "is_leaf",
        "grad_fn",
        "device",
        "dtype",
        "layout",
        "_version",
        "output_nr",
        "retains_grad",
        "_backward_hooks",
        "_post_accumulate_grad_hooks",
        "is_cuda",
        "is_cpu",
        "is_meta",
        "is_sparse",
        "is_quantized",
        "is_nested",
        "is_mkldnn",
    )
)
_OWN_FUNCTIONS = frozenset(
    {
        Tensor.register_hook,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.requires_grad_,
        Tensor.is_floating_point,
        Tensor.is_complex,
        Tensor.element_size,
        Tensor.data_ptr,
        Tensor.untyped_storage,
        Tensor.__deepcopy__,
        Tensor.__reduce_ex__,
        torch.is_floating_point,
        torch.is_complex,
        Tensor.__hash__,
    }
)


class _Enter(torch.autograd.Function):
    takes_pieces = True

    @staticmethod
    def forward(ctx: Any, local: Tensor, division: Division, axes: Axes, deferred: frozenset[str]) -> Tensor:
        ctx.division, ctx.axes, ctx.deferred = division, axes, deferred
        if not division.axes:
            return local.view_as(local)
        return Divided(Value(local.detach(), division, axes, parameter=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        one = unwrap(gradient, ctx.axes)
        found = redistribute(one, ctx.division, ctx.deferred)
        return found.local.contiguous(), None, None, None


class _Piece(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, division: Division, axes: Axes) -> Tensor:
        ctx.axes = axes
        given = unwrap(tensor.detach(), axes)

        def again() -> Value:
            found = redistribute(given, division)
            return found.like(found.local.clone())

        if given.division == division and not given.pending:
            return tensor.view_as(tensor)
        return Divided(linked(again(), given, again, lambda whole: whole))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return entire(unwrap(gradients[0], ctx.axes)).contiguous(), None, None


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Divided) -> Tensor:
        found = entire(tensor.value)
        return found.view_as(found)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> Any:
        return gradients[0]


def entered(local: Tensor, division: Division, axes: Axes, deferred: frozenset[str] = frozenset()) -> Tensor:
    """A rank's own piece (a parameter) as the whole tensor; its gradient comes back as that of the piece.

    Args:
        local: the piece.
        division: how the whole tensor is divided.
        axes: those of the mesh.
        deferred: axes over which gradients are left to be summed by others.
    """
    result: Tensor = _Enter.apply(local, axes.known(division), axes, deferred & axes.sizes.keys())  # type: ignore[no-untyped-call]
    return result


def piece(tensor: Tensor, division: Division, axes: Axes) -> Tensor:
    """A whole tensor, the same on every rank, divided."""
    result: Tensor = _Piece.apply(tensor, axes.known(division), axes)  # type: ignore[no-untyped-call]
    return result


def full(value: Any) -> Any:
    """A value with the divided tensors in it (in dicts, lists, tuples, dataclass-like mappings) whole and plain."""
    if isinstance(value, Divided):
        return _Full.apply(value)  # type: ignore[no-untyped-call]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(full, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(full, value))
    if isinstance(value, dict):
        found = {key: full(entry) for key, entry in value.items()}
        return found if type(value) is dict else _refilled(value, found)
    return value


def _refilled(value: Any, entries: Mapping[Any, Any]) -> Any:
    try:
        return type(value)(**entries)
    except TypeError:
        return type(value)(entries)


@contextmanager
def _functions_seeing(seen: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, functions of ``torch.autograd.Function``, which no mode is told of, are given what other code sees."""
    kept = torch.autograd.Function.__dict__["apply"]

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(function, "takes_pieces", False):
            with torch._C.DisableTorchFunction():
                args = tuple(map(seen, args))
                kwargs = {key: seen(value) for key, value in kwargs.items()}
        return kept.__func__(function, *args, **kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = kept  # type: ignore[method-assign]


class _Dividing(TorchFunctionMode):
    def __init__(self, divisions: Mapping[int, tuple[Tensor, Division]], axes: Axes, deferred: frozenset[str]) -> None:
        super().__init__()
        self.divisions = divisions
        self.axes = axes
        self.deferred = deferred

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.backward, torch.autograd.backward):
            return self._backward(*args, **kwargs)
        if self._is_own(function):
            return function(*args, **kwargs)
        function = FUNCTIONS.get(function, function)
        args = tuple(map(self.seen, args))
        return function(*args, **{key: self.seen(value) for key, value in kwargs.items()})

    def _backward(
        self,
        tensors: Any,
        gradients: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
        **named: Any,
    ) -> None:
        """Torch's own, whose doors lead out of every mode: what is computed anew in it sees whole parameters too."""
        starts = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
        gradients = named.get("gradient", named.get("grad_tensors", gradients))
        given = gradients if isinstance(gradients, (list, tuple)) else [gradients] * len(starts)
        firsts = tuple(torch.ones_like(start) if one is None else one for start, one in zip(starts, given, strict=True))
        ends = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
        keep = create_graph if retain_graph is None else retain_graph
        with self:
            _engine_run_backward(starts, firsts, keep, create_graph, ends, allow_unreachable=True, accumulate_grad=True)

    def _is_own(self, function: Callable[..., Any]) -> bool:
        name = getattr(function, "__name__", "")
        if name == "__get__":
            return getattr(function, "__self__", None) in _OWN_GETTERS
        return name in ("__set__", "__delete__") or function in _OWN_FUNCTIONS

    def seen(self, value: Any) -> Any:
        """What code sees of a value: pieces in it as the tensors of which they are."""
        if isinstance(value, Tensor):
            division = self._division(value)
            return value if division is None else entered(value, division, self.axes, self.deferred)
        if isinstance(value, (list, tuple)) and any(isinstance(entry, (Tensor, list, tuple)) for entry in value):
            return type(value)(map(self.seen, value)) if type(value) in (list, tuple) else value
        return value

    def _division(self, tensor: Tensor) -> Division | None:
        known = self.divisions.get(id(tensor))
        if known is not None and known[0] is tensor:
            return known[1]
        found: Division | None = getattr(tensor, "_division", None)
        return found


@contextmanager
def dividing(divisions: Mapping[Tensor, Division], axes: Axes, *, deferred: Iterable[str] = ()) -> Iterator[None]:
    """Code inside sees pieces (parameters, buffers) as the whole tensors of which they are.

    Run the backward pass inside too where activations are computed anew in it.

    Args:
        divisions: of each piece how the whole is divided; also those that every rank holds whole, whose gradients
            would else be divided. A tensor that carries its division as ``_division`` need not be listed.
        axes: those of the mesh.
        deferred: axes over which gradients are left to be summed by others (an exchange, once a step).
    """
    known = {id(tensor): (tensor, division) for tensor, division in divisions.items()}
    mode = _Dividing(known, axes, frozenset(deferred))
    try:
        with mode, _functions_seeing(mode.seen):
            yield
    finally:
        axes.forget()
