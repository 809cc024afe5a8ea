"""What depends on what in one forward pass: operators, parameters, and the tensors that blocks return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.parallel.pipeline.calls import Call

Leaf = tuple[int, int]
"""A tensor that a block returned: the number of the block, and its place among the leaves of what that returned."""


@dataclass(frozen=True, slots=True)
class Node:
    """The content of a memory, as one operator left it.

    Attributes:
        parents: what it was made of.
        block: the number of the block that was running.
        leaf: set where it is what a block returned.
    """

    parents: frozenset[int]
    block: int | None = None
    leaf: Leaf | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """What a block returns.

    Attributes:
        spec: how its leaves are put together.
        leaves: by leaf: ``None`` for a tensor of the block's own, the place among its arguments of one that it passes
            on, or ``(value,)`` for anything but a tensor.
        like: by leaf of the block's own, the place of an argument of the same shape, or else of the first tensor.
    """

    spec: pytree.TreeSpec
    leaves: tuple[str | tuple[Any] | None, ...]
    like: tuple[str, ...]


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records dependencies between memories while a model runs inside; its blocks are called through :meth:`around`.

    Attributes:
        nodes: in the order of execution.
        order: names of the blocks in the order in which they ran, each as often as it did.
        returned: what each of these calls returned.
        tensors: the nodes that each parameter and buffer was, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self.order: list[str] = []
        self.returned: list[Returned] = []
        self._block: int | None = None
        self._latest: dict[int, int] = {}
        self._kept: list[Tensor] = []  # memories are known by their address, which must not be used again
        self.tensors: dict[str, set[int]] = {}
        self._names: dict[int, list[str]] = {}
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, tensor in named:
            self._names.setdefault(_memory(tensor), []).append(name)
            self.tensors[name] = set()
        for _, tensor in named:
            self.node_of(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs))
        known = {_memory(each) for each in read}
        written = [each for each in _tensors(result) if _memory(each) not in known]
        if func._schema.is_mutable:
            written += read
        if written:
            self._write(written, Node(frozenset(self.node_of(each) for each in read), self._block))
        return result

    def _write(self, tensors: Iterable[Tensor], node: Node) -> None:
        number = len(self.nodes)
        self.nodes.append(node)
        for tensor in tensors:
            self._kept.append(tensor)
            memory = _memory(tensor)
            self._latest[memory] = number
            for name in self._names.get(memory, ()):
                self.tensors[name].add(number)

    def depend(self, result: Tensor, given: Any) -> None:
        """Note that ``result`` was made of all tensors in ``given``."""
        self._write([result], Node(frozenset(self.node_of(each) for each in _tensors(given)), self._block))

    def node_of(self, tensor: Tensor) -> int:
        """The number of what ``tensor`` holds now."""
        memory = _memory(tensor)
        if memory not in self._latest:
            self._write([tensor], Node(frozenset()))
        return self._latest[memory]

    def around(self, name: str) -> Callable[[Call], Call]:
        """For :func:`~modelwright.parallel.pipeline.calls.calls_through`."""

        def wrap(call: Call) -> Call:
            def block(*args: Any, **kwargs: Any) -> Any:
                return self._run(name, call, args, kwargs)

            return block

        return wrap

    def _run(self, name: str, call: Call, args: Any, kwargs: Any) -> Any:
        given = places((args, kwargs))
        before = {_memory(each): self.node_of(each) for each in given.values()}
        number = self._block = len(self.order)
        self.order.append(name)
        try:
            outputs = call(*args, **kwargs)
        finally:
            self._block = None
        self._note(number, given, before, outputs)
        return outputs

    def _note(self, number: int, given: Mapping[str, Tensor], before: Mapping[int, int], outputs: Any) -> None:
        leaves, spec = pytree.tree_flatten(outputs)
        kinds: list[str | tuple[Any] | None] = []
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor):
                kinds.append((leaf,))
                continue
            memory = _memory(leaf)
            passed_on = [name for name, each in given.items() if leaf is each]
            if passed_on and before.get(memory) == self.node_of(leaf):
                kinds.append(passed_on[0])
                continue
            kinds.append(None)
            self._write([leaf], Node(frozenset({self.node_of(leaf)}), number, (number, place)))
        like = tuple(_like(leaf, given) if isinstance(leaf, Tensor) else "" for leaf in leaves)
        self.returned.append(Returned(spec, tuple(kinds), like))


class Attentions(TorchFunctionMode):
    """Tells a :class:`Flow` of attention, whose inner operators the tracer does not run."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention:
            self._flow.depend(result, (args, kwargs))
        return result


@dataclass
class Reached:
    """What the tensors of interest were made of.

    Attributes:
        nodes: all of it.
        leaves: what blocks before the cut returned, where the search ends.
        hidden: blocks before the cut that leave something behind other than by returning it.
    """

    nodes: set[int] = field(default_factory=set)
    leaves: set[Leaf] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)


def reach(nodes: Sequence[Node], start: Iterable[int], cut: int) -> Reached:
    """What ``start`` is made of, as computed by a stage before which the blocks up to ``cut`` have run."""
    found = Reached()
    waiting = list(start)
    while waiting:
        number = waiting.pop()
        if number in found.nodes:
            continue
        found.nodes.add(number)
        node = nodes[number]
        if node.leaf is not None and node.leaf[0] < cut:
            found.leaves.add(node.leaf)
        elif node.block is not None and node.block < cut:
            found.hidden.add(node.block)
        else:
            waiting.extend(node.parents)
    return found


def places(given: Any) -> dict[str, Tensor]:
    """The tensors among the arguments of a call, by where they are."""
    leaves = pytree.tree_leaves_with_path(given)
    return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def _like(leaf: Tensor, given: Mapping[str, Tensor]) -> str:
    same = [name for name, each in given.items() if each.shape == leaf.shape and each.dtype == leaf.dtype]
    return next(iter((*same, *given)), "")


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(value) if isinstance(each, Tensor)]


def outer_tensors(outputs: Any) -> Iterator[Tensor]:
    """Tensors in what a model returned, through mappings, sequences and plain objects' attributes."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from outer_tensors(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from outer_tensors(value)
