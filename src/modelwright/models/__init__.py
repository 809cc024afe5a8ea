"""Reference models, weights on disk, and sampling.

A model technique is a frozen dataclass whose ``build()`` returns a plain ``torch.nn.Module``. A field that is
``None`` and bears the name of a fact of the data (``vocabulary``, ``features``, ``classes``) is filled from
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import nn

MODELS = Family(
    "model",
    {
        "gpt": "modelwright.models.gpt:GPT",
        "mlp": "modelwright.models.mlp:MLP",
    },
)


class Model(Protocol):
    """The configuration of a model."""

    def build(self) -> nn.Module:
        """A new module, its weights drawn from torch's global generator, on torch's default device."""
        ...
