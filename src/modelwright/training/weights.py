"""Which weights are scored and kept: the live ones, their averages, or the best so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.optim import AverageTechnique, Optimizer
from modelwright.optim.evaluating import evaluating
from modelwright.optim.joined import parts
from modelwright.parallel.holdings import Holdings
from modelwright.training.patience import BestWeights


class Weights:
    """The weights of a model in training, and those that others should see.

    Args:
        averaging: what averages the weights, or ``None``.
        held: what this rank has of the model in training.
        optimizers: some keep averages of their own, which they show in ``evaluating()``.

    Raises:
        ModelwrightError: both the optimizer and ``averaging`` would average.
    """

    def __init__(self, averaging: AverageTechnique | None, held: Holdings, optimizers: Sequence[Optimizer]) -> None:
        self._held = held
        self._averaging_optimizers = [
            optimizer for optimizer in optimizers if any(hasattr(part, "evaluating") for part in parts(optimizer))
        ]
        if averaging is not None and self._averaging_optimizers:
            raise ModelwrightError(
                "the optimizer averages the weights itself, so nothing else can",
                where="averaging",
                remedy="leave averaging out, or choose another optimizer",
            )
        self.averages = averaging.build(held.tensors()) if averaging is not None else None
        self.best = BestWeights()

    @property
    def averaged(self) -> bool:
        """Whether what is to be scored differs from what is in training."""
        return self.averages is not None or bool(self._averaging_optimizers)

    @property
    def swapped(self) -> bool:
        """Whether what is to be scored exists only while it takes the place of what is in training."""
        return bool(self._averaging_optimizers)

    def averaged_tensors(self) -> dict[str, Tensor]:
        """The averages by name, in the types of the model; none where there are none or they are :attr:`swapped`.

        Mostly the very tensors, not copies.
        """
        if self.averages is None:
            return {}
        averages, live = self.averages.tensors(), self._held.tensors()
        return {
            name: averages[name].to(tensor.dtype) if isinstance(tensor, nn.Parameter) else tensor.detach()
            for name, tensor in live.items()
        }

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model holds what is to be scored: averages, if any. Outside, every bit is as before."""
        with ExitStack() as stack:
            if self.averages is not None:
                stack.enter_context(self.averages.swapped())
            for optimizer in self._averaging_optimizers:
                stack.enter_context(evaluating(optimizer))
            yield

    def settle(self) -> None:
        """Put in place, for good, what is to be kept: the best weights, else the averages, else the live ones."""
        if self.best.tensors:
            self.best.restore(self._held)
        elif self.averaged:
            with self.shown():
                kept = {name: tensor.detach().clone() for name, tensor in self._held.tensors().items()}
            self._held.put(kept)
        self.averages, self._averaging_optimizers = None, []
