from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.compression.quantize.plain import FloatArray
from torch import Tensor

from modelwright.base.errors import ModelwrightError
from modelwright.compression.quantize.encoding import Integers
from modelwright.compression.quantize.inputs import static_inputs
from modelwright.compression.quantize.observers import Observer
from modelwright.compression.quantize.observers.entropy import Entropy
from modelwright.compression.quantize.observers.mean_squared_error import MeanSquaredError
from modelwright.compression.quantize.observers.min_max import MinMax
from modelwright.compression.quantize.observers.percentile import Percentile

ALL = [MinMax(), Percentile(share=0.99), MeanSquaredError(), Entropy()]


def numbers(count: int = 4000) -> Tensor:
    """Most near 0, some far out, more of them above."""
    torch.manual_seed(0)
    found = torch.randn(count)
    found[:20] *= 12
    return found + 0.3 * found.square() / 10


def seen(observer: Observer, batches: list[Tensor], encoding: Integers) -> tuple[float, float]:
    observing = observer.build()
    for batch in batches:
        observing.observe(batch)
    return observing.range(encoding)


def test_min_max_and_percentile_are_those_of_numpy() -> None:
    x = numbers()
    assert seen(MinMax(), list(x.split(100)), Integers()) == (float(x.min()), float(x.max()))
    for share in (0.9, 0.99, 0.999):
        ends = seen(Percentile(share=share), [x], Integers(symmetric=False))
        outside, width = (1 - share) / 2, 2 * float(x.abs().max()) / 4096  # of a bin
        for far, end in ((x.numpy(), ends[0]), (-x.numpy(), -ends[1])):
            assert np.mean(far < end - width) <= outside <= np.mean(far < end + width)


def rounding_error(x: FloatArray, low: float, high: float, symmetric: bool, bits: int) -> float:
    """Of all numbers themselves, not of a histogram."""
    inputs_scale = max(-low, high) / (2 ** (bits - 1) - 1) if symmetric else (high - low) / (2**bits - 1)
    least = -(2 ** (bits - 1)) + int(symmetric)
    zero = 0.0 if symmetric else np.clip(np.round(least - low / inputs_scale), least, 2 ** (bits - 1) - 1)
    integers = np.clip(np.round(x / inputs_scale) + zero, least, 2 ** (bits - 1) - 1)
    return float(((integers - zero) * inputs_scale - x).__pow__(2).mean())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_mean_squared_error_is_nearly_that_of_the_best_of_all_ranges(symmetric: bool, bits: int) -> None:
    x = numbers(1500)
    plain, encoding = x.double().numpy(), Integers(bits=bits, symmetric=symmetric)  # type: ignore[arg-type]
    low, high = seen(MeanSquaredError(), [x], encoding)
    found = rounding_error(plain, low, high, symmetric, bits)
    tried = np.linspace(0.02, 1, 50)
    ends = [(x.min() * a, x.max() * b) for a in tried for b in (tried if not symmetric else [a])]
    best = min(rounding_error(plain, float(a), float(b), symmetric, bits) for a, b in ends)
    whole = rounding_error(plain, float(x.min()), float(x.max()), symmetric, bits)
    assert found <= 1.03 * best and found <= whole
    if bits == 4:
        assert found < 0.8 * whole, "where there are outliers, cutting them off pays"


def divergence(x: FloatArray, end: float, bins: FloatArray) -> float:
    """Relative entropy of a symmetric range, in plain loops over the bins of a histogram of all numbers."""
    counts, edges = np.histogram(x, bins=bins)
    centres, step = (edges[1:] + edges[:-1]) / 2, end / 127
    inside = [place for place in range(len(counts)) if counts[place] and abs(centres[place]) <= end + step / 2]
    p = {place: float(counts[place]) for place in inside}
    p[inside[0]] += counts[: inside[0]].sum()
    p[inside[-1]] += counts[inside[-1] + 1 :].sum()
    levels: dict[int, list[int]] = {}
    for place in inside:
        levels.setdefault(int(np.clip(np.round(centres[place] / step), -127, 127)), []).append(place)
    q = {place: sum(counts[each] for each in held) / len(held) for held in levels.values() for place in held}
    total_p, total_q = sum(p.values()), sum(q.values())
    return float(sum(p[each] / total_p * np.log(p[each] / total_p / (q[each] / total_q)) for each in inside))


def test_entropy_is_that_of_plain_loops() -> None:
    x = numbers().double()
    observing = Entropy().build()
    observing.observe(x)
    bins = np.linspace(-observing.reach, observing.reach, 2 * 4096 + 1)
    end = float(x.abs().max())
    # Bins at the very ends are told by the numbers in them; keep to ranges where that makes no difference.
    tried = [end * part for part in np.linspace(0.05, 0.95, 19)]
    costs = [divergence(x.numpy(), each, bins) for each in tried]
    _, high = observing.range(Integers())
    assert divergence(x.numpy(), high, bins) <= min(costs) * 1.02 + 1e-9
    assert high < 0.9 * end, "outliers are cut off"


@pytest.mark.parametrize("observer", ALL, ids=lambda each: type(each).__name__)
def test_order_and_size_of_batches_do_not_matter(observer: Observer) -> None:
    x, encoding = numbers(), Integers(symmetric=False)
    whole = seen(observer, [x], encoding)
    assert seen(observer, list(x.flip(0).split(37)), encoding) == whole
    assert seen(observer, [x * 2], encoding) != whole


@pytest.mark.parametrize("observer", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("make", [torch.zeros, lambda n: torch.full((n,), 3.0), lambda n: -torch.rand(n)])
def test_ranges_of_odd_numbers_can_be_used(observer: Observer, make: Callable[[int], Tensor]) -> None:
    for symmetric in (True, False):
        x = make(64)
        low, high = seen(observer, [x, x[:0]], Integers(symmetric=symmetric))
        rounded = static_inputs(low, high, symmetric=symmetric)(x)
        assert (rounded - x).abs().max() <= 0.02 * x.abs().max() + 1e-12


def test_a_share_below_half_is_refused() -> None:
    with pytest.raises(ModelwrightError, match=r"from 0.5 to 1, not 0.2"):
        Percentile(share=0.2)
