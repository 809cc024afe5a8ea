"""From what a dim is made of to how it is divided."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from modelwright.graph import Tree
from modelwright.parallel.divided.division import Dim, Factor, dim_of


def division_of(tree: Tree, leaves: frozenset[int], axis: str) -> Dim:
    """The dim with some of its classes divided over an axis; no two of them in one product."""
    return dim_of(_products(tree, leaves, axis))


def _products(tree: Tree, leaves: frozenset[int], axis: str) -> list[tuple[Factor, ...]]:
    if leaves.isdisjoint(tree.leaves()):
        return [(Factor(tree.size),)]
    if tree.kind is None:
        return [(Factor(tree.size, axis),)]
    children = [_products(child, leaves, axis) for child in tree.children]
    if tree.kind == "sum":
        return [product for child in children for product in child]
    found = children[-1]
    for child, products in zip(reversed(tree.children[:-1]), reversed(children[:-1]), strict=True):
        found = found * child.size if len(found) > 1 else [(*product, *found[0]) for product in products]
    return found


def rivals(tree: Tree) -> Iterator[tuple[int, int]]:
    """Pairs of classes that cannot both be divided over one axis: those in one product."""
    if tree.kind == "product":
        for one, other in combinations(tree.children, 2):
            yield from ((a, b) for a in one.leaves() for b in other.leaves() if a != b)
    for child in tree.children:
        yield from rivals(child)
