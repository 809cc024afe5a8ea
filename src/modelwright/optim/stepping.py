"""An optimizer's step, without what torch does around its kernel where nothing of that is in use."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer as hooks

from modelwright.optim import Optimizer
from modelwright.optim.joined import Joined

_KINDS = (torch.optim.Adam, torch.optim.AdamW)
_STEPS = {kind: inspect.unwrap(kind.step) for kind in _KINDS}
_UNUSED = ("amsgrad", "maximize", "capturable", "differentiable")
_CPU = torch.device("cpu")


def take_step(optimizer: Optimizer) -> None:
    """Do what ``optimizer.step()`` does, to the bit; of small models on a CPU in about half the time.

    Torch's fused Adam and AdamW on a CPU are called directly, unless anybody looks on (hooks, a profiler, a wrapped
    ``step``) or a setting asks for more.
    """
    if type(optimizer) is Joined:  # not of a class that does more
        for part in optimizer.parts:
            take_step(part)
    elif not (type(optimizer) in _KINDS and not _observed(optimizer) and _fused(optimizer)):
        optimizer.step()


def _observed(optimizer: Any) -> bool:
    return bool(
        "step" in vars(optimizer)
        or inspect.unwrap(type(optimizer).step) is not _STEPS[type(optimizer)]
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
        or profiler._is_profiler_enabled
    )


def _fused(optimizer: Any) -> bool:
    """Take the step by the kernel; ``False``, and nothing done, where torch has more to do than that."""
    if getattr(optimizer, "found_inf", None) is not None or getattr(optimizer, "grad_scale", None) is not None:
        return False
    calls = [(group, _lists(optimizer, group)) for group in optimizer.param_groups]
    if any(lists is None for _, lists in calls):
        return False
    with torch.no_grad():
        for group, lists in calls:
            if lists is None or not lists[0]:
                continue
            parameters, gradients, means, squares, steps = lists
            torch._foreach_add_(steps, 1)
            kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            kernel(
                parameters,
                gradients,
                means,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
    return True


def _lists(optimizer: Any, group: dict[str, Any]) -> tuple[list[Tensor], ...] | None:
    """Parameters, gradients, both moments and counters of a group; ``None`` where torch is to take the step."""
    numbers = (group["lr"], *group["betas"])
    if not group["fused"] or any(group[name] for name in _UNUSED) or any(isinstance(n, Tensor) for n in numbers):
        return None
    state, dtype = optimizer.state, None
    lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
    parameters, gradients, means, squares, steps = lists
    for parameter in group["params"]:
        gradient = parameter.grad
        if gradient is None:
            continue
        own = state.get(parameter)
        dtype = dtype or parameter.dtype
        if not own or parameter.device != _CPU or parameter.dtype is not dtype or gradient.layout is not torch.strided:
            return None
        parameters.append(parameter)
        gradients.append(gradient)
        means.append(own["exp_avg"])
        squares.append(own["exp_avg_sq"])
        steps.append(own["step"])
    return lists
