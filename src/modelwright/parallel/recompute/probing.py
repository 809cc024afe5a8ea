"""What a forward leaves behind for its backward: every storage that it made and that is still alive, by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from modelwright.base.group import Group
from modelwright.parallel.recompute.wrapping import KEPT


@dataclass(frozen=True)
class Probed:
    """What was found.

    Attributes:
        kept: bytes alive after the forward, by the block that made them; ``""`` is what lies outside of blocks.
        work: floating-point operations of each block.
        light: the same without those whose results are kept by ``selective``.
    """

    kept: dict[str, int]
    work: dict[str, int]
    light: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.kept.values())


def probe_forward(model: nn.Module, blocks: Sequence[str], run: Callable[[], object], group: Group) -> Probed:
    """Run a forward and look; random numbers, buffers and gradients stay as they are.

    Args:
        model: what runs.
        blocks: names of the modules that are told apart.
        run: runs it, and returns what the backward starts from.
        group: ranks that look too; the largest numbers of all are found.
    """
    watch = _Watch()
    with _undone(model), _marked(model, blocks, watch):
        with watch:
            alive = run()
        kept = watch.kept()
        del alive
    names = ["", *blocks]
    numbers = [[found[name] for name in names] for found in (kept, watch.work, watch.light)]
    agreed = group.all_reduce(torch.tensor(numbers, dtype=torch.int64, device=group.transport), "max").tolist()
    return Probed(*(dict(zip(names, row, strict=True)) for row in agreed))


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which storages operators make, and in which block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.block = ""
        self.work: Counter[str] = Counter()
        self.light: Counter[str] = Counter()
        self._made: dict[int, tuple[StorageWeakRef, int, str] | None] = {}  # none: it was there before

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        for storage in _storages((arguments, named)):
            self._made.setdefault(storage._cdata, None)
        out = function(*arguments, **named)
        for storage in _storages(out):
            if storage._cdata not in self._made:
                seen = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._made[storage._cdata] = (seen, storage.nbytes(), self.block)
        self._count(function, arguments, named, out)
        return out

    def kept(self) -> Counter[str]:
        """Bytes by block."""
        found: Counter[str] = Counter()
        for made in self._made.values():
            if made is None or made[0].expired():  # type: ignore[no-untyped-call]
                continue
            found[made[2]] += made[1]
        return found

    def _count(self, function: Any, arguments: Any, named: Any, out: Any) -> None:
        formula = flop_registry.get(function.overloadpacket)
        if formula is not None:
            work = int(formula(*arguments, **named, out_val=out))
        else:
            work = sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        self.work[self.block] += work
        if function not in KEPT:
            self.light[self.block] += work


def _storages(values: Any) -> Iterator[Any]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


@contextmanager
def _marked(model: nn.Module, blocks: Sequence[str], watch: _Watch) -> Iterator[None]:
    def enter(name: str, *_: Any) -> None:
        watch.block = name

    with ExitStack() as stack:
        for name in blocks:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
            stack.callback(module.register_forward_hook(partial(enter, "")).remove)
        yield


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(), torch.enable_grad():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
