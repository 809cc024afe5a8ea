"""Pipeline: each rank of the axis holds consecutive blocks of the model, and samples pass through all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.base.world import Mesh
from modelwright.objectives.packing import borders as told_documents
from modelwright.parallel.draft import Draft, Held, Spot, Stages
from modelwright.parallel.pipeline.analysis import Analysis, analyse, cut
from modelwright.parallel.pipeline.balance import split, table
from modelwright.parallel.pipeline.program import PipelinedProgram, Place
from modelwright.parallel.pipeline.schedules import check_micro_batches, placement, stages_per_rank
from modelwright.parallel.pipeline.shapes import Shapes
from modelwright.parallel.precisions.full import Full
from modelwright.parallel.program import LocalProgram

Schedule = Literal[
    "gpipe",
    "1f1b",
    "looped-bfs",
    "interleaved-1f1b",
    "interleaved-zero-bubble",
    "zbv-zero-bubble",
    "dualpipe-v",
]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Pipeline parallelism of any model with repeated blocks.

    The model's own code runs on each rank. Blocks of earlier ranks hand on what was received, and the code behind a
    rank's last block is not reached; parameters outside of the blocks are where they are needed, and what several ranks
    hold has one gradient.

    Sources: GPipe (Huang et al. 2018, arXiv:1811.06965); 1F1B (Narayanan et al. 2019, PipeDream); looped (Lamy-Poirier
    2022, arXiv:2211.05953) and interleaved schedules (Narayanan et al. 2021, arXiv:2104.04473); zero bubble (Qi et al.
    2023, arXiv:2401.10241); DualPipe (DeepSeek-AI 2024, arXiv:2412.19437).

    Attributes:
        axis: the axis of the mesh.
        schedule: in which order the stages compute micro-batches. ``gpipe`` keeps all activations of a step, ``1f1b``
            those of as many micro-batches as there are ranks; with several stages on each rank the others wait less and
            send more; zero-bubble schedules compute gradients of weights while they would wait.
        stages_per_rank: ``None``: as the schedule has them: one, or two.
        costs: seconds of each block, in the order in which they run, as measured; the last one's with what follows.
            ``None``: by floating-point operations.
    """

    axis: str = "pipeline"
    schedule: Schedule = "1f1b"
    stages_per_rank: int | None = None
    costs: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        stages_per_rank(self.schedule, self.stages_per_rank)
        if self.costs is not None and any(cost < 0 for cost in self.costs):
            raise ModelwrightError("costs are seconds, at least 0", where="plan.layout.pipeline")

    def stages(self, ranks: int) -> int:
        """How many stages there are on so many ranks."""
        return ranks * stages_per_rank(self.schedule, self.stages_per_rank)

    def check(self, ranks: int, micro_batches: int) -> None:
        """Refuse a number of micro-batches in a step that the schedule cannot arrange.

        Raises:
            ModelwrightError: with what to set.
        """
        check_micro_batches(self.schedule, ranks, self.stages(ranks), micro_batches)

    def borders(self, analysis: Analysis, ranks: int) -> tuple[int, ...]:
        """Where to cut.

        Raises:
            ModelwrightError: there are fewer blocks than stages, or costs for another number of blocks.
        """
        costs = analysis.costs if self.costs is None else self.costs
        if len(costs) != len(analysis.blocks):
            raise ModelwrightError(
                f"there are {len(costs)} costs, but the model has {len(analysis.blocks)} blocks",
                where="plan.layout.pipeline.costs",
                remedy=f"give one for each of {analysis.blocks[0]} .. {analysis.blocks[-1]}",
            )
        return split(costs, self.stages(ranks))

    def apply(self, program: LocalProgram, mesh: Mesh, example: Mapping[str, Tensor]) -> LocalProgram:
        """Keep this rank's stages of the program's model; a collective of the axis.

        Args:
            program: with the whole model.
            mesh: has the axis.
            example: a micro-batch, of which shapes and types matter.

        Raises:
            ModelwrightError: the model cannot be cut, with the reason.
        """
        group = mesh.axis(self.axis)
        if group.size == 1:
            return program
        told_documents(program.model, example)  # tries the whole model, where documents share a window
        analysis = analyse(program.model, program.objective, example)
        borders = self.borders(analysis, group.size)
        found = cut(analysis, borders)
        ranks = placement(self.schedule, group.size, found.stages)
        shapes = Shapes(program.model, program.objective, program.precision, found, program.device)
        if mesh.rank == 0:
            _tell(analysis, borders, ranks, self.schedule)
        return PipelinedProgram(
            program, Place(cut=found, shapes=shapes, group=group, ranks=ranks, schedule=self.schedule)
        )

    def sketch(self, draft: Draft) -> Draft:
        """Leave to each rank the parameters of its stages, and let activations and their gradients travel.

        Raises:
            ModelwrightError: the model cannot be cut, or the schedule cannot arrange so many micro-batches.
        """
        ranks = draft.sizes[self.axis]
        self.check(ranks, draft.rounds)
        analysis = analyse(draft.model, draft.objective, draft.example)
        found = cut(analysis, self.borders(analysis, ranks))
        shapes = Shapes(draft.model, draft.objective, Full(), found, torch.device("cpu"))
        draft.stages = Stages(
            cut=found,
            ranks=placement(self.schedule, ranks, found.stages),
            schedule=self.schedule,
            shapes=shapes.of(draft.example, draft.model.training),
        )
        draft.held = _held_by(draft, draft.stages, self.axis)
        _passed_on(draft, draft.stages, self.axis)
        return draft


def _passed_on(draft: Draft, stages: Stages, axis: str) -> None:
    """Activations from each stage to the next, and gradients back, where these are on different ranks."""
    for stage, (rank, following) in enumerate(pairwise(stages.ranks)):
        shapes = [stages.shapes[leaf] for leaf in stages.cut.received[stage + 1]]
        if rank == following:
            continue
        for sender, travelling in ((rank, shapes), (following, [each for each in shapes if each[1].is_floating_point])):
            size = sum(shape.numel() * dtype.itemsize for shape, dtype in travelling)
            draft.send("send", (axis,), draft.rounds * size, ((axis, sender),))


def _held_by(draft: Draft, stages: Stages, axis: str) -> dict[Spot, list[Held]]:
    """What each rank's stages need."""
    found: dict[Spot, list[Held]] = {((axis, rank),): [] for rank in sorted(set(stages.ranks))}
    (everything,) = draft.held.values()
    for each in everything:
        ranks = tuple(sorted({stages.ranks[stage] for stage in stages.cut.holders[each.name]}))
        for rank in ranks:
            found[(axis, rank),].append(replace(each, stages=ranks if len(ranks) > 1 else ()))
    return found


def _tell(analysis: Analysis, borders: tuple[int, ...], ranks: tuple[int, ...], schedule: str) -> None:
    loads = [sum(analysis.costs[begin:end]) for begin, end in pairwise(borders)]
    emit(
        "pipeline",
        f"{len(analysis.blocks)} blocks in {len(loads)} stages, {schedule}; the largest stage computes "
        f"{max(loads) * len(loads) / max(1, sum(loads)):.2f} of an even share",
        table=table(analysis.blocks, analysis.costs, borders, ranks),
    )
