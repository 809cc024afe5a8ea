"""The program of one process: a model and its objective, computed in the plan's precision.

Layouts start from it. What is differentiated is always the sum over terms of coefficient x total / global count,
never a mean of means: so micro-batches, accumulation and replicas all give the gradient of the whole batch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, RunFailed, nearest
from modelwright.base.group import Group
from modelwright.base.phases import Phase, enter
from modelwright.models.balance import BALANCE, Balancing, balances, balancing
from modelwright.objectives import Objective
from modelwright.optim.clipping import global_norm
from modelwright.parallel import PRECISIONS, Exchange, Precision
from modelwright.parallel.exchanges.none import NoExchange
from modelwright.parallel.holdings import Holdings, owned

if TYPE_CHECKING:
    from modelwright.parallel.divided.division import Division


class LocalProgram:
    """A :class:`~modelwright.parallel.Program` on one device, whole until layouts divide it.

    Args:
        model: any module; moved to ``device``.
        objective: what is minimised.
        device: where to compute.
        precision: a name of :data:`~modelwright.parallel.PRECISIONS`.

    Attributes:
        held: what this rank has of the model.
        replicas: the ranks that compute the same with other samples.
        together: the ranks that hold the model together, without their replicas.
        contributes: whether this rank's totals and counts count: others along an axis that shares samples have the
            same.
        in_step: whether ranks with other samples take part in each other's forward.
        divisions: how parameters are divided over axes along which ranks compute together.
        surroundings: contexts in which model, loss and backward are computed.
        whole: turns outputs and totals, which may be divided over ranks, into ordinary tensors.
        norm_of: global 2-norm of the gradients of parameters.

    Raises:
        ModelwrightError: no such precision, or the device cannot compute so.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, *, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.precision: Precision = PRECISIONS.resolve(precision)()
        self.precision.check(device)
        self.model = model.to(device)
        self.precision.convert(self.model)
        self.objective = objective
        self.device = device
        self.held = Holdings(self.model)
        self._has_experts = bool(balances(self.model))
        self.exchange: Exchange = NoExchange()
        self.trained: frozenset[nn.Parameter] | None = None
        self.terms: frozenset[str] | None = None
        self.replicas = Group(0, 1)
        self.together = Group(0, 1)
        self.contributes = True
        self.divisions: Mapping[Tensor, Division] = {}
        self.surroundings: list[Callable[[], AbstractContextManager[object]]] = []
        self.whole: Callable[[Any], Any] = _as_it_is
        self.in_step = False
        self._inside = False
        self.norm_of: Callable[[Sequence[nn.Parameter]], Tensor] = local_norm
        self._connect: Callable[[Sequence[nn.Parameter]], Exchange] = _alone

    def connect(self, build: Callable[[Sequence[nn.Parameter]], Exchange]) -> None:
        """Let gradients be exchanged by what ``build`` makes for the parameters that are trained."""
        self._connect = build
        self.exchange = build(self.parameters())

    def part(self, trained: Iterable[nn.Parameter], terms: Iterable[str]) -> LocalProgram:
        """The program whose backward reaches only some parameters, from some of the objective's terms.

        Args:
            trained: the parameters; the others pass gradients on, and get none.
            terms: names of terms; none for all of them.
        """
        part = copy(self)
        part.trained, part.terms = frozenset(trained), frozenset(terms) or None
        part.connect(self._connect)
        return part

    def place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch moved to the device, without waiting for the copy where memory is pinned."""
        if self.device.type == "cpu":
            return batch
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def counts(self, micro_batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Valid targets of these micro-batches, by term; zeros where another rank counts them."""
        sums: dict[str, Tensor] = {}
        for batch in micro_batches:
            for term, count in self._chosen(self.objective.counts(batch)).items():
                if not isinstance(count, Tensor):  # of the user's own
                    count = torch.tensor(count, device=self.device)
                sums[term] = sums[term] + count if term in sums else count
            if self._balancing():
                samples = torch.tensor(len(next(iter(batch.values()))), device=self.device)
                sums[BALANCE] = sums[BALANCE] + samples if BALANCE in sums else samples
        return self.counted(sums)

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; return the local totals by term."""
        totals: dict[str, Tensor] = {}
        divisors = {term: divisor(count) for term, count in counts.items()}
        with self.precision.step(), self._others_frozen(), self.surrounded(), self.balanced(divisors, scale) as balance:
            for number, batch in enumerate(micro_batches, start=1):
                enter(Phase.FORWARD)
                losses = self.whole(self._losses(batch))
                check_terms(counts, losses)
                loss = self.weighted(losses, divisors, scale)
                enter(Phase.BACKWARD)
                with self.exchange.backward(last=number == len(micro_batches)):
                    loss.backward()  # type: ignore[no-untyped-call]
                add_totals(totals, losses)
            if (total := balance.total()) is not None:
                totals[BALANCE] = self.whole(total)
        return self.counted(totals)

    def balanced(self, divisors: Mapping[str, Tensor | float], scale: float) -> AbstractContextManager[Balancing]:
        """Inside, backward passes add the model's own wish that its experts be used evenly."""
        if not self._has_experts:
            return nullcontext(Balancing([]))
        return balancing(self.model, scale / divisors[BALANCE] if BALANCE in divisors else 0.0)

    def _balancing(self) -> bool:
        return self._has_experts and (self.terms is None or BALANCE in self.terms)

    def counted(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """These totals or counts, or zeros where another rank has the same."""
        return totals if self.contributes else {term: torch.zeros_like(total) for term, total in totals.items()}

    @contextmanager
    def surrounded(self) -> Iterator[None]:
        """Compute inside as the layouts wish."""
        if self._inside or not self.surroundings:
            yield
            return
        with ExitStack() as stack:
            for surrounding in self.surroundings:
                stack.enter_context(surrounding())
            self._inside = True
            stack.callback(setattr, self, "_inside", False)
            yield

    def weighted(self, losses: Mapping[str, Tensor], divisors: Mapping[str, Tensor | float], scale: float) -> Tensor:
        """What is differentiated: the sum over terms of coefficient x total / global count, times ``scale``."""
        return _sum([self._weighted(term, total, scale) / divisors[term] for term, total in losses.items()])

    def _weighted(self, term: str, total: Tensor, scale: float) -> Tensor:
        weight = self.objective.coefficients.get(term, 1.0) * scale
        return total if weight == 1 else weight * total

    def tried(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Totals of a micro-batch by themselves, from which a backward may start."""
        with self.precision.step(), self.surrounded():
            return list(self.whole(self._losses(batch)).values())

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of the objective's forward, in the program's precision."""
        with self.surrounded(), self.computing():
            return self.whole(self._outputs(batch))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute the model, its loss and what reads their outputs inside in the program's precision."""
        with self.precision.forward(self.model, self.device):
            yield

    def _outputs(self, batch: dict[str, Tensor]) -> Any:
        try:
            return self.objective.forward(self.model, batch)
        except ModelwrightError:
            raise
        except torch.OutOfMemoryError as error:
            raise RunFailed("the device ran out of memory", remedy="choose a smaller plan.micro_batch") from error
        except Exception as error:
            raise _model_error(error, batch) from error

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained, as this rank has them."""
        trainable = [parameter for parameter in self.held.names() if parameter.requires_grad]
        return trainable if self.trained is None else [p for p in trainable if p in self.trained]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name; tied ones under each of their names."""
        return self.held.tensors()

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Global 2-norm of their gradients, a 0-dim tensor on the device."""
        return self.norm_of(parameters)

    def synchronise(self) -> None:
        """Give every replica the first one's buffers (running statistics differ between ranks)."""
        if self.replicas.size > 1:
            for buffer in filter(owned, self.model.buffers()):
                self.replicas.broadcast(buffer)

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with self.precision.forward(self.model, self.device):
            return self._chosen(self.objective.loss(self._outputs(batch), batch))

    def _chosen(self, by_term: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.terms is None:
            return dict(by_term)
        if unknown := sorted(self.terms - by_term.keys()):
            raise ModelwrightError(
                f"the objective has no term '{unknown[0]}'", where="terms", remedy=nearest(unknown[0], by_term)
            )
        return {term: value for term, value in by_term.items() if term in self.terms}

    def _others_frozen(self) -> AbstractContextManager[None]:
        return nullcontext() if self.trained is None else self._frozen(self.trained)

    @contextmanager
    def _frozen(self, trained: frozenset[nn.Parameter]) -> Iterator[None]:
        others = [p for p in self.model.parameters() if p.requires_grad and p not in trained]
        with ExitStack() as stack:
            for parameter in others:
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            yield


def add_totals(totals: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Add the totals of a micro-batch, in float64."""
    for term, total in losses.items():
        value = total.detach().double()
        totals[term] = totals[term] + value if term in totals else value


def _as_it_is(value: Any) -> Any:
    return value


def _alone(parameters: Sequence[nn.Parameter]) -> Exchange:
    return NoExchange()


def local_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of what this rank holds of their gradients."""
    return global_norm(parameter.grad for parameter in parameters if parameter.grad is not None)


def divisor(count: Tensor) -> Tensor | float:
    """At least 1; a number of the host where reading it costs nothing."""
    return count.clamp(min=1) if count.is_cuda else max(count.item(), 1)


def _sum(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def check_terms(counts: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Each term that is counted has a total, in every batch, and the other way round.

    Raises:
        ModelwrightError: naming the terms that only one of the two has.
    """
    if counts.keys() - {BALANCE} != losses.keys():
        raise ModelwrightError(
            f"the objective counts the terms {_listed(counts)}, but its loss has {_listed(losses)}",
            where="objective",
            remedy="let counts() and loss() return the same terms for every batch, with a count of 0 where one is idle",
        )


def _listed(terms: Mapping[str, Tensor]) -> str:
    return ", ".join(f"'{term}'" for term in sorted(terms)) or "none"


def _model_error(error: Exception, batch: dict[str, Tensor]) -> ModelwrightError:
    shapes = ", ".join(f"{name} {list(value.shape)} {value.dtype}" for name, value in batch.items())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and not frame.filename.endswith("parallel/program.py")
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    message = str(error).strip().split("\n")[0]
    return ModelwrightError(
        f"the model failed on a batch ({shapes}): {type(error).__name__}: {message}",
        where=place,
        remedy="compare the shapes the model expects with the batch above",
    )
