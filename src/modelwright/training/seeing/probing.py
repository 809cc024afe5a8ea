"""Probing: one forward and backward of a batch, looked at module by module for numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from modelwright.parallel.program import LocalProgram


@dataclass
class Seen:
    """What was not finite, in the order in which it came.

    Attributes:
        modules: names of modules with such an output, and whether their input was finite.
        terms: of the loss.
        gradients: names of modules with such a gradient of their output.
        parameters: names of parameters with such a gradient.
    """

    modules: dict[str, bool] = field(default_factory=dict)
    terms: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether the step could not be applied because of this."""
        return bool(self.terms or self.parameters)


def probe(
    program: LocalProgram,
    batch: dict[str, Tensor],
    counts: Mapping[str, float],
    *,
    scale: float = 1.0,
    backward: bool = True,
) -> Seen:
    """Compute a batch and look at each module's output, at the loss and, unless it is bad, at the gradients.

    Args:
        program: model and objective.
        batch: on the device.
        counts: valid targets of the whole step, by term.
        scale: of the loss.
        backward: whether to go on to the gradients.
    """
    seen = Seen()
    for parameter in program.model.parameters():
        parameter.grad = None
    with ExitStack() as stack:
        stack.enter_context(program.precision.step())
        with _outputs_watched(program.model, seen), program.computing():
            outputs = program.objective.forward(program.model, batch)
            totals = program.objective.loss(outputs, batch)
        seen.terms += [term for term, total in totals.items() if not finite(total)]
        if backward and not seen.terms:
            stack.enter_context(_gradients_watched(program.model, seen))
            _weighted(program, totals, counts, scale).backward()  # type: ignore[no-untyped-call]
    return seen


def finite(values: object) -> bool:
    """Whether every number of every floating-point tensor inside ``values`` is finite."""
    return all(
        bool(torch.isfinite(leaf.detach()).all())
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and leaf.numel()
    )


def _weighted(program: LocalProgram, totals: Mapping[str, Tensor], counts: Mapping[str, float], scale: float) -> Tensor:
    coefficients = program.objective.coefficients
    return torch.stack(
        [
            coefficients.get(term, 1.0) * scale * total / max(counts.get(term, 1.0), 1.0)
            for term, total in totals.items()
        ]
    ).sum()


@contextmanager
def _outputs_watched(model: nn.Module, seen: Seen) -> Iterator[None]:
    """Inner modules end before outer ones: the first that is noted is the innermost."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            handle = module.register_forward_hook(partial(_look, seen, name), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _look(seen: Seen, name: str, module: nn.Module, positional: Any, named: Any, output: Any) -> None:
    if name not in seen.modules and not finite(output):
        seen.modules[name] = finite((positional, named))
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaf.register_hook(partial(_look_at_gradient, seen, name))  # type: ignore[no-untyped-call]


def _look_at_gradient(seen: Seen, name: str, gradient: Tensor) -> None:
    if name not in seen.gradients and not finite(gradient):
        seen.gradients.append(name)


@contextmanager
def _gradients_watched(model: nn.Module, seen: Seen) -> Iterator[None]:
    with ExitStack() as stack:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                look = partial(_look_at_parameter, seen, name)
                handle = parameter.register_post_accumulate_grad_hook(look)  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)
        yield


def _look_at_parameter(seen: Seen, name: str, parameter: Tensor) -> None:
    if name not in seen.parameters and not finite(parameter.grad):
        seen.parameters.append(name)
