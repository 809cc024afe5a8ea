"""Whole numbers that remember where they come from, so that one knows which to change when sizes change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Attribute:
    """A number that a module holds, or an object that it holds.

    Attributes:
        module: name of the module, empty for the model itself.
        path: of the number from there: ``num_heads``, ``config.num_heads``.
        index: which of several, where it is one of a tuple or list; -1 where it is a number by itself.
    """

    module: str
    path: str
    index: int = -1

    def __str__(self) -> str:
        name = ".".join(each for each in (self.module, self.path) if each)
        return name if self.index < 0 else f"{name}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Size:
    """How long a dim of a value is.

    Attributes:
        value: its number in the graph.
        dim: which of its dims.
    """

    value: int
    dim: int


@dataclass(frozen=True, slots=True)
class Combined:
    """What arithmetic made of two numbers."""

    sign: str
    left: Expression
    right: Expression


Expression = int | Attribute | Size | Combined

_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


class Number(int):
    """An ``int`` like any other, with the expression that it is the value of."""

    expression: Expression

    def __new__(cls, value: int, expression: Expression) -> Number:
        """Make one.

        Args:
            value: of the number.
            expression: where it comes from.
        """
        made = super().__new__(cls, value)
        made.expression = expression
        return made

    def __add__(self, other: Any) -> Any:
        return _combined("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return _combined("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return _combined("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _combined("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return _combined("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _combined("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _combined("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _combined("//", other, self)

    def __mod__(self, other: Any) -> Any:
        return _combined("%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return _combined("%", other, self)

    def __neg__(self) -> Number:
        return Number(-int(self), Combined("-", 0, self.expression))

    def __copy__(self) -> Number:
        return self

    def __deepcopy__(self, memo: Any) -> Number:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _combined(sign: str, left: Any, right: Any) -> Any:
    if type(left) not in (int, Number) or type(right) not in (int, Number):
        return _with_others(sign, left, right)
    value = _ARITHMETIC[sign](int(left), int(right))
    return Number(value, Combined(sign, expression_of(left), expression_of(right)))


def _with_others(sign: str, left: Any, right: Any) -> Any:
    """Numbers of other types, tensors, sequences: as any ``int`` would."""
    plain = [int(each) if isinstance(each, Number) else each for each in (left, right)]
    return _ARITHMETIC[sign](*plain)


def expression_of(value: int) -> Expression:
    """Where a number comes from; one that comes from nowhere is itself."""
    return value.expression if isinstance(value, Number) else value


def parts(expression: Expression) -> Iterator[Attribute | Size]:
    """All that an expression depends on."""
    if isinstance(expression, Combined):
        yield from parts(expression.left)
        yield from parts(expression.right)
    elif not isinstance(expression, int):
        yield expression


def evaluate(expression: Expression, known: Mapping[Attribute | Size, int]) -> int:
    """Its value; a ``ZeroDivisionError`` where there is none."""
    if isinstance(expression, Combined):
        return _ARITHMETIC[expression.sign](evaluate(expression.left, known), evaluate(expression.right, known))
    return expression if isinstance(expression, int) else known[expression]


def solve(expression: Expression, wanted: int, unknown: Attribute, known: Mapping[Attribute | Size, int]) -> int | None:
    """What ``unknown``, which appears once, must be so that the value is ``wanted``; ``None`` where nothing fits."""
    if expression == unknown:
        return wanted
    assert isinstance(expression, Combined)
    on_the_left = unknown in parts(expression.left)
    side, beside = (expression.left, expression.right) if on_the_left else (expression.right, expression.left)
    turned = _turned(expression.sign, wanted, evaluate(beside, known), left=on_the_left)
    return None if turned is None else solve(side, turned, unknown, known)


def _turned(sign: str, wanted: int, beside: int, *, left: bool) -> int | None:
    """What one side of ``left sign right`` must be, given the other side."""
    if sign == "+":
        return wanted - beside
    if sign == "-":
        return wanted + beside if left else beside - wanted
    if sign == "*":
        return wanted // beside if beside and wanted % beside == 0 else None
    if sign == "//":
        return wanted * beside if left else (beside // wanted if wanted and beside % wanted == 0 else None)
    return None
