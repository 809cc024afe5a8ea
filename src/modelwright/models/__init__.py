"""Reference models, weights on disk, and sampling.

A model technique is a frozen dataclass whose ``build()`` returns a plain ``torch.nn.Module``. A field that is
``None`` and bears the name of a fact of the data (``vocabulary``, ``features``, ``classes``, ``channels``,
``image_size``) is filled from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.base.choice import Family

if TYPE_CHECKING:
    from torch import nn

MODELS = Family(
    "model",
    {
        "convnet": "modelwright.models.convnet:ConvNet",
        "gpt": "modelwright.models.gpt:GPT",
        "mlp": "modelwright.models.mlp:MLP",
        "sequence-to-sequence": "modelwright.models.sequence_to_sequence:SequenceToSequence",
        "speech": "modelwright.models.speech:Speech",
        "text-convolution": "modelwright.models.text_convolution:TextConvolution",
        "transformers": "modelwright.models.hugging_face.model:Transformers",
        "vit": "modelwright.models.vit:ViT",
    },
)


INITIALS = Family(
    "scheme of initial values",
    {
        "constant": "modelwright.models.initial:Constant",
        "kaiming": "modelwright.models.initial:Kaiming",
        "normal": "modelwright.models.initial:Normal",
        "ones": "modelwright.models.initial:Ones",
        "orthogonal": "modelwright.models.initial:Orthogonal",
        "scaled": "modelwright.models.initial:Scaled",
        "truncated-normal": "modelwright.models.initial:TruncatedNormal",
        "uniform": "modelwright.models.initial:Uniform",
        "xavier": "modelwright.models.initial:Xavier",
        "zeros": "modelwright.models.initial:Zeros",
    },
)


class Model(Protocol):
    """The configuration of a model."""

    def build(self) -> nn.Module:
        """A new module, its weights drawn from torch's global generator, on torch's default device."""
        ...
