"""A vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.images import as_numbers, check_channels
from modelwright.models.sizes import check_at_least_one, known
from modelwright.models.stochastic_depth import check_rate, rates
from modelwright.models.transformer import EncoderLayer, check_heads, counted, waves

HEAD_DEVIATION = 0.02
# Beside patches of deviation near 1. Smaller ones are learnt late: on digits (8 x 8, patch 2, 15 epochs) 0.02 gave 0.94
# of the held-out images right where this gave 0.96.
POSITION_DEVIATION = 0.2


@dataclass(frozen=True, kw_only=True)
class ViT:
    """A classifier: square images ``[batch, channels, image_size, image_size]`` -> ``[batch, classes]``.

    Images are uint8, then divided by 255, or floats. Each patch of ``patch x patch`` pixels is one position of an
    encoder with its norms before the branches (Dosovitskiy et al. 2021, arXiv:2010.11929); with the mean over the
    positions and fixed sine-cosine positions it is the plain variant of Beyer et al. 2022 (arXiv:2205.01580).

    Attributes:
        channels: channels of an image; ``None``: those of the data.
        image_size: height and width of an image; ``None``: those of the data.
        classes: width of the output; ``None``: the classes of the data.
        patch: height and width of a patch, which divides ``image_size``: 16 is usual for images of 224, 4 up to 32.
        layers: number of blocks.
        width: width of the residual stream.
        heads: attention heads; divides ``width``.
        hidden: width inside the feed-forward; ``None``: ``4 * width``.
        pooling: what the last layer reads: the ``mean`` over the patches, or a position of its own, ``cls``.
        positions: ``learned``, or fixed ``sincos`` in two dimensions, for which 4 divides ``width``.
        dropout: dropout of the patches and in each block.
        stochastic_depth: chance that the last block is left out, sample by sample; it grows linearly with depth.
    """

    channels: int | None = None
    image_size: int | None = None
    classes: int | None = None
    patch: int = 4
    layers: int = 6
    width: int = 192
    heads: int = 3
    hidden: int | None = None
    pooling: Literal["mean", "cls"] = "mean"
    positions: Literal["learned", "sincos"] = "learned"
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one("vit", channels=self.channels, image_size=self.image_size, classes=self.classes)
        check_at_least_one("vit", patch=self.patch, layers=self.layers, width=self.width, heads=self.heads)
        check_at_least_one("vit", hidden=self.hidden)
        check_rate("vit", dropout=self.dropout, stochastic_depth=self.stochastic_depth)
        check_heads("vit", self.width, self.heads)
        self._check_patches()
        if self.pooling not in ("mean", "cls"):
            raise ModelwrightError(f"vit: pooling is mean or cls, not {self.pooling!r}")
        if self.positions not in ("learned", "sincos"):
            raise ModelwrightError(f"vit: positions are learned or sincos, not {self.positions!r}")
        if self.positions == "sincos" and self.width % 4:
            raise ModelwrightError(f"vit: positions sincos need a width that 4 divides, not {self.width}")

    def build(self) -> ViTModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: a size is still open.
        """
        facts = {"channels": self.channels, "image_size": self.image_size, "classes": self.classes}
        return ViTModule(self, *known("vit", **facts))

    def _check_patches(self) -> None:
        if self.image_size is not None and self.image_size % self.patch:
            sizes = [size for size in range(1, self.image_size + 1) if self.image_size % size == 0]
            raise ModelwrightError(
                f"vit: patch {self.patch} must divide image_size {self.image_size}",
                remedy=f"for example patch {min(sizes, key=lambda size: abs(size - self.patch))}",
            )


class ViTModule(nn.Module):
    """``head(features(inputs))``; see :class:`ViT`."""

    def __init__(self, config: ViT, channels: int, image_size: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.side = image_size // config.patch
        self.embedding = nn.Linear(channels * config.patch**2, config.width)
        self.cls = nn.Parameter(torch.empty(config.width)) if config.pooling == "cls" else None
        shape = (self.side**2, config.width)
        self.position = nn.Parameter(torch.empty(shape)) if config.positions == "learned" else None
        self.dropout = nn.Dropout(config.dropout)
        drops = rates(config.layers, config.stochastic_depth)
        hidden = config.hidden or 4 * config.width
        self.blocks = nn.ModuleList(
            EncoderLayer(config.width, config.heads, hidden, config.dropout, rate) for rate in drops
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, classes)
        self._initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, image_size, image_size] -> [batch, classes]``."""
        return self.head(self.features(inputs))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, image_size, image_size]`` -> what the head reads ``[batch, width]``."""
        x = self.embedding(self._patches(inputs))
        x = x + (_grid(self.side, self.config.width, x) if self.position is None else self.position)
        if self.cls is not None:
            x = torch.cat((self.cls.expand(x.size(0), 1, -1), x), dim=1)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x.mean(1) if self.cls is None else x[:, 0]  # type: ignore[no-any-return]

    def _patches(self, inputs: Tensor) -> Tensor:
        """Images to rows of patches ``[batch, patches, channels * patch * patch]``."""
        patch, weight = self.config.patch, self.embedding.weight
        check_channels("vit", inputs, weight.size(1) // patch**2)
        if inputs.shape[2:] != (self.image_size, self.image_size):
            raise ModelwrightError(
                f"vit: the images are {inputs.size(2)} x {inputs.size(3)}, and the model reads "
                f"{self.image_size} x {self.image_size}",
                remedy="resize the images, or set model.image_size",
            )
        tiles = as_numbers(inputs, weight).reshape(inputs.size(0), -1, self.side, patch, self.side, patch)
        return tiles.permute(0, 2, 4, 1, 3, 5).reshape(inputs.size(0), self.side**2, -1)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.embedding.in_features**-0.5)
        nn.init.normal_(self.head.weight, std=HEAD_DEVIATION)
        for tensor in (self.cls, self.position):
            if tensor is not None:
                nn.init.normal_(tensor, std=POSITION_DEVIATION)


def _grid(side: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions ``[side * side, width]``: half of the width waves along columns, half along rows."""
    along = waves(counted(side, like), width // 2)
    columns, rows = along.expand(side, -1, -1), along.unsqueeze(1).expand(-1, side, -1)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1).to(like.dtype)
