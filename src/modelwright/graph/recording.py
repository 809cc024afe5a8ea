"""Record every operator that runs below autograd, on tensors without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.graph.flops import flops
from modelwright.graph.guesses import assume, depends_on_data
from modelwright.graph.meta_copy import on_meta
from modelwright.graph.places import line_outside_torch
from modelwright.graph.records import Break, Kind, Operator, Phase, Ref, Value, refs

_SAME = {"aten.detach.default", "aten.alias.default", "aten.lift_fresh.default"}
_STRIDED = "aten.as_strided_.default"
_LARGE = 1 << 20


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what runs inside it.

    Args:
        assuming: go on with an assumption where code asks for the content of a tensor, and list the place; otherwise
            the operator that asks raises.

    Attributes:
        operators: those that ran, in order.
        values: the tensors that they read and wrote, by number.
        breaks: the places where something was assumed.
        saved: numbers of the values that autograd keeps.
        module: path of the module that is running.
        phase: of which pass.
    """

    def __init__(self, *, assuming: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.values: list[Value] = []
        self.breaks: list[Break] = []
        self.saved: set[int] = set()
        self.module = ""
        self.phase: Phase = "forward"
        self._assuming = assuming
        self._paused = False
        self._by_identity: dict[int, int] = {}
        self._by_place: dict[tuple[object, ...], int] = {}
        self._owners: dict[object, int] = {}
        self._twins: dict[int, Tensor] = {}
        # Numbers of values are found by the identity of tensors, which must therefore outlive the trace.
        self._kept: list[Tensor] = []
        self._module_of_node: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused or func.namespace == "prim":
            return func(*args, **kwargs)
        name = str(func)
        args, kwargs = self._on_one_device(func, args, kwargs)
        same = name in _SAME or (name == _STRIDED and _lies_so(*args, **kwargs))
        result = self._run(func, name, args, kwargs)
        outputs = tuple(_tensors(result))
        if same and outputs:
            self._bind(outputs[0], self.number_of(args[0]))
            return result
        self.record(name, _named(func, args, kwargs), outputs, writes=func._schema.is_mutable)
        return result

    def record(
        self,
        name: str,
        arguments: Mapping[str, Any],
        outputs: tuple[Tensor, ...],
        *,
        module: str | None = None,
        writes: bool = False,
    ) -> None:
        """Add an operator that was given ``arguments`` and returned ``outputs``.

        Args:
            name: of the operator.
            arguments: by name, with their tensors.
            outputs: what it returned.
            module: path of the module that called it, where that is not the one that is running.
            writes: whether it may have changed its inputs.
        """
        view = not writes and _shares_memory(arguments, outputs)
        kept = _replaced(arguments, lambda each: Ref(self.number_of(each)))
        inputs = tuple(dict.fromkeys(refs(kept)))
        number = len(self.operators)
        kind: Kind = "activation" if self.phase == "forward" else "gradient"
        written = tuple(self._add(each, kind, producer=number) for each in outputs)
        moved = 0 if view else sum(self.values[each].bytes for each in (*inputs, *written))
        self.operators.append(
            Operator(
                number=number,
                name=name,
                module=self._module() if module is None else module,
                inputs=inputs,
                outputs=written,
                arguments=kept,
                phase=self.phase,
                flops=flops(name, arguments, outputs),
                bytes=moved,
                view=view,
            )
        )

    def register(self, tensor: Tensor, kind: Kind, name: str) -> int:
        """Make ``tensor`` known before the run; returns the number of its value."""
        known = self._known(tensor)
        return self._add(tensor, kind, name=name) if known is None else known

    def find(self, tensor: Tensor) -> int | None:
        """The number of the value that ``tensor`` is; ``None`` of one never seen before."""
        return self._known(tensor)

    def contents(self) -> dict[int, Tensor]:
        """By number of the value, the small tensors with content that the code made or holds."""
        return {number: each for each in self._kept if not each.is_meta and (number := self._known(each)) is not None}

    def number_of(self, tensor: Tensor) -> int:
        """The number of the value that ``tensor`` is; one never seen before is a constant of the code."""
        known = self._known(tensor)
        return self._add(tensor, "constant") if known is None else known

    def save(self, tensor: Tensor) -> Tensor:
        """Note that autograd keeps ``tensor``."""
        if not self._paused:
            self.saved.add(self.number_of(tensor))
        return tensor

    def as_meta(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the meta device, known as the same value."""
        if tensor.device.type == "meta":
            return tensor
        if id(tensor) not in self._twins:
            number = self.number_of(tensor)
            with self.paused():
                self._twins[id(tensor)] = on_meta(tensor)
            self._bind(self._twins[id(tensor)], number)
        return self._twins[id(tensor)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing inside."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if not self._assuming or not depends_on_data(name, args, kwargs):
            return func(*args, **kwargs)
        result, reason = assume(name, func, args, kwargs)
        self.breaks.append(Break(name=name, module=self._module(), line=line_outside_torch(), reason=reason))
        return result

    def _on_one_device(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Content of small tensors that code made itself is kept until they meet the model's."""
        tensors = [*_tensors(args), *_tensors(kwargs)]
        kinds = {each.device.type for each in tensors}
        if kinds == {"meta"}:
            return args, kwargs
        if "meta" in kinds:
            return _replaced(args, self.as_meta), _replaced(kwargs, self.as_meta)
        if not tensors and _size_of_factory(func, args, kwargs) > _LARGE:
            return args, {**kwargs, "device": torch.device("meta")}
        return args, kwargs

    def _module(self) -> str:
        """Path of the module that is running, or of the one whose operator is differentiated now."""
        if self.phase == "forward":
            self._module_of_node.setdefault(torch.autograd._get_sequence_nr() - 1, self.module)  # type: ignore[attr-defined]
            return self.module
        node = torch._C._current_autograd_node()
        return self.module if node is None else self._module_of_node.get(node._sequence_nr(), "")

    def _known(self, tensor: Tensor) -> int | None:
        found = self._by_identity.get(id(tensor))
        return self._by_place.get(_place(tensor)) if found is None else found

    def _add(self, tensor: Tensor, kind: Kind, *, name: str = "", producer: int | None = None) -> int:
        number = len(self.values)
        shape = tuple(tensor.shape)
        memory = self._owners.setdefault(_place(tensor)[0], number)
        self.values.append(
            Value(id=number, shape=shape, dtype=tensor.dtype, kind=kind, memory=memory, name=name, producer=producer)
        )
        self._bind(tensor, number)
        return number

    def _bind(self, tensor: Tensor, number: int) -> None:
        self._kept.append(tensor)
        self._by_identity[id(tensor)] = number
        self._by_place[_place(tensor)] = number


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by the names of the schema, defaults included."""
    schema = func._schema.arguments
    named = {each.name: each.default_value for each in schema if each.has_default_value()}
    named.update(zip((each.name for each in schema), args, strict=False))
    return {**named, **kwargs}


def _tensors(given: Any) -> Iterator[Tensor]:
    """Those in arguments or results: of torch's own trees, the few forms that an operator's schema has."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from _tensors(each)
    elif isinstance(given, Mapping):
        for each in given.values():
            yield from _tensors(each)


def _replaced(given: Any, by: Callable[[Tensor], Any]) -> Any:
    if isinstance(given, Tensor):
        return by(given)
    if isinstance(given, (list, tuple)):
        return type(given)([_replaced(each, by) for each in given])
    return {key: _replaced(each, by) for key, each in given.items()} if isinstance(given, Mapping) else given


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Where the numbers of ``tensor`` lie: autograd hands on copies of a tensor that are other objects."""
    if tensor.layout != torch.strided:
        return (id(tensor),)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _shares_memory(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> bool:
    given = list(_tensors(arguments))
    if not outputs or not given or any(each.layout != torch.strided for each in (*given, *outputs)):
        return False
    storages = {each.untyped_storage()._cdata for each in given}
    return all(each.untyped_storage()._cdata in storages for each in outputs)


def _size_of_factory(func: Any, args: Any, kwargs: Any) -> int:
    """Numbers in the tensor that a factory is asked for; 0 where it has no ``device`` to choose."""
    if not any(each.name == "device" for each in func._schema.arguments):
        return 0
    return sum(each.numel() for each in _tensors(func(*args, **{**kwargs, "device": torch.device("meta")})))


def _lies_so(tensor: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> bool:
    """Whether a tensor is laid out so already; how far apart the entries of a dim of one are says nothing."""
    same = tuple(size) == tensor.shape and storage_offset in (None, tensor.storage_offset())
    pairs = zip(tensor.shape, tensor.stride(), stride, strict=True)
    return same and all(old == new for entries, old, new in pairs if entries > 1)
