"""What a graph is made of, as plain data: values, operators, and places that depend on data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Phase = Literal["forward", "backward"]
Kind = Literal["parameter", "buffer", "input", "constant", "activation", "gradient"]


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor among the arguments of an operator.

    Attributes:
        value: the number of the :class:`Value`.
    """

    value: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor that operators read or write. What an operator writes in place is a new value.

    Attributes:
        id: its number, counted in the order of appearance.
        shape: its global shape.
        dtype: its type of number.
        kind: ``constant`` is a tensor that the code holds or makes and that no module registered; all that the
            backward pass makes is ``gradient``.
        name: the name of a parameter or buffer as the model's own modules give it (of a tied one: the first), the
            place of an input in the example, or empty.
        producer: number of the operator that wrote it; ``None`` for what was there before.
        memory: the value that owns the memory in which it lies: itself, or what it is a view of or was written into.
        saved_for_backward: autograd keeps it for the backward pass.
    """

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    memory: int
    name: str = ""
    producer: int | None = None
    saved_for_backward: bool = False

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Operator:
    """One call of an operator below autograd.

    Attributes:
        number: its place in the order of execution.
        name: such as ``aten.addmm.default``; attention is one operator, ``aten.scaled_dot_product_attention.default``.
        module: path of the innermost module that called it, empty for the outermost and for the loss. An operator of
            the backward pass bears that of the operator that it differentiates.
        inputs: the values it reads.
        outputs: the values it writes.
        arguments: all arguments by the names of the operator's schema, defaults included, with a :class:`Ref` in the
            place of each tensor.
        phase: of which pass.
        flops: floating-point operations of matrix products, convolutions and attention, a multiplication and an
            addition being two; 0 for all others.
        bytes: what it reads and writes, once each; 0 where the output is a view.
        view: whether the output shares memory with an input and nothing was written.
    """

    number: int
    name: str
    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arguments: Mapping[str, object]
    phase: Phase
    flops: int
    bytes: int
    view: bool = False

    def input(self, name: str) -> int | None:
        """The value given as the tensor argument ``name``; ``None`` where there is none."""
        given = self.arguments.get(name)
        return given.value if isinstance(given, Ref) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """An operator whose dims no rule explains: all dims that it touches are frozen.

    Attributes:
        operator: its number.
        name: its name.
        module: path of the module that called it.
        phase: of which pass; in the backward pass nothing is frozen, the forward pass says what depends on what.
    """

    operator: int
    name: str
    module: str
    phase: Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Break:
    """A place where the code asks for the content of a tensor, which a trace does not have.

    Attributes:
        name: the operator that asks.
        module: path of the module that called it.
        line: ``file:line: text`` of the code that asked, outside of torch.
        reason: what was assumed so that the trace could go on.
    """

    name: str
    module: str
    line: str
    reason: str


def refs(arguments: object) -> Iterator[int]:
    """The values that arguments of an operator name, in order."""
    if isinstance(arguments, Ref):
        yield arguments.value
    elif isinstance(arguments, Mapping):
        for each in arguments.values():
            yield from refs(each)
    elif isinstance(arguments, (list, tuple)):
        for each in arguments:
            yield from refs(each)
