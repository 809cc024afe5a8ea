"""The program of a rank that holds some stages of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from modelwright.base.group import Group, Work
from modelwright.base.phases import Phase, enter
from modelwright.models.balance import BALANCE
from modelwright.parallel import Exchange
from modelwright.parallel.norm import divided_norm
from modelwright.parallel.pipeline.analysis import Cut
from modelwright.parallel.pipeline.holding import drop_others, held_names
from modelwright.parallel.pipeline.passage import run_stage
from modelwright.parallel.pipeline.schedules import build, check_micro_batches
from modelwright.parallel.pipeline.shapes import Shape, Shapes, signature
from modelwright.parallel.pipeline.stage import Stage, StageModule, alike, arrived, cause, departing
from modelwright.parallel.pipeline.ties import Holders, TiedSums
from modelwright.parallel.program import LocalProgram, add_totals, check_terms, divisor

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which stages of a cut model this rank computes, and in which order.

    Attributes:
        cut: of the whole model.
        shapes: of what travels.
        group: the pipeline axis.
        ranks: the rank in it of each stage.
        schedule: a name of :data:`~modelwright.parallel.pipeline.schedules.SCHEDULES`.
    """

    cut: Cut
    shapes: Shapes
    group: Group
    ranks: tuple[int, ...]
    schedule: str

    @property
    def own(self) -> tuple[int, ...]:
        """This rank's stages."""
        return tuple(stage for stage, rank in enumerate(self.ranks) if rank == self.group.rank)

    @property
    def last(self) -> bool:
        """Whether the loss is computed here."""
        return self.ranks[-1] == self.group.rank


@dataclass
class _Step:
    """What the stages of one step need."""

    micro_batches: Sequence[Batch]
    counts: Mapping[str, Tensor]
    divisors: Mapping[str, Tensor | float]
    scale: float
    shapes: Mapping[Any, Shape]
    backwards: int
    totals: dict[str, Tensor] = field(default_factory=dict)


