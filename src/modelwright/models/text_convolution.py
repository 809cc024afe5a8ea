"""Convolutions over embedded tokens, for classes of texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.sizes import check_at_least_one, known
from modelwright.models.stochastic_depth import check_rate

INITIAL_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class TextConvolution:
    """A classifier: tokens ``[batch, time]`` and their ``lengths [batch]`` -> ``[batch, classes]``.

    Kim 2014 (arXiv:1408.5882): convolutions of several widths, the largest value of each filter over time, dropout,
    one linear layer. What lies behind the length of a text changes nothing, so a text gives the same alone and
    padded in a batch.

    Attributes:
        vocabulary: number of different tokens; ``None``: that of the data.
        classes: width of the output; ``None``: the classes of the data.
        width: width of the embedding.
        spans: how many tokens the convolutions see, one number for each convolution.
        filters: filters of each convolution.
        dropout: dropout before the last layer.
    """

    vocabulary: int | None = None
    classes: int | None = None
    width: int = 128
    spans: tuple[int, ...] = (3, 4, 5)
    filters: int = 100
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_at_least_one("text-convolution", vocabulary=self.vocabulary, classes=self.classes)
        check_at_least_one("text-convolution", width=self.width, filters=self.filters)
        check_rate("text-convolution", dropout=self.dropout)
        if not self.spans or min(self.spans) < 1:
            raise ModelwrightError(
                f"text-convolution: spans are one number of tokens or more, each at least 1, not {list(self.spans)}"
            )

    def build(self) -> TextConvolutionModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: a size is still open.
        """
        vocabulary, classes = known("text-convolution", vocabulary=self.vocabulary, classes=self.classes)
        return TextConvolutionModule(self, vocabulary, classes)


class TextConvolutionModule(nn.Module):
    """``head(dropout(features(inputs, lengths)))``; see :class:`TextConvolution`."""

    def __init__(self, config: TextConvolution, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.convolutions = nn.ModuleList(nn.Conv1d(config.width, config.filters, span) for span in config.spans)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.filters * len(config.spans), classes)
        nn.init.normal_(self.embedding.weight, std=INITIAL_DEVIATION)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``inputs [batch, time]``, ``lengths [batch]`` -> ``[batch, classes]``; without lengths, all is text."""
        return self.head(self.dropout(self.features(inputs, lengths)))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The largest value of each filter ``[batch, filters * len(spans)]``, not negative."""
        x = self.embedding(inputs)
        behind = None
        if lengths is not None:
            places = torch.arange(inputs.size(1), device=inputs.device)
            x = x.masked_fill((places >= lengths.unsqueeze(1)).unsqueeze(2), 0)
            # A text without tokens still has one place, where the filters see zeros.
            behind = (places >= lengths.clamp(min=1).unsqueeze(1)).unsqueeze(1)
        x = x.transpose(1, 2)
        return torch.cat([_largest(convolution, x, behind) for convolution in self.convolutions], dim=1)  # type: ignore[arg-type]


def _largest(convolution: nn.Conv1d, x: Tensor, behind: Tensor | None) -> Tensor:
    """Over the places of the text; zeros stand before the first token and behind the last.

    ``x [batch, width, time]``, ``behind`` bool ``[batch, 1, time]`` -> ``[batch, filters]``.
    """
    span = convolution.kernel_size[0]
    seen = convolution(functional.pad(x, ((span - 1) // 2, span // 2)))
    if behind is not None:
        seen = seen.masked_fill(behind, -torch.inf)
    return functional.relu(seen.amax(2))
