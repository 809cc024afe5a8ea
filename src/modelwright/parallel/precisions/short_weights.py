"""bfloat16 weights with float32 masters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from modelwright.parallel.holdings import owned
from modelwright.parallel.precisions.full import Full


class Bf16Weights(Full):
    """``bf16-weights``: the model computes in bfloat16 from end to end, on short copies of its float32 parameters.

    The parameters of the State are the masters: gradients are summed in them, in float32, and the optimizer moves
    them. Against ``bf16`` this saves activations and the casts of every operator; norms, residual stream and
    embeddings are then short as well. Batch norms keep their own type, as torch's kernels want it.

    What the layout shard has divided, torch gathers in bfloat16: that is left to it.

    Attributes:
        dtype: of the copies.
    """

    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def __init__(self) -> None:
        self._active = False

    def convert(self, model: nn.Module) -> None:
        """Let the model take its floating inputs in bfloat16, while it computes so."""
        model.register_forward_pre_hook(self._short_inputs, with_kwargs=True)

    @contextmanager
    def forward(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Short copies in the places of the parameters, around the model and its loss."""
        if self._active:
            yield
            return
        # The copies are part of the graph: their gradients arrive at the masters, where hooks and optimizers wait.
        places = list(self._places(model))
        with torch._C.DisableTorchFunction():  # of what is divided the copy is this rank's piece, too
            short = {parameter: self._copy(parameter) for _, _, parameter in places}
        for module, name, parameter in places:
            module._parameters[name] = short[parameter]  # type: ignore[assignment]
        self._active = True
        try:
            yield
        finally:
            self._active = False
            for module, name, parameter in places:
                module._parameters[name] = parameter

    def _places(self, model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                continue
            for name, parameter in module._parameters.items():
                if parameter is not None and self._to_shorten(parameter):
                    yield module, name, parameter

    def _to_shorten(self, parameter: nn.Parameter) -> bool:
        return parameter.is_floating_point() and parameter.dtype != self.dtype and not isinstance(parameter, DTensor)

    def _copy(self, parameter: nn.Parameter) -> Tensor:
        if not owned(parameter):  # it stands in for what another rank holds
            return parameter.new_zeros((), dtype=self.dtype).expand(parameter.shape)
        copy = parameter.to(self.dtype)
        vars(copy).update(vars(parameter))  # how it is divided
        return copy

    def _short_inputs(self, module: nn.Module, positional: Any, named: Any) -> Any:
        return tree_map(self._shortened, (positional, named)) if self._active else None

    def _shortened(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def lengthy(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that keep their own type."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return {parameter for norm in norms for parameter in norm.parameters(recurse=False)}
