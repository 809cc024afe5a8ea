"""What the step of an optimizer sees of a parameter, by which a layout divides it or has to put it together."""

from __future__ import annotations

from typing import Literal, cast

import torch

Sees = Literal["elements", "tensors", "model"]

_ELEMENTS = ("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
_TENSORS = ("Adafactor", "Muon")
_TORCH: dict[type, Sees] = {
    **{getattr(torch.optim, name): "elements" for name in _ELEMENTS},
    **{getattr(torch.optim, name): "tensors" for name in _TENSORS},
}


def sees_of(kind: object) -> Sees:
    """What an optimizer of this class sees: as it declares, or as is known of torch's; else the whole ``model``.

    A class that is derived from one of torch's may do anything: it has to declare ``sees`` itself.
    """
    known = _TORCH.get(kind) if isinstance(kind, type) else None
    declared = known or getattr(kind, "sees", "model")
    return cast(Sees, declared) if declared in ("elements", "tensors") else "model"
