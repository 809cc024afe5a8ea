"""Against numpy's decomposition, and against reduced-rank regression solved by least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from modelwright.reforms import spectrum
from modelwright.reforms.moments import Moments
from modelwright.reforms.spectrum import factors_of, mean_error, spectrum_of

SHAPES = [(5, 9), (9, 5), (6, 6)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def moments_of(inputs: Tensor) -> Moments:
    """Of ``inputs [positions, columns]``."""
    return Moments(len(inputs), inputs.mean(0)[None], (inputs.T @ inputs / len(inputs))[None])


def correlated(positions: int, columns: int, directions: int | None = None) -> Tensor:
    scales = torch.logspace(0, -2, directions or columns, dtype=torch.float64)
    return random(positions, directions or columns) @ (scales[:, None] * random(directions or columns, columns, seed=1))


def product(matrix: Tensor, rank: int, **weighed: object) -> Tensor:
    first, second = factors_of(matrix, spectrum_of(matrix, **weighed), rank)  # type: ignore[arg-type]
    return second @ first


def regression(matrix: Tensor, inputs: Tensor, rank: int) -> np.ndarray:
    """The least ``|X W^T - X M^T|`` over all M of a rank: least squares, then the best of that rank of what it fits.

    As textbooks have it (Izenman 1975), with numpy: coefficients by lstsq, projected on the right singular vectors of
    the fitted values.
    """
    x, y = inputs.numpy(), inputs.numpy() @ matrix[0].T.numpy()
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    vectors = np.linalg.svd(x @ coefficients)[2][:rank]
    fitted: np.ndarray = x @ coefficients @ vectors.T @ vectors
    return fitted


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_errors_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = random(1, *shape)
    values = np.linalg.svd(matrix[0].numpy(), compute_uv=False)
    losses = spectrum_of(matrix).losses()
    for rank in range(1, min(shape) + 1):
        left = np.sum(values[rank:] ** 2)
        error = float((matrix - product(matrix, rank)).square().sum())
        assert error == pytest.approx(left, rel=1e-10, abs=1e-24)
        assert float(losses[rank]) == pytest.approx(left / np.sum(values**2), rel=1e-10, abs=1e-24)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_weighed_is_reduced_rank_regression(shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "DAMPING", 0.0)
    matrix, inputs = random(1, *shape), correlated(40, shape[1])
    ours = inputs @ product(matrix, rank, moments=moments_of(inputs))[0].T
    np.testing.assert_allclose(ours.numpy(), regression(matrix, inputs, rank), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_the_errors_on_the_examples(shape: tuple[int, int]) -> None:
    matrix, inputs = random(1, *shape), correlated(40, shape[1])
    losses = spectrum_of(matrix, moments_of(inputs)).losses()
    outputs = inputs @ matrix[0].T
    for rank in range(1, min(shape)):
        error = outputs - inputs @ product(matrix, rank, moments=moments_of(inputs))[0].T
        assert float(losses[rank]) == pytest.approx(
            float(error.square().sum() / outputs.square().sum()), rel=1e-6, abs=1e-7
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_no_other_factors_are_better_on_the_examples(shape: tuple[int, int]) -> None:
    """Alternating least squares, from many starts, ends no lower: each half is solved exactly by numpy."""
    matrix, inputs, rank = random(1, *shape), correlated(30, shape[1]), 2
    x, y = inputs.numpy(), inputs.numpy() @ matrix[0].T.numpy()
    ours = inputs @ product(matrix, rank, moments=moments_of(inputs))[0].T
    best = np.inf
    for seed in range(4):
        second = np.random.default_rng(seed).normal(size=(shape[0], rank))
        for _ in range(300):
            first = np.linalg.lstsq(x, y @ np.linalg.pinv(second).T, rcond=None)[0].T
            second = np.linalg.lstsq(x @ first.T, y, rcond=None)[0].T
        best = min(best, float(np.sum((y - x @ first.T @ second.T) ** 2)))
    assert float((torch.from_numpy(y) - ours).square().sum()) <= best * (1 + 1e-6)


def test_without_examples_it_is_worse_on_what_is_correlated() -> None:
    matrix, inputs = random(1, 8, 12), correlated(60, 12)

    def error(**weighed: object) -> float:
        return float((inputs @ (matrix - product(matrix, 3, **weighed))[0].T).square().sum())

    assert error() > 2 * error(moments=moments_of(inputs))


@pytest.mark.parametrize("shape", SHAPES)
def test_few_examples_are_met_exactly_by_as_many_ranks_and_leave_nothing_undefined(shape: tuple[int, int]) -> None:
    matrix, inputs = random(1, *shape), correlated(50, shape[1], directions=3)
    moments = moments_of(inputs)
    for rank in (3, 4):
        made = product(matrix, rank, moments=moments)
        assert torch.isfinite(made).all()
        torch.testing.assert_close(inputs @ made[0].T, inputs @ matrix[0].T, rtol=0, atol=1e-3)
    torch.testing.assert_close(product(matrix, min(shape), moments=moments), matrix, rtol=1e-12, atol=1e-12)
    # Where examples say nothing, weights decide: better than what happens to come.
    left = float((matrix - product(matrix, 4, moments=moments)).square().sum())
    assert left < float((matrix - product(matrix, 3, moments=moments)).square().sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_makes_up_for_the_mean_error(shape: tuple[int, int]) -> None:
    """As regression with a constant: numpy centres inputs and outputs, and puts the means back."""
    matrix, inputs = random(1, *shape), correlated(40, shape[1]) + 3 * random(shape[1], seed=4)
    moments = moments_of(inputs)
    first, second = factors_of(matrix, spectrum_of(matrix, moments, centred=True), 2)
    ours = inputs @ (second @ first)[0].T + mean_error(matrix, first, second, moments.mean)
    x = inputs - inputs.mean(0)
    fitted = regression(matrix, x, 2) + (inputs @ matrix[0].T).mean(0).numpy()
    np.testing.assert_allclose(ours.numpy(), fitted, rtol=0, atol=1e-5)


def test_all_groups_count() -> None:
    matrix = torch.cat([random(1, 4, 6), 10 * random(1, 4, 6, seed=1)])
    together = spectrum_of(matrix).losses()
    errors = [(matrix - product(matrix, rank)).square().sum() / matrix.square().sum() for rank in range(1, 4)]
    np.testing.assert_allclose(together[1:4].numpy(), torch.stack(errors).numpy(), rtol=1e-10)


def test_factors_are_in_balance() -> None:
    matrix = random(1, 5, 7)
    first, second = factors_of(matrix, spectrum_of(matrix), 3)
    torch.testing.assert_close(first[0].norm(dim=1), second[0].norm(dim=0), rtol=1e-12, atol=0)


def test_a_matrix_of_zeros_is_no_trouble() -> None:
    zeros = torch.zeros(1, 4, 6, dtype=torch.float64)
    assert torch.equal(product(zeros, 2), zeros)
    assert spectrum_of(zeros).losses().tolist() == [0.0] * 5
