"""What a rank keeps of a model, and what stands in for the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from modelwright.parallel.pipeline.analysis import Cut


def held_names(cut: Cut, stages: Iterable[int]) -> frozenset[str]:
    """Parameters and buffers that these stages need."""
    wanted = frozenset(stages)
    return frozenset(name for name, holders in cut.holders.items() if holders & wanted)


def drop_others(model: nn.Module, cut: Cut, held: Collection[str], shapes: Mapping[str, Sequence[int]]) -> None:
    """Put zeros without memory in the places of all other parameters, and of the buffers of other stages' blocks.

    Args:
        model: changed in place.
        cut: of the model.
        held: names of what stays.
        shapes: of whole parameters, by name: what stands in for a piece is seen whole, as the code around it is.
    """
    stand_ins: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and _joined(prefix, name) not in held:
                module._parameters[name] = stand_ins.setdefault(
                    id(parameter), nn.Parameter(_zeros(parameter, shapes[_joined(prefix, name)]), requires_grad=False)
                )
        if any(f"{prefix}.".startswith(f"{block}.") for block in cut.blocks):
            for name, buffer in module._buffers.items():
                if buffer is not None and _joined(prefix, name) not in held:
                    module._buffers[name] = stand_ins.setdefault(id(buffer), _zeros(buffer, buffer.shape))


def _zeros(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tuple(shape))


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
