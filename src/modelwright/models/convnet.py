"""A residual convolutional network for images of any size."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.images import as_numbers, check_channels
from modelwright.models.sizes import check_at_least_one, known
from modelwright.models.stochastic_depth import StochasticDepth, check_rate, rates

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


@dataclass(frozen=True, kw_only=True)
class ConvNet:
    """A classifier: images ``[batch, channels, height, width]`` -> ``[batch, classes]``.

    Images are uint8, then divided by 255, or floats. Blocks of two 3 x 3 convolutions, each behind its norm and
    activation (He et al. 2016, arXiv:1603.05027), with shortcuts that average where a stage halves the image (He et
    al. 2019, arXiv:1812.01187). Group normalisation (Wu and He 2018, arXiv:1803.08494) sees one sample at a time, so
    the batch size, and splitting a batch over ranks or in time, changes nothing. The second convolution of each block
    begins at zero: each block begins as its shortcut (Goyal et al. 2017, arXiv:1706.02677, section 5.1), which lets it
    train without a norm too.

    Attributes:
        channels: channels of an image; ``None``: those of the data.
        classes: width of the output; ``None``: the classes of the data.
        image_size: height and width of an image, which choose the stem's stride; ``None``: those of the data, or a
            stride of 1. Images of other sizes can be read all the same.
        widths: channels of each stage; each but the first halves the image.
        depths: blocks of each stage.
        stem: stride of the first convolution, 1, 2 or 4; ``None``: 1 for images up to 64, 2 up to 128, else 4.
        norm: ``group``, ``none``, or ``batch``, which mixes the samples of a micro-batch.
        groups: groups of the group norm; divides each of ``widths``.
        activation: ``relu``, ``gelu`` or ``silu``.
        dropout: dropout before the last layer.
        stochastic_depth: chance that the last block is left out, sample by sample; it grows linearly with depth.
    """

    channels: int | None = None
    classes: int | None = None
    image_size: int | None = None
    widths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[int, ...] = (2, 2, 2)
    stem: Literal[1, 2, 4] | None = None
    norm: Literal["group", "batch", "none"] = "group"
    groups: int = 8
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one("convnet", channels=self.channels, classes=self.classes, image_size=self.image_size)
        check_rate("convnet", dropout=self.dropout, stochastic_depth=self.stochastic_depth)
        self._check_stages()
        if self.stem not in (None, 1, 2, 4):
            raise ModelwrightError(f"convnet: stem is 1, 2 or 4, not {self.stem}")
        if self.norm not in ("group", "batch", "none"):
            raise ModelwrightError(f"convnet: norm is group, batch or none, not {self.norm!r}")
        if self.activation not in _ACTIVATIONS:
            raise ModelwrightError(f"convnet: activation is relu, gelu or silu, not {self.activation!r}")

    def build(self) -> ConvNetModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: a size is still open.
        """
        channels, classes = known("convnet", channels=self.channels, classes=self.classes)
        return ConvNetModule(self, channels, classes)

    def _check_stages(self) -> None:
        if not self.widths or len(self.widths) != len(self.depths):
            raise ModelwrightError(
                f"convnet: widths {list(self.widths)} and depths {list(self.depths)} must name the same stages",
                remedy="give one width and one depth for each stage",
            )
        check_at_least_one("convnet", widths=min(self.widths), depths=min(self.depths), groups=self.groups)
        wrong = [width for width in self.widths if width % self.groups]
        if self.norm == "group" and wrong:
            raise ModelwrightError(
                f"convnet: groups {self.groups} must divide each of widths {list(self.widths)}",
                remedy=f"for example groups {math.gcd(*self.widths, self.groups)}",
            )


class ConvNetModule(nn.Module):
    """``head(dropout(features(inputs)))``; see :class:`ConvNet`."""

    def __init__(self, config: ConvNet, channels: int, classes: int) -> None:
        super().__init__()
        self.config = config
        stride = config.stem or _stem_stride(config.image_size)
        self.stem = _convolution(channels, config.widths[0], max(3, 2 * stride - 1), stride)
        self.blocks = nn.ModuleList(_blocks(config))
        self.norm = _norm(config, config.widths[-1])
        self.activation = _ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], classes)
        self._initialise()

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, height, width] -> [batch, classes]``."""
        return self.head(self.dropout(self.features(inputs)))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` -> the mean over the last stage ``[batch, widths[-1]]``."""
        check_channels("convnet", inputs, self.stem.in_channels)
        x = self.stem(as_numbers(inputs, self.stem.weight))
        for block in self.blocks:
            x = block(x)
        return self.activation(self.norm(x)).mean((2, 3))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for block in self.blocks:
            nn.init.zeros_(block.second.weight)  # type: ignore[union-attr, arg-type]


class Block(nn.Module):
    """``shortcut(a) + second(act(norm(first(a))))`` of ``a = act(norm(x))``; plain ``x`` where the shape stays."""

    def __init__(self, config: ConvNet, inputs: int, outputs: int, stride: int, stochastic_depth: float) -> None:
        super().__init__()
        self.stride = stride
        self.first_norm = _norm(config, inputs)
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second_norm = _norm(config, outputs)
        self.second = _convolution(outputs, outputs, 3)
        self.shortcut = _convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activation = _ACTIVATIONS[config.activation]()
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, height, width] -> [batch, outputs, height / stride, width / stride]``, rounded up."""
        active = self.activation(self.first_norm(x))
        branch = self.second(self.activation(self.second_norm(self.first(active))))
        return self._shorten(x, active) + self.stochastic_depth(branch)  # type: ignore[no-any-return]

    def _shorten(self, x: Tensor, active: Tensor) -> Tensor:
        if self.stride == 1 and isinstance(self.shortcut, nn.Identity):
            return x
        if self.stride > 1:
            active = functional.avg_pool2d(active, self.stride, ceil_mode=True, count_include_pad=False)
        return self.shortcut(active)  # type: ignore[no-any-return]


def _blocks(config: ConvNet) -> list[Block]:
    """The blocks of all stages; the first block of a stage after the first halves the image."""
    stages = [[width] * depth for width, depth in zip(config.widths, config.depths, strict=True)]
    widths = [config.widths[0], *itertools.chain(*stages)]
    halving = {sum(config.depths[:stage]) for stage in range(1, len(stages))}
    drops = rates(sum(config.depths), config.stochastic_depth)
    return [
        Block(config, *pair, stride=2 if place in halving else 1, stochastic_depth=drops[place])
        for place, pair in enumerate(itertools.pairwise(widths))
    ]


def _stem_stride(image_size: int | None) -> int:
    if image_size is None or image_size <= 64:
        return 1
    return 2 if image_size <= 128 else 4


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _norm(config: ConvNet, width: int) -> nn.Module:
    if config.norm == "group":
        return nn.GroupNorm(config.groups, width)
    return nn.BatchNorm2d(width) if config.norm == "batch" else nn.Identity()
