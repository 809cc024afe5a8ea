"""A multi-layer perceptron."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Fully connected layers: ``[batch, ...] -> [batch, classes]``; each sample is flattened.

    Attributes:
        features: numbers in one sample; ``None``: those of the data.
        classes: width of the output; ``None``: the classes of the data.
        hidden: widths of the hidden layers; empty: a linear model.
        activation: ``relu``, ``gelu``, ``silu`` or ``tanh``.
        dropout: dropout after each activation.
    """

    features: int | None = None
    classes: int | None = None
    hidden: tuple[int, ...] = (128, 128)
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("features", self.features), ("classes", self.classes)):
            if value is not None and value < 1:
                raise ModelwrightError(f"mlp: {name} is at least 1, not {value}")
        if any(width < 1 for width in self.hidden):
            raise ModelwrightError(f"mlp: hidden widths are at least 1, not {list(self.hidden)}")
        if self.activation not in _ACTIVATIONS:
            raise ModelwrightError(
                f"mlp: no activation {self.activation!r}", remedy=f"known: {', '.join(_ACTIVATIONS)}"
            )
        if not 0 <= self.dropout < 1:
            raise ModelwrightError(f"mlp: dropout is at least 0 and below 1, not {self.dropout}")

    def build(self) -> MLPModule:
        """The module, with torch's default initial weights.

        Raises:
            ModelwrightError: a size is still open.
        """
        if self.features is None or self.classes is None:
            missing = "features" if self.features is None else "classes"
            raise ModelwrightError(
                f"mlp: the number of {missing} is not known",
                remedy=f"set model.{missing}, or use data that states it",
            )
        return MLPModule(self, self.features, self.classes)


class MLPModule(nn.Module):
    """See :class:`MLP`."""

    def __init__(self, config: MLP, features: int, classes: int) -> None:
        super().__init__()
        widths = (features, *config.hidden)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.activation = _ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, ...] -> [batch, classes]``."""
        return self.head(self.features(inputs))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor) -> Tensor:
        """``[batch, ...]`` -> the last hidden layer ``[batch, width]``."""
        x = inputs.flatten(1)
        for layer in self.layers:
            x = self.dropout(self.activation(layer(x)))
        return x
