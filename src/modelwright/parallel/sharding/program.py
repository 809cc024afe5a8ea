"""The program of a rank that holds a shard of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from modelwright.base.phases import Phase, enter
from modelwright.parallel.holdings import Holdings, owned
from modelwright.parallel.program import LocalProgram
from modelwright.parallel.sharding.exchange import ShardExchange
from modelwright.parallel.sharding.parameters import ShardedParameter, local_parameters


class Whole(nn.Module):
    """Runs functions of a model as its outermost forward: what they use outside of blocks is gathered then."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Any, *arguments: Any) -> Any:
        """``function(*arguments)``."""
        return function(*arguments)


class Sharding:
    """What torch has divided of a model: how to compute with it, and how to change it.

    Args:
        root: torch's outermost sharded module.
        holdings: the parameters.
        stage: how much is divided between uses; below 3 gathered parameters stay during a step.
    """

    def __init__(self, root: FSDPModule, holdings: Sequence[ShardedParameter], stage: int) -> None:
        self.root, self.holdings, self._stage = root, list(holdings), stage
        self.units = [module for module in cast(nn.Module, root).modules() if isinstance(module, FSDPModule)]
        self._versions = -1

    def note(self, held: Holdings) -> None:
        """Let ``held`` speak of the pieces, also by names that only other ranks know a tied parameter by."""
        names = [(name, one.part) for one in self.holdings for name in one.names]
        held.divide({known: part for name, part in names for known in (name, held.first_name(name))})
        held.local = self.local_parameters

    def outermost(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, in which the model may be called: what is outside of blocks is gathered there."""
        return self.root(function, *arguments)  # type: ignore[operator]

    def local_parameters(self) -> AbstractContextManager[None]:
        """Inside, the model's modules hold this rank's plain parameters, and it cannot compute."""
        return local_parameters(self.holdings, self.units)

    def refresh(self) -> None:
        """Gathered parameters are of no use once the pieces have changed."""
        versions = sum(one.plain._version for one in self.holdings)
        if versions != self._versions:
            for unit in self.units:
                unit.reshard()
        self._versions = versions

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, every rank holds all parameters, and forwards without gradients need no other rank; a collective."""
        self.refresh()
        blocks = [unit for unit in self.units if unit is not self.root]
        for unit in self.units:
            unit.unshard()
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for block in blocks:
                block.set_reshard_after_forward(self._stage == 3, recurse=False)
            for unit in self.units:
                unit.reshard()

    @contextmanager
    def frozen(self, trained: frozenset[nn.Parameter]) -> Iterator[None]:
        """Inside, other parameters get no gradients."""
        others = [one for one in self.holdings if one.plain.requires_grad and one.plain not in trained]
        # Torch settles in its first forward in which type gradients are summed, by what is trained then: by all of it.
        cast(Any, self.root)._get_fsdp_state()._lazy_init()
        for unit in self.units:
            unit.reshard()
        for one in others:
            one.sharded.requires_grad_(False)
        try:
            yield
        finally:
            for one in others:
                one.sharded.requires_grad_(True)


class ShardedProgram(LocalProgram):
    """A program whose parameters, gradients and moments are divided among the ranks of a group.

    Every rank runs as many micro-batches as every other: who has fewer repeats one, which counts nothing.

    Args:
        program: whose model has been sharded.
        sharding: of it.
        exchange: of gradients.
    """

    exchange: ShardExchange

    def __init__(self, program: LocalProgram, sharding: Sharding, exchange: ShardExchange) -> None:
        vars(self).update(vars(program))
        self.sharding, self._together = sharding, exchange.together
        self.in_step = True
        sharding.note(self.held)
        before = self._connect
        self.connect(lambda parameters: exchange.followed_by(before(parameters)))

    def gathered(self) -> AbstractContextManager[None]:
        """Inside, every rank holds all parameters, and forwards without gradients need no other rank; a collective."""
        return self.sharding.gathered()

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients; a rank with fewer micro-batches than others runs one again, which counts nothing."""
        self.sharding.refresh()
        least, most = self.exchange.rounds(len(micro_batches))
        again = self._sample(micro_batches) if least == 0 and most > 0 else None
        self.exchange.begin(idle_rounds=most - len(micro_batches))
        totals = super().forward_backward(micro_batches, counts, scale)
        if most > len(micro_batches):
            self._idle(again or micro_batches[-1], most - len(micro_batches))
        return totals

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of the objective's forward; what is outside of blocks stays gathered for whoever reads them."""
        self.sharding.refresh()
        return self.sharding.outermost(super().forward, batch)

    def synchronise(self) -> None:
        """Give every rank the buffers of the first."""
        super().synchronise()
        for buffer in filter(owned, self.model.buffers()):
            self._together.broadcast(buffer)

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.sharding.outermost(self._own_losses, batch)  # type: ignore[no-any-return]

    def _own_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = super()._losses(batch)
        return {term: loss if loss._base is None else loss.clone() for term, loss in losses.items()}

    def _idle(self, batch: dict[str, Tensor], rounds: int) -> None:
        with self.precision.step(), self._others_frozen(), self.surrounded():
            for left in reversed(range(rounds)):
                enter(Phase.FORWARD)
                nothing = torch.stack(list(self.whole(self._losses(batch)).values())).sum() * 0
                enter(Phase.BACKWARD)
                self.exchange.idle_rounds = left
                with self.exchange.backward(last=True):
                    nothing.backward()  # type: ignore[no-untyped-call]

    def _sample(self, micro_batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One sample, on ranks that have none from one that has; a collective."""
        mine = {name: value[:1] for name, value in micro_batches[0].items()} if micro_batches else {}
        found = next(sample for sample in self._together.gather(mine) if sample)
        return self.place(found)

    @contextmanager
    def _frozen(self, trained: frozenset[nn.Parameter]) -> Iterator[None]:
        with self.sharding.frozen(trained):
            yield
