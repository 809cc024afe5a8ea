from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.compression.quantize.plain import rounded_matrix
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import (
    Half,
    Integers,
    decode,
    encode,
    fit,
    from_json,
    pack,
    to_json,
    unpack,
)
from modelwright.compression.quantize.weights import encoded_weight

FORMS = [
    {"bits": bits, "symmetric": symmetric, "granularity": granularity, "group": 8}
    for bits, symmetric, granularity in product((4, 8), (True, False), ("tensor", "channel", "group"))
]


def matrix(rows: int = 6, columns: int = 27) -> Tensor:
    """With an odd number of columns, a row of zeros, one of positive numbers and one of large ones."""
    torch.manual_seed(0)
    found = torch.randn(rows, columns, dtype=torch.float64)
    found[1], found[2], found[3] = 0, found[2].abs(), found[3] * 100
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_integers_are_those_of_plain_loops(form: dict[str, Any]) -> None:
    numbers, encoding = matrix(), Integers(**form)
    scales = fit(numbers, encoding, torch.float64)
    integers = encode(numbers, scales, encoding)
    expected, meaning = rounded_matrix(numbers.numpy(), **form)
    assert np.array_equal(integers.numpy(), expected)
    assert np.allclose(decode(integers, scales, encoding.group).numpy(), meaning, rtol=1e-14, atol=0)


def test_plain_loops_tell_rounding_down_from_rounding() -> None:
    form = {"bits": 8, "symmetric": True, "granularity": "channel", "group": 8}
    encoding = Integers(**form)  # type: ignore[arg-type]
    scales = fit(matrix(), encoding, torch.float64)
    down = (matrix() / scales.scale).floor()
    assert not np.array_equal(down.numpy(), rounded_matrix(matrix().numpy(), **form)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_those_of_torch(symmetric: bool) -> None:
    numbers, encoding = matrix().float(), Integers(symmetric=symmetric)
    scales = fit(numbers, encoding)
    zero = torch.zeros(len(numbers), dtype=torch.int64) if symmetric else scales.zero_point[:, 0].long()  # type: ignore[index]
    scale, ends = scales.scale[:, 0], (encoding.lowest, encoding.highest)
    theirs = torch.fake_quantize_per_channel_affine(numbers, scale, zero.int(), 0, *ends)
    ours = decode(encode(numbers, scales, encoding), scales, encoding.group)
    # Torch multiplies by 1 / scale, so that a number half-way between two may fall on the other side.
    other = (ours - theirs).abs() > 1e-5 * numbers.abs().amax(1, keepdim=True)
    assert int(other.sum()) == 0


def test_scales_are_those_of_torchs_observers() -> None:
    numbers = matrix().float()
    observer = torch.ao.quantization.PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_affine, eps=1e-30
    )
    observer(numbers)
    scale, zero = observer.calculate_qparams()
    found = fit(numbers, Integers(symmetric=False))
    filled = torch.tensor([row for row in range(len(numbers)) if row != 1])  # of zeros any scale is right
    torch.testing.assert_close(found.scale[filled, 0], scale[filled], rtol=1e-6, atol=0)
    assert found.zero_point is not None and torch.equal(found.zero_point[filled, 0].int(), zero[filled].int())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_number_is_further_off_than_half_a_step(form: dict[str, Any]) -> None:
    numbers, encoding = matrix(), Integers(**form)
    scales = fit(numbers, encoding, torch.float64)
    error = (decode(encode(numbers, scales, encoding), scales, encoding.group) - numbers).abs()
    repeats = (
        scales.scale.repeat_interleave(encoding.group, 1)[:, :27] if form["granularity"] == "group" else scales.scale
    )
    # The zero point is rounded too, which moves the end of an asymmetric range by half a step.
    assert bool((error <= repeats * (0.5 if encoding.symmetric else 1.0) * (1 + 1e-9)).all())


def test_clipping_never_makes_the_error_larger_and_cuts_an_outlier_off() -> None:
    numbers = matrix()
    numbers[0, 0] = 12
    for symmetric in (True, False):
        plain = Integers(bits=4, symmetric=symmetric)
        clipped = Integers(bits=4, symmetric=symmetric, clip=True)
        errors = []
        for encoding in (plain, clipped):
            scales = fit(numbers, encoding, torch.float64)
            errors.append((decode(encode(numbers, scales, encoding), scales, encoding.group) - numbers).square().sum(1))
        assert bool((errors[1] <= errors[0]).all()) and errors[1].sum() < errors[0].sum()


@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_two_integers_of_four_bits_lie_in_one_byte(columns: int) -> None:
    integers = torch.randint(-8, 8, (5, columns), dtype=torch.int8)
    packed = pack(integers)
    assert packed.shape == (5, math.ceil(columns / 2)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, columns), integers)
    assert int(packed[0, 0] & 15) == int(integers[0, 0]) % 16, "the first one is the low half"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_bytes_are_those_of_the_buffers(form: dict[str, Any]) -> None:
    encoding = Integers(**form)
    held = encoded_weight((6, 3, 3, 3), encoding, dtype=torch.float32)
    held.fill(matrix().float())
    assert encoding.bytes(6, 27) == sum(each.nbytes for each in held.buffers())
    expected = rounded_matrix(matrix().float().double().numpy(), **form)[1]
    assert np.allclose(held.matrix().double().numpy(), expected, rtol=1e-5, atol=1e-5)
    places = torch.tensor([[5, 0], [3, 3]])
    assert torch.equal(held.rows(places), held.matrix()[places])


def test_numbers_beyond_sixteen_bits_are_refused() -> None:
    held = encoded_weight((1, 2), Half(dtype="float16"), dtype=torch.float32)
    with pytest.raises(ModelwrightError, match="beyond the range of float16"):
        held.fill(torch.tensor([[1.0, 1e6]]))


def test_encodings_are_plain_data() -> None:
    for encoding in (Integers(bits=4, granularity="group", group=16, clip=True), Half(dtype="float16", compute=False)):
        assert from_json(to_json(encoding)) == encoding
    with pytest.raises(ModelwrightError, match="describes no encoding"):
        from_json({"kind": "integers", "width": 3})
    with pytest.raises(ModelwrightError, match="4 or 8 bits, not 3"):
        Integers(bits=3)  # type: ignore[arg-type]
