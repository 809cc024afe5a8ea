"""What each rank of a layer's matrix costs in accuracy, and the two factors of a rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.reforms.moments import Moments

DAMPING = 1e-8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The directions in which the outputs of a layer vary, from the most to the least.

    Attributes:
        energies: mean square of the outputs along each direction, float64 ``[groups, directions]``; without examples
            the squares of the matrix's singular values.
        directions: ``[groups, outputs, directions]``, orthonormal.
    """

    energies: Tensor
    directions: Tensor

    def losses(self) -> Tensor:
        """Relative square error of the outputs that ranks from 0 to all leave: float64 ``[directions + 1]``."""
        kept = self.energies.sum(0)
        left = torch.cat([kept.flip(0).cumsum(0).flip(0), kept.new_zeros(1)])
        return left / left[0] if left[0] > 0 else left


def spectrum_of(matrix: Tensor, moments: Moments | None = None, *, centred: bool = False) -> Spectrum:
    """Decompose ``matrix [groups, outputs, columns]``, weighed by what it reads if ``moments`` are given.

    With the covariance C of the inputs, the best matrix of a rank for the outputs is ``U U^T W``, where U are the first
    left singular vectors of ``W C^(1/2)`` (reduced-rank regression, Izenman 1975; the same optimum as that of SVD-LLM,
    arXiv:2403.07378). C is never inverted, so that it may be singular; where it is, a little of the identity decides.

    Args:
        matrix: float64.
        moments: of the columns.
        centred: the layer has a bias, which makes up for the mean error.
    """
    if moments is None:
        return _of_root(matrix)
    weights = moments.covariance() if centred else moments.second
    weights = _damped(weights.to(matrix.device))
    rows, columns = matrix.shape[-2:]
    if rows > columns:
        values, vectors = torch.linalg.eigh(weights)
        return _of_root(matrix @ (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)))
    energies, directions = torch.linalg.eigh(matrix @ weights @ matrix.mT)
    return Spectrum(energies.clamp_min(0).flip(-1), directions.flip(-1))


def factors_of(matrix: Tensor, spectrum: Spectrum, rank: int) -> tuple[Tensor, Tensor]:
    """``first [groups, rank, columns]``, ``second [groups, outputs, rank]``, in balance: equal norms one by one."""
    directions = spectrum.directions[..., :rank]
    first = directions.mT @ matrix
    scale = torch.linalg.vector_norm(first, dim=-1, keepdim=True).clamp_min(1e-30).sqrt()
    return first / scale, directions * scale.mT


def mean_error(matrix: Tensor, first: Tensor, second: Tensor, mean: Tensor) -> Tensor:
    """What the bias makes up for, ``[groups * outputs]``: the error of the outputs at the mean of the inputs."""
    missing = matrix - second @ first
    return (missing @ mean.to(matrix.device)[..., None]).flatten()


def _of_root(root: Tensor) -> Spectrum:
    directions, values, _ = torch.linalg.svd(root, full_matrices=False)
    return Spectrum(values.square(), directions)


def _damped(weights: Tensor) -> Tensor:
    """Directions of which the examples say nothing count a little: there the weights decide."""
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    return weights + torch.diag_embed(DAMPING * diagonal.mean(-1, keepdim=True).expand_as(diagonal))
