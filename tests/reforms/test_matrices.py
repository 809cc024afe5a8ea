from __future__ import annotations

import pytest
import torch
from tests.reforms.layers import NAMES, layers
from torch import Tensor, nn

from modelwright.reforms.matrices import columns_of, is_convolution, is_linear, matrix_of, plain, shape_of


def laid_out(outputs: Tensor, layer: nn.Module, groups: int) -> Tensor:
    """A layer's outputs as ``[groups, outputs, positions]``."""
    if not is_convolution(layer):
        return outputs.reshape(-1, outputs.shape[-1]).T[None]
    dims = layer.weight.dim() - 2  # type: ignore[operator, union-attr]
    whole = outputs if outputs.dim() == dims + 2 else outputs[None]
    return whole.flatten(2).permute(1, 0, 2).reshape(groups, whole.shape[1] // groups, -1)


@pytest.mark.parametrize("name", NAMES)
def test_matrix_times_columns_is_what_the_layer_computes(name: str) -> None:
    layer, inputs = layers()[name]
    matrix, columns = matrix_of(layer), columns_of(layer, inputs)
    assert tuple(matrix.shape) == shape_of(layer)
    bias = 0.0 if layer.bias is None else layer.bias.reshape(len(matrix), -1, 1)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(
        matrix @ columns.mT + bias, laid_out(layer(inputs), layer, len(matrix)), rtol=1e-12, atol=1e-12
    )


def test_what_computes_otherwise_is_no_linear_layer() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert is_linear(nn.Linear(2, 2))
    assert not is_linear(Doubled(2, 2))
    assert not is_convolution(nn.ConvTranspose2d(2, 2, 3))


def test_only_floating_point_numbers_are_plain() -> None:
    assert plain(torch.ones(2, 2, dtype=torch.bfloat16))
    assert not plain(torch.ones(2, 2, dtype=torch.int8))
    assert not plain(torch.ones(2, 2).to(torch.float8_e4m3fn))
    assert not plain(torch.ones(2, 2, dtype=torch.complex64))
