"""What a criterion may look at beside the weights: data, a loss, and what layers read of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.modes import evaluating
from modelwright.reforms.moments import call


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a criterion may look at beside the weights.

    Attributes:
        example_inputs: what the model was traced with.
        batches: data; an iterable that can be gone through more than once, or ``None``.
        objective: of :mod:`modelwright.objectives`, or a callable ``(model, batch)`` that returns a loss, or ``None``.
        forward: of ``(model, batch)``, where a batch is not simply the model's arguments and there is no objective.
        seed: of whatever is random.
    """

    example_inputs: Any
    batches: Iterable[Any] | None = None
    objective: Any = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    seed: int = 0

    def data(self) -> Iterator[Any]:
        """The batches.

        Raises:
            ModelwrightError: there are none.
        """
        count = 0
        for count, batch in enumerate(self.batches or (), 1):  # noqa: B007
            yield batch
        if not count:
            raise ModelwrightError(
                "this criterion looks at data, and there is none",
                where="batches",
                remedy="give a list of batches; a generator is used up after one pass",
            )

    def run(self, model: nn.Module, batch: Any) -> Any:
        """A forward pass."""
        if self.objective is not None:
            return self._objective(model, batch)
        return (self.forward or call)(model, batch)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch.

        Raises:
            ModelwrightError: there is no objective.
        """
        if self.objective is None:
            raise ModelwrightError(
                "this criterion looks at a loss, and there is none",
                where="objective",
                remedy="give an objective, or a callable (model, batch) that returns a loss",
            )
        if not hasattr(self.objective, "counts"):
            found: Tensor = self.objective(model, batch)
            return found
        counts, totals = self.objective.counts(batch), self._totals(model, batch)
        weights = self.objective.coefficients
        return torch.stack(
            [weights.get(name, 1.0) * each / counts[name].clamp(1) for name, each in totals.items()]
        ).sum()

    def gradients(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Of each batch's loss, by name of the parameter, tied ones under each name; without those that got none."""
        named = dict(model.named_parameters(remove_duplicate=False))
        wanted = {id(each): each for each in named.values() if each.is_floating_point()}
        learning = [(each, each.requires_grad) for each in wanted.values()]
        with evaluating(model):
            try:
                for each, _ in learning:
                    each.requires_grad_(True)
                for batch in self.data():
                    found = torch.autograd.grad(self.loss(model, batch), list(wanted.values()), allow_unused=True)
                    by_tensor = dict(zip(wanted, found, strict=True))
                    yield {name: grad for name, each in named.items() if (grad := by_tensor[id(each)]) is not None}
            finally:
                for each, learnt in learning:
                    each.requires_grad_(learnt)

    def _objective(self, model: nn.Module, batch: Any) -> Any:
        return (
            self.objective.forward(model, batch) if hasattr(self.objective, "counts") else self.objective(model, batch)
        )

    def _totals(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.objective.loss(self.objective.forward(model, batch), batch)
        return found
