from __future__ import annotations

import math

import pytest
import torch
from tests.models.digits import accuracy_after
from tests.models.test_transformer import layer_of_torch, random
from torch import Tensor, nn
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.attention import set_attention
from modelwright.models.vit import ViT, ViTModule

SMALL = {"channels": 3, "image_size": 8, "classes": 5, "patch": 2, "layers": 2, "width": 24, "heads": 4, "hidden": 40}


def model_of(**settings: object) -> ViTModule:
    return random(ViT(**{**SMALL, **settings}).build())  # type: ignore[arg-type, return-value]


def images(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def reference_positions(side: int, width: int) -> Tensor:
    """Beyer et al. 2022, listing 1: sin and cos of columns, then of rows; patches row by row."""
    rows = []
    for row in range(side):
        for column in range(side):
            omegas = [10000 ** (-i / (width // 4 - 1)) for i in range(width // 4)]
            waves = [f(place * o) for place in (column, row) for f in (math.sin, math.cos) for o in omegas]
            rows.append(waves)
    return torch.tensor(rows, dtype=torch.float64)


def reference(model: ViTModule, inputs: Tensor) -> Tensor:
    """From a convolution with the stride of a patch, as the paper has it, and torch's own layers."""
    patch = model.config.patch
    kernel = model.embedding.weight.view(-1, 3, patch, patch)
    x = functional.conv2d(inputs, kernel, model.embedding.bias, stride=patch).flatten(2).transpose(1, 2)
    position = model.position if model.position is not None else reference_positions(8 // patch, 24)
    x = x + position
    if model.cls is not None:
        x = torch.cat([model.cls.view(1, 1, -1).repeat(len(x), 1, 1), x], dim=1)
    for block in model.blocks:
        x = layer_of_torch(block)(x)  # type: ignore[arg-type]
    x = functional.layer_norm(x, (24,), model.norm.weight, model.norm.bias)
    pooled = x[:, 0] if model.cls is not None else x.mean(1)
    return pooled @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("patch", [2, 4])
def test_equals_a_reference_of_torch_layers(patch: int, pooling: str, positions: str, kernel: str) -> None:
    model = model_of(patch=patch, pooling=pooling, positions=positions)
    set_attention(model, kernel)
    inputs = images(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), reference(model, inputs), rtol=1e-11, atol=1e-11)


def test_bytes_equal_floats_over_255() -> None:
    model = model_of()
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(pixels), model(pixels.double() / 255))
        assert not torch.equal(model(pixels), model(pixels.double()))  # the negative control


def test_learns_digits() -> None:
    torch.manual_seed(0)
    config = ViT(channels=1, image_size=8, classes=10, patch=4, layers=2, width=48, heads=4, hidden=96)
    assert accuracy_after(config.build(), epochs=10, lr=0.01) > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_the_dtype_of_the_weights_counts(dtype: torch.dtype, positions: str) -> None:
    model = ViT(**SMALL, positions=positions).build().to(dtype)  # type: ignore[arg-type]
    assert model(torch.randn(2, 3, 8, 8)).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "message", "remedy"),
    [
        ((2, 3, 8, 6), "8 x 6, and the model reads 8 x 8", "resize"),
        ((2, 8, 8, 3), "reads .batch, 3, height, width.", "channels before height"),
        ((2, 1, 8, 8), "reads .batch, 3, height, width.", "model.channels to 1"),
        ((2, 64), "reads .batch, 3, height, width.", "three dims"),
    ],
    ids=str,
)
def test_other_images_are_refused(shape: tuple[int, ...], message: str, remedy: str) -> None:
    with pytest.raises(ModelwrightError, match=message) as raised:
        model_of()(images(*shape))
    assert remedy in raised.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"patch": 3},
        {"width": 25},
        {"layers": 0},
        {"pooling": "max"},
        {"positions": "rope"},
        {"positions": "sincos", "width": 6, "heads": 2},
        {"dropout": 1.0},
        {"stochastic_depth": -0.1},
        {"channels": 0},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError, match="vit: "):
        ViT(**{**SMALL, **settings})  # type: ignore[arg-type]


def test_a_patch_that_fits_is_named() -> None:
    with pytest.raises(ModelwrightError) as raised:
        ViT(image_size=28, patch=16)
    assert raised.value.remedy == "for example patch 14"


def test_open_sizes_are_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="vit: the size 'image_size' is not known"):
        ViT(channels=1, classes=2).build()


def test_dropping_happens_in_training_only() -> None:
    model = ViT(**SMALL, dropout=0.5, stochastic_depth=0.5).build()  # type: ignore[arg-type]
    inputs = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), model(inputs))
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in model.modules()) == 5
