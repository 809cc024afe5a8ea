"""Dims that belong together: whoever moves, removes or divides entries of one must do so in all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from modelwright.graph.operators import rule_of
from modelwright.graph.operators.context import Context, NoRule
from modelwright.graph.records import Operator, Unknown, Value
from modelwright.graph.terms import Kind, Terms

_NAMED = ("parameter", "buffer", "input")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """Where a class lies in a dim of a parameter, buffer or input.

    Entry ``i`` of the class is at ``offset + i * stride``, and as often again at the distances that ``repeats`` gives:
    ``(count, distance)`` each.

    Attributes:
        name: of the parameter, buffer or input.
        value: number of its value.
        dim: which of its dims.
        offset: where the first entry of the class is.
        stride: how far the next one is.
        repeats: how often and at what distances the class lies there again.
    """

    name: str
    value: int
    dim: int
    offset: int
    stride: int
    repeats: tuple[tuple[int, int], ...]

    def places(self, entry: int) -> list[int]:
        """The places in the dim that hold one entry of the class, in ascending order."""
        start = self.offset + entry * self.stride
        steps = [range(0, count * distance, distance) for count, distance in self.repeats]
        return sorted(start + sum(each) for each in itertools.product(*steps))


@dataclass(frozen=True, kw_only=True, slots=True)
class DimensionClass:
    """Dims, or parts of dims, whose entries belong together one by one.

    Attributes:
        number: of the class in its graph.
        size: how many entries.
        members: where it lies in parameters, buffers and inputs.
        frozen: why its entries may not change places, such as the vocabulary's that numbers name; empty where the
            model computes the same with its entries in any other order, in all members at once.
    """

    number: int
    size: int
    members: tuple[Member, ...]
    frozen: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What a dim of any value is made of.

    Attributes:
        size: how many entries.
        kind: ``product`` of its children, from the outermost to the innermost; ``sum``: they lie one behind the other;
            ``None``: indivisible.
        leaf: the same number for all that belong together, of indivisible ones; -1 for others.
        children: none of indivisible ones.
    """

    size: int
    kind: Kind | None
    leaf: int = -1
    children: tuple[Tree, ...] = ()

    def leaves(self) -> Iterator[int]:
        """The numbers of its indivisible parts in order, as often as they appear."""
        if self.kind is None:
            yield self.leaf
        for child in self.children:
            yield from child.leaves()


