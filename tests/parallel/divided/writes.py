"""Small programs that write into parts of tensors; see :mod:`tests.parallel.divided.programs`."""

from __future__ import annotations

import torch
from tests.parallel.divided.programs import Program
from torch import Tensor


def _rows(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x * b
    y[1:3] = 0
    y[:, 0] += 1
    y[..., :3].mul_(2)
    return y @ w


def _token(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x + w
    y[:, 0] = b
    y[..., -1] = w[2] * 3
    return y * x


def _masked(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x @ w
    y[:, 1:6].masked_fill_(x[:, 1:6] > 0, -2.0)
    y[x < -1] = 0.5
    y[:, 2:4].fill_(3).add_(b)
    return y * b


def _cache(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    cache = torch.zeros(4, 12, 8, dtype=x.dtype)
    cache[:, :8] = x @ w
    cache[:, 8:] = (x * b)[:, 3:7]
    other = torch.zeros_like(x)
    other[:, :5] = x[:, 3:] * b
    return cache[:, 2:10] * w + other


def _placed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y, places = x * w, torch.tensor([6, 1, 3])
    y[:, places] = b
    y[2].index_put_((places, places), b[:3])
    y.select(0, 1).index_add_(0, places, w[:3])
    y[0].copy_(w)
    y[3, 1:, 2:].zero_()
    return y + b


def _views_of_views(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x * b
    y.transpose(0, 1).flatten(1)[3:5, 7:20].add_(1).mul_(b[1])
    y.view(4, 2, 4, 8)[:, 1, 1:3].sub_(w[:2])
    y[1][2][3] = 7
    y.diagonal(0, 1, 2).add_(b)
    y[:, ::3] = 1.5
    return y.cumsum(1) + x


def _seen_from_both_sides(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x * b
    part, row = y[1:3, 2:], y[2]
    y.add_(w)
    first = part * 2
    part.mul_(3)
    row.add_(b)
    again = part[1].clone()
    y[2, 4:].neg_()
    return torch.cat([first, part, row[None, 2:], again[None]]) @ w


def _of_the_given(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Neither gradients nor numbers of what is written over are lost."""
    with torch.no_grad():
        y = x.clone()
        y[:, 1:3].clamp_(-0.1, 0.1)
        y[:, 5].uniform_()
        y.data[1:2, 3] = w[0]
        y.unbind(0)[2].mul_(w)
        y.chunk(2, 1)[1][..., 1:4] = 3
    return y * x + w


WRITES: dict[str, Program] = {
    "rows and columns are written": _rows,
    "a token in front": _token,
    "masked in a slice": _masked,
    "a cache": _cache,
    "at places": _placed,
    "views of views": _views_of_views,
    "seen from both sides": _seen_from_both_sides,
    "without gradients": _of_the_given,
}
