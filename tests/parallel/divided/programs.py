"""Small programs, each a function of three tensors ``[4, 8, 8]``, ``[8, 8]`` and ``[8]`` in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Program = Callable[[Tensor, Tensor, Tensor], Tensor]

PROGRAMS: dict[str, Program] = {
    "add": lambda x, w, b: x + w + b,
    "multiply": lambda x, w, b: x * w - 2 * b * x / 3,
    "activations": lambda x, w, b: functional.silu(x) + functional.gelu(w) * functional.relu(b) + torch.tanh(x),
    "gelu tanh": lambda x, w, b: functional.gelu(x * b, approximate="tanh") + functional.sigmoid(w),
    "powers": lambda x, w, b: (x.square().mean(-1, keepdim=True) + 1).rsqrt() * x + (w.abs() + 1).log() * b.exp(),
    "where": lambda x, w, b: torch.where(x > w, x * b, w),
    "masked": lambda x, w, b: x.masked_fill(w > 0, 0.5) * b,
    "clamp": lambda x, w, b: x.clamp(-0.5, 0.5) + torch.maximum(w, b),
    "addcmul": lambda x, w, b: torch.addcmul(x * b, x, w, value=0.5),
    "linear": lambda x, w, b: functional.linear(x, w, b),
    "linear without bias": lambda x, w, b: functional.linear(x, w) * b,
    "two linears": lambda x, w, b: functional.linear(functional.gelu(functional.linear(x, w, b)), w.t(), b),
    "three linears": lambda x, w, b: (x @ w) @ w.t() @ w + b,
    "matmul": lambda x, w, b: x @ x.transpose(1, 2) @ w + b,
    "batched": lambda x, w, b: torch.bmm(x, w.expand(4, 8, 8)) + b,
    "added batched": lambda x, w, b: torch.baddbmm(w.expand(4, 8, 8), x, x.transpose(1, 2), alpha=0.5) * b,
    "vector": lambda x, w, b: (w @ b) * (b @ b) + x @ b[:, None],
    "heads": lambda x, w, b: _heads(x, w, b),
    "fused heads": lambda x, w, b: _fused_heads(x, w, b),
    "flatten": lambda x, w, b: (x.flatten(0, 1) @ w).view(4, 8, 8) + (x.flatten(1) * w.flatten()).view(4, 8, 8) * b,
    "unflatten": lambda x, w, b: (x.view(2, 2, 4, 2, 8) * w.view(4, 2, 8)).reshape(4, 8, 2, 4).sum(1) * b.view(2, 4),
    "permute": lambda x, w, b: x.permute(2, 0, 1).contiguous().view(8, 32).t() @ w + b,
    "split": lambda x, w, b: _split(x, w, b),
    "slices": lambda x, w, b: x[:, 2:6] * w[4:] + x[:, ::2] * b + x[:, 3:7, 1:5].sum(),
    "select": lambda x, w, b: x[1] * w[:, 3] + (x[2, -1] * b) @ w + w[2],
    "unbind": lambda x, w, b: sum((row * b for row in x.unbind(0)), w) + torch.stack(w.unbind(1), 1),
    "join": lambda x, w, b: torch.cat([x, x.sin() * b, w.expand(2, 8, 8)], 0) @ w,
    "join last": lambda x, w, b: torch.cat([x, w.expand(4, 8, 8) * b], -1).view(4, 8, 2, 8).mean(2),
    "stack": lambda x, w, b: torch.stack([x, x * b, w.expand(4, 8, 8)], 1).sum(1),
    "squeeze": lambda x, w, b: (
        x.unsqueeze(1).expand(4, 3, 8, 8).mean(1) * w[None].squeeze(0) + b.view(1, 1, 8).squeeze()
    ),
    "sums": lambda x, w, b: x.sum((0, 2)) * b + w.sum() + x.mean() * w.mean(0),
    "mean and variance": lambda x, w, b: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1) * w + b,
    "extremes": lambda x, w, b: x.amax(1) + x.amin((0, 2)) + w.max() * b.min() + x.max(1).values,
    "softmax": lambda x, w, b: functional.softmax(x * b, -1) @ w + functional.log_softmax(x, 1),
    "cumulate": lambda x, w, b: x.cumsum(1) * w.logsumexp(0) + b,
    "norm": lambda x, w, b: x / x.norm(dim=-1, keepdim=True) * torch.linalg.vector_norm(w) + b,
    "layer norm": lambda x, w, b: functional.layer_norm(x @ w, (8,), b, b.sin()),
    "rms norm": lambda x, w, b: functional.rms_norm(x @ w, (8,), b) + functional.rms_norm(x, (8,)),
    "triangle": lambda x, w, b: (x * w.tril() + x.triu()) @ w + b,
    "in place": lambda x, w, b: _in_place(x, w, b),
    "in place on views": lambda x, w, b: _in_place_on_views(x, w, b),
    "no rule": lambda x, w, b: torch.roll(x, 3, 1) * b + torch.kron(w[:2, :2], w[:4, :4]),
    "no rule, backward": lambda x, w, b: functional.softmin(torch.cdist(x, w[None] * b)) * w,
    "detached": lambda x, w, b: x * (x @ w).detach() + b,
    "random": lambda x, w, b: functional.dropout(x @ w, 0.5) + torch.rand_like(x) * b,
    "chosen": lambda x, w, b: torch.stack([x.argmax(1).double(), x.topk(2, 1).values[:, 0] * b]).sum(0) @ w,
    "converted": lambda x, w, b: (x.float() * 0 + 1).double() * x @ w + b,
    "zeros": lambda x, w, b: (torch.zeros_like(x) + torch.full_like(w, 2.0)) * x + b.new_ones(8),
    "swiglu": lambda x, w, b: (functional.silu(x @ w.t()) * (x @ w)) @ w + x * b,
    "rotation": lambda x, w, b: _rotated(x, w) * b,
}


def _heads(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    query, key, value = (functional.linear(x, w * n, b).view(4, 8, 4, 2).transpose(1, 2) for n in (1, 2, 3))
    shares = torch.softmax(query @ key.transpose(-1, -2), -1)
    return functional.linear((shares @ value).transpose(1, 2).flatten(2), w)


def _fused_heads(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    fused = functional.linear(x, torch.cat([w, w * 2, w * 3]), torch.cat([b, b, b]))
    query, key, value = fused.view(4, 8, 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
    return functional.linear((torch.softmax(query @ key.mT, -1) @ value).transpose(1, 2).reshape(4, 8, 8), w)


def _split(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    a, c, d = torch.cat([x, x * b, x.sin()], -1).split(8, -1)
    return torch.cat((-second, first), -1) * w + a * c + d @ w


def _rotated(x: Tensor, w: Tensor) -> Tensor:
    angles = torch.arange(8, dtype=x.dtype)[:, None, None] * torch.arange(2, dtype=x.dtype)
    heads = (x @ w).view(4, 8, 2, 4)
    first, second = heads.chunk(2, -1)
    cosines, sines = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    return torch.addcmul(heads * cosines, torch.cat((second, first), -1), sines).flatten(2)


def _in_place(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = x @ w
    y += b
    y.mul_(x).div_(2).add_(w, alpha=0.5)
    z = torch.zeros_like(x)
    z.copy_(y * b)
    return z.relu_() + (y * 1).masked_fill_(w > 0, 0.0) + torch.empty_like(w).fill_(3)


def _in_place_on_views(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = torch.zeros(4, 8, 8, dtype=x.dtype)
    y[:, 2:4] = (x * w)[:, :2]
    z = x * b
    z[:] = z * 2
    return y @ w + z
