"""The program of one process: a model and its objective, computed in the plan's precision.

Layouts start from it. What is differentiated is always the sum over terms of coefficient x total / global count,
never a mean of means: so micro-batches, accumulation and replicas all give the gradient of the whole batch.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, RunFailed, nearest
from modelwright.base.phases import Phase, enter
from modelwright.objectives import Objective
from modelwright.optim.clipping import global_norm
from modelwright.parallel import PRECISIONS, Exchange, Precision
from modelwright.parallel.exchanges.none import NoExchange


class LocalProgram:
    """A :class:`~modelwright.parallel.Program` on one device.

    Args:
        model: any module; moved to ``device``.
        objective: what is minimised.
        device: where to compute.
        precision: a name of :data:`~modelwright.parallel.PRECISIONS`.

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
        self.exchange: Exchange = NoExchange()
        self.trained: frozenset[nn.Parameter] | None = None
        self.terms: frozenset[str] | None = None

    def part(self, trained: Iterable[nn.Parameter], terms: Iterable[str]) -> LocalProgram:
        """The program whose backward reaches only some parameters, from some of the objective's terms.

        Args:
            trained: the parameters; the others pass gradients on, and get none.
            terms: names of terms; none for all of them.
        """
        part = copy(self)
        part.trained, part.terms = frozenset(trained), frozenset(terms) or None
        return part

    def place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch moved to the device, without waiting for the copy where memory is pinned."""
        if self.device.type == "cpu":
            return batch
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def counts(self, micro_batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Valid targets of these micro-batches, by term."""
        sums: dict[str, Tensor] = {}
        for batch in micro_batches:
            for term, count in self._chosen(self.objective.counts(batch)).items():
                if not isinstance(count, Tensor):  # of the user's own
                    count = torch.tensor(count, device=self.device)
                sums[term] = sums[term] + count if term in sums else count
        return sums

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; return the local totals by term."""
        totals: dict[str, Tensor] = {}
        divisors = {term: _divisor(count) for term, count in counts.items()}
        with self.precision.step(), self._others_frozen():
            for number, batch in enumerate(micro_batches, start=1):
                enter(Phase.FORWARD)
                losses = self._losses(batch)
                check_terms(counts, losses)
                loss = _sum([self._weighted(term, total, scale) / divisors[term] for term, total in losses.items()])
                enter(Phase.BACKWARD)
                with self.exchange.backward(last=number == len(micro_batches)):
                    loss.backward()  # type: ignore[no-untyped-call]
                for term, total in losses.items():
                    value = total.detach().double()
                    totals[term] = totals[term] + value if term in totals else value
        return totals

    def _weighted(self, term: str, total: Tensor, scale: float) -> Tensor:
        weight = self.objective.coefficients.get(term, 1.0) * scale
        return total if weight == 1 else weight * total

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of the objective's forward, in the program's precision."""
        with self.computing():
            return self._outputs(batch)

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
        """The parameters that are trained."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return trainable if self.trained is None else [p for p in trainable if p in self.trained]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name; tied ones under each of their names."""
        return dict(self.model.state_dict())

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Global 2-norm, a 0-dim tensor on the device."""
        return global_norm(gradients)

    def synchronise(self) -> None:
        """Nothing differs within one process."""

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


def _divisor(count: Tensor) -> Tensor | float:
    """At least 1; a number of the host where reading it costs nothing."""
    return count.clamp(min=1) if count.is_cuda else max(count.item(), 1)


def _sum(terms: list[Tensor]) -> Tensor:
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def check_terms(counts: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Each term that is counted has a total, in every batch, and the other way round.

    Raises:
        ModelwrightError: naming the terms that only one of the two has.
    """
    if counts.keys() != losses.keys():
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
