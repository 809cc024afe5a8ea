"""Which numbers of a model's code change, and to what, when classes of dims lose entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelwright.compression.structure.numbers import Attribute, Expression, Size, evaluate, parts, solve
from modelwright.compression.structure.trees import Sizes, front, outer, plain, size_of
from modelwright.compression.structure.watching import Use
from modelwright.graph import Dimensions, Tree


@dataclass(frozen=True, slots=True)
class Equation:
    """An expression of the code, and the part of a dim whose length it must be.

    Attributes:
        expression: over attributes and sizes.
        tree: the part of a dim.
        module: where.
    """

    expression: Expression
    tree: Tree
    module: str


class Conflict(Exception):
    """No value of the model's numbers fits these sizes.

    Attributes:
        leaves: the classes that are concerned.
        reason: in words.
    """

    def __init__(self, leaves: Iterable[int], reason: str) -> None:
        super().__init__(reason)
        self.leaves = frozenset(leaves)
        self.reason = reason


class Numbers:
    """The numbers of a model's code, and what they say about its dims.

    Args:
        dimensions: of the graph.
        attributes: all whole numbers that modules hold.
        uses: what the code did with them.

    Attributes:
        attributes: all whole numbers that modules hold.
        equations: what must hold between numbers and dims.
        read: the attributes in them.
    """

    def __init__(self, dimensions: Dimensions, attributes: Mapping[Attribute, int], uses: Sequence[Use]) -> None:
        self.attributes = attributes
        self._dimensions = dimensions
        found = {(use.expression, plain(tree)): use for use in uses if (tree := self._tree(use)) is not None}
        self.equations = [Equation(each, tree, use.module) for (each, tree), use in found.items()]
        self.read = {each for equation in self.equations for each in _attributes(equation)}
        self._trees = {
            size: dimensions.tree(size.value, size.dim)
            for equation in self.equations
            for size in parts(equation.expression)
            if isinstance(size, Size)
        }
        self._leaves = [self._leaves_of(equation) for equation in self.equations]
        self._connected = _connected(self.equations)

    def direct(self) -> dict[Attribute, list[Tree]]:
        """The parts of dims whose length an attribute is, without arithmetic."""
        found: dict[Attribute, list[Tree]] = {}
        for equation in self.equations:
            if isinstance(equation.expression, Attribute):
                found.setdefault(equation.expression, []).append(equation.tree)
        return found

    def values(self, sizes: Sizes) -> dict[Attribute, int]:
        """What each attribute must be when the classes have these sizes; those that stay the same are missing.

        Raises:
            Conflict: two dims want different values of one number.
        """
        touched = [place for place, leaves in enumerate(self._leaves) if not leaves.isdisjoint(sizes)]
        affected = {self._connected[place] for place in touched}
        left = [each for each, group in zip(self.equations, self._connected, strict=True) if group in affected]
        left.sort(key=lambda each: not isinstance(each.expression, Attribute))
        known: dict[Attribute | Size, int] = {size: size_of(tree, sizes) for size, tree in self._trees.items()}
        while left:
            rest = [each for each in left if not self._solve(each, sizes, known)]
            if len(rest) == len(left):
                self._assume(left, known)
            left = rest
        changed = {each: known.get(each, before) for each, before in self.attributes.items()}
        return {each: value for each, value in changed.items() if value != self.attributes[each]}

    def _tree(self, use: Use) -> Tree | None:
        tree = self._dimensions.tree(use.value, use.dim)
        if use.says == "front":
            return front(tree, use.given)
        return outer(tree, use.given) if use.says == "outer" else tree

    def _leaves_of(self, equation: Equation) -> frozenset[int]:
        sizes = [each for each in parts(equation.expression) if isinstance(each, Size)]
        return frozenset(equation.tree.leaves()).union(*(self._trees[each].leaves() for each in sizes))

    def _solve(self, equation: Equation, sizes: Sizes, known: dict[Attribute | Size, int]) -> bool:
        """Whether all of an equation is known now."""
        wanted = size_of(equation.tree, sizes)
        unknown = [each for each in parts(equation.expression) if each not in known]
        if len(unknown) > 1:
            return False
        if unknown and isinstance(unknown[0], Attribute):
            value = solve(equation.expression, wanted, unknown[0], known)
            if value is None:
                raise self._conflict(equation, sizes)
            known[unknown[0]] = value
        if not _holds(equation.expression, wanted, known):
            raise self._conflict(equation, sizes)
        return True

    def _assume(self, left: Sequence[Equation], known: dict[Attribute | Size, int]) -> None:
        """Nothing determines these numbers one by one: the first of them stays what it is."""
        first = next(each for each in _attributes(left[0]) if each not in known)
        known[first] = self.attributes[first]

    def _conflict(self, equation: Equation, sizes: Sizes) -> Conflict:
        named = _attributes(equation)
        involved = {
            leaf
            for other, leaves in zip(self.equations, self._leaves, strict=True)
            if other is equation or not set(_attributes(other)).isdisjoint(named)
            for leaf in leaves
        }
        said = " and ".join(sorted({str(each) for each in named})) or "that the code computes"
        return Conflict(involved, f"the number {said} is the size of several things")


def _attributes(equation: Equation) -> list[Attribute]:
    return [each for each in parts(equation.expression) if isinstance(each, Attribute)]


def _connected(equations: Sequence[Equation]) -> list[int]:
    """Of each equation, the first of all that attributes connect with it."""
    groups = list(range(len(equations)))

    def find(place: int) -> int:
        while groups[place] != place:
            place = groups[place]
        return place

    first: dict[Attribute, int] = {}
    for place, equation in enumerate(equations):
        for attribute in _attributes(equation):
            one, other = sorted((find(first.setdefault(attribute, place)), find(place)))
            groups[other] = one
    return [find(place) for place in range(len(equations))]


def _holds(expression: Expression, wanted: int, known: Mapping[Attribute | Size, int]) -> bool:
    try:
        return evaluate(expression, known) == wanted
    except ZeroDivisionError:
        return False
