"""Keep scaled dot-product attention whole while a model is traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from modelwright.graph.flops import ATTENTION, ATTENTION_BACKWARD

if TYPE_CHECKING:
    from modelwright.graph.recording import Recorder


class WholeAttention(TorchFunctionMode):
    """Records each call of torch's attention as one operator, forward and backward, as fused kernels run it.

    They keep query, key, value, output and one number for each query; the scores are never in memory.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        tensors = [None if each is None else self.recorder.as_meta(each) for each in (query, key, value, attn_mask)]
        output, _ = _Attention.apply(self.recorder, options, *tensors)  # type: ignore[no-untyped-call]
        return output  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        recorder: Recorder,
        options: dict[str, Any],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with recorder.paused():
            rows = _rows(query, key, value, grouped=options["enable_gqa"])
            output = query.new_empty((*rows, value.shape[-1]))
            sums = query.new_empty(rows, dtype=torch.float32)
        arguments = {"query": query, "key": key, "value": value, "attn_mask": mask, **options}
        recorder.record(ATTENTION, arguments, (output, sums))
        ctx.recorder, ctx.options, ctx.module = recorder, options, recorder.module
        ctx.save_for_backward(query, key, value, mask, output, sums)
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return output, sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, output, sums = ctx.saved_tensors
        recorder: Recorder = ctx.recorder
        saved = {"query": query, "key": key, "value": value, "attn_mask": mask, "output": output, "sums": sums}
        with recorder.paused():
            wanted = zip(ctx.needs_input_grad[2:], (query, key, value, mask), strict=True)
            made = [torch.empty_like(each) if needed else None for needed, each in wanted]
        outputs = tuple(each for each in made if each is not None)
        arguments = {"grad_output": gradients[0], **saved, **ctx.options}
        recorder.record(ATTENTION_BACKWARD, arguments, outputs, module=ctx.module)
        return None, None, *made


def _rows(query: Tensor, key: Tensor, value: Tensor, *, grouped: bool) -> tuple[int, ...]:
    """The shape of the queries ``[batch, heads, time]``, which samples of key and value may enlarge."""
    if grouped:
        return tuple(query.shape[:-1])
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])  # type: ignore[no-untyped-call]
    return (*batch, query.shape[-2])
