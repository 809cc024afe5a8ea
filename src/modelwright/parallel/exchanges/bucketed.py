"""Buckets of gradients that leave while the backward still computes: what all synchronous exchanges share.

The method of PyTorch DDP (Li et al., VLDB 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel
Training"), with sums in place of means. Every rank sends the buckets in the same order, and in that order takes them
from stage to stage where a sum has several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, cast

import torch
from torch import Tensor, nn

from modelwright.base.errors import ModelwrightError
from modelwright.base.group import Group, Work
from modelwright.base.units import Bytes
from modelwright.parallel import COMPRESSIONS, Channel, Compression, Exchange, Reduction
from modelwright.parallel.exchanges.compressions.none import NoCompression
from modelwright.parallel.exchanges.contents import Contents
from modelwright.parallel.exchanges.none import NoExchange


@dataclass(frozen=True, kw_only=True)
class Synchronous:
    """An exchange of buckets in every step.

    Attributes:
        bucket: gradients are sent in pieces of about this many bytes.
        compression: what travels in place of the whole gradients.
    """

    alike: ClassVar[bool] = True  # every rank sends as many bytes
    bucket: Bytes = 25_000_000
    compression: Annotated[object, COMPRESSIONS] = field(default_factory=NoCompression)

    def __post_init__(self) -> None:
        if self.bucket <= 0:
            raise ModelwrightError(f"bucket must be positive, not {self.bucket}")

    def build(self, group: Group) -> Exchange:
        """The exchange over ``group``; none at all for a group of one."""
        if group.size == 1:
            return NoExchange()
        return BucketedExchange(group.size, self.bucket, self.reduction(group), cast(Compression, self.compression))

    def reduction(self, group: Group) -> Reduction:
        """What sums a bucket."""
        raise NotImplementedError


class BucketedExchange:
    """Sums gradients over replicas, bucket by bucket.

    Args:
        size: how many replicas there are.
        bucket_bytes: gradients are sent in pieces of about this many bytes.
        reduction: sums a bucket.
        compression: what travels in place of the whole gradients.
    """

    def __init__(self, size: int, bucket_bytes: int, reduction: Reduction, compression: Compression) -> None:
        self.size = size
        self.bucket_bytes = bucket_bytes
        self.reduction, self.compression = reduction, compression
        self._buckets: list[_Bucket] = []
        self._bucket_of: dict[nn.Parameter, _Bucket] = {}
        self._sent = 0
        self._gradients_final = False

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Group the parameters into buckets, last ones first: their gradients come first.

        Raises:
            ModelwrightError: complex ones, which no compression knows.
        """
        if not self.compression.exact and any(parameter.is_complex() for parameter in parameters):
            raise ModelwrightError(
                "complex gradients cannot be compressed", where="plan.exchange", remedy="compression: none"
            )
        first = 0
        for number, alike in enumerate(_bucketed(parameters, self.bucket_bytes)):
            channel = self.compression.channel(Contents.of(alike, first))
            self._buckets.append(_Bucket(number, alike, channel))
            first += len(alike)
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
        under_way = self._buckets
        while under_way:
            under_way = [bucket for bucket in under_way if bucket.advance()]
        self._sent = 0

    def after_step(self, masked: Tensor | bool = False) -> None:
        """Remember what compression left out of the step; of one that was masked, nothing."""
        for bucket in self._buckets:
            bucket.channel.keep(masked)

    def state(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """What compression remembers on this rank, as ``PARAMETER/KIND``."""
        return {
            f"{names[parameter]}/{kind}": tensor
            for bucket in self._buckets
            for parameter, held in zip(bucket.parameters, bucket.channel.state(), strict=True)
            for kind, tensor in held.items()
        }

    def load(self, states: Sequence[Mapping[str, Tensor]], names: Mapping[nn.Parameter, str], rank: int) -> None:
        """Take up the states of all ranks; of another number of ranks, each takes an equal share of the errors."""
        own = states[rank] if len(states) == self.size else _shared(states, self.size)
        for bucket in self._buckets:
            bucket.channel.load([_of(names[parameter], own) for parameter in bucket.parameters])

    def _ready(self, parameter: Tensor) -> None:
        if self._gradients_final:
            self._bucket_of[parameter].arrive(parameter)  # type: ignore[index]
            self._send(force=False)

    def _send(self, *, force: bool) -> None:
        while self._sent < len(self._buckets) and (force or self._buckets[self._sent].complete):
            self._buckets[self._sent].send(self.reduction)
            self._sent += 1


class _Bucket:
    """Some parameters whose gradients travel together, each with a flag that says whether it has one.

    A parameter that no replica used keeps ``grad = None``, as it would in one process: an optimizer then skips it.
    """

    def __init__(self, number: int, parameters: list[nn.Parameter], channel: Channel) -> None:
        self.number = number
        self.parameters = parameters
        self.channel = channel
        self._arrived: set[Tensor] = set()
        self._all_used: Tensor | None = None
        self._stages: Iterator[Work] = iter(())
        self._work: Work | None = None

    @property
    def complete(self) -> bool:
        """Whether every gradient is there."""
        return len(self._arrived) == len(self.parameters)

    def arrive(self, parameter: Tensor) -> None:
        """Note that a gradient is there, for good.

        Raises:
            ModelwrightError: it came before: the bucket may have left without this part.
        """
        if parameter in self._arrived:
            raise ModelwrightError(
                f"the gradient of a parameter {list(parameter.shape)} came twice in one backward",
                where="plan.workers",
                remedy="checkpointed parts of the model that share parameters need use_reentrant=False",
            )
        self._arrived.add(parameter)

    def send(self, reduction: Reduction) -> None:
        self._stages = self._exchanged(reduction)
        self._work = next(self._stages, None)

    def advance(self) -> bool:
        """Wait for what is under way and begin the next stage, if there is one."""
        if self._work is not None:
            self._work.wait()
            self._work = next(self._stages, None)
        return self._work is not None

    def _exchanged(self, reduction: Reduction) -> Iterator[Work]:
        pieces = [_dense(parameter).reshape(-1) for parameter in self.parameters]
        flat = torch.cat([*pieces, self._used()])
        yield from self.channel.sum(flat, reduction, self.number)
        self._put_in_place(flat)

    def _used(self) -> Tensor:
        """A flag for each parameter, made without waiting for the device."""
        used, first = [parameter.grad is not None for parameter in self.parameters], self.parameters[0]
        if not all(used):
            return torch.tensor(used, dtype=first.dtype).to(first.device, non_blocking=True)
        if self._all_used is None:
            self._all_used = torch.ones(len(used), dtype=first.dtype, device=first.device)
        return self._all_used

    def _put_in_place(self, flat: Tensor) -> None:
        sizes = [parameter.numel() for parameter in self.parameters]
        *pieces, used = torch.split(flat, [*sizes, len(sizes)])
        for number, (parameter, piece) in enumerate(zip(self.parameters, pieces, strict=True)):
            # Only a rank without a gradient of its own needs to ask (on a GPU, asking waits for the device).
            if parameter.grad is not None or abs(used[number].item()) > 0:
                parameter.grad = _laid_out_like(parameter, piece)
        self._arrived.clear()


def _of(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {path.rpartition("/")[2]: held for path, held in state.items() if path.rpartition("/")[0] == name}


def _shared(states: Sequence[Mapping[str, Tensor]], size: int) -> dict[str, Tensor]:
    """Only the sum of the errors matters; what else is remembered is the same on all ranks."""
    return {
        name: torch.stack([state[name] for state in states]).sum(dim=0) / size if name.endswith("/error") else tensor
        for name, tensor in states[0].items()
    }


def _laid_out_like(parameter: nn.Parameter, piece: Tensor) -> Tensor:
    """A gradient with the strides of its parameter: torch's fused kernels walk through raw memory."""
    shaped = piece.view_as(parameter)
    return shaped if parameter.is_contiguous() else torch.empty_like(parameter).copy_(shaped)


def _dense(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    if parameter.grad.is_sparse:
        raise ModelwrightError(
            "a sparse gradient cannot be summed over workers",
            remedy="build the embedding with sparse=False, or train with one worker",
        )
    return parameter.grad


def _bucketed(parameters: Sequence[nn.Parameter], limit: int) -> Iterator[list[nn.Parameter]]:
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in reversed(parameters):
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for alike in kinds.values():
        bucket: list[nn.Parameter] = []
        held = 0
        for parameter in alike:
            if bucket and held + parameter.nbytes > limit:
                yield bucket
                bucket, held = [], 0
            bucket.append(parameter)
            held += parameter.nbytes
        yield bucket
