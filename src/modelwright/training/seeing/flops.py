"""Model FLOPs: the floating-point operations that a sample needs, counted operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from modelwright.parallel.program import LocalProgram
from modelwright.training.prepared import Prepared
from modelwright.training.seeing.replay import MicroBatch, micro_batches, rewound

FORMULA = (
    "counted: 2 operations for each multiply-add of every matrix product, convolution and fused attention that runs, "
    "forward and backward; attention in full, what a causal mask leaves out included; without what is computed again "
    "to save memory, element-wise operations and the optimizer"
)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """What one sample needs.

    Attributes:
        forward, backward: floating-point operations.
        by_operator: of both, by operator, the largest first.
        how: ``meta`` (shapes alone) or ``micro-batch`` (one was computed).
    """

    forward: float
    backward: float
    by_operator: dict[str, float]
    how: str

    @property
    def sample(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def count_flops(prepared: Prepared) -> Flops | None:
    """Count on the first micro-batch of the coming step: on the meta device, which takes no time, where the model can
    run there; else by computing it, with everything as it was afterwards. ``None`` on a rank without samples.
    """
    state = prepared.state
    with rewound(prepared, state.step + 1):
        parts = micro_batches(prepared)[:1]
        if not parts:
            return None
        try:
            return _on_meta(prepared.program, parts[0])
        except Exception:  # what the meta device cannot: reading values, drawing shapes from them
            return _computed(prepared.program, parts[0], "micro-batch")


def palm_flops_per_token(model: nn.Module, context: int) -> float | None:
    """``6 N + 12 L H Q T`` of a transformer; ``None`` for a model whose ``config`` tells no layers and width.

    N is the number of parameters in matrix products: an embedding that is not also the head only looks up. L layers,
    H heads, Q width of a head, T tokens of context.
    Source: Chowdhery et al. 2022, "PaLM", appendix B (arXiv:2204.02311).
    """
    config = getattr(model, "config", None)
    layers, width = getattr(config, "layers", None), getattr(config, "width", None)
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    head = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding) and id(module.weight) not in head
    }
    parameters = sum(parameter.numel() for parameter in model.parameters()) - sum(looked_up.values())
    return 6.0 * parameters + 12.0 * layers * width * context


def _attention(query: Tensor, key: Tensor, value: Tensor, *others: Any, **named: Any) -> int:
    """Scores and their product with the values: ``[..., time, width]`` each."""
    batch_and_heads, time, width = query.shape[:-2].numel(), query.shape[-2], query.shape[-1]
    return 2 * batch_and_heads * time * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(gradient: Tensor, *inputs: Any, **named: Any) -> int:
    """Two products for each one of the forward; that the scores are computed again does not count."""
    return 2 * _attention(*inputs[:3])


def _fused_attention() -> dict[Any, Callable[..., int]]:
    """Of all kernels alike: torch's formulas lack the CPU's, and count the scores of a backward again."""
    formulas: dict[Any, Callable[..., int]] = {}
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"):
        for suffix, formula in (("", _attention), ("_backward", _attention_backward)):
            operator = getattr(torch.ops.aten, f"_scaled_dot_product_{kind}{suffix}", None)
            if operator is not None:
                formulas[operator] = formula
    return formulas


_ATTENTION = _fused_attention()
_IN_PLACE = {  # torch's formulas know the others alone
    torch.ops.aten.addmm_: torch.ops.aten.addmm,
    torch.ops.aten.baddbmm_: torch.ops.aten.baddbmm,
}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by torch's own formulas, below autograd, where every operator comes by as it runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A backward runs without gradients of its own: what runs with them then is the forward, computed again.
        if not (self.backward and torch.is_grad_enabled()):
            self._count(func._overloadpacket, args, kwargs or {}, result)
        return result

    def _count(self, operator: Any, args: Any, kwargs: Any, result: Any) -> None:
        if operator in _ATTENTION:
            self.counts[str(operator)] += _ATTENTION[operator](*args, **kwargs)
        elif (known := _IN_PLACE.get(operator, operator)) in flop_registry:
            self.counts[str(known)] += flop_registry[known](*args, **kwargs, out_val=result)


def _on_meta(program: LocalProgram, part: MicroBatch) -> Flops:
    with _meta_tensors(program.model):
        batch = {name: value.to("meta") for name, value in part.batch.items()}
        return _computed(program, MicroBatch(part.number, batch, part.positions, part.samples), "meta")


def _computed(program: LocalProgram, part: MicroBatch, how: str) -> Flops:
    with ExitStack() as stack:
        counter = stack.enter_context(_Counter())
        stack.enter_context(program.precision.step())
        with program.computing():
            outputs = program.objective.forward(program.model, part.batch)
            totals = program.objective.loss(outputs, part.batch)
        forward = dict(counter.counts)
        counter.backward = True
        torch.stack([total.double() for total in totals.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return _flops(forward, counter.counts, len(part), how)


def _flops(forward: Mapping[str, int], both: Mapping[str, int], samples: int, how: str) -> Flops:
    first, total = sum(forward.values()), sum(both.values())
    ordered = sorted(both.items(), key=lambda entry: -entry[1])
    return Flops(
        forward=first / samples,
        backward=(total - first) / samples,
        by_operator={name: count / samples for name, count in ordered},
        how=how,
    )


@contextmanager
def _meta_tensors(model: nn.Module) -> Iterator[None]:
    """Tensors without memory in the places of the parameters and buffers; ties stay ties."""
    shadows: dict[int, Tensor] = {}
    kept = [
        (places, name, tensor)
        for module in model.modules()
        for places in (module._parameters, module._buffers)
        for name, tensor in places.items()
        if tensor is not None
    ]
    try:
        for places, name, tensor in kept:
            places[name] = shadows.setdefault(id(tensor), _shadow(tensor))  # type: ignore[assignment]
        yield
    finally:
        for places, name, tensor in kept:
            places[name] = tensor  # type: ignore[assignment]


def _shadow(tensor: Tensor) -> Tensor:
    shadow = torch.empty_like(tensor, device="meta")
    return nn.Parameter(shadow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shadow
