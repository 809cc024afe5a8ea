"""Sketch: what the ranks of a layout hold and send in a step, foretold without other ranks and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modelwright.base.axes import data_ranks
from modelwright.objectives import Objective
from modelwright.parallel import LAYOUTS, Layout
from modelwright.parallel.draft import REPLICAS, Draft
from modelwright.parallel.dry import Bytes
from modelwright.parallel.dry_run import computed
from modelwright.parallel.exchanges.all_reduce import AllReduce
from modelwright.parallel.products import Product, check_product

_COMPUTING = ("tensor", "context", "expert", "pipeline")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """What ranks hold and send; arrays have a dim for each axis with several ranks, outermost first.

    Attributes:
        parameters: bytes of the parameters that each rank keeps.
        gathered: bytes of the largest parts that are gathered at a time, beyond these.
        by_rank: bytes of a step by ``KIND AXIS``, as ``all-reduce replicate``, that each rank sends.
    """

    parameters: Bytes
    gathered: int
    by_rank: Mapping[str, Bytes]

    @property
    def sent(self) -> dict[str, float]:
        """Bytes of a step by kind and axis, of all ranks on average."""
        return {kind: float(sizes.mean()) for kind, sizes in self.by_rank.items()}

    @property
    def total(self) -> float:
        """Bytes of a step that a rank sends, of all on average."""
        return sum(self.sent.values())

    @property
    def most(self) -> float:
        """Bytes of a step of the rank that sends most."""
        return float(sum(self.by_rank.values(), start=0 * self.parameters).max())

    @property
    def fullest(self) -> float:
        """Bytes of parameters of the rank that keeps most."""
        return float(self.parameters.max())


def sketch(
    model: nn.Module,
    objective: Objective,
    example: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    layouts: Mapping[str, Layout] | None = None,
    rounds: int = 1,
) -> Sketch:
    """What a layout makes of a training step: each of its axes sketched for what those before it have left.

    Costs of composed layouts do not add up, sketches compose: the order is that of
    :func:`~modelwright.parallel.laying.lay_out`. Every byte is foretold where numbers are of their parameters' types
    and every parameter is used; but where a pipeline computes gradients of weights apart and ``tensor`` divides time as
    well, inputs are gathered more often than is foretold (by a twelfth in a small gpt). Experts are taken to be chosen
    evenly. Left out are sums over ranks of a few numbers: counts, losses, norms, flags of use.

    Args:
        model: on any device, also on meta; left as it is.
        objective: what is minimised.
        example: a micro-batch, of which shapes and types matter.
        sizes: of the axes.
        layouts: configured techniques by axis; the usual ones where there is none.
        rounds: micro-batches of a rank in a step.

    Raises:
        ModelwrightError: there is no such axis, they do not go together, or the model cannot be laid out so.
        Mistakes: several such.
    """
    draft = Draft.of(model, objective, example, sizes, rounds)
    chosen: dict[str, Any] = {
        axis: (layouts or {}).get(axis) or LAYOUTS.resolve(axis)() for axis in (*draft.sizes, "replicate")
    }
    _check(draft, chosen)
    for axis in _COMPUTING:
        if axis in draft.sizes:
            draft = chosen[axis].sketch(draft)
    computed(draft)
    if "shard" in draft.sizes:
        summed = draft.experts is None and isinstance(chosen["replicate"].exchange, AllReduce)
        draft = chosen["shard"].sketch(draft, REPLICAS if summed else ())
    draft = chosen["replicate"].sketch(draft)
    _tied(draft)
    return Sketch(parameters=draft.kept(), gathered=draft.gathered, by_rank=draft.sent)


def _check(draft: Draft, layouts: Mapping[str, Any]) -> None:
    """Refuse what cannot be laid out either."""
    micro_batch = len(next(iter(draft.example.values())))
    compression = getattr(layouts["replicate"].exchange, "compression", None)
    check_product(
        Product(
            sizes=draft.sizes,
            settings={axis: vars(technique) for axis, technique in layouts.items()},
            batch=data_ranks(draft.sizes) * draft.rounds * micro_batch,
            micro_batch=micro_batch,
            exact=getattr(compression, "exact", True),
        )
    )


def _tied(draft: Draft) -> None:
    """Gradients that several stages hold, and with each a flag, go from each of these to all others."""
    for spot, held in draft.parts():
        shared = [each for each in held if each.stages]
        size = sum((each.parameter.nbytes + each.parameter.element_size()) * (len(each.stages) - 1) for each in shared)
        if size:
            draft.send("send", ("pipeline",), size, spot)
