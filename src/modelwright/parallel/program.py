"""The program of one process: a model and its objective, computed in the plan's precision.

Layouts start from it. What is differentiated is always the sum over terms of coefficient x total / global count,
never a mean of means: so micro-batches, accumulation and replicas all give the gradient of the whole batch.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, RunFailed
from modelwright.objectives import Objective
from modelwright.optim.clipping import global_norm
from modelwright.parallel import Exchange
from modelwright.parallel.exchanges.none import NoExchange

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class LocalProgram:
    """A :class:`~modelwright.parallel.Program` on one device.

    Args:
        model: any module; moved to ``device``.
        objective: what is minimised.
        device: where to compute.
        precision: ``fp32`` (the parameters' own type) or ``bf16`` (autocast, parameters stay as they are).
    """

    def __init__(
        self, model: nn.Module, objective: Objective, *, device: torch.device, precision: str = "fp32"
    ) -> None:
        if precision not in _PRECISIONS:
            raise ModelwrightError(
                f"unknown precision '{precision}'", remedy=f"known: {', '.join(sorted(_PRECISIONS))}"
            )
        self.model = model.to(device)
        self.objective = objective
        self.device = device
        self.precision = precision
        self.exchange: Exchange = NoExchange()

    def place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch moved to the device, without waiting for the copy where memory is pinned."""
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def counts(self, micro_batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Valid targets of these micro-batches, by term."""
        sums: dict[str, Tensor] = {}
        for batch in micro_batches:
            for term, count in self.objective.counts(batch).items():
                sums[term] = sums[term] + count if term in sums else count
        return sums

    def forward_backward(
        self, micro_batches: Sequence[dict[str, Tensor]], counts: Mapping[str, Tensor], scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Accumulate gradients over the micro-batches; return the local totals by term."""
        totals: dict[str, Tensor] = {}
        for number, batch in enumerate(micro_batches, start=1):
            losses = self._losses(batch)
            check_terms(counts, losses)
            weighted = [
                self.objective.coefficients.get(term, 1.0) * scale * total / counts[term].clamp(min=1)
                for term, total in losses.items()
            ]
            with self.exchange.backward(last=number == len(micro_batches)):
                torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
            for term, total in losses.items():
                value = total.detach().double()
                totals[term] = totals[term] + value if term in totals else value
        return totals

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Outputs of the objective's forward, in the program's precision."""
        try:
            with self._autocast():
                return self.objective.forward(self.model, batch)
        except ModelwrightError:
            raise
        except torch.OutOfMemoryError as error:
            raise RunFailed("the device ran out of memory", remedy="choose a smaller plan.micro_batch") from error
        except Exception as error:
            raise _model_error(error, batch) from error

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name; tied ones under each of their names."""
        return dict(self.model.state_dict())

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Global 2-norm, a 0-dim tensor on the device."""
        return global_norm(gradients)

    def synchronise(self) -> None:
        """Nothing differs within one process."""

    def _losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.forward(batch)
        return dict(self.objective.loss(outputs, batch))

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


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
