from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.speech import Speech

SMALL = {"classes": 2, "sample_rate": 8000, "mels": 20, "widths": (8, 16), "depths": (1, 1), "stem": 2}


def config_of(**settings: object) -> Speech:
    return Speech(**{**SMALL, **settings})  # type: ignore[arg-type]


def sounds(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def reference(config: Speech, sound: Tensor) -> np.ndarray:
    """One frame and one triangle at a time, with NumPy's transform."""
    rate, size = config.rate, 256
    length, hop = round(config.window * rate), round(config.hop * rate)
    edges = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), config.mels + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    window = np.zeros(size)
    begin = (size - length) // 2
    window[begin : begin + length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    padded = np.pad(sound.numpy(), size // 2)
    frames = []
    for first in range(0, len(sound) + 1, hop):
        powers = np.abs(np.fft.rfft(padded[first : first + size] * window)) ** 2
        row = []
        for low, peak, high in zip(hertz, hertz[1:], hertz[2:], strict=False):
            heights = [np.interp(k * rate / size, [low, peak, high], [0, 1, 0]) for k in range(size // 2 + 1)]
            row.append(np.log(powers @ heights + 1e-6))
        frames.append(row)
    logs = np.array(frames).T
    return (logs - logs.mean()) / np.sqrt(logs.var() + 1e-6)


@pytest.mark.parametrize("samples", [800, 811])
def test_spectra_equal_the_textbook(samples: int) -> None:
    config, inputs = config_of(), sounds(2, samples)
    found = config.build().spectra(inputs)
    expected = torch.tensor(np.stack([reference(config, sound) for sound in inputs])).unsqueeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_tone_is_loudest_where_it_belongs() -> None:
    config = config_of()
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(4000, dtype=torch.float64) / 8000).unsqueeze(0)
    loudest = int(config.build().spectra(tone)[0, 0].mean(1).argmax())
    corners = config.corners()
    assert corners[loudest] < 1000 < corners[loudest + 2]


def test_loudness_does_not_count() -> None:
    model, inputs = config_of().build(), sounds(2, 800)
    torch.testing.assert_close(model.spectra(inputs), model.spectra(7 * inputs), rtol=1e-3, atol=1e-3)


def test_silence_gives_finite_numbers() -> None:
    model = config_of().build()
    assert bool(model(torch.zeros(1, 800)).isfinite().all())


def test_learns_rising_from_falling() -> None:
    """Chirps between random pitches: their mean spectra are alike, their order in time is not."""
    generator = torch.Generator().manual_seed(0)
    low = 300 + 400 * torch.rand(320, 1, generator=generator)
    high = low + 500 + 1000 * torch.rand(320, 1, generator=generator)
    pitch = low + (high - low) * torch.linspace(0, 1, 1200)
    targets = torch.randint(2, (320,), generator=generator)
    pitch = torch.where(targets.unsqueeze(1) == 1, pitch, pitch.flip(1))
    inputs = torch.sin(2 * torch.pi * pitch.cumsum(1) / 8000) + 0.05 * torch.randn(320, 1200, generator=generator)
    torch.manual_seed(0)
    model = config_of().build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(32):
        chosen = slice(step % 8 * 32, step % 8 * 32 + 32)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    right = model.eval()(inputs[256:]).argmax(1) == targets[256:]
    assert float(right.double().mean()) > 0.95


def test_weights_may_be_bfloat16() -> None:
    assert config_of().build().bfloat16()(torch.randn(2, 800)).dtype == torch.bfloat16


@pytest.mark.parametrize(("shape", "dtype"), [((2, 1, 800), torch.float32), ((2, 800), torch.int16)], ids=str)
def test_other_sounds_are_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(ModelwrightError, match=r"the model reads floats \[batch, samples\]") as raised:
        config_of().build()(torch.zeros(shape, dtype=dtype))
    assert "32768" in raised.value.remedy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 0}, "speech: classes"),
        ({"sample_rate": 0}, "speech: sample_rate"),
        ({"window": 0.0}, "speech: window"),
        ({"hop": -0.1}, "speech: hop"),
        ({"mels": 120}, "speech: 120 mels are too many"),
        ({"dropout": 1.0}, "speech: dropout"),
        ({"widths": (8,)}, "must name the same stages"),
        ({"stem": 3}, "stem is 1, 2 or 4"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ModelwrightError, match=message):
        config_of(**settings)


def test_open_classes_are_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="speech: the size 'classes' is not known"):
        Speech().build()


def test_without_a_rate_it_is_the_usual_one() -> None:
    assert Speech().corners() == Speech(sample_rate=16_000).corners() != Speech(sample_rate=8000).corners()
    assert Speech(sample_rate=8000).corners()[-1] == pytest.approx(4000)
