"""One stage as torch's schedules see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.distributed import ProcessGroup
from torch.distributed.pipelining import PipelineStage

from modelwright.base.errors import ModelwrightError
from modelwright.parallel.pipeline.halves import differentiate_inputs, differentiate_parameters
from modelwright.parallel.pipeline.shapes import Shape

Compute = Callable[[int, int, Sequence[Tensor]], Any]
"""Of the stage, the micro-batch and what was received: what is sent on, or the loss."""


_TOLD = (
    "_user_meta",
    "_stage_meta",
    "inputs_meta",
    "_outputs_meta",
)  # the first two from torch 2.13 on, else the others


class StageModule(nn.Module):
    """What a stage computes; its parameters are those that it trains."""

    def __init__(self, stage: int, compute: Compute, trained: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._stage, self._compute, self._trained = stage, compute, tuple(trained)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those that the stage trains."""
        return iter(self._trained)

    def forward(self, *received: Tensor, number: int) -> Any:
        """What micro-batch ``number`` becomes."""
        return self._compute(self._stage, number, received)


class Stage(PipelineStage):
    """Torch's stage, whose backward is surrounded by what the program wants, and whose shapes are told."""

    def __init__(
        self,
        module: StageModule,
        number: int,
        stages: int,
        device: torch.device,
        group: ProcessGroup | None,
        backward: Callable[[bool], AbstractContextManager[None]],
    ) -> None:
        super().__init__(module, number, stages, device, group=group)
        self._surround = backward

    def tell(self, received: Sequence[Shape], sent: Sequence[Shape]) -> None:
        """Set the shapes of the coming steps."""
        known = PipelineStage(
            self.submod,
            self.stage_index,
            self.num_stages,
            self.device,
            input_args=_examples(received),
            output_args=_examples(sent) if sent else torch.empty((), device="meta", requires_grad=True),
            group=self.group,
        )
        for name in _TOLD:
            if hasattr(known, name):
                setattr(self, name, getattr(known, name))
        self.grad_send_info = None

    def _validate_fwd_outputs(self, outputs: Sequence[Tensor]) -> None:
        """Nothing, where torch before 2.13 asks: what is sent has been made as agreed on, a loss may have any type."""

    def backward_maybe_with_nosync(self, backward_type: Any, bwd_kwargs: Any, last_backward: bool = False) -> Any:
        """One backward; those of the kind ``input`` give no gradients of parameters."""
        with self._surround(backward_type != "input"):
            if backward_type == "weight":
                differentiate_parameters(self.submod.parameters(), bwd_kwargs["param_groups"])
                return (), None
            if backward_type == "input":
                differentiate_independent(**bwd_kwargs)
                gradients, groups = differentiate_inputs(
                    bwd_kwargs["stage_output"],
                    bwd_kwargs["output_grads"],
                    bwd_kwargs["input_values"],
                    self.submod.parameters(),
                )
                return gradients, apart(groups)
            return super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)


def differentiate_independent(
    stage_output: Sequence[Tensor], output_grads: Sequence[Tensor | None] | None, input_values: Sequence[Any]
) -> None:
    """Gradients of parameters from outputs that no input reaches, such as a bias that later blocks share.

    When torch divides a backward in two, it finds parameters only where their paths meet those of the inputs.
    """
    inputs = {get_gradient_edge(each).node for each in input_values if isinstance(each, Tensor) and each.requires_grad}
    gradients: Sequence[Tensor | None] = output_grads or [None] * len(stage_output)
    pairs = [
        (output, gradient)
        for output, gradient in zip(stage_output, gradients, strict=True)
        if output.grad_fn is not None and not _leads_to(output.grad_fn, inputs)
    ]
    if pairs:
        outputs, wanted = zip(*pairs, strict=True)
        torch.autograd.backward(outputs, wanted, retain_graph=True)


def _leads_to(node: Any, targets: set[Any]) -> bool:
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node in targets:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return False


def apart(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Torch's groups of parameters, joined where they share parameters or the nodes their gradients come from.

    Torch computes the gradients of each group by itself, so what two groups have in common would count twice.
    """
    found: list[dict[str, Any]] = []
    for group in groups:
        kept = {
            node: gradients
            for node, gradients in zip(group["intermediates"], group.get("grads") or (), strict=False)
            if gradients is not None
        }
        joined: dict[str, Any] = {"params": set(group["params"]), "nodes": kept}
        for other in [each for each in found if _meet(each, joined)]:
            found.remove(other)
            joined = {"params": other["params"] | joined["params"], "nodes": other["nodes"] | joined["nodes"]}
        found.append(joined)
    return [
        {"params": each["params"], "intermediates": list(each["nodes"]), "grads": list(each["nodes"].values())}
        for each in found
        if each["nodes"]
    ]


def _meet(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return not (one["params"].isdisjoint(other["params"]) and one["nodes"].keys().isdisjoint(other["nodes"].keys()))


def _examples(shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point) for shape, dtype in shapes
    )


class _Aside(torch.autograd.Function):
    """The same content as a tensor of its own, which may be written into, with a contiguous gradient.

    It always wants one: torch's schedules differentiate whatever travels.
    """

    @staticmethod
    def forward(context: Any, value: Tensor, anchor: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.contiguous(), None


def arrived(received: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What was received, as the model may have it."""
    return tuple(_aside(value) for value in received)


def departing(values: Sequence[Tensor], shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """What is sent, as it was agreed on.

    Raises:
        ModelwrightError: the shape is another one.
    """
    for value, (shape, _) in zip(values, shapes, strict=True):
        if value.shape != shape:
            raise ModelwrightError(
                f"a block returned a tensor {list(value.shape)}, where {list(shape)} was expected from the shapes of "
                "the batch alone",
                where="plan.layout.pipeline",
                remedy="shapes within a model that is cut into stages may not depend on the content of a batch",
            )
    return tuple(_aside(value.to(dtype).contiguous()) for value, (_, dtype) in zip(values, shapes, strict=True))


def _aside(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    anchor = torch.empty((), device=value.device, requires_grad=torch.is_grad_enabled())
    return _Aside.apply(value, anchor)  # type: ignore[no-untyped-call, no-any-return]


def cause(error: BaseException) -> BaseException:
    """The error of ours inside of torch's wrapping, or the error itself."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ModelwrightError):
            return inner
        inner = inner.__cause__
    return error


def alike(micro_batches: Sequence[Mapping[str, Tensor]], signatures: Sequence[Any]) -> None:
    """Refuse micro-batches of different shapes.

    Raises:
        ModelwrightError: naming two of them.
    """
    for number, each in enumerate(signatures):
        if each != signatures[0]:
            raise ModelwrightError(
                f"the micro-batches of a step must be alike in a pipeline: the first is {_said(micro_batches[0])}, "
                f"number {number + 1} is {_said(micro_batches[number])}",
                where="plan.layout.pipeline",
                remedy="pad samples to one length, and let plan.micro_batch divide the samples of a step",
            )


def _said(batch: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in batch.items())