class PipelinedProgram(LocalProgram):
    """Some stages of a program; ranks along the axis have the same samples, and the last stage's rank the losses.

    Args:
        program: whole; its model is cut in place.
        place: this rank's stages.

    Attributes:
        balances: whether the balance of this rank's experts counts: others have the same along some axes.
    """

    def __init__(self, program: LocalProgram, place: Place) -> None:
        vars(self).update(vars(program))
        self.place_in = place
        held = held_names(place.cut, place.own)
        self.tied = _tied(self.model, place)
        drop_others(self.model, place.cut, held, {name: shape for name, (_, shape) in self.held.whole.items()})
        self.names = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameter in program.divisions.keys() - self.names.keys():  # they are to be freed
            cast(dict[Tensor, Any], program.divisions).pop(parameter)
        self.held.leave_out(place.cut.holders.keys() - held)
        self.balances = self.contributes
        self.contributes = self.contributes and place.last
        self._schedule: Any = None
        self._prepared: tuple[Any, ...] = ()
        self._step: _Step | None = None
        self._sending: list[tuple[Work, Sequence[Tensor]]] = []
        self.norm_of = divided_norm(self.held, place.group)
        self.connect(self._connect)

    def connect(self, build: Callable[[Sequence[nn.Parameter]], Exchange]) -> None:
        """Let gradients be exchanged by what ``build`` makes, and those of tied parameters be summed over stages."""
        self._connect = build
        mine = set(self.parameters())
        tied = {parameter: ranks for parameter, ranks in self.tied.items() if parameter in mine}
        self.exchange = TiedSums(build(self.parameters()), self.place_in.group, tied)

    def part(self, trained: Iterable[nn.Parameter], terms: Iterable[str]) -> PipelinedProgram:
        """The program of some parameters and terms, with a schedule of its own."""
        part = cast(PipelinedProgram, super().part(trained, terms))
        part._prepared, part._sending = (), []
        return part

    def forward_backward(
        self, micro_batches: Sequence[Batch], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; totals by term, zeros on ranks without the last stage.

        Raises:
            ModelwrightError: the micro-batches are of different shapes, or too few for the schedule.
        """
        place = self.place_in
        check_micro_batches(place.schedule, place.group.size, place.cut.stages, len(micro_batches))
        signatures = [signature(batch) for batch in micro_batches]
        alike(micro_batches, signatures)
        divisors = {term: divisor(count) for term, count in counts.items()}
        shapes = place.shapes.of(micro_batches[0], self.model.training)
        backwards = len(micro_batches) * len(place.own)
        self._step = _Step(micro_batches, counts, divisors, scale, shapes, backwards)
        self._prepare(len(micro_batches), shapes, (signatures[0], self.model.training))
        try:
            with (
                self.precision.step(),
                self._others_frozen(),
                self.surrounded(),
                self.balanced(divisors, scale) as balance,
            ):
                self._run(len(micro_batches))
                total = balance.total()
            return self._totals(counts) | self._balance(counts, total)
        finally:
            self._step = None

    def _run(self, micro_batches: int) -> None:
        for stage in self._stages:
            stage.has_backward = True
            stage.clear_runtime_states()
        numbers = [{"number": number} for number in range(micro_batches)]
        try:
            self._schedule._step_microbatches(None, numbers, [None] * micro_batches, return_outputs=False)
        except RuntimeError as error:
            if (first := cause(error)) is error:
                raise
            raise first from first.__cause__  # which the wrapping error is not: that would be a circle

    def _totals(self, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.place_in.last and self._step is not None:
            return self.counted(self._step.totals)
        return {term: torch.zeros((), dtype=torch.float64, device=self.device) for term in counts}

    def _balance(self, counts: Mapping[str, Tensor], total: Tensor | None) -> dict[str, Tensor]:
        """Every rank has that of its own layers."""
        if total is None or not self.balances:
            total = torch.zeros((), dtype=torch.float64, device=self.device)
        return {BALANCE: self.whole(total)} if BALANCE in counts else {}

    def _prepare(self, micro_batches: int, shapes: Mapping[Any, Shape], key: tuple[Any, ...]) -> None:
        """Torch's schedule and stages for so many micro-batches of these shapes; those of the step before, if alike."""
        prepared = (micro_batches, self.trained, *key)
        if prepared == self._prepared:
            return
        place = self.place_in
        trained = self.parameters()
        self._stages = [
            Stage(
                StageModule(stage, self._stage, trained),
                stage,
                place.cut.stages,
                self.device,
                place.group.process_group,
                self._backward,
            )
            for stage in place.own
        ]
        for stage in self._stages:
            stage.tell(*self._travelling(stage.stage_index, shapes))
        self._schedule = build(place.schedule, self._stages, micro_batches)
        self._prepared = prepared

    def _travelling(self, stage: int, shapes: Mapping[Any, Shape]) -> tuple[list[Shape], list[Shape]]:
        """What a stage receives, and what it sends."""
        cut = self.place_in.cut
        sent = cut.received[stage + 1] if stage < cut.stages - 1 else ()
        return [shapes[leaf] for leaf in cut.received[stage]], [shapes[leaf] for leaf in sent]

    def _stage(self, stage: int, number: int, received: Sequence[Tensor]) -> Any:
        """What a stage makes of a micro-batch: what is sent on, or the loss."""
        step = self._step
        assert step is not None
        enter(Phase.FORWARD)
        batch = step.micro_batches[number]
        with self.precision.forward(self.model, self.device):
            result = self._passed(stage, arrived(received), lambda: self._loss(batch), step.shapes)
        enter(Phase.BACKWARD)
        return result

    def _loss(self, batch: Batch) -> Tensor:
        step = self._step
        assert step is not None
        losses = self.whole(self._losses(batch))
        check_terms(step.counts, losses)
        add_totals(step.totals, losses)
        return self.weighted(losses, step.divisors, step.scale)

    def _passed(
        self, stage: int, received: Sequence[Tensor], compute: Callable[[], Any], shapes: Mapping[Any, Shape]
    ) -> Any:
        cut = self.place_in.cut
        result = run_stage(cut, stage, self.model, received, compute)
        if stage == cut.stages - 1:
            return result
        return departing(self.whole(result), self._travelling(stage, shapes)[1])

    @contextmanager
    def _backward(self, of_parameters: bool) -> Iterator[None]:
        step = self._step
        assert step is not None
        step.backwards -= of_parameters
        with self.exchange.backward(last=step.backwards == 0) if of_parameters else nullcontext():
            yield

    @torch.no_grad()
    def forward(self, batch: Batch) -> Any:
        """Outputs of the objective's forward on the rank of the last stage, ``None`` on others; no gradients."""
        place = self.place_in
        shapes = place.shapes.of(batch, self.model.training)
        outputs: Any = None
        self._wait()
        for stage in place.own:
            received = self._receive(stage, shapes)
            with self.surrounded(), self.computing():
                outputs = self._passed(stage, received, lambda: self.whole(self._outputs(batch)), shapes)
            if stage < place.cut.stages - 1:
                self._send(stage, outputs)
        return outputs if place.last else None

    def _receive(self, stage: int, shapes: Mapping[Any, Shape]) -> list[Tensor]:
        received = [
            torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in self._travelling(stage, shapes)[0]
        ]
        if stage == 0:
            return received
        source = self.place_in.ranks[stage - 1]
        if source == self.place_in.group.rank:
            return list(self._handed)
        self.place_in.group.exchange(receive=[(tensor, source) for tensor in received]).wait()
        return received

    def _send(self, stage: int, values: Sequence[Tensor]) -> None:
        target = self.place_in.ranks[stage + 1]
        if target == self.place_in.group.rank:
            self._handed = values
            return
        work = self.place_in.group.exchange(send=[(value, target) for value in values])
        self._sending.append((work, values))

    def _wait(self) -> None:
        for work, _ in self._sending:
            work.wait()
        self._sending.clear()


def _tied(model: nn.Module, place: Place) -> Holders:
    """Parameters of several ranks that this rank holds."""
    found: dict[nn.Parameter, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        ranks = tuple(sorted({place.ranks[stage] for stage in place.cut.holders[name]}))
        if len(ranks) > 1 and place.group.rank in ranks:
            found[parameter] = ranks
    return found
