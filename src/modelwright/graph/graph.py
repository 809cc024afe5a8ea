"""What a model does to an example: operators, values, names, dims that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from modelwright.graph.dimensions import DimensionClass, Dimensions
from modelwright.graph.records import Break, Operator, Unknown, Value


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """One pass of a model over an example, forward and, where a loss was given, backward.

    Attributes:
        operators: in the order of execution.
        values: by their number.
        parameters: the values of the parameters by each of their names; tied ones share a value.
        buffers: the same for buffers.
        inputs: the values of the example's tensors by their place in it.
        outputs: the values that the model returned.
        gradients: the values of the parameters' gradients, by each name; parameters that got none are missing.
        breaks: where the code asked for the content of a tensor, and what was assumed.
        compiling: the code runs on a trace only when told that it is being compiled, and was told so.
    """

    operators: tuple[Operator, ...]
    values: tuple[Value, ...]
    parameters: Mapping[str, Value]
    buffers: Mapping[str, Value]
    inputs: Mapping[str, Value]
    outputs: tuple[Value, ...]
    gradients: Mapping[str, Value]
    breaks: tuple[Break, ...]
    compiling: bool

    @cached_property
    def dimensions(self) -> Dimensions:
        """Which dims belong together; found when first asked for."""
        gradients = [(self.parameters[name].id, value.id) for name, value in self.gradients.items()]
        return Dimensions(self.operators, self.values, gradients)

    @property
    def classes(self) -> tuple[DimensionClass, ...]:
        """Dims that belong together: of parameters, then of buffers, then of inputs alone, such as the batch."""
        return self.dimensions.classes

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """Operators that no rule explains."""
        return self.dimensions.unknown

    def class_of(self, name: str, dim: int) -> tuple[DimensionClass, ...]:
        """The classes that dim ``dim`` of a parameter or buffer is made of, from the outermost to the innermost.

        One class where the dim is not divided; several where the model views it as ``heads x head_width``, or uses
        parts of it by themselves.
        """
        value = self.parameters.get(name) or self.buffers[name]
        return self.dimensions.classes_of(value.id, dim)

    def flops(self) -> int:
        """Floating-point operations of matrix products, convolutions and attention."""
        return sum(operator.flops for operator in self.operators)
