"""Sizes as terms over indivisible parts, made equal by union-find.

A dim is one indivisible part, or a *product* (a view of ``width`` as ``heads x head_width``, from the outermost to the
innermost), or a *sum* (parts laid one behind the other, as in a fused ``query | key | value``). Two terms that are made
equal are divided until their parts agree; where they cannot agree, all that is left of them is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["product", "sum"]


@dataclass(slots=True)
class _Node:
    parent: int
    size: int
    kind: Kind | None = None
    children: tuple[int, ...] = ()
    frozen: str = ""


class Terms:
    """All terms of a graph.

    Attributes:
        steps: how many times two terms were made equal or a parent was looked up: what all this costs.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._nodes: list[_Node] = []

    def new(self, size: int, frozen: str = "") -> int:
        """A part of its own, of ``size`` entries."""
        self._nodes.append(_Node(parent=len(self._nodes), size=size, frozen=frozen))
        return len(self._nodes) - 1

    def size(self, term: int) -> int:
        """Its number of entries."""
        return self._nodes[term].size

    def find(self, term: int) -> int:
        """The representative of all terms equal to ``term``."""
        nodes = self._nodes
        while nodes[term].parent != term:
            nodes[term].parent = nodes[nodes[term].parent].parent
            term = nodes[term].parent
            self.steps += 1
        return term

    def frozen(self, term: int) -> str:
        """Why its entries may not be moved; empty where they may."""
        return self._nodes[self.find(term)].frozen

    def kind(self, term: int) -> Kind | None:
        """``None`` for what is indivisible."""
        return self._nodes[self.find(term)].kind

    def children(self, term: int) -> tuple[int, ...]:
        """Factors from the outermost to the innermost, or parts from the first to the last."""
        return self._nodes[self.find(term)].children

    def product(self, factors: Sequence[int]) -> int:
        """The term of ``factors``, from the outermost to the innermost."""
        return self._composed("product", [each for each in factors if self.size(each) != 1])

    def total(self, parts: Sequence[int]) -> int:
        """The term of ``parts`` laid one behind the other."""
        return self._composed("sum", [each for each in parts if self.size(each)])

    def freeze(self, term: int, reason: str) -> None:
        """Forbid that entries of ``term`` are moved; the first reason stays."""
        node = self._nodes[self.find(term)]
        if node.frozen:
            return
        node.frozen = reason
        for child in node.children:
            self.freeze(child, reason)

    def unify(self, first: int, second: int) -> None:
        """Make two terms of the same size equal."""
        self.steps += 1
        first, second = self.find(first), self.find(second)
        if first == second:
            return
        a, b = self._nodes[first], self._nodes[second]
        if b.kind is None or (a.kind == "product" and b.kind == "sum"):
            first, second, a, b = second, first, b, a
        a.parent = second
        reason = a.frozen or b.frozen
        if a.kind == b.kind == "product":
            self._align_factors(self._flat(a, "product"), self._flat(b, "product"))
        elif a.kind == "sum":
            self._align_parts(self._flat(a, "sum"), b)
        if reason:
            b.frozen = ""
            self.freeze(second, reason)

    def split(self, term: int, inner: int) -> tuple[int, int] | None:
        """``term`` seen as ``(outer, inner)``, the inner one of that size; ``None`` where it cannot be seen so."""
        term = self.find(term)
        node = self._nodes[term]
        if node.size == inner:
            return self.new(1), term
        if inner == 1:
            return term, self.new(1)
        if node.size % inner:
            return None
        if node.kind is None:
            return self._divide(node, "product", (node.size // inner, inner))
        return self._split_product(node, inner) if node.kind == "product" else self._split_sum(node, inner)

    def cut(self, term: int, offset: int) -> tuple[int, int] | None:
        """``term`` seen as its first ``offset`` entries and the others; ``None`` where it cannot be seen so."""
        term = self.find(term)
        node = self._nodes[term]
        if offset in (0, node.size):
            empty = self.new(0)
            return (empty, term) if offset == 0 else (term, empty)
        if node.kind is None:
            return self._divide(node, "sum", (offset, node.size - offset))
        return self._cut_product(node, offset) if node.kind == "product" else self._cut_sum(node, offset)

    def leaves(self, term: int) -> Iterator[int]:
        """The indivisible parts of ``term`` in order, as often as they appear."""
        term = self.find(term)
        if self._nodes[term].kind is None:
            yield term
        for child in self._nodes[term].children:
            yield from self.leaves(child)

    def _composed(self, kind: Kind, children: list[int]) -> int:
        if len(children) == 1:
            return children[0]
        sizes = [self.size(each) for each in children]
        term = self.new(math.prod(sizes) if kind == "product" else sum(sizes))
        if children:
            self._nodes[term].kind, self._nodes[term].children = kind, tuple(children)
        return term

    def _divide(self, node: _Node, kind: Kind, sizes: tuple[int, int]) -> tuple[int, int]:
        pair = self.new(sizes[0], node.frozen), self.new(sizes[1], node.frozen)
        node.kind, node.children = kind, pair
        return pair

    def _split_product(self, node: _Node, inner: int) -> tuple[int, int] | None:
        *outer, last = node.children
        size = self.size(last)
        if inner % size == 0:
            pair = self.split(self.product(outer), inner // size)
            return None if pair is None else (pair[0], self.product((pair[1], last)))
        pair = self.split(last, inner) if size % inner == 0 else None
        return None if pair is None else (self.product((*outer, pair[0])), pair[1])

    def _split_sum(self, node: _Node, inner: int) -> tuple[int, int] | None:
        """Where each part divides so, the inner factors of all parts are one."""
        if any(self.size(child) % inner for child in node.children):
            return None
        pairs = [self.split(child, inner) for child in node.children]
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(pairs):
            return None
        for pair in found[1:]:
            self.unify(found[0][1], pair[1])
        node.kind, node.children = "product", (self.total([pair[0] for pair in found]), found[0][1])
        return node.children

    def _cut_sum(self, node: _Node, offset: int) -> tuple[int, int] | None:
        children = self._flat(node, "sum")
        place = 0
        while offset >= self.size(children[place]):
            offset -= self.size(children[place])
            place += 1
        if offset == 0:
            return self.total(children[:place]), self.total(children[place:])
        pair = self.cut(children[place], offset)
        if pair is None:
            return None
        return self.total((*children[:place], pair[0])), self.total((pair[1], *children[place + 1 :]))

    def _cut_product(self, node: _Node, offset: int) -> tuple[int, int] | None:
        outer, *others = node.children
        inner = math.prod(self.size(each) for each in others)
        pair = self.cut(outer, offset // inner) if offset % inner == 0 else None
        return None if pair is None else (self.product((pair[0], *others)), self.product((pair[1], *others)))

    def _flat(self, node: _Node, kind: Kind) -> list[int]:
        found: list[int] = []
        for child in node.children:
            below = self._nodes[self.find(child)]
            found += self._flat(below, kind) if below.kind == kind else [child]
        return found

    def _align_factors(self, first: list[int], second: list[int]) -> None:
        """Make two products equal, from the innermost factors on."""
        left, right = self.product(first), self.product(second)
        while second:
            factor = second.pop()
            pair = self.split(left, self.size(factor))
            if pair is None and self.size(factor) > self.size(self._last(left)):
                pair, factor, second = self._shorter(left, factor, second)
            if pair is None:
                return self._give_up(left, self.product((*second, factor)))
            left = pair[0]
            self.unify(pair[1], factor)
        return None if self.size(left) == 1 else self._give_up(left, right)

    def _last(self, term: int) -> int:
        children = self.children(term)
        return children[-1] if self.kind(term) == "product" else term

    def _shorter(self, left: int, factor: int, rest: list[int]) -> tuple[tuple[int, int] | None, int, list[int]]:
        """``factor`` is longer than the innermost one of ``left``: divide it, and go on with its inner part."""
        inner = self.size(self._last(left))
        pair = self.split(factor, inner)
        if pair is None:
            return None, factor, rest
        return self.split(left, inner), pair[1], [*rest, pair[0]]

    def _align_parts(self, parts: list[int], other: _Node) -> None:
        rest = self.find(other.parent)
        for place, part in enumerate(parts[:-1]):
            pair = self.cut(rest, self.size(part))
            if pair is None:
                return self._give_up(rest, *parts[place:])
            self.unify(pair[0], part)
            rest = pair[1]
        return self.unify(rest, parts[-1])

    def _give_up(self, *terms: int) -> None:
        for term in terms:
            self.freeze(term, "the model divides it in two ways that do not fit together")
