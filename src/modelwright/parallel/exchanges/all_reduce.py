"""All-reduce: gradients are summed over all replicas in buckets, while the backward still computes.

The method of PyTorch DDP (Li et al., VLDB 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training"), with sums in place of means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group
from modelwright.base.units import Bytes
from modelwright.parallel import Exchange
from modelwright.parallel.exchanges.none import NoExchange


@dataclass(frozen=True, kw_only=True)
class AllReduce:
    """Synchronous data parallelism by all-reduce.

    Attributes:
        bucket: gradients are sent in pieces of about this many bytes.
    """

    bucket: Bytes = 25_000_000

    def __post_init__(self) -> None:
        if self.bucket <= 0:
            raise ModelwrightError(f"bucket must be positive, not {self.bucket}")

    def build(self, group: Group) -> Exchange:
        """The exchange over ``group``; none at all for a group of one."""
        return BucketedAllReduce(group, self.bucket) if group.size > 1 else NoExchange()


class BucketedAllReduce:
    """Sums gradients over a group, bucket by bucket, in one order that is the same on every rank."""

    def __init__(self, group: Group, bucket_bytes: int) -> None:
        self.group = group
        self.bucket_bytes = bucket_bytes
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._sent = 0
        self._gradients_final = False

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Group the parameters into buckets, last ones first: their gradients come first."""
        self._buckets = list(_bucketed(parameters, self.bucket_bytes))
        self._bucket_of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    @contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        """During the last backward of a step, send each bucket as soon as its gradients are complete."""
        self._gradients_final = last
        try:
            yield
        finally:
            self._gradients_final = False

    def before_step(self) -> None:
        """Send what has not been sent (unused parameters among it), wait for all, put the sums in place."""
        self._send(force=True)
        for bucket in self._buckets:
            bucket.receive()
        self._sent = 0

    def after_step(self) -> None:
        """Nothing: every replica makes the same update."""

    def state(self) -> dict[str, Tensor]:
        """Nothing outlasts a step."""
        return {}

    def _ready(self, parameter: Tensor) -> None:
        if self._gradients_final:
            self._bucket_of[parameter].missing -= 1  # type: ignore[index]
            self._send(force=False)

    def _send(self, *, force: bool) -> None:
        while self._sent < len(self._buckets) and (force or self._buckets[self._sent].missing == 0):
            self._buckets[self._sent].send(self.group)
            self._sent += 1


class _Bucket:
    """Some parameters whose gradients travel together, each with a flag that says whether it has one.

    A parameter that no replica used keeps ``grad = None``, as it would in one process: an optimizer then skips it.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self._flat: Tensor | None = None
        self._work: Any = None

    def send(self, group: Group) -> None:
        used = [parameter.grad is not None for parameter in self.parameters]
        pieces = [_dense(parameter).reshape(-1) for parameter in self.parameters]
        first = self.parameters[0]
        pieces.append(torch.tensor(used, dtype=first.dtype, device=first.device))
        self._flat = torch.cat(pieces)
        self._work = group.all_reduce(self._flat, asynchronous=True)

    def receive(self) -> None:
        assert self._flat is not None
        self._work.wait()
        sizes = [parameter.numel() for parameter in self.parameters]
        *pieces, used = torch.split(self._flat, [*sizes, len(sizes)])
        for number, (parameter, piece) in enumerate(zip(self.parameters, pieces, strict=True)):
            # Only a rank without a gradient of its own needs to ask (on a GPU, asking waits for the device).
            if parameter.grad is not None or used[number].item() > 0:
                parameter.grad = _laid_out_like(parameter, piece)
        self.missing = len(self.parameters)
        self._flat = self._work = None


def _laid_out_like(parameter: nn.Parameter, piece: Tensor) -> Tensor:
    """A gradient with the strides of its parameter: torch's fused kernels walk through raw memory."""
    shaped = piece.view_as(parameter)
    return shaped if parameter.is_contiguous() else torch.empty_like(parameter).copy_(shaped)


def _dense(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    if parameter.grad.is_sparse:
        raise ModelwrightError(
            "a sparse gradient cannot be summed by all-reduce",
            remedy="build the embedding with sparse=False, or train with one worker",
        )
    return parameter.grad


def _bucketed(parameters: Sequence[nn.Parameter], limit: int) -> Iterator[_Bucket]:
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in reversed(parameters):
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for alike in kinds.values():
        bucket: list[nn.Parameter] = []
        held = 0
        for parameter in alike:
            if bucket and held + parameter.nbytes > limit:
                yield _Bucket(bucket)
                bucket, held = [], 0
            bucket.append(parameter)
            held += parameter.nbytes
        yield _Bucket(bucket)
