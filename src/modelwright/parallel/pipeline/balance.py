"""Where to cut: consecutive blocks to stages, so that the slowest stage is as fast as can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from modelwright.base.errors import ModelwrightError


def split(costs: Sequence[float], stages: int) -> tuple[int, ...]:
    """The borders of the stages: stage ``s`` has the blocks ``borders[s]`` up to ``borders[s + 1]``.

    The largest stage is as small as possible, and among such splits the sum of squares is.

    Args:
        costs: of each block, in order.
        stages: how many; each gets at least one block.

    Raises:
        ModelwrightError: there are fewer blocks than stages.
    """
    if len(costs) < stages:
        raise ModelwrightError(
            f"the model has {len(costs)} repeated blocks, too few for {stages} pipeline stages",
            where="plan.layout.pipeline",
            remedy=f"use at most {len(costs)} stages: pipeline ranks x stages_per_rank",
        )
    sums = [0.0, *accumulate(map(float, costs))]
    largest = _best(sums, stages, lambda so_far, load: max(so_far, load))[0]
    _, borders = _best(sums, stages, lambda so_far, load: so_far + load * load if load <= largest else math.inf)
    return borders


def _best(sums: Sequence[float], stages: int, joined) -> tuple[float, tuple[int, ...]]:  # type: ignore[no-untyped-def]
    """The least of ``joined`` over all stages, and the borders that give it; an exact recurrence over both."""
    blocks = len(sums) - 1
    values = [0.0, *[math.inf] * blocks]
    choices: list[list[int]] = []
    for stage in range(1, stages + 1):
        found = [math.inf] * (blocks + 1)
        choice = [0] * (blocks + 1)
        for end in range(stage, blocks - (stages - stage) + 1):
            for begin in range(stage - 1, end):
                value = joined(values[begin], sums[end] - sums[begin])
                if value < found[end]:
                    found[end], choice[end] = value, begin
        values = found
        choices.append(choice)
    borders = [blocks]
    for choice in reversed(choices):
        borders.append(choice[borders[-1]])
    return values[-1], tuple(reversed(borders))


def table(names: Sequence[str], costs: Sequence[float], borders: Sequence[int], ranks: Sequence[int]) -> str:
    """The split as text: one line for each stage."""
    whole = sum(costs) or 1.0
    lines = ["stage  rank  share  blocks"]
    for stage, (begin, end) in enumerate(pairwise(borders)):
        held = names[begin] if end - begin == 1 else f"{names[begin]} .. {names[end - 1]} ({end - begin})"
        lines.append(f"{stage:5d}  {ranks[stage]:4d}  {sum(costs[begin:end]) / whole:5.0%}  {held}")
    return "\n".join(lines)