class Dimensions:
    """The dims of all values of a graph.

    Args:
        operators: those of the graph, in order.
        values: those of the graph.
        gradients: the values of parameters, each with that of its gradient.

    Attributes:
        unknown: the operators that no rule explains.
        classes: those in which a parameter, buffer or input has a part, in the order of the values.
    """

    def __init__(
        self, operators: Sequence[Operator], values: Sequence[Value], gradients: Iterable[tuple[int, int]] = ()
    ) -> None:
        self._values = values
        self._terms = Terms()
        self._context = Context(self._terms, values)
        self._number_of: dict[int, int] = {}
        for value in values:
            if value.producer is None:
                frozen = f"a constant of shape {list(value.shape)}" if value.kind == "constant" else ""
                self._context.dims[value.id] = [self._terms.new(size, frozen) for size in value.shape]
        self.unknown = tuple(found for each in operators if (found := self._apply(each)) is not None)
        for parameter, gradient in gradients:
            self._context.join(self._context.dims[parameter], self._context.dims[gradient])
        self.classes = self._classes()

    @property
    def steps(self) -> int:
        """What finding the classes cost, in steps of union-find."""
        return self._terms.steps

    def classes_of(self, value: int, dim: int) -> tuple[DimensionClass, ...]:
        """The classes of a dim of a parameter, buffer or input, in the order in which they lie there.

        A value that the model computes may have dims in which no parameter has a part: those have no class.
        """
        leaves = dict.fromkeys(self._terms.leaves(self._context.dims[value][dim]))
        return tuple(self.classes[self._number_of[each]] for each in leaves if each in self._number_of)

    def parts(self, value: int, dim: int) -> tuple[tuple[int | None, Member], ...]:
        """Where which class lies in a dim of any value: the number of the class, ``None`` for one without a name."""
        return tuple((self._number_of.get(leaf), member) for leaf, member in self._lies(self._values[value], dim))

    def tree(self, value: int, dim: int) -> Tree:
        """What a dim of any value is made of, also of those that no parameter has a part in."""
        return self._tree(self._context.dims[value][dim])

    def leaves(self, value: int) -> list[list[int]]:
        """By dim of any value, the numbers of its indivisible parts; see :class:`Tree`."""
        return [list(self._terms.leaves(term)) for term in self._context.dims[value]]

    def lies(self, value: int, dim: int) -> tuple[tuple[int, Member], ...]:
        """Where which indivisible part, see :class:`Tree`, lies in a dim of any value."""
        return tuple(self._lies(self._values[value], dim))

    def describe(self, value: int, dim: int) -> str:
        """Such as ``2 x 2 x 6`` (heads that share keys), or ``24 + 12 + 12`` (parts that are used by themselves)."""
        return self._described(self._context.dims[value][dim])

    def frozen(self, value: int, dim: int) -> str:
        """Why entries of a dim may not change places; empty where all of them may."""
        reasons = (self._terms.frozen(each) for each in self._terms.leaves(self._context.dims[value][dim]))
        return next((reason for reason in reasons if reason), "")

    def reason(self, leaf: int) -> str:
        """Why entries of one indivisible part, see :class:`Tree`, may not change places; empty where they may."""
        return self._terms.frozen(leaf)

    def same(self, first: tuple[int, int], second: tuple[int, int]) -> bool:
        """Whether two dims, each ``(value, dim)``, are of the same classes, laid out alike."""
        a, b = (self._context.dims[value][dim] for value, dim in (first, second))
        return list(self._places(a)) == list(self._places(b))

    def _tree(self, term: int) -> Tree:
        children, size = self._terms.children(term), self._terms.size(term)
        if not children:
            return Tree(size, None, self._terms.find(term))
        return Tree(size, self._terms.kind(term), children=tuple(map(self._tree, children)))

    def _apply(self, operator: Operator) -> Unknown | None:
        context = self._context
        context.operator, context.may_freeze = operator, operator.phase == "forward"
        rule = rule_of(operator.name)
        try:
            if rule is not None:
                rule(context)
                return None
        except (NoRule, LookupError, ValueError, ArithmeticError, StopIteration):
            pass
        self._give_up(operator)
        return Unknown(operator=operator.number, name=operator.name, module=operator.module, phase=operator.phase)

    def _give_up(self, operator: Operator) -> None:
        reason = f"no rule explains {operator.name}"
        context = self._context
        for number in operator.inputs:
            context.freeze(context.dims[number], reason)
        frozen = reason if context.may_freeze else ""
        for number in operator.outputs:
            context.dims[number] = [context.new(size, frozen) for size in self._values[number].shape]

    def _classes(self) -> tuple[DimensionClass, ...]:
        members: dict[int, list[Member]] = {}
        for value in self._values:
            if value.producer is not None or value.kind not in _NAMED:
                continue
            for dim in range(len(value.shape)):
                for leaf, member in self._lies(value, dim):
                    members.setdefault(leaf, []).append(member)
        self._number_of = {leaf: number for number, leaf in enumerate(members)}
        return tuple(
            DimensionClass(
                number=number,
                size=self._terms.size(leaf),
                members=tuple(members[leaf]),
                frozen=self._terms.frozen(leaf),
            )
            for number, leaf in enumerate(members)
        )

    def _lies(self, value: Value, dim: int) -> Iterator[tuple[int, Member]]:
        for leaf, offset, stride, repeats in self._places(self._context.dims[value.id][dim]):
            member = Member(name=value.name, value=value.id, dim=dim, offset=offset, stride=stride, repeats=repeats)
            yield leaf, member

    def _places(
        self, term: int, offset: int = 0, stride: int = 1, repeats: tuple[tuple[int, int], ...] = ()
    ) -> Iterator[tuple[int, int, int, tuple[tuple[int, int], ...]]]:
        """Each indivisible part of ``term`` with its offset, stride and repeats."""
        children = self._terms.children(term)
        if not children:
            yield self._terms.find(term), offset, stride, repeats
        elif self._terms.kind(term) == "sum":
            for child in children:
                yield from self._places(child, offset, stride, repeats)
                offset += stride * self._terms.size(child)
        else:
            yield from self._factors(children, offset, stride, repeats)

    def _factors(
        self, children: Sequence[int], offset: int, stride: int, repeats: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[int, int, int, tuple[tuple[int, int], ...]]]:
        sizes = [self._terms.size(child) for child in children]
        strides = [stride]
        for size in reversed(sizes[1:]):
            strides.insert(0, strides[0] * size)
        for place, child in enumerate(children):
            others = tuple(
                (size, far) for at, (size, far) in enumerate(zip(sizes, strides, strict=True)) if at != place
            )
            yield from self._places(child, offset, strides[place], repeats + others)

    def _described(self, term: int) -> str:
        children, size = self._terms.children(term), self._terms.size(term)
        if not children:
            return str(size)
        if self._terms.kind(term) == "sum":
            return " + ".join(self._described(child) for child in children)
        parts = [(child, self._described(child)) for child in children]
        return " x ".join(f"({part})" if self._terms.kind(child) == "sum" else part for child, part in parts)
