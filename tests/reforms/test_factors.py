from __future__ import annotations

import pytest
import torch
from tests.reforms.layers import NAMES, layers
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.reforms.factors import (
    factored,
    largest_rank,
    merged,
    parameters_of,
    parameters_per_rank,
    set_factors,
    whole_matrix,
    whole_shape,
)
from modelwright.reforms.matrices import matrix_of
from modelwright.reforms.spectrum import factors_of, spectrum_of


def in_two(layer: nn.Module, rank: int) -> nn.Module:
    new, matrix = factored(layer, rank=rank), matrix_of(layer)
    set_factors(new, *factors_of(matrix, spectrum_of(matrix), rank), layer.bias)  # type: ignore[arg-type]
    return new


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_of_full_rank_the_factors_compute_the_same_and_so_does_their_product(name: str) -> None:
    layer, inputs = layers()[name]
    new = in_two(layer, largest_rank(layer))
    close(new(inputs), layer(inputs))
    close(merged(new)(inputs), layer(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_of_a_lower_rank_the_factors_compute_what_their_product_does(name: str) -> None:
    layer, inputs = layers()[name]
    new = in_two(layer, 2)
    close(new(inputs), merged(new)(inputs))
    assert (new(inputs) - layer(inputs)).abs().max() > 1e-3
    assert whole_shape(new) == whole_shape(layer)
    assert torch.linalg.matrix_rank(whole_matrix(new)).tolist() == [2] * len(whole_matrix(new))


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_counted(name: str) -> None:
    layer, _ = layers()[name]
    bias = 0 if layer.bias is None else layer.bias.numel()  # type: ignore[operator, union-attr]
    for module, expected in ((layer, parameters_of(layer)), (in_two(layer, 2), 2 * parameters_per_rank(layer))):
        assert sum(each.numel() for each in module.parameters()) - bias == parameters_of(module) == expected


def test_of_a_factored_layer_a_lower_rank_is_made_as_of_a_whole_one() -> None:
    layer, inputs = layers()["grouped, dilated, reflecting"]
    again = factored(in_two(layer, 3), rank=2)
    matrix = whole_matrix(in_two(layer, 3))
    set_factors(again, *factors_of(matrix, spectrum_of(matrix), 2), layer.bias)  # type: ignore[arg-type]
    close(again(inputs), in_two(layer, 2)(inputs))  # the best of rank 2 of the best of rank 3 is that of the whole


def test_code_that_reads_the_weight_gets_the_product() -> None:
    layer, inputs = layers()["convolution"]
    new = in_two(layer, 3)
    close(nn.functional.conv2d(inputs, new.weight, new.bias, padding=1), new(inputs))  # type: ignore[arg-type]


def test_on_meta_and_in_any_type() -> None:
    with torch.device("meta"):
        layer = nn.Linear(6, 4, dtype=torch.bfloat16)
    new = factored(layer, rank=2)
    assert {(each.device.type, each.dtype) for each in new.parameters()} == {("meta", torch.bfloat16)}
    assert merged(new).weight.is_meta


def test_a_frozen_layer_stays_frozen() -> None:
    layer = nn.Linear(6, 4)
    layer.weight.requires_grad_(False)
    new = factored(layer, rank=2)
    frozen = {name for name, each in new.named_parameters() if not each.requires_grad}
    assert frozen == {"first.weight", "second.weight"}
    assert not merged(new).weight.requires_grad
    assert merged(new).bias.requires_grad


def test_making_one_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    factored(nn.Linear(3, 2).requires_grad_(False), rank=1)
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    state = torch.get_rng_state()
    factored(layer, rank=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(before)


def test_refusals_say_why() -> None:
    with pytest.raises(ModelwrightError, match="from 1 to 2, not 3"):
        factored(nn.Linear(3, 2), rank=3)
    with pytest.raises(ModelwrightError, match="Embedding has no factors"):
        factored(nn.Embedding(3, 2), rank=1)
    with pytest.raises(ModelwrightError, match="is not factored"):
        merged(nn.Linear(3, 2))
