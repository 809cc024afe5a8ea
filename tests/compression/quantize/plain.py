"""The same arithmetic in plain loops of numpy, in float64, for tests to judge by."""

from __future__ import annotations

import numpy as np

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def parts(rows: int, columns: int, granularity: str, group: int) -> list[list[tuple[int, int]]]:
    """The places that share a scale."""
    every = [(row, column) for row in range(rows) for column in range(columns)]
    if granularity == "tensor":
        return [every]
    width = columns if granularity == "channel" else group
    starts = range(0, columns, width)
    return [
        [(row, column) for column in range(start, min(start + width, columns))]
        for row in range(rows)
        for start in starts
    ]


def rounded(numbers: FloatArray, bits: int, symmetric: bool) -> tuple[FloatArray, FloatArray]:
    """Integers and what they mean, of numbers that share a scale."""
    low, high = min(0.0, numbers.min()), max(0.0, numbers.max())
    least, most = (-(2 ** (bits - 1) - 1) if symmetric else -(2 ** (bits - 1))), 2 ** (bits - 1) - 1
    scale = max(-low, high) / most if symmetric else (high - low) / (most - least)
    scale = scale or 1.0
    zero = 0.0 if symmetric else np.clip(np.round(least - low / scale), least, most)
    integers = np.clip(np.round(numbers / scale) + zero, least, most)
    return integers, (integers - zero) * scale


def rounded_matrix(
    matrix: FloatArray, *, bits: int, symmetric: bool, granularity: str, group: int
) -> tuple[FloatArray, FloatArray]:
    integers, meaning = np.zeros_like(matrix), np.zeros_like(matrix)
    for places in parts(*matrix.shape, granularity, group):
        each = np.array([matrix[place] for place in places])
        for place, integer, number in zip(places, *rounded(each, bits, symmetric), strict=True):
            integers[place], meaning[place] = integer, number
    return integers, meaning


def gptq(matrix: FloatArray, second: FloatArray, *, damping: float, bits: int) -> FloatArray:
    """Columns one after the other, by the inverse of what is left of the Hessian, one scale for each row."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(matrix).max(1) / most
    left, found = matrix.copy(), np.zeros_like(matrix)
    hessian = second + damping * np.mean(np.diag(second)) * np.eye(len(second))
    for column in range(matrix.shape[1]):
        inverse = np.linalg.inv(hessian[column:, column:])
        found[:, column] = np.clip(np.round(left[:, column] / scale), -most, most) * scale
        error = (left[:, column] - found[:, column]) / inverse[0, 0]
        left[:, column:] -= np.outer(error, inverse[0])
    return found
