"""The program of a rank that holds a shard of the parameters of some stages of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

from modelwright.parallel.pipeline.program import PipelinedProgram
from modelwright.parallel.pipeline.shapes import Shape
from modelwright.parallel.pipeline.ties import TiedSums
from modelwright.parallel.sharding.exchange import ShardExchange
from modelwright.parallel.sharding.program import Sharding


class ShardedStages(PipelinedProgram):
    """Stages whose parameters, gradients and moments are divided among ranks with other samples.

    Those ranks run the same stages of equally many micro-batches, one stage each: torch reduces what is left over when
    a rank's last backward is. What several stages hold is summed over them when each rank has its rows of the sum.

    Args:
        program: whose stages have been sharded.
        sharding: of them.
        exchange: of gradients.
    """

    def __init__(self, program: PipelinedProgram, sharding: Sharding, exchange: ShardExchange) -> None:
        vars(self).update(vars(program))
        self.sharding = sharding
        self.in_step = True
        sharding.note(self.held)
        before, ranks = self._connect, {self.names[parameter]: ranks for parameter, ranks in self.tied.items()}
        known = {one.plain: next((name for name in one.names if name in ranks), None) for one in sharding.holdings}
        self.tied = {plain: ranks[name] for plain, name in known.items() if name is not None}
        self.connect(lambda parameters: exchange.followed_by(before(parameters)))

    def part(self, trained: Iterable[nn.Parameter], terms: Iterable[str]) -> ShardedStages:
        """The program of some parameters and terms, with a schedule of its own."""
        return cast(ShardedStages, super().part(trained, terms))

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; totals by term, zeros on ranks without the last stage."""
        self.sharding.refresh()
        cast(ShardExchange, cast(TiedSums, self.exchange).inner).begin(idle_rounds=0)
        return super().forward_backward(micro_batches, counts, scale)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of the objective's forward on the rank of the last stage, ``None`` on others; no gradients."""
        self.sharding.refresh()
        return super().forward(batch)

    def _passed(
        self, stage: int, received: Sequence[Tensor], compute: Callable[[], Any], shapes: Mapping[Any, Shape]
    ) -> Any:
        """What is received is no argument of the outermost module: its gradient is not the last that is computed."""
        passed = super()._passed
        return self.sharding.outermost(lambda: passed(stage, received, compute, shapes))

    @contextmanager
    def _frozen(self, trained: frozenset[nn.Parameter]) -> Iterator[None]:
        with self.sharding.frozen(trained):
            yield
