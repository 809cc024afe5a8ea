"""The fewest bytes with which a step can be done in each layout: formulas of the sizes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SIZES: dict[str, int] = {"vocabulary": 1024, "width": 128, "heads": 4, "layers": 4}
BATCH, TIME, MICRO_BATCH, NUMBER = 8, 128, 2, 4  # NUMBER: bytes of one, float32


@dataclass(frozen=True)
class Facts:
    """Sizes of a case, of which the fewest bytes are made.

    Attributes:
        ranks: along each axis.
        model: shape of each parameter by name.
        rows: that routers sent to other ranks in the step, over all ranks and layers.
    """

    ranks: dict[str, int]
    model: dict[str, tuple[int, ...]]
    rows: int = 0

    def axis(self, name: str) -> int:
        return self.ranks.get(name, 1)

    @property
    def samples(self) -> float:
        """Of one rank."""
        return BATCH / (self.axis("replicate") * self.axis("shard") * self.axis("expert"))

    @property
    def micro_batches(self) -> int:
        return max(1, math.ceil(self.samples / MICRO_BATCH))

    @property
    def residual(self) -> float:
        """Bytes of the residual stream of a rank's samples of a step."""
        return self.samples * TIME * SIZES["width"] * NUMBER

    def bytes_of(self, wanted: Callable[[str], bool] = lambda name: True) -> float:
        """Of a rank's parameters, without what tensor takes of them."""
        sizes = {name: math.prod(shape) * NUMBER for name, shape in self.model.items() if wanted(name)}
        return sum(size / (self.axis("tensor") if _is_divided(name) else 1) for name, size in sizes.items())


Minimum = Callable[[Facts], float]


def _is_divided(name: str) -> bool:
    return "norm" not in name


def reduced(ranks: int) -> float:
    return 2 * (ranks - 1) / ranks


def replicate(facts: Facts) -> float:
    return reduced(facts.axis("replicate")) * facts.bytes_of() / facts.axis("shard")


def short(facts: Facts) -> float:
    return replicate(facts) / 2


def factored(facts: Facts, rank: int = 4) -> float:
    shapes = facts.model.values()
    numbers = sum(rank * sum(shape) if len(shape) > 1 else math.prod(shape) for shape in shapes)
    return reduced(facts.axis("replicate")) * numbers * NUMBER


def shard(stage: int) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks, rounds = facts.axis("shard"), facts.micro_batches
        whole, blocks = facts.bytes_of(), facts.bytes_of(lambda name: name.startswith("blocks."))
        gathered = whole if stage < 3 else rounds * (whole + blocks)
        return (ranks - 1) / ranks * (gathered + (rounds if stage > 1 else 1) * whole)

    return bytes_sent


def tensor(facts: Facts, regathered: float = 0) -> float:
    """Of a rank's samples and, in a pipeline, of its share of the blocks."""
    stages = facts.axis("pipeline")
    sums = ((4 + regathered) * SIZES["layers"] + 2) / stages * facts.residual
    tokens = facts.samples * TIME * NUMBER / stages
    return reduced(facts.axis("tensor")) * (sums + 3 * tokens)


def context(way: str) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks = facts.axis("context")
        pair = 2 * facts.residual / ranks / facts.axis("tensor")
        hops = (ranks - 1) / 2 if way == "causal" else ranks - 1
        gradients = reduced(ranks) * facts.bytes_of()
        return 3 * hops * pair * SIZES["layers"] + gradients

    return bytes_sent


def pipeline(stages_per_rank: int = 1, v: bool = False) -> Minimum:
    def bytes_sent(facts: Facts) -> float:
        ranks = facts.axis("pipeline")
        borders = ranks * stages_per_rank - 1 - (stages_per_rank - 1 if v else 0)
        local = facts.axis("shard")
        tied = 0 if v else 2 * facts.bytes_of(lambda name: name.startswith("embedding")) / local / ranks
        return 2 * borders * facts.residual / ranks + tied

    return bytes_sent


def expert(facts: Facts) -> float:
    ranks = facts.axis("expert")
    rest = facts.bytes_of(lambda name: not _is_expert(name))
    mine = facts.bytes_of(_is_expert) / ranks * reduced(facts.axis("replicate"))
    return (
        4 * facts.rows * SIZES["width"] * NUMBER / math.prod(facts.ranks.values())
        + mine
        + reduced(math.prod(facts.ranks.values())) * rest
    )


def _is_expert(name: str) -> bool:
    return "feed_forward." in name and "router" not in name


def both(*minima: Minimum) -> Minimum:
    return lambda facts: sum(minimum(facts) for minimum in minima)


def staged_shard(facts: Facts) -> float:
    """Stage 1 of what a stage of the pipeline holds; the tied embedding is held twice."""
    ranks, stages = facts.axis("shard"), facts.axis("pipeline")
    held = facts.bytes_of(lambda name: not name.startswith("embedding")) / stages
    held += facts.bytes_of(lambda name: name.startswith("embedding")) * 2 / stages
    return (ranks - 1) / ranks * 2 * held


def sequential(facts: Facts) -> float:
    """Two gathers of a block's inputs more, each half a sum (Korthikanti et al. 2022, section 4.2.2), but for the last.

    That one's inputs are still there when the backward begins.
    """
    return tensor(facts, regathered=1 - 0.5 / SIZES["layers"])


def tensor_in_context(facts: Facts) -> float:
    return tensor(facts) / facts.axis("context")
