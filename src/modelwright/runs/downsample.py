"""Fewer points that look the same: Largest-Triangle-Three-Buckets (Steinarsson 2013)."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def downsample(x: Points, y: Points, limit: int) -> tuple[Points, Points]:
    """At most ``limit`` points of the line ``x, y [points]``, its ends kept; ``limit`` is at least 3.

    Non-finite points part the line: one point whose ``y`` is NaN stands for each gap. Where the gaps alone
    would take the points, the pieces are joined.
    """
    if limit < 3:
        raise ValueError("a line needs room for at least 3 points")
    pieces = _pieces(x, y)
    if not pieces:
        return x[:0], y[:0]
    if len(pieces) * 3 > limit:
        pieces = [np.concatenate(pieces)]
    if sum(map(len, pieces)) + len(pieces) - 1 > limit:
        pieces = _reduced(x, y, pieces, limit)
    return _joined(x, y, pieces)


def lttb(x: Points, y: Points, count: int) -> NDArray[np.int64]:
    """Positions of the ``count`` points of a finite line that keep its look; the ends are among them."""
    points = len(x)
    if count >= points:
        return np.arange(points)
    if count < 3:
        return np.array([0, points - 1])[:count]
    edges = np.floor(np.arange(count - 1) * ((points - 2) / (count - 2))).astype(np.int64) + 1
    chosen = np.zeros(count, dtype=np.int64)
    chosen[-1] = points - 1
    for bucket in range(count - 2):
        start, end = edges[bucket], edges[bucket + 1]
        after = slice(end, edges[bucket + 2] if bucket + 2 < len(edges) else points)
        last = chosen[bucket]
        across, up = x[after].mean() - x[last], y[after].mean() - y[last]
        doubled_areas = np.abs(across * (y[start:end] - y[last]) - (x[start:end] - x[last]) * up)
        chosen[bucket + 1] = start + int(doubled_areas.argmax())
    return chosen


def _pieces(x: Points, y: Points) -> list[NDArray[np.int64]]:
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    breaks = np.flatnonzero(np.diff(kept) > 1) + 1
    return [piece for piece in np.split(kept, breaks) if len(piece)]


def _reduced(x: Points, y: Points, pieces: list[NDArray[np.int64]], limit: int) -> list[NDArray[np.int64]]:
    total = sum(map(len, pieces))
    room = limit - 3 * len(pieces) + 1  # two ends and one gap a piece come first
    counts = [min(len(piece), 2 + room * len(piece) // total) for piece in pieces]
    return [piece[lttb(x[piece], y[piece], count)] for piece, count in zip(pieces, counts, strict=True)]


def _joined(x: Points, y: Points, pieces: list[NDArray[np.int64]]) -> tuple[Points, Points]:
    parts_x, parts_y = [x[pieces[0]]], [y[pieces[0]]]
    for before, piece in itertools.pairwise(pieces):
        parts_x += [x[before[-1:]], x[piece]]
        parts_y += [np.array([np.nan]), y[piece]]
    return np.concatenate(parts_x), np.concatenate(parts_y)
