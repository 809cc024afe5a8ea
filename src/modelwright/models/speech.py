"""A convolutional network over log-mel spectra of sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.models.convnet import ConvNet, ConvNetModule
from modelwright.models.sizes import check_at_least_one, known
from modelwright.models.stochastic_depth import check_rate

FLOOR = 1e-6
"""Added to powers before the logarithm: sounds in -1 .. 1 are silent below it."""
_USUAL_RATE = 16000


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A classifier of sounds, such as spoken words: ``[batch, samples]`` -> ``[batch, classes]``.

    The model computes the spectra itself: powers of a short-time Fourier transform with a Hann window, summed by
    triangles on the mel scale (Davis and Mermelstein 1980; mel as in HTK, ``2595 log10(1 + f / 700)``), logarithm,
    and mean 0 and deviation 1 within each sound, so that loudness does not count. They are read as an image of one
    channel by the residual network of :class:`modelwright.models.convnet.ConvNet`. Sounds may have any length.

    Attributes:
        classes: width of the output; ``None``: the classes of the data.
        sample_rate: samples in a second; ``None``: that of the data, or 16000 where it does not say.
        window: seconds that one spectrum sees.
        hop: seconds from one spectrum to the next.
        mels: triangles on the mel scale.
        widths: channels of each stage; each but the first halves both frequency and time.
        depths: blocks of each stage.
        stem: stride of the first convolution: 1, 2 or 4.
        dropout: dropout before the last layer.
        stochastic_depth: chance that the last block is left out, sample by sample; it grows linearly with depth.
    """

    classes: int | None = None
    sample_rate: int | None = None
    window: float = 0.025
    hop: float = 0.010
    mels: int = 40
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 1, 1)
    stem: Literal[1, 2, 4] = 2
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_one("speech", classes=self.classes, sample_rate=self.sample_rate, mels=self.mels)
        check_rate("speech", dropout=self.dropout, stochastic_depth=self.stochastic_depth)
        for name, seconds in (("window", self.window), ("hop", self.hop)):
            if not seconds * self.rate >= 1:
                raise ModelwrightError(f"speech: {name} is at least one sample long, not {seconds} s")
        self._check_triangles()
        self.network(self.classes)

    def build(self) -> SpeechModule:
        """The module, with new weights.

        Raises:
            ModelwrightError: the number of classes is still open.
        """
        return SpeechModule(self, *known("speech", classes=self.classes))

    def network(self, classes: int | None) -> ConvNet:
        """The configuration of the network that reads the spectra."""
        return ConvNet(
            channels=1,
            classes=classes,
            widths=self.widths,
            depths=self.depths,
            stem=self.stem,
            dropout=self.dropout,
            stochastic_depth=self.stochastic_depth,
        )

    @property
    def rate(self) -> int:
        """Samples in a second."""
        return self.sample_rate or _USUAL_RATE

    def frequencies(self) -> int:
        """The length of the Fourier transform: the window's, rounded up to a power of two."""
        return 1 << max(0, round(self.window * self.rate) - 1).bit_length()

    def corners(self) -> list[float]:
        """The corners of the triangles in hertz, ``mels + 2`` of them; each begins at the peak of the one before."""
        top = 2595 * math.log10(1 + self.rate / 2 / 700)
        return [700 * (10 ** (top * place / (self.mels + 1) / 2595) - 1) for place in range(self.mels + 2)]

    def _check_triangles(self) -> None:
        low, _, high, *_ = self.corners()
        spacing = self.rate / self.frequencies()
        if high - low <= spacing:
            raise ModelwrightError(
                f"speech: {self.mels} mels are too many: the lowest spans {high - low:.0f} Hz, and a window of "
                f"{self.window} s tells {spacing:.0f} Hz apart",
                remedy="fewer mels, or a longer window",
            )


class SpeechModule(nn.Module):
    """``network(spectra(inputs))``; see :class:`Speech`."""

    def __init__(self, config: Speech, classes: int) -> None:
        super().__init__()
        self.config = config
        self.network: ConvNetModule = config.network(classes).build()

    def forward(self, inputs: Tensor) -> Tensor:
        """``[batch, samples] -> [batch, classes]``."""
        return self.network(self.spectra(inputs))  # type: ignore[no-any-return]

    def features(self, inputs: Tensor) -> Tensor:
        """``[batch, samples]`` -> what the last layer reads ``[batch, widths[-1]]``."""
        return self.network.features(self.spectra(inputs))

    def spectra(self, inputs: Tensor) -> Tensor:
        """Standardised log-mel spectra ``[batch, 1, mels, frames]``; float64 where the sounds are, else float32.

        Raises:
            ModelwrightError: the sounds are no floats ``[batch, samples]``.
        """
        if inputs.dim() != 2 or not inputs.is_floating_point():
            raise ModelwrightError(
                f"speech: the sounds are {inputs.dtype} of shape {list(inputs.shape)}, and the model reads floats "
                "[batch, samples]",
                remedy="mix the channels into one, and divide whole numbers by the largest: 32768 for 16 bits",
            )
        sounds = inputs if inputs.dtype == torch.float64 else inputs.float()
        logs = torch.log(_triangles(self.config, sounds) @ _powers(self.config, sounds) + FLOOR)
        centred = logs - logs.mean((1, 2), keepdim=True)
        return (centred / (centred.square().mean((1, 2), keepdim=True) + FLOOR).sqrt()).unsqueeze(1)


def _powers(config: Speech, sounds: Tensor) -> Tensor:
    """``[batch, samples] -> [batch, frequencies / 2 + 1, frames]``, frames centred on each hop."""
    length = round(config.window * config.rate)
    spectra = torch.stft(
        sounds,
        config.frequencies(),
        round(config.hop * config.rate),
        length,
        torch.hann_window(length, dtype=sounds.dtype, device=sounds.device),
        pad_mode="constant",
        return_complex=True,
    )
    return spectra.real.square() + spectra.imag.square()


def _triangles(config: Speech, like: Tensor) -> Tensor:
    """``[mels, frequencies / 2 + 1]``, computed anew as a buffer could not be built on the meta device."""
    corners = torch.tensor(config.corners(), dtype=like.dtype, device=like.device).unsqueeze(1)
    bins = config.frequencies() // 2 + 1
    hertz = torch.arange(bins, dtype=like.dtype, device=like.device) * (config.rate / config.frequencies())
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)
