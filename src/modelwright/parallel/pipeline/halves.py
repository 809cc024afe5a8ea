"""A backward in two parts: first the gradients that other stages wait for, then those of parameters.

Torch's own two parts ask a parameter for its node by an operator on it. Where code sees something else in a parameter's
place, such as the whole of a piece, that operator makes a node that the stage never ran, and the gradient is lost; and
what is computed anew in them sees no mode. Hence these, which find the same groups of parameters as torch does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, _engine_run_backward
from torch.distributed.pipelining._backward import construct_reverse_graph, get_param_groups

Group = dict[str, Any]
"""``params``: nodes of parameters; ``intermediates``: where paths to them leave those to inputs; ``grads``: there."""


def node_of(tensor: Tensor) -> Node | None:
    """Where a tensor's gradient arrives; none if it has none."""
    with torch._C.DisableTorchFunction():
        if not tensor.requires_grad:
            return None
        return tensor.grad_fn or tensor.view_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def differentiate_inputs(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None] | None,
    inputs: Sequence[Any],
    parameters: Iterable[nn.Parameter],
) -> tuple[tuple[Tensor | None, ...], list[Group]]:
    """The gradients of ``inputs``, and what :func:`differentiate_parameters` needs; ``outputs`` are detached."""
    given: Sequence[Tensor | None] = gradients or [None] * len(outputs)
    pairs = [(output, one) for output, one in zip(outputs, given, strict=True) if output.requires_grad]
    starts = [output for output, _ in pairs]
    firsts = [torch.ones_like(output) if one is None else one for output, one in pairs]
    wanted = [each for each in inputs if isinstance(each, Tensor) and each.requires_grad]
    groups = get_param_groups(_nodes(wanted), _nodes(parameters), construct_reverse_graph(_nodes(starts)))
    with _noted(groups):
        found = iter(_run(starts, firsts, wanted) if starts and wanted else ())
    for output in outputs:
        output.detach_()
    marks = [isinstance(each, Tensor) and each.requires_grad for each in inputs]
    return tuple(next(found, None) if mark else None for mark in marks), groups


def differentiate_parameters(parameters: Iterable[nn.Parameter], groups: Sequence[Group]) -> None:
    """Add the gradients of parameters to those that they have.

    The graph is kept: torch frees too early what parameters that are used twice need again.
    """
    owners = {node: parameter for parameter in parameters if (node := node_of(parameter)) is not None}
    for group in groups:
        reached = list(zip(group["intermediates"], group["grads"], strict=True))
        edges = [
            (GradientEdge(node, place), gradient)
            for node, gradients in reached
            for place, gradient in enumerate(gradients)
            if gradient is not None
        ]
        nodes = list(group["params"])
        with _only(reached):
            found = _run([edge for edge, _ in edges], [one for _, one in edges], [GradientEdge(n, 0) for n in nodes])
        for node, gradient in zip(nodes, found, strict=True):
            _add(owners[node], gradient)


def _add(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    with torch.no_grad():
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _nodes(tensors: Iterable[Tensor]) -> list[Node]:
    return [node for node in map(node_of, tensors) if node is not None]


def _run(starts: Sequence[Any], gradients: Sequence[Tensor], ends: Sequence[Any]) -> tuple[Tensor | None, ...]:
    """Torch's engine without its doors, which lead out of every mode."""
    if not starts:
        return (None,) * len(ends)
    return _engine_run_backward(
        tuple(starts), tuple(gradients), True, False, tuple(ends), allow_unreachable=True, accumulate_grad=False
    )


@contextmanager
def _noted(groups: Sequence[Group]) -> Iterator[None]:
    """Inside, the gradients that arrive at the intermediates of groups are kept."""
    arrived: dict[Node, Any] = {}
    with ExitStack() as hooks:
        for node in {node for group in groups for node in group["intermediates"]}:
            handle = node.register_prehook(lambda gradients, node=node: arrived.update({node: gradients}))
            hooks.callback(handle.remove)
        yield
    for group in groups:
        group["intermediates"] = list(group["intermediates"])
        group["grads"] = [arrived.get(node) for node in group["intermediates"]]


@contextmanager
def _only(reached: Sequence[tuple[Node, Any]]) -> Iterator[None]:
    """Inside, what one intermediate sends through another counts no second time."""
    with ExitStack() as hooks:
        for node, gradients in reached:
            hooks.callback(node.register_prehook(lambda _, kept=gradients: kept).remove)
        yield
