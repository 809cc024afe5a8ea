"""The exchange of a sharded program: torch reduces while the backward computes, when it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from modelwright.base.group import Group
from modelwright.parallel import Exchange
from modelwright.parallel.exchanges.none import NoExchange
from modelwright.parallel.sharding.parameters import ShardedParameter
from modelwright.parallel.sharding.usage import Usage


class ShardExchange:
    """Sums gradients over all ranks that compute other samples; each keeps its own rows.

    Args:
        root: torch's outermost sharded module.
        holdings: the parameters.
        usage: knows which of them are used.
        everyone: the ranks that shard together, with the replicas that torch also sums over.
        together: ranks that run equally many micro-batches: those, and others that take part in each other's forward.
        stage: 1 to reduce once in a step, 2 and 3 after every micro-batch.
        host: where numbers of the host are sent from.
    """

    def __init__(
        self,
        root: FSDPModule,
        holdings: Sequence[ShardedParameter],
        usage: Usage,
        everyone: Group,
        together: Group,
        *,
        stage: int,
        host: torch.device,
    ) -> None:
        self.stage, self.everyone, self.together, self.idle_rounds = stage, everyone, together, 0
        self._root, self._holdings, self._usage, self._host = root, holdings, usage, host
        self._inner: Exchange = NoExchange()

    def followed_by(self, inner: Exchange) -> ShardExchange:
        """The same, and then ``inner`` among the ranks that hold the same rows."""
        both = copy(self)
        both._inner = inner
        return both

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to learn: the layout has divided them."""

    def rounds(self, mine: int) -> tuple[int, int]:
        """The fewest and the most micro-batches that a rank has, of which this one has ``mine``; a collective."""
        least, most = self.together.all_reduce(torch.tensor([-mine, mine], device=self._host), "max").tolist()
        return -least, most

    def begin(self, idle_rounds: int) -> None:
        """Begin a step, in which this rank has so many micro-batches fewer than another one."""
        self.idle_rounds = idle_rounds
        self._usage.forget()
        for one in self._holdings:
            one.sharded.grad = None

    @contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        """Tell torch whether this backward completes the step's gradients; what follows has them only after it."""
        self._set(final=last and self.idle_rounds == 0)
        with self._inner.backward(last=False):
            yield

    def before_step(self) -> None:
        """Put the sums, where any rank has a gradient, into the plain parameters."""
        used = self._usage.agree(self.everyone, self._host)
        for one, reached in zip(self._holdings, used, strict=True):
            one.take_gradient()
            if not reached:
                one.plain.grad = None
            elif one.whole:
                self._sum(one.plain)
        self._inner.before_step()

    def after_step(self, masked: Tensor | bool = False) -> None:
        """Only what follows remembers anything."""
        self._inner.after_step(masked)

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """What follows keeps."""
        return self._inner.state(names)

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """What follows takes up."""
        self._inner.load(states, names, rank)

    def _sum(self, parameter: nn.Parameter) -> None:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
        parameter.grad = self.everyone.all_reduce(gradient)

    def _set(self, *, final: bool) -> None:
        if final == self._usage.final:
            return
        self._usage.final = final
        self._usage.reducing = final or self.stage > 1
        self._root.set_requires_gradient_sync(self._usage.reducing)
        self._root.set_requires_all_reduce(final)
        self._root.set_reshard_after_backward(final or self.stage == 3)
        self._root.set_is_last_backward(final)
