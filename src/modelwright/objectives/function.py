"""Any callable ``(model, batch)`` as an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import emit
from modelwright.objectives.fields import widened

Function = Callable[[nn.Module, dict[str, Tensor]], Tensor]

_TERM = "loss"


class FunctionObjective:
    """The user's ``function(model, batch)``, which returns one loss for each sample, ``[batch]``.

    There is one term, ``loss``; an Update that is to minimise something else takes an objective with more terms, from
    which it chooses by name.

    A scalar is taken as a mean over the samples, and an event says so once: samples then weigh the same
    however many valid targets they have, which is the user's to judge.

    Args:
        function: ``(model, batch) -> losses [batch]``.
        metrics: names of metrics to evaluate with; they read the losses as outputs, so there are none by
            default.
    """

    def __init__(self, function: Function, *, metrics: tuple[str, ...] = ()) -> None:
        self.function = function
        self._metrics = metrics
        self._told = False

    @property
    def coefficients(self) -> Mapping[str, float]:
        """One term of weight 1."""
        return {_TERM: 1.0}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those given."""
        return self._metrics

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The samples of the batch."""
        first = _first(batch)
        return {_TERM: torch.full((), len(first), dtype=torch.int64, device=first.device)}

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """What the function returned: ``[batch]`` or 0-dim.

        Raises:
            ModelwrightError: something else.
        """
        losses = self.function(model, batch)
        samples = len(_first(batch))
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            got = str(losses.dtype) if isinstance(losses, Tensor) else type(losses).__name__
            raise ModelwrightError(f"the objective {self._name} returned {got}, not a tensor of losses [batch]")
        if losses.shape not in ((samples,), ()):
            raise ModelwrightError(
                f"the objective {self._name} returned shape {list(losses.shape)}, not [batch] = [{samples}]",
                remedy="return one loss for each sample, for example with reduction='none'",
            )
        return losses

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses, summed over the samples."""
        if outputs.dim() == 1:
            return {_TERM: widened(outputs).sum()}
        self._tell()
        return {_TERM: widened(outputs) * len(_first(batch))}

    def _tell(self) -> None:
        if self._told:
            return
        self._told = True
        emit(
            "objective-scalar",
            f"the objective {self._name} returned one number, taken as the mean over its samples",
            level="warning",
            objective=self._name,
        )

    @property
    def _name(self) -> str:
        function = self.function.func if isinstance(self.function, partial) else self.function
        return getattr(function, "__qualname__", type(function).__qualname__)


def _first(batch: Mapping[str, Tensor]) -> Tensor:
    first = next((value for value in batch.values() if value.dim() > 0), None)
    if first is None:
        raise ModelwrightError("the batch holds no tensor with samples", where="objective")
    return first
