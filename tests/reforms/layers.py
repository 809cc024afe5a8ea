"""Layers of every kind that has a matrix, in float64, with what they read."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv1D(nn.Module):
    """As that of transformers: a linear layer whose weight lies the other way round."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], self.nf)


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    image, sound, solid = torch.randn(2, 4, 7, 6), torch.randn(2, 4, 17), torch.randn(2, 4, 5, 4, 5)
    odd = nn.Conv2d(4, 8, (3, 2), padding="same", dilation=(2, 1), groups=2, padding_mode="reflect")
    made = {
        "linear": (nn.Linear(6, 9), torch.randn(3, 4, 6)),
        "linear without bias": (nn.Linear(9, 6, bias=False), torch.randn(5, 9)),
        "conv1d of transformers": (Conv1D(8, 5), torch.randn(2, 3, 5)),
        "convolution": (nn.Conv2d(4, 8, 3, padding=1), image),
        "strided convolution": (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 0), bias=False), image),
        "one image": (nn.Conv2d(4, 8, 2), image[0]),
        "grouped, dilated, reflecting": (odd, image),
        "of sounds": (nn.Conv1d(4, 8, 5, stride=2, padding=2), sound),
        "of solids": (nn.Conv3d(4, 8, 2, padding="valid"), solid),
    }
    return {name: (layer.double(), inputs.double()) for name, (layer, inputs) in made.items()}


NAMES = tuple(layers())
