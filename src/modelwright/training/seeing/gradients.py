"""Gradient norms by module, without waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from modelwright.base.phases import Phase
from modelwright.parallel.program import local_norm
from modelwright.training.reading import Reading

Norm = Callable[[Sequence[nn.Parameter]], Tensor]
PREFIX = "gradient_norm/"


def module_norms(model: nn.Module, *, depth: int = 2, norm: Norm = local_norm) -> dict[str, Tensor]:
    """Norms of the gradients of each module's parameters, 0-dim, on the device; nothing waits for it.

    Args:
        model: after a backward; parameters without a gradient are left out.
        depth: modules are told apart by so many parts of their name: with 2, ``blocks.0.attention.output`` counts to
            ``blocks.0``.
        norm: of the gradients of several parameters; a program's own where they are spread over ranks.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            groups.setdefault(group_of(name, depth), []).append(parameter)
    return {name: norm(parameters) for name, parameters in groups.items()}


def group_of(parameter: str, depth: int) -> str:
    """The module to which a parameter's gradient is counted: ``(model)`` for those at the very top."""
    module, _, _ = parameter.rpartition(".")
    return ".".join(module.split(".")[:depth]) or "(model)"


class GradientNorms:
    """Watches the phases and takes the norms of every so many steps, when the gradients are complete.

    They are read a step later, when they have arrived.

    Args:
        model: whose gradients they are.
        every: steps between two.
        depth, norm: as of :func:`module_norms`.
        scale: what the gradients are too large by at that moment.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int,
        *,
        depth: int = 2,
        norm: Norm = local_norm,
        scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._model, self._every, self._depth = model, every, depth
        self._norm, self._scale = norm, scale
        self._step = 0
        self._waiting: deque[tuple[int, list[str], Reading]] = deque()

    def __call__(self, phase: Phase, step: int | None = None) -> None:
        """Hear of a phase."""
        if step is not None:
            self._step = step
        if phase is Phase.OPTIMIZER and self._step % self._every == 0:
            self._take()

    def rows(self, *, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Rows for the run's metrics, each once: ``{"kind": "gradients", "step": n, "gradient_norm/MODULE": x}``."""
        rows = []
        while self._waiting and (all_of_them or len(self._waiting) > 1 or self._waiting[0][2].immediate):
            step, names, reading = self._waiting.popleft()
            norms = dict(zip(names, reading.values(), strict=True))
            rows.append({"kind": "gradients", "step": step, **{PREFIX + name: norm for name, norm in norms.items()}})
        return rows

    def _take(self) -> None:
        norms = module_norms(self._model, depth=self._depth, norm=self._norm)
        if norms:
            scale = self._scale()
            self._waiting.append((self._step, list(norms), Reading([norm / scale for norm in norms.values()])))
