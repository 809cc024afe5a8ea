"""The rules: how each operator is computed on pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from modelwright.parallel.divided.axes import Axes
from modelwright.parallel.divided.value import Value, plain

Rule = Callable[..., Any]

RULES: dict[OpOverload, Rule] = {}

FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {}
"""What is called in place of functions that code inside :func:`dividing` calls, with divided tensors or plain ones."""


def rule(*operators: OpOverload) -> Callable[[Rule], Rule]:
    """Register ``rule(operator, *arguments, **keywords)``.

    Every tensor among the arguments, in lists too, comes as :class:`Value`, plain ones as held whole; tensors among
    the results are :class:`Value` or plain, those that every rank holds.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def tensors_of(arguments: Any) -> list[Value]:
    """The values among arguments, in their order."""
    if isinstance(arguments, Value):
        return [arguments]
    if isinstance(arguments, (list, tuple)):
        return [one for argument in arguments for one in tensors_of(argument)]
    return []


def as_value(argument: Any, axes: Axes) -> Value:
    """A value, of a value or of a plain tensor."""
    return argument if isinstance(argument, Value) else plain(argument, axes)


def is_composite(operator: OpOverload) -> bool:
    """Whether an operator is only made of others."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator._name, "CompositeImplicitAutograd"))
