"""In which order stages compute micro-batches: torch's schedules, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
    ScheduleZBVZeroBubble,
)

from modelwright.base.errors import ModelwrightError, nearest

_WHERE = "plan.layout.pipeline"
TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])


@dataclass(frozen=True)
class Kind:
    """What a schedule asks for.

    Attributes:
        build: torch's class.
        single: it takes exactly one stage on each rank.
        v: stages lie in the order of a V, two on each rank: rank 0 has the first and the last.
        as_many_as_stages: it needs at least as many micro-batches as there are stages.
        in_rounds: the micro-batches are divided into equal rounds of about as many as there are ranks.
        in_two: gradients of weights are computed apart from those of inputs, which torch before 2.13 does wrongly.
    """

    build: Callable[..., Any]
    single: bool = False
    v: bool = False
    as_many_as_stages: bool = False
    in_rounds: bool = False
    in_two: bool = False


SCHEDULES = {
    "gpipe": Kind(ScheduleGPipe, single=True),
    "1f1b": Kind(Schedule1F1B, single=True, as_many_as_stages=True),
    "looped-bfs": Kind(ScheduleLoopedBFS),
    "interleaved-1f1b": Kind(ScheduleInterleaved1F1B, in_rounds=True),
    "interleaved-zero-bubble": Kind(ScheduleInterleavedZeroBubble, in_rounds=True, in_two=True),
    "zbv-zero-bubble": Kind(ScheduleZBVZeroBubble, v=True, in_two=True),
    "dualpipe-v": Kind(ScheduleDualPipeV, v=True, as_many_as_stages=True, in_two=True),
}


def kind(schedule: str) -> Kind:
    """What is known of a schedule.

    Raises:
        ModelwrightError: there is none of that name.
    """
    if schedule not in SCHEDULES:
        raise ModelwrightError(
            f"there is no pipeline schedule '{schedule}'", where=_WHERE, remedy=nearest(schedule, SCHEDULES)
        )
    return SCHEDULES[schedule]


def possible(schedules: Iterable[str]) -> list[str]:
    """Those of them that the torch that is installed computes rightly."""
    return [schedule for schedule in schedules if TORCH >= (2, 13) or not kind(schedule).in_two]


def stages_per_rank(schedule: str, wanted: int | None) -> int:
    """How many stages each rank has.

    Raises:
        ModelwrightError: the schedule takes another number.
    """
    found = kind(schedule)
    only = 1 if found.single else 2 if found.v else None
    if wanted is not None and wanted < 1:
        raise ModelwrightError(f"stages_per_rank is at least 1, not {wanted}", where=_WHERE)
    if only is not None and wanted not in (None, only):
        raise ModelwrightError(
            f"the schedule {schedule} has {only} stage{'s' * (only > 1)} on each rank, not {wanted}",
            where=_WHERE,
            remedy=f"leave stages_per_rank out, or choose {'interleaved-1f1b' if only == 1 else 'looped-bfs'}",
        )
    return wanted or only or 2


def placement(schedule: str, ranks: int, stages: int) -> tuple[int, ...]:
    """The rank of each stage."""
    if not kind(schedule).v:
        return tuple(stage % ranks for stage in range(stages))
    return tuple(min(stage % (2 * ranks), 2 * ranks - 1 - stage % (2 * ranks)) for stage in range(stages))


def check_micro_batches(schedule: str, ranks: int, stages: int, micro_batches: int) -> None:
    """Refuse a number of micro-batches that the schedule cannot arrange, and a schedule that torch gets wrong.

    Raises:
        ModelwrightError: with the numbers that would do.
    """
    found = kind(schedule)
    if schedule not in possible([schedule]):
        raise ModelwrightError(
            f"torch {torch.__version__} computes wrong gradients in the schedule {schedule}",
            where=f"{_WHERE}.schedule",
            remedy="install torch 2.13 or newer, or choose 1f1b, gpipe, looped-bfs or interleaved-1f1b",
        )
    if found.as_many_as_stages and micro_batches < stages:
        raise ModelwrightError(
            f"the schedule {schedule} with {stages} stages needs at least {stages} micro-batches in a step, not "
            f"{micro_batches}",
            where=_WHERE,
            remedy="set a smaller plan.micro_batch, or a larger global batch; or choose schedule gpipe",
        )
    rounds = max(1, micro_batches // ranks)
    if found.in_rounds and micro_batches % rounds:
        fits = [each for each in range(1, 2 * micro_batches) if each % max(1, each // ranks) == 0]
        near = sorted(fits, key=lambda each: (abs(each - micro_batches), each))[:2]
        raise ModelwrightError(
            f"the schedule {schedule} on {ranks} ranks cannot arrange {micro_batches} micro-batches in equal rounds",
            where=_WHERE,
            remedy=f"set plan.micro_batch so that a step has {' or '.join(map(str, sorted(near)))} micro-batches",
        )


def build(schedule: str, stages: Sequence[Any], micro_batches: int) -> Any:
    """Torch's schedule over this rank's stages, whose last one returns the loss itself."""
    found = kind(schedule)
    return found.build(
        stages[0] if found.single else list(stages),
        micro_batches,
        loss_fn=_loss_itself,
        scale_grads=False,
    )


def _loss_itself(output: Any, target: object) -> Any:
    return output
