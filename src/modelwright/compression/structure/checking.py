"""Whether a model that lost entries does the same as before: the same operators on dims of the predicted lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelwright.compression.structure.trees import Sizes, front, outer, size_of
from modelwright.graph import Graph, Operator, Tree, Value
from modelwright.graph.recording import Recorder
from modelwright.parallel.tensor.roles import packet

_LENGTHS = frozenset(
    {"size", "sizes", "shape", "normalized_shape", "split_size", "split_sizes", "output_size", "C", "N", "HxW"}
)
_LAID_OUT = frozenset({"empty_strided", "new_empty_strided", "as_strided"})
# Which of these run depends on whether a dim has one entry; a wrong one shows in the shapes of what follows.
_REARRANGING = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_copy", "clone", "expand", "unsqueeze", "squeeze", "alias", "copy"}
)
_FOLLOWING = frozenset({"start", "end", "length", "groups", "group"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Where a changed model does something else.

    Attributes:
        operator: number of the first operator, in the original, that differs.
        reason: in words.
    """

    operator: int
    reason: str


class Prediction:
    """What a graph becomes when its classes have other sizes.

    Args:
        graph: of the original.
        sizes: by number of an indivisible part of its dims.
    """

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self.graph = graph
        self.sizes = sizes

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape that a value gets."""
        dims = range(len(self.graph.values[value].shape))
        return tuple(size_of(self.tree(value, dim), self.sizes) for dim in dims)

    def tree(self, value: int, dim: int) -> Tree:
        """What a dim of a value is made of."""
        return self.graph.dimensions.tree(value, dim)

    def difference(self, before: Recorder, after: Recorder, failure: str = "") -> Difference | None:
        """The first difference between the prediction and what a changed model did.

        Args:
            before: of the original.
            after: of the changed model.
            failure: what it raised, if it did.
        """
        contents = before.contents(), after.contents()
        first, second = _computing(before), _computing(after)
        for one, other in zip(first, second, strict=False):
            if reason := next(self._reasons(one, other, after.values), "") or _unlike(one, other, *contents):
                return Difference(operator=one.number, reason=reason)
        if failure or len(first) != len(second):
            last = first[min(len(second), len(first) - 1)]
            return Difference(operator=last.number, reason=failure or "the code goes another way")
        return None

    def _reasons(self, before: Operator, after: Operator, values: Sequence[Value]) -> Iterator[str]:
        if before.name != after.name or len(before.outputs) != len(after.outputs):
            yield f"the code calls {after.name} in place of {before.name}"
            return
        for old, new in zip(before.outputs, after.outputs, strict=True):
            if values[new].shape != self.shape(old):
                yield f"{before.name} gives {list(values[new].shape)} in place of {list(self.shape(old))}"
        for name, given in before.arguments.items():
            if not self._follows(before, name, given, after.arguments.get(name)):
                yield f"a number in {before.name} depends on its size"

    def _follows(self, operator: Operator, name: str, before: Any, after: Any) -> bool:
        if name in _FOLLOWING and isinstance(before, int):
            expected = self._expected(operator, name, before)
            return expected is None or expected == after
        laid_out = name == "stride" and packet(operator) in _LAID_OUT
        if laid_out or name in _LENGTHS or not isinstance(before, (int, float, list, tuple)):
            return True
        return _numbers(before) == _numbers(after)

    def _expected(self, operator: Operator, name: str, before: int) -> int | None:
        given = operator.input("input" if name in ("groups", "group") else "self")
        if given is None:
            return before
        shape = self.graph.values[given].shape
        if name in ("groups", "group"):
            tree = outer(self.tree(given, 1), before)
            return None if tree is None else size_of(tree, self.sizes)
        dim: Any = operator.arguments["dim"]
        if not 0 <= before <= shape[dim]:
            return before if before > 0 else None
        tree = front(self.tree(given, dim), before)
        return None if tree is None else size_of(tree, self.sizes)


def _computing(recorder: Recorder) -> list[Operator]:
    return [each for each in recorder.operators if packet(each) not in _REARRANGING]


def _unlike(one: Operator, other: Operator, before: Mapping[int, Tensor], after: Mapping[int, Tensor]) -> str:
    """Tensors of the code's own making have the same content."""
    for old, new in zip(one.inputs, other.inputs, strict=True):
        first, second = before.get(old), after.get(new)
        if first is None or second is None or first.shape != second.shape:
            continue
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            return f"a number that {one.name} reads depends on its size"
    return ""


def _numbers(given: Any) -> list[Any]:
    if isinstance(given, (list, tuple)):
        return [number for each in given for number in _numbers(each)]
    return [given] if isinstance(given, (int, float)) else []
