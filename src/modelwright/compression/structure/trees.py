"""How long a dim becomes, and which of its places stay, when classes of dims lose entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from modelwright.graph import Tree

Sizes = Mapping[int, int]
"""By number of an indivisible part, how many entries it has now; those not named have all."""
Kept = Mapping[int, NDArray[np.bool_]]
"""By number of an indivisible part, which of its entries stay; of those not named all do."""


def size_of(tree: Tree, sizes: Sizes) -> int:
    """How many entries a dim has, given those of its parts."""
    if tree.kind is None:
        return sizes.get(tree.leaf, tree.size)
    found = [size_of(child, sizes) for child in tree.children]
    return math.prod(found) if tree.kind == "product" else sum(found)


def kept_of(tree: Tree, kept: Kept) -> NDArray[np.bool_]:
    """Which places of a dim stay: those whose parts all stay."""
    if tree.kind is None:
        return kept.get(tree.leaf, np.ones(tree.size, dtype=np.bool_))
    found = [kept_of(child, kept) for child in tree.children]
    if tree.kind == "sum":
        return np.concatenate(found)
    whole = found[0]
    for each in found[1:]:
        whole = np.logical_and.outer(whole, each).reshape(-1)
    return whole


def front(tree: Tree, count: int) -> Tree | None:
    """The first ``count`` places of a dim; ``None`` where they are no whole parts of it."""
    if count == tree.size:
        return tree
    if count == 0:
        return Tree(0, "sum")
    if tree.kind == "sum":
        return _front_of_parts(tree.children, count)
    if tree.kind is None:
        return None
    outer, *rest = tree.children
    inner = math.prod(each.size for each in rest)
    head = front(outer, count // inner) if count % inner == 0 else None
    return None if head is None else Tree(count, "product", children=(head, *rest))


def _front_of_parts(parts: Iterable[Tree], count: int) -> Tree | None:
    taken: list[Tree] = []
    left = count
    for part in parts:
        piece = front(part, min(left, part.size))
        if piece is None:
            return None
        taken.append(piece)
        left -= piece.size
        if left == 0:
            break
    return Tree(count, "sum", children=tuple(taken))


def outer(tree: Tree, count: int) -> Tree | None:
    """The outermost factors of a dim that have ``count`` entries together; ``None`` where there are none such."""
    if count == 1:
        return Tree(1, "product")
    if count == tree.size:
        return tree
    if tree.kind != "product":
        return None
    taken: list[Tree] = []
    for child in tree.children:
        had = math.prod(each.size for each in taken)
        if had == count:
            break
        if count % (had * child.size):
            head = outer(child, count // had)
            return None if head is None else Tree(count, "product", children=(*taken, head))
        taken.append(child)
    return Tree(count, "product", children=tuple(taken))


def plain(tree: Tree) -> Tree:
    """The same without factors of one entry, empty parts and nested products or sums, to compare two."""
    if tree.kind is None:
        return tree
    empty = 1 if tree.kind == "product" else 0
    children: list[Tree] = []
    for child in map(plain, tree.children):
        children += child.children if child.kind == tree.kind else [child] if child.size != empty else []
    return children[0] if len(children) == 1 else Tree(tree.size, tree.kind, children=tuple(children))
