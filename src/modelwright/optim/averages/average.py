"""What averages of weights share: they follow the live tensors, and can take their place for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError, nearest
from modelwright.optim.schedules.shape import steps_of

_PREFIX = "average/"


class RunningAverage:
    """An average of parameters, on their devices and without waiting for them.

    Args:
        tensors: the live tensors by name. Floating ``nn.Parameter`` are averaged, in float32 or wider; whatever else,
            such as buffers, is taken as it is.
        share: of the newest weights in the average, by the number of those before.
        start: steps before the first that counts, or, below 1, their fraction of all steps.
        every: steps between two updates.

    Raises:
        ModelwrightError: there is nothing to average.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, share: Callable[[int], float], start: float, every: int
    ) -> None:
        self.number = 0
        self._live = dict(tensors)
        self._share, self._start, self._every = share, start, every
        self._averages: dict[str, Tensor] = {}
        self._swapped = False
        if not self._averaged():
            raise ModelwrightError(
                "there are no parameters to average", remedy="give nn.Parameter tensors: dict(model.named_parameters())"
            )

    @torch.no_grad()
    def begin(self) -> None:
        """Start from the weights as they are now."""
        for name in self._averaged():
            live = self._live[name]
            wide = torch.float64 if live.dtype == torch.float64 else torch.float32
            self._averages[name] = live.detach().to(wide, copy=True)

    @torch.no_grad()
    def update(self, step: int, total: int) -> None:
        """Take in the weights after the update number ``step`` (from 0) of ``total``, if it counts.

        Raises:
            ModelwrightError: inside of :meth:`swapped`.
        """
        if self._swapped:
            raise ModelwrightError("the parameters hold their averages; train after swapped(), not inside of it")
        counted = step + 1 - steps_of(self._start, total)
        if counted < 1 or counted % self._every:
            return
        if not self._averages:
            self.begin()
        self._take_in(self._share(self.number))
        self.number += 1

    def tensors(self) -> dict[str, Tensor]:
        """The averages by name, and what is not averaged as it is; the very tensors, not copies."""
        return {name: self._averages.get(name, live.detach()) for name, live in self._live.items()}

    def state(self) -> dict[str, Tensor]:
        """What it remembers, as tensors for a file; the very tensors, not copies."""
        averages = {_PREFIX + name: average for name, average in self._averages.items()}
        return {"number": torch.tensor(self.number), **averages}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` returned; values are copied.

        Raises:
            ModelwrightError: names or shapes are not those of this model.
        """
        saved = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
        _check_same({name: self._live[name] for name in self._averaged()}, saved)
        self.number = int(state["number"])
        self._averages = {}
        for name, tensor in saved.items():
            self._averages[name] = tensor.detach().to(self._live[name].device, copy=True)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages into the live tensors, and afterwards the very bits back that were there.

        Raises:
            ModelwrightError: they are there already.
        """
        if self._swapped:
            raise ModelwrightError("the parameters hold their averages already: swapped() is entered twice")
        before = {name: self._live[name].detach().clone() for name in self._averages}
        self._swapped = True
        try:
            self._put(self._averages)
            yield
        finally:
            self._put(before)
            self._swapped = False

    def _averaged(self) -> list[str]:
        return [
            name for name, live in self._live.items() if isinstance(live, nn.Parameter) and live.is_floating_point()
        ]

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._live[name].copy_(value)

    def _take_in(self, share: float) -> None:
        alike: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for name, average in self._averages.items():
            live = self._live[name].detach()
            averages, lives = alike.setdefault((live.device, live.dtype), ([], []))
            averages.append(average)
            lives.append(live)
        for averages, lives in alike.values():
            if averages[0].dtype == lives[0].dtype:
                torch._foreach_lerp_(averages, lives, share)
            else:
                torch._foreach_mul_(averages, 1 - share)
                torch._foreach_add_(averages, lives, alpha=share)


def check_every(technique: str, every: int) -> None:
    """Refuse less than one step.

    Raises:
        ModelwrightError: naming the value.
    """
    if not every >= 1:
        raise ModelwrightError(f"{technique}: every is at least 1 step, not {every}")


def _check_same(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if not saved:  # from before the first weights that count
        return
    if different := sorted(live.keys() ^ saved.keys()):
        raise ModelwrightError(
            f"the saved averages are of other parameters: {', '.join(different[:8])}",
            remedy=nearest(different[0], live) or "resume with the model that was saved",
        )
    for name, tensor in saved.items():
        if tensor.shape != live[name].shape:
            raise ModelwrightError(
                f"the saved average has shape {list(tensor.shape)}, the parameter {list(live[name].shape)}",
                where=name,
                remedy="resume with the model that was saved",
            )
