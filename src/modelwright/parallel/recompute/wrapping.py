"""How a module drops what its forward computed and computes it again in the backward.

Source: Chen et al. 2016 (arXiv:1604.06174); selectively by operator as in Korthikanti et al. 2022 (arXiv:2205.05198).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_aten = torch.ops.aten
# Dear to compute, and small beside what lies between them: these are kept, all else is computed again.
KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.convolution.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def wrap(module: nn.Module, kind: str) -> None:
    """Let ``module`` recompute, ``full`` or ``selective``, in place."""
    module.forward = partial(_fully if kind == "full" else _selectively, module, module.forward)


def forget(model: nn.Module) -> None:
    """Undo an earlier training's wish."""
    for module in model.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func in (_fully, _selectively):
            del module.forward
            if module.forward != forward.args[1]:
                module.forward = forward.args[1]  # the user's own, set on the module itself


def _fully(module: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    if torch.compiler.is_compiling():  # there a step is a function of its weights, and statistics are moved once
        return checkpoint(forward, *arguments, use_reentrant=False, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=partial(_plain, module), **named)


def _selectively(module: nn.Module, forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    if not torch.compiler.is_compiling():
        contexts = partial(_selective, module)
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **named)


_Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]


def _plain(module: nn.Module) -> _Contexts:
    return nullcontext(), _Again(module, nullcontext())


def _selective(module: nn.Module) -> _Contexts:
    forward, again = create_selective_checkpoint_contexts(_policy)  # type: ignore[no-untyped-call]
    return forward, _Again(module, again)


class _Again:
    """Around the second forward of a module: it sees the tensors of the first, and leaves no trace of its own.

    In ``bf16-weights`` the backward finds the float32 masters in the places of what was computed with. Batch norms
    would count each batch twice in their running statistics.
    """

    def __init__(self, module: nn.Module, inner: AbstractContextManager[Any]) -> None:
        self._inner = inner
        self._weights = [(part, dict(part._parameters)) for part in module.modules() if part._parameters]
        self._norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]

    def __enter__(self) -> None:
        self._before = [(part, dict(part._parameters)) for part, _ in self._weights]
        self._counted = [(norm, norm.momentum, _copied(norm.num_batches_tracked)) for norm in self._norms]
        _put(self._weights)
        for norm in self._norms:
            norm.momentum = 0.0  # running statistics stay where they are
        self._inner.__enter__()

    def __exit__(self, *raised: Any) -> None:
        try:
            self._inner.__exit__(*raised)
        finally:
            _put(self._before)
            for norm, momentum, counted in self._counted:
                norm.momentum = momentum
                if norm.num_batches_tracked is not None and counted is not None:
                    norm.num_batches_tracked.copy_(counted)


def _put(weights: list[tuple[nn.Module, dict[str, nn.Parameter | None]]]) -> None:
    for part, parameters in weights:
        part._parameters.update(parameters)


def _copied(count: Tensor | None) -> Tensor | None:
    return None if count is None else count.clone()


def _policy(context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
