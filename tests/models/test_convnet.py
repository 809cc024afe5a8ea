from __future__ import annotations

import pytest
import torch
from tests.models.digits import accuracy_after
from torch import Tensor
from torch.nn import functional

from modelwright.base.errors import ModelwrightError
from modelwright.models.convnet import ConvNet, ConvNetModule
from modelwright.models.stochastic_depth import StochasticDepth

SMALL = {"channels": 2, "classes": 3, "widths": (8, 16), "depths": (2, 2), "groups": 4}


def model_of(**settings: object) -> ConvNetModule:
    """A float64 model whose every parameter is random, the convolutions that begin at zero too."""
    torch.manual_seed(0)
    model = ConvNet(**{**SMALL, **settings}).build().double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Wu and He 2018, one group of one sample at a time."""
    result = torch.empty_like(x)
    size = x.size(1) // groups
    for n in range(x.size(0)):
        for first in range(0, x.size(1), size):
            part = x[n, first : first + size]
            result[n, first : first + size] = (part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt()
    return result * weight[:, None, None] + bias[:, None, None]


def reference(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The model ``SMALL`` written out: four blocks, of which the third halves the image."""

    def active(x: Tensor, norm: str) -> Tensor:
        return group_norm(x, weights[f"{norm}.weight"], weights[f"{norm}.bias"], 4).clamp(min=0)

    x = functional.conv2d(inputs, weights["stem.weight"], padding=1)
    for block in range(4):
        name, stride = f"blocks.{block}", 2 if block == 2 else 1
        a = active(x, f"{name}.first_norm")
        inner = functional.conv2d(a, weights[f"{name}.first.weight"], stride=stride, padding=1)
        branch = functional.conv2d(active(inner, f"{name}.second_norm"), weights[f"{name}.second.weight"], padding=1)
        if block == 2:
            x = torch.einsum("nchw,oc->nohw", quarters(a), weights[f"{name}.shortcut.weight"][:, :, 0, 0])
        x = x + branch
    return active(x, "norm").mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


def quarters(x: Tensor) -> Tensor:
    """The mean of each 2 x 2 square."""
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def sizes_inside(model: ConvNetModule, inputs: Tensor) -> list[int]:
    """The height behind the stem and behind each block."""
    seen = []
    for module in (model.stem, *model.blocks):
        module.register_forward_hook(lambda _, __, output: seen.append(output.size(2)))
    model(inputs)
    return seen


def test_equals_the_textbook() -> None:
    model = model_of()
    inputs = images(3, 2, 8, 8)
    with torch.no_grad():
        expected = reference(dict(model.state_dict()), inputs)
        torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (8, [8, 8, 8, 4, 4]),
        (28, [28, 28, 28, 14, 14]),
        (7, [7, 7, 7, 4, 4]),
        (96, [48, 48, 48, 24, 24]),
        (224, [56, 56, 56, 28, 28]),
        (1, [1, 1, 1, 1, 1]),
    ],
)
def test_the_stem_suits_the_image(size: int, sizes: list[int]) -> None:
    model = ConvNet(**SMALL, image_size=size).build()  # type: ignore[arg-type]
    assert sizes_inside(model, torch.zeros(1, 2, size, size)) == sizes


def test_a_stem_that_is_given_counts() -> None:
    model = ConvNet(**SMALL, image_size=224, stem=1).build()  # type: ignore[arg-type]
    assert model.stem.stride == (1, 1)


@pytest.mark.parametrize(("depths", "reach"), [((1, 1), 6), ((2, 2), 12)])
def test_the_receptive_field(depths: tuple[int, int], reach: int) -> None:
    """The stem and each convolution reach one place further, two where the image is halved; without norms, no more."""
    model = model_of(norm="none", activation="gelu", depths=depths)
    inside: list[Tensor] = []
    model.norm.register_forward_hook(lambda _, __, output: inside.append(output))
    inputs = images(1, 2, 64, 64).requires_grad_()
    model(inputs)
    inside[0][0, :, 16, 16].sum().backward()
    assert inputs.grad is not None
    touched = inputs.grad[0].abs().sum((0, 1)).nonzero().flatten()
    assert int(touched.min()) == 32 - reach
    assert int(touched.max()) == 32 + reach


def test_groups_see_one_sample_and_batches_do_not() -> None:
    inputs = images(4, 2, 8, 8)
    for norm, alone in (("group", True), ("none", True), ("batch", False)):
        model = model_of(norm=norm).train()
        parts = torch.cat([model(inputs[:2]), model(inputs[2:])])
        assert torch.allclose(model(inputs), parts, rtol=0, atol=1e-12) == alone


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_blocks_begin_as_their_shortcuts(norm: str) -> None:
    torch.manual_seed(0)
    model = ConvNet(**SMALL, norm=norm).build()  # type: ignore[arg-type]
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(model.blocks[0](x), x)
    assert torch.equal(model.blocks[1](x), x)


def test_bytes_equal_floats_over_255() -> None:
    model = model_of(norm="none")
    pixels = torch.randint(256, (2, 2, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(pixels), model(pixels.double() / 255))
        assert not torch.equal(model(pixels), model(pixels.double()))  # the negative control


def test_a_dropped_sample_keeps_its_shortcut() -> None:
    model = model_of(stochastic_depth=0.8)
    block, x = model.blocks[-1], images(64, 16, 4, 4)
    torch.manual_seed(0)
    kept = (block(x) - x).flatten(1).abs().sum(1) > 0
    assert 0 < int(kept.sum()) < 32
    assert [module.rate for module in model.modules() if isinstance(module, StochasticDepth)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )


@pytest.mark.parametrize("norm", ["group", "none"])
def test_learns_digits(norm: str) -> None:
    torch.manual_seed(0)
    config = ConvNet(channels=1, image_size=8, classes=10, widths=(16, 32, 64), depths=(1, 1, 1), norm=norm)  # type: ignore[arg-type]
    assert accuracy_after(config.build(), epochs=5, lr=0.01) > 0.95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_of_the_weights_counts(dtype: torch.dtype) -> None:
    assert ConvNet(**SMALL).build().to(dtype)(torch.randn(2, 2, 8, 8)).dtype == dtype  # type: ignore[arg-type]


def test_channels_at_the_end_are_refused() -> None:
    with pytest.raises(ModelwrightError, match=r"convnet: the images have shape \[1, 8, 8, 2\]") as raised:
        model_of()(images(1, 8, 8, 2))
    assert raised.value.remedy == "put the channels before height and width"


@pytest.mark.parametrize(
    "settings",
    [
        {"widths": ()},
        {"widths": (8,)},
        {"widths": (8, 0)},
        {"depths": (1, 0)},
        {"groups": 3},
        {"groups": 0},
        {"stem": 3},
        {"norm": "layer"},
        {"activation": "step"},
        {"dropout": 1.0},
        {"stochastic_depth": 1.0},
        {"image_size": 0},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ModelwrightError, match="convnet: "):
        ConvNet(**{**SMALL, **settings})  # type: ignore[arg-type]


def test_groups_that_fit_are_named() -> None:
    with pytest.raises(ModelwrightError) as raised:
        ConvNet(widths=(12, 24), depths=(1, 1))
    assert raised.value.remedy == "for example groups 4"
    ConvNet(widths=(12, 24), depths=(1, 1), norm="none")


def test_open_sizes_are_refused_when_built() -> None:
    with pytest.raises(ModelwrightError, match="convnet: the size 'channels' is not known"):
        ConvNet(classes=2).build()
