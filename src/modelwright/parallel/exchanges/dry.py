"""What an exchange sends in a step: its own code, without other ranks and without numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from modelwright.parallel import ExchangeTechnique
from modelwright.parallel.dry import Bytes, DryGroup


def exchanged(technique: ExchangeTechnique, parameters: Sequence[nn.Parameter], group: DryGroup) -> Mapping[str, Bytes]:
    """Bytes that each rank of a group sends to sum the gradients of all these parameters, by kind.

    Args:
        technique: its ranks are tried one by one, unless it says that they are ``alike``.
        parameters: of shapes and types that matter.
        group: its notes are those of the exchange.
    """
    for rank in [group] if getattr(technique, "alike", False) else group.each():
        exchange = technique.build(rank)
        own = [nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in parameters]
        exchange.attach(own)
        for parameter in own:
            parameter.grad = torch.empty_like(parameter)
        exchange.before_step()
    return group.notes
