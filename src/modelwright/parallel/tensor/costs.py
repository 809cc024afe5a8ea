"""Costs: what dividing a class of dims saves, and which sums over the ranks it makes necessary."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass

from modelwright.graph import Graph, Operator
from modelwright.parallel.tensor.roles import Leaves, packet

_SUMS = {
    "mm", "addmm", "bmm", "baddbmm", "mv", "dot", "convolution", "convolution_backward", "embedding", "sum", "mean",
    "nll_loss_forward", "gather", "scaled_dot_product_attention_backward",
}  # fmt: skip
_LINEAR = {
    "_unsafe_view", "_to_copy", "clone", "neg", "sum", "mean", "add", "sub", "cat", "slice_backward", "select_backward",
    "expand", "view",
}  # fmt: skip
_ALONG = {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of dividing a class, for each rank and step.

    Attributes:
        sent: bytes that are reduced over the ranks; a ring sends ``2 (K - 1) / K`` of them.
        flops: of the operators in which the class has a part.
        stored: bytes of the parameters in which it has a part.
    """

    sent: int
    flops: int
    stored: int


class Costs:
    """What dividing the classes of a graph costs.

    Args:
        graph: with its backward pass, so that both passes are counted.
        leaves: the classes of the dims of all its values.
    """

    def __init__(self, graph: Graph, leaves: Leaves) -> None:
        self._graph, self._leaves = graph, leaves
        self._readers: dict[int, list[int]] = defaultdict(list)
        self._touching: dict[int, set[int]] = defaultdict(set)
        self._sets = {number: {each for dim in dims for each in dim} for number, dims in leaves.items()}
        for operator in graph.operators:
            for value in operator.inputs:
                self._readers[value].append(operator.number)
            for value in (*operator.inputs, *operator.outputs):
                for leaf in self._sets[value]:
                    self._touching[leaf].add(operator.number)
        self._gradients = {value.id for value in graph.gradients.values()}

    def of(self, leaf: int) -> Cost:
        """That of one class."""
        parameters = {value.id: value.bytes for value in self._graph.parameters.values()}
        return Cost(
            sent=_Walk(self, leaf).sent(),
            flops=sum(self._graph.operators[number].flops for number in self._touching[leaf]),
            stored=sum(size for number, size in parameters.items() if leaf in self._sets[number]),
        )


class _Walk:
    """Follows the sums that are pending while one class is divided, until something needs them."""

    def __init__(self, costs: Costs, leaf: int) -> None:
        self._costs, self._leaf = costs, leaf
        self._pending: dict[int, int] = {}
        self._resolved: set[int] = set()
        self._sent = 0
        self._queue = sorted(costs._touching[leaf])
        self._seen: set[int] = set()

    def sent(self) -> int:
        while self._queue:
            number = heapq.heappop(self._queue)
            if number not in self._seen:
                self._seen.add(number)
                self._step(self._costs._graph.operators[number])
        for value in self._costs._gradients & self._pending.keys():
            self._resolve(value)
        return self._sent

    def _step(self, operator: Operator) -> None:
        unresolved = [each for each in operator.inputs if self._is_pending(each)]
        if unresolved and len(unresolved) == len(operator.inputs) and self._is_linear(operator):
            for output in operator.outputs:
                self._mark(output, self._pending[unresolved[0]] if operator.view else output)
            return
        for value in unresolved:
            self._resolve(value)
        if any(self._has(each) for each in operator.inputs):
            self._reduce(operator)

    def _reduce(self, operator: Operator) -> None:
        values, name = self._costs._graph.values, packet(operator)
        for output in operator.outputs:
            if self._has(output):
                self._sent += 2 * values[output].bytes // self._size(output) if self._is_along(operator, output) else 0
            elif name in _SUMS:
                self._mark(output, output)
            elif not operator.view:
                self._sent += values[output].bytes

    def _size(self, value: int) -> int:
        dims = self._costs._leaves[value]
        shape = self._costs._graph.values[value].shape
        return next(size for size, dim in zip(shape, dims, strict=True) if self._leaf in dim)

    def _is_along(self, operator: Operator, output: int) -> bool:
        dim = operator.arguments.get("dim")
        return packet(operator) in _ALONG and isinstance(dim, int) and self._leaf in self._costs._leaves[output][dim]

    def _is_linear(self, operator: Operator) -> bool:
        return operator.view or packet(operator) in _LINEAR

    def _has(self, value: int) -> bool:
        return self._leaf in self._costs._sets[value]

    def _is_pending(self, value: int) -> bool:
        return value in self._pending and self._pending[value] not in self._resolved

    def _mark(self, value: int, root: int) -> None:
        self._pending[value] = root
        for number in self._costs._readers[value]:
            heapq.heappush(self._queue, number)

    def _resolve(self, value: int) -> None:
        root = self._pending[value]
        if root not in self._resolved:
            self._resolved.add(root)
            self._sent += self._costs._graph.values[root].bytes
