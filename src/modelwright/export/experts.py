"""Mixtures of experts as a program without data-dependent sizes: each expert reads each token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.events import emit
from modelwright.models.experts import Experts


@contextmanager
def every_expert(model: nn.Module) -> Iterator[None]:
    """Inside, the experts of ``model`` compute the same by working on all tokens and weighing by their shares.

    How many tokens choose an expert is known only when it runs, and files have no products of sizes that are not known
    before. So the file computes as if all were chosen.
    """
    with ExitStack() as stack:
        for module in [each for each in model.modules() if isinstance(each, Experts)]:
            module.forward = partial(_dense, module)
            stack.callback(delattr, module, "forward")
        yield


def tell_experts(model: nn.Module) -> None:
    """Say what a file does with mixtures of experts, where there are any."""
    times = max((each.experts / each.chosen for each in model.modules() if isinstance(each, Experts)), default=None)
    if times is not None:
        what = f"the exported file lets every expert read every token: {times:g} times the work of those chosen"
        emit("export-experts", what, level="warning", times=times)


def _dense(module: Experts, x: Tensor) -> Tensor:
    """``x [batch, time, width]`` -> the same shape."""
    shares, chosen = module.route(x, module.router.weight)
    weights = torch.zeros((*shares.shape[:-1], module.experts), dtype=shares.dtype).scatter(-1, chosen, shares)
    inner = torch.einsum("btw,ewh->ebth", x, module.up)
    if module.gate is None:
        inner = functional.gelu(inner)
    else:
        inner = functional.silu(torch.einsum("btw,ewh->ebth", x, module.gate)) * inner
    return torch.einsum("ebth,ehw,bte->btw", inner, module.down, weights.to(x.dtype))
