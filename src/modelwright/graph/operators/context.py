"""What a rule sees: the operator, the dims of its inputs, and how to say which dims are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelwright.graph.records import Operator, Ref, Value
from modelwright.graph.terms import Terms


class NoRule(Exception):
    """A rule does not cover this form of its operator."""


class Context:
    """Dims of all values, as terms, while the rules run over the operators.

    Args:
        terms: where they live.
        values: those of the graph.
    """

    def __init__(self, terms: Terms, values: Sequence[Value]) -> None:
        self.terms = terms
        self.values = values
        self.dims: dict[int, list[int]] = {}
        self.operator: Operator
        self.may_freeze = True

    def argument(self, name: str) -> Any:
        """An argument that is no tensor."""
        return self.operator.arguments.get(name)

    def of(self, name: str) -> list[int]:
        """The dims of the tensor argument ``name``."""
        number = self.operator.input(name)
        if number is None:
            raise NoRule(name)
        return self.dims[number]

    def optional(self, name: str) -> list[int] | None:
        """The dims of the tensor argument ``name``, if there is one."""
        number = self.operator.input(name)
        return None if number is None else self.dims[number]

    def listed(self, name: str) -> list[list[int]]:
        """The dims of the tensors in the list argument ``name``."""
        return [self.dims[each.value] for each in self.operator.arguments[name] if isinstance(each, Ref)]  # type: ignore[attr-defined]

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return self.values[self.operator.outputs[output]].shape

    def give(self, *outputs: Sequence[int]) -> None:
        """Set the dims of the outputs, in order; those of outputs not named are new."""
        for number, dims in zip(self.operator.outputs, outputs, strict=False):
            if tuple(self.terms.size(each) for each in dims) != self.values[number].shape:
                raise NoRule("sizes")
            self.dims[number] = list(dims)
        for number in self.operator.outputs[len(outputs) :]:
            self.dims[number] = [self.terms.new(size) for size in self.values[number].shape]

    def new(self, size: int, frozen: str = "") -> int:
        """A dim of its own."""
        return self.terms.new(size, f"{frozen} at {self.operator.module or 'the top'}" if frozen else "")

    def freeze(self, dims: Sequence[int], reason: str) -> None:
        """Forbid that entries are moved; what the backward pass does says nothing about that."""
        if self.may_freeze:
            for each in dims:
                self.terms.freeze(each, f"{reason} at {self.operator.module or 'the top'}")

    def join(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Dims are equal one by one."""
        if [self.terms.size(each) for each in first] != [self.terms.size(each) for each in second]:
            raise NoRule("sizes")
        for a, b in zip(first, second, strict=True):
            self.terms.unify(a, b)

    def broadcast(self, *tensors: Sequence[int]) -> list[int]:
        """Dims are equal one by one from the last; those of size 1 fit any. Returns the dims of the result."""
        result: list[int] = []
        for place in range(1, max((len(each) for each in tensors), default=0) + 1):
            dims = [each[-place] for each in tensors if place <= len(each)]
            wide = [each for each in dims if self.terms.size(each) != 1]
            for each in wide[1:]:
                self.terms.unify(wide[0], each)
            result.append(wide[0] if wide else dims[0])
        return result[::-1]
